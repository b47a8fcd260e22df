"""The REST interface of the service: one POST with an array of tasks, answered when its sync tasks are done."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import anyio
import msgspec

from runware_flow.emulator.http.body import read_body
from runware_flow.emulator.http.sockets import cut, is_closed
from runware_flow.emulator.http.sse import stream_text
from runware_flow.emulator.http.websocket import bare, is_dry_run, read_tasks
from runware_flow.emulator.jsonvalues import as_object
from runware_flow.emulator.problems import Problem
from runware_flow.emulator.service.jobs import Frame

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from runware_flow.emulator.http.driver import ServiceDriver
    from runware_flow.emulator.network.faults import Fault
    from runware_flow.emulator.service.jobs import Job
    from runware_flow.emulator.service.service import Service

__all__ = ("RestEndpoint", "answer", "check_key", "read_post", "wait_for_jobs")


class RestEndpoint:
    """An ASGI application for `POST /v1`."""

    def __init__(self, driver: ServiceDriver) -> None:
        self._driver = driver
        self._service = driver.service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["method"] != "POST":
            await answer(send, 405, _errors(Problem("invalidParameter", "Use POST.")), allow="POST")
            return
        raw = await read_post(self._service, scope, receive, send)
        if raw is None:
            return
        tasks: list[Any] | Problem
        tasks = raw if isinstance(raw, Problem) else read_tasks(raw, self._service.settings.max_tasks)
        if not isinstance(tasks, Problem):
            tasks = self._authorize(scope, tasks)
        if isinstance(tasks, Problem):
            await answer(send, tasks.status, _errors(tasks))
            return
        await self._perform(tasks, receive, send, dry_run=is_dry_run(scope))

    def _authorize(self, scope: Scope, tasks: list[Any]) -> list[Any] | Problem:
        """Take the key from the header or from an authentication task in front [doc, 3p]."""
        first = as_object(tasks[0]) if tasks else {}
        if first.get("taskType") == "authentication":
            problem = self._service.check_key(str(first.get("apiKey") or _bearer(scope)).strip())
            return tasks[1:] if problem is None else problem
        return check_key(self._service, scope) or tasks

    async def _perform(self, tasks: list[Any], receive: Receive, send: Send, *, dry_run: bool) -> None:
        streams = [task for task in map(as_object, tasks) if task.get("deliveryMethod") == "stream"]
        if streams and len(tasks) > 1:
            problem = Problem(
                "invalidParameter", "A stream must be the only task of its request.", parameter="deliveryMethod"
            )
            await answer(send, problem.status, _errors(problem))
            return
        reply = self._driver.receive(tasks, dry_run=dry_run)
        frame = reply.frame
        if streams and reply.waiting:
            await stream_text(self._driver, reply.waiting[0], send)
            return
        if frame.delay:
            await anyio.sleep(frame.delay)
        if reply.waiting and not await wait_for_jobs(self._driver, reply.waiting, receive):
            return
        if self._driver.closing.is_set():
            await answer(send, 503, _errors(Problem("serviceUnavailable", "The emulator stops.")))
            return
        frame = self._service.collect(reply)
        is_cut = (frame.is_lost and frame.is_empty) or self._service.faults.trigger("cut") is not None
        if is_cut and cut(send):
            return
        body = frame.body()
        if self._service.faults.trigger("empty-errors") is not None:
            body.setdefault("errors", [])
        if self._service.faults.trigger("bare-data") is not None:
            body = bare(body)
        if not is_closed(send):
            self._service.sent(frame, time.monotonic())
            await answer(send, frame.status, body)


async def read_post(service: Service, scope: Scope, receive: Receive, send: Send) -> bytes | Problem | None:
    """Read and log a POST; `None` if there is nothing more to answer: the client left, or a fault has answered."""
    raw: bytes | Problem | None
    try:
        raw = await read_body(dict(scope["headers"]), receive, service.settings.max_frame_bytes)
    except Problem as refused:
        raw = refused
    if raw is None:
        return None
    service.log.posts += 1
    fault = service.faults.trigger("http")
    if fault is None:
        return raw
    await answer_fault(send, fault)
    return None


def _bearer(scope: Scope) -> str:
    """Return the key in the header of a request, or nothing."""
    scheme, _, key = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1").partition(" ")
    return str(key).strip() if scheme.lower() == "bearer" else ""


def check_key(service: Service, scope: Scope) -> Problem | None:
    """Say what is wrong with the key in the header of a request."""
    key = _bearer(scope)
    if not key:
        return Problem("missingApiKey", "The request carries no API key.", parameter="apiKey", type="string")
    return service.check_key(key)


async def wait_for_jobs(driver: ServiceDriver, jobs: list[Job], receive: Receive) -> bool:
    """Wait for sync jobs; False if the client left before, who may ask getResponse for them."""
    is_here = True

    async def watch() -> None:
        nonlocal is_here
        while (await receive())["type"] != "http.disconnect":
            pass
        is_here = False
        waiters.cancel_scope.cancel()

    async def stop() -> None:
        await driver.closing.wait()
        waiters.cancel_scope.cancel()

    async with anyio.create_task_group() as waiters:
        waiters.start_soon(watch)
        waiters.start_soon(stop)
        await driver.wait_settled(jobs)
        waiters.cancel_scope.cancel()
    driver.forget(jobs)
    return is_here


def _errors(problem: Problem) -> dict[str, Any]:
    return Frame(errors=[problem.entry()], shape=problem.shape).body()


async def answer(send: Send, status: int, body: dict[str, Any] | bytes, **headers: str) -> None:
    """Send a whole answer: JSON, or bytes of another `content_type`."""
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
    kind = headers.pop("content_type", "application/json")
    fields = [(b"content-type", kind.encode()), (b"content-length", str(len(raw)).encode())]
    fields += [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": raw})


_CODES = {401: "invalidApiKey", 402: "insufficientCredits", 429: "rateLimitExceeded", 503: "serviceUnavailable"}


async def answer_fault(send: Send, fault: Fault) -> None:
    status = fault.status or 503
    headers = {} if fault.retry_after is None else {"retry_after": f"{fault.retry_after:g}"}
    if fault.body == "json":
        code = fault.code or _CODES.get(status, "internalServerError")
        message = fault.message or f"The service answers with {status}."
        await answer(send, status, _errors(Problem(code, message)), **headers)
    else:
        raw = b"" if fault.body == "empty" else f"<html><body><h1>{status}</h1></body></html>".encode()
        await answer(send, status, raw, content_type="text/html", **headers)
