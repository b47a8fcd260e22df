"""`Service`: the emulated service, sans-IO. Tasks and times go in, frames come out; it never sleeps or draws.

The life of a task: `receive` checks it and makes a job; its items are made at once, or after the driver has read its
inputs (`make_items`) and rendered what goes into the answer itself (`finish`); `advance` moves the clock, and results
whose time has come are pushed to the session that waits for them, or become visible to getResponse.

`sessions.py` holds who is connected, `utilities.py` what getResponse and the utilities say, `validation.py` what is
refused.
"""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any

from runware_flow.emulator.jsonvalues import as_object, is_object
from runware_flow.emulator.problems import Problem
from runware_flow.emulator.service import intake, results, utilities
from runware_flow.emulator.service.jobs import Frame, Job, Slot
from runware_flow.emulator.service.log import TaskEntry
from runware_flow.emulator.service.sessions import Session
from runware_flow.emulator.service.state import ServiceState
from runware_flow.emulator.service.webhooks import has_callbacks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runware_flow.emulator.media.store import Recipe
    from runware_flow.emulator.network.faults import FaultBook
    from runware_flow.emulator.service.models import Models
    from runware_flow.emulator.settings import Settings

__all__ = ("Advanced", "PendingReply", "Service")


@dataclass
class PendingReply:
    """What follows from one request.

    Attributes:
        frame: what is answered at once; may be empty.
        frames: what is answered beside it in frames of their own (poll answers, if so set).
        started: jobs that wait for their inputs to be read (`Service.make_items`) or their media to be rendered.
        waiting: sync jobs whose results a REST request waits for.
    """

    frame: Frame
    frames: list[Frame] = field(default_factory=list[Frame])
    started: list[Job] = field(default_factory=list[Job])
    waiting: list[Job] = field(default_factory=list[Job])
    is_dry_run: bool = False


@dataclass
class Advanced:
    """What moving the clock brought: sessions with frames to send, and jobs that are complete (or overdue)."""

    sessions: set[Session] = field(default_factory=set[Session])
    settled: list[Job] = field(default_factory=list[Job])
    callbacks: list[tuple[Job, Slot]] = field(default_factory=list[tuple[Job, Slot]])
    """Results that are ready and that a webhook or an upload endpoint waits for."""


class Service:
    """One emulated service. Every method that depends on the time takes it, in monotonic seconds."""

    def __init__(self, settings: Settings, models: Models, faults: FaultBook | None = None) -> None:
        self.state = ServiceState(settings, models, faults)
        self.settings, self.models, self.faults = self.state.settings, self.state.models, self.state.faults
        self.log, self.media_store = self.state.log, self.state.media_store
        self.sessions, self.jobs = self.state.sessions, self.state.jobs
        self._timers: list[tuple[float, int, Job, Slot | None]] = []
        self._order = itertools.count()

    def authenticate(self, task: dict[str, Any], now: float) -> Session | Problem:
        """Open or resume a session, or say why not."""
        problem = self.check_key(task.get("apiKey"))
        if problem is not None:
            return problem
        self.log.authentications += 1
        session_id = task.get("connectionSessionUUID")
        session = self.sessions.open(session_id, now)
        if session.session_id == session_id and self.faults.trigger("rotate-session") is not None:
            self.sessions.rename(session)
        return session

    def check_key(self, key: Any) -> Problem | None:
        """Say what is wrong with an API key."""
        about: dict[str, Any] = {"parameter": "apiKey", "type": "string"}
        fault = self.faults.trigger("reject-key")
        if fault is not None:
            message, shape = fault.message or "Invalid API key.", fault.shape or "errors"
            return Problem(fault.code or "invalidApiKey", message, shape=shape, **about)
        if not isinstance(key, str) or not key:
            return Problem("missingApiKey", "Missing value for 'apiKey' parameter.", **about)
        if key != self.settings.api_key:
            return Problem("invalidApiKey", "Invalid API key.", **about)
        return None

    def receive(
        self, tasks: Sequence[Any], now: float, session: Session | None = None, *, dry_run: bool = False
    ) -> PendingReply:
        """Take one array of tasks, from a session (WebSocket) or from a REST request (None).

        In a dry run tasks are checked, and each good one is answered with its ids alone (a guess): nothing is carried
        out, billed or remembered, and the taskUUID stays free. What only asks is answered as ever.
        """
        reply = PendingReply(Frame(queued_at=now), is_dry_run=dry_run)
        if any(as_object(task).get("taskType") == "getResponse" for task in tasks):
            self.log.poll_requests += 1
        for task in tasks:
            if is_object(task):
                self._receive_one(task, now, session, reply)
            else:
                problem = Problem("invalidParameter", "A request is an array of task objects.", type="object")
                reply.frame.errors.append(problem.entry())
        if session is None and not reply.waiting:
            reply.frame.status = self._status(reply.frame)
        return reply

    def _receive_one(self, task: dict[str, Any], now: float, session: Session | None, reply: PendingReply) -> None:
        frame = reply.frame
        task_type = task.get("taskType")
        problem = intake.refuse(self.state, task, now)
        if problem is None and session is not None and task.get("deliveryMethod") == "stream":
            problem = Problem("invalidParameter", "A stream is available over HTTP only.", parameter="deliveryMethod")
        if problem is not None:
            self._reject(task, problem, frame)
        elif task_type == "getResponse":
            self._poll(task, now, reply)
        elif task_type == "ping" and self.faults.trigger("swallow-pong") is not None:
            return
        elif reply.is_dry_run and utilities.changes_something(task):
            frame.data.append({"taskType": task_type, "taskUUID": task["taskUUID"]})
        elif utilities.is_immediate(task):
            answer = utilities.answer(self.state, task, now)
            if isinstance(answer, Problem):
                self._reject(task, answer, frame)
            else:
                frame.data.append(answer)
        else:
            self._accept(task, now, session, reply)

    def _reject(self, task: dict[str, Any], problem: Problem, frame: Frame) -> None:
        frame.errors.append(problem.entry(task.get("taskType"), task.get("taskUUID")))
        frame.status, frame.shape = max(frame.status, problem.status), problem.shape
        refusal = {name: task.get(name) for name in ("taskUUID", "taskType", "model")}
        self.log.reject({**refusal, "code": problem.code, "at": frame.queued_at})

    def _status(self, frame: Frame) -> int:
        """A request of which anything was accepted is answered with 200, errors beside the data (a guess)."""
        if not frame.errors or (frame.data and self.settings.mixed_status == "ok"):
            return 200
        return 200 if frame.status < 500 and self.settings.rejection_status == "ok" else frame.status

    def _accept(self, task: dict[str, Any], now: float, session: Session | None, reply: PendingReply) -> None:
        job = intake.make_job(self.state, task, now, session)
        self._remember(job)
        self.state.running += 1
        recipes = self._known_recipes(job, now)
        if recipes is None:
            job.needs_inputs = True
        else:
            self.make_items(job, recipes, now)
        if not job.has_items:
            reply.started.append(job)
        if job.delivery == "async":
            self._acknowledge(job, reply.frame)
        elif session is None:
            reply.waiting.append(job)
        if job.delivery != "async" and max(slot.ready_at for slot in job.slots) > now + self.settings.sync_budget:
            heapq.heappush(self._timers, (now + self.settings.sync_budget, next(self._order), job, None))

    def _remember(self, job: Job) -> None:
        self.jobs[job.task_id] = job
        while len(self.jobs) > self.settings.retained_tasks:
            self.jobs.popitem(last=False)
        empty: list[float | None] = [None] * len(job.slots)
        self.log.enter(
            TaskEntry(
                task_uuid=job.task_id,
                task_type=job.task_type,
                model=job.task.get("model"),
                channel=job.channel,
                delivery=job.delivery,
                request=job.task,
                asked_at=job.accepted_at,
                ready_at=list(empty),
                delivered_at=list(empty),
            )
        )

    def _known_recipes(self, job: Job, now: float) -> list[Recipe] | None:
        """Return what the inputs show if the service itself stores all of them, without reading anything."""
        recipes: list[Recipe] = []
        for medium_input in job.inputs:
            medium = self.state.find_medium(medium_input.value, now)
            if medium is None or medium.recipe is None:
                return None
            recipes.append(medium.recipe)
        return recipes

    def _acknowledge(self, job: Job, frame: Frame) -> None:
        """One placeholder a task, no status [doc]; unless a fault takes it."""
        if self.faults.trigger("swallow-ack", job.task) is not None:
            frame.is_lost = True
            return
        delay = self.faults.trigger("delay-ack", job.task)
        if delay is not None:
            frame.delay = max(frame.delay, delay.seconds or 1.0)
        if self.faults.trigger("empty-ack", job.task) is not None:
            frame.is_acknowledgement = True
            return
        frame.data.append({"taskType": job.task_type, "taskUUID": job.task_id})

    def make_items(self, job: Job, recipes: list[Recipe], now: float) -> None:
        """Make a job's items from its inputs. If that leaves `job.renderings`, draw them, then call `finish`."""
        job.needs_inputs = False
        try:
            job.renderings = results.produce(job, recipes, self.media_store, self.settings)
        except Problem as problem:
            self.fail(job, problem, now)
        else:
            if not job.renderings:
                self.finish(job, now)

    def finish(self, job: Job, now: float) -> None:
        """Say that a job's items are complete: its results are ready when their time has come."""
        job.has_items = True
        for slot in job.slots:
            if slot.ready_at < inf:
                heapq.heappush(self._timers, (max(now, slot.ready_at), next(self._order), job, slot))

    def fail(self, job: Job, problem: Problem, now: float) -> None:
        """Let the whole job fail (its inputs cannot be read, say)."""
        for slot in job.slots:
            slot.item, slot.problem = None, problem
        for slot in job.slots:
            slot.problem_shape = job.failure_shape(self.settings.failure_shape)
        self.finish(job, now)

    def next_due(self) -> float | None:
        """Return when `advance` has something to do."""
        return self._timers[0][0] if self._timers else None

    def advance(self, now: float) -> Advanced:
        """Make ready what is due at `now`.

        Results of one task that come together leave in one frame; the stages of a model's upload in one each [doc].
        """
        advanced = Advanced()
        pushes: dict[tuple[Job, Slot | None], Frame] = {}
        while self._timers and self._timers[0][0] <= now:
            _, _, job, slot = heapq.heappop(self._timers)
            if slot is None:
                self._overdue(job, pushes, advanced)
            elif not slot.is_done:
                self._make_ready(job, slot, now)
                if has_callbacks(job):
                    advanced.callbacks.append((job, slot))
                if self._is_pushed(job):
                    key = (job, slot if job.kind.task_type == "modelUpload" else None)
                    frame = pushes.setdefault(key, Frame(queued_at=now))
                    frame.add_result(job, slot, polled=False)
                if job.is_settled:
                    self.state.running -= 1
                    advanced.settled.append(job)
        for (job, _), frame in pushes.items():
            session = self.sessions.get(job.session_id)
            if session is not None:
                session.outbox.append(frame)
                advanced.sessions.add(session)
        return advanced

    @staticmethod
    def _is_pushed(job: Job) -> bool:
        return job.delivery != "async" and job.session_id is not None and not job.is_overdue

    def _overdue(self, job: Job, pushes: dict[tuple[Job, Slot | None], Frame], advanced: Advanced) -> None:
        """A sync task beyond the budget is answered with a timeout; it goes on, and getResponse finds it [doc]."""
        if job.is_settled:
            return
        job.is_overdue = True
        problem = Problem("requestTimeout", "The task takes longer than a sync request may; ask for its result later.")
        if job.session_id is not None and self.settings.overdue == "error":
            pushes.setdefault((job, None), Frame()).errors.append(problem.entry(job.task_type, job.task_id))
        advanced.settled.append(job)

    def _make_ready(self, job: Job, slot: Slot, now: float) -> None:
        slot.is_done, slot.done_at = True, now
        entry = self.log.task(job.task_id)
        if slot.problem is None:
            self.log.billed_micro_usd += job.cost
            if slot.item is not None and slot.item.get("status") == "ready":
                self.state.keep_model(slot.item["air"], job.task)
        if entry is not None:
            entry.ready_at[slot.index] = now
            if slot.problem is None:
                entry.cost = round(entry.cost + job.cost / 1_000_000, 6)
            else:
                entry.errors.append(slot.problem.code)

    def _poll(self, task: dict[str, Any], now: float, reply: PendingReply) -> None:
        self.log.polls += 1
        if self.faults.trigger("drop-poll", self._task_of(task)) is not None:
            reply.frame.is_lost = True
            return
        single = self.settings.poll_frames == "single"
        frame = Frame(queued_at=now) if single else reply.frame
        utilities.poll(self.state, task, now, frame)
        if single:
            reply.frames.append(frame)

    def _task_of(self, task: dict[str, Any]) -> dict[str, Any] | None:
        job = self.jobs.get(str(task.get("taskUUID")))
        return None if job is None else job.task

    def collect(self, reply: PendingReply) -> Frame:
        """Return the answer to a REST request whose sync jobs are settled or overdue."""
        frame = reply.frame
        worst = frame.status
        for extra in reply.frames:
            frame.extend(extra)
        for job in reply.waiting:
            if job.is_overdue:
                problem = Problem("requestTimeout", "The task takes longer than a sync request may.")
                frame.errors.append(problem.entry(job.task_type, job.task_id))
                worst = max(worst, problem.status)
                continue
            for slot in job.slots:
                frame.add_result(job, slot, polled=False)
                if slot.problem is not None and slot.problem_shape == "errors":
                    worst = max(worst, slot.problem.status)
        frame.status = worst
        frame.status = self._status(frame)
        return frame

    def sent(self, frame: Frame, now: float) -> None:
        """Say that a frame is leaving: its results are delivered, and sync tasks delivered whole are closed.

        Said before the bytes go, so that a client that has the answer never finds the service behind it.
        """
        for job, slot in frame.delivers:
            self._mark(job, slot, now if slot.delivered_at is None else slot.delivered_at)
            if job.delivery != "async" and all(slot.delivered_at is not None for slot in job.slots):
                job.is_closed = True

    def returned(self, frame: Frame) -> None:
        """Take back what `sent` said of a frame: the connection was gone."""
        for job, slot in frame.delivers:
            self._mark(job, slot, None)
            job.is_closed = False

    def _mark(self, job: Job, slot: Slot, delivered_at: float | None) -> None:
        slot.delivered_at = delivered_at
        entry = self.log.task(job.task_id)
        if entry is not None:
            entry.delivered_at[slot.index] = delivered_at
