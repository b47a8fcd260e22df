"""Runs a service: moves its clock, reads inputs, draws pictures, wakes the requests and connections that wait."""

from __future__ import annotations

import base64
import logging
import time
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from runware_flow.emulator.http.inputs import InputReader
from runware_flow.emulator.http.outbound import OutboundClient
from runware_flow.emulator.http.webhooks import WebhookSender
from runware_flow.emulator.jsonvalues import as_object
from runware_flow.emulator.media.files import make_file
from runware_flow.emulator.media.pictures import as_data_uri, find_subjects
from runware_flow.emulator.problems import Problem
from runware_flow.emulator.service.jobs import Frame
from runware_flow.emulator.service.service import PendingReply

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyio.abc import TaskGroup, TaskStatus

    from runware_flow.emulator.media.store import Medium
    from runware_flow.emulator.service.jobs import Job, Rendering
    from runware_flow.emulator.service.service import Service
    from runware_flow.emulator.service.sessions import Session

__all__ = ("ServiceDriver",)

_logger = logging.getLogger("runware_flow.emulator")

_CACHE_BYTES = 64 * 2**20


class ServiceDriver:
    """The running half of a service; `run` owns its workers and ends when cancelled."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.closing = anyio.Event()
        """Set when the emulator stops: waiting requests are given up, sockets are closed."""
        self._wake = anyio.Event()
        self._settled: dict[Job, anyio.Event] = {}
        self._workers: TaskGroup | None = None
        self._outbound = OutboundClient()
        self._reader = InputReader(service, self._outbound)
        self._webhooks = WebhookSender(service, self._outbound, self.open_medium)
        self._threads = anyio.CapacityLimiter(4)
        self._files: dict[str, bytes] = {}
        self._files_bytes = 0

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Move the clock until cancelled."""
        try:
            async with anyio.create_task_group() as self._workers:
                task_status.started()
                while True:
                    self.advance()
                    self._wake = anyio.Event()
                    due = self.service.next_due()
                    with anyio.move_on_after(None if due is None else max(0.0, due - time.monotonic())):
                        await self._wake.wait()
        finally:
            self._workers = None
            with anyio.CancelScope(shield=True):
                await self._outbound.aclose()

    def receive(self, tasks: Sequence[Any], session: Session | None = None, *, dry_run: bool = False) -> PendingReply:
        """Give an array of tasks to the service and start what they need."""
        try:
            reply = self.service.receive(tasks, time.monotonic(), session, dry_run=dry_run)
        except Exception:
            _logger.exception("a request that the emulator could not handle")
            problem = Problem("internalServerError", "The request could not be handled.")
            named = [as_object(task) for task in tasks] or [{}]
            errors = [problem.entry(task.get("taskType"), task.get("taskUUID")) for task in named]
            return PendingReply(Frame(errors=errors, status=problem.status))
        for job in reply.waiting:
            self._settled[job] = anyio.Event()
        for job in reply.started:
            if self._workers is not None:
                self._workers.start_soon(self._prepare, job)
        self._wake.set()
        return reply

    def advance(self) -> None:
        """Move the service's clock to now and wake the sessions and requests that got something."""
        advanced = self.service.advance(time.monotonic())
        for session in advanced.sessions:
            session.wake()
        for job, slot in advanced.callbacks:
            if self._workers is not None:
                self._workers.start_soon(self._webhooks.send, job, slot)
        for job in advanced.settled:
            settled = self._settled.pop(job, None)
            if settled is not None:
                settled.set()

    async def wait_settled(self, jobs: Sequence[Job]) -> None:
        """Wait until all these jobs are settled or overdue."""
        for job in jobs:
            settled = self._settled.get(job)
            if settled is not None:
                await settled.wait()

    def forget(self, jobs: Sequence[Job]) -> None:
        """Say that no request waits for these jobs any more."""
        for job in jobs:
            self._settled.pop(job, None)

    async def _prepare(self, job: Job) -> None:
        """Read a job's inputs and draw what its results carry; a failure of either fails the job."""
        try:
            if job.needs_inputs:
                recipes = await self._reader.read(job, time.monotonic())
                self.service.make_items(job, recipes, time.monotonic())
            if job.renderings:
                for rendering in job.renderings:
                    await self._render(rendering)
                job.renderings = []
                self.service.finish(job, time.monotonic())
        except Problem as problem:
            self.service.fail(job, problem, time.monotonic())
        except Exception:
            _logger.exception("a task that the emulator could not carry out")
            failure = Problem("internalServerError", "The task could not be carried out.")
            self.service.fail(job, failure, time.monotonic())
        self._wake.set()

    async def _render(self, rendering: Rendering) -> None:
        medium, item = rendering.medium, rendering.slot.item
        if item is None:
            return
        if rendering.field == "detections":
            if medium.recipe is not None:
                item["detections"] = await anyio.to_thread.run_sync(find_subjects, medium.recipe, limiter=self._threads)
            return
        data = await self.open_medium(medium)
        item[rendering.field] = (
            as_data_uri(data, medium.content_type) if rendering.as_data_uri else base64.b64encode(data).decode()
        )

    async def open_medium(self, medium: Medium) -> bytes:
        """Return the bytes of a medium, drawing it in a thread the first time."""
        data = self._files.get(medium.medium_id)
        if data is None:
            data = await anyio.to_thread.run_sync(make_file, medium, limiter=self._threads)
            self._files[medium.medium_id] = data
            self._files_bytes += len(data)
            while self._files_bytes > _CACHE_BYTES and len(self._files) > 1:
                oldest = next(iter(self._files))
                self._files_bytes -= len(self._files.pop(oldest))
        return data
