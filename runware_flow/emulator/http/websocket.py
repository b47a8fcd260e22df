"""The WebSocket interface of the service: authentication, tasks in, frames out, and the idle timeout."""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import anyio
import msgspec

from runware_flow.emulator.http.sockets import cut, is_closed
from runware_flow.emulator.jsonvalues import as_object, is_list
from runware_flow.emulator.problems import Problem
from runware_flow.emulator.service.jobs import Frame

if TYPE_CHECKING:
    from anyio.abc import TaskGroup
    from starlette.types import Receive, Scope, Send

    from runware_flow.emulator.http.driver import ServiceDriver
    from runware_flow.emulator.service.sessions import Session

__all__ = ("Connection", "bare", "is_dry_run", "read_tasks", "serve_websocket")

_logger = logging.getLogger("runware_flow.emulator")


def read_tasks(raw: bytes | str, limit: int) -> list[Any] | Problem:
    """Read an array of tasks."""
    try:
        tasks = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Problem("invalidJSON", "The request is not valid JSON.")
    if not is_list(tasks):
        return Problem("invalidParameter", "A request is an array of task objects.", type="array")
    if len(tasks) > limit:
        return Problem("arrayTooLarge", f"A request holds at most {limit} tasks.", type="array")
    return tasks


def bare(body: dict[str, Any]) -> dict[str, Any]:
    """Return a body with its one item as `data` itself, as old pages show the reply to an upload [doc]."""
    return {**body, "data": body["data"][0]} if len(body.get("data", ())) == 1 else body


def is_dry_run(scope: Scope) -> bool:
    """Tell whether the address asks to check the tasks and to carry out none [sdk]."""
    wanted = parse_qs(scope["query_string"].decode("latin-1")).get("dryRun", [""])[-1]
    return wanted.lower() in ("1", "true")


class Connection:
    """One WebSocket connection, from its handshake to its end."""

    def __init__(self, driver: ServiceDriver, send: Send, *, dry_run: bool = False) -> None:
        self._driver = driver
        self._dry_run = dry_run
        self._service = driver.service
        self._send = send
        self._own: deque[Frame] = deque()
        """Frames of this connection alone (authentication, errors before it); they go before the session's."""
        self._session: Session | None = None
        self._signal = anyio.Event()
        self._active_at = time.monotonic()

    async def run(self, receive: Receive) -> None:
        """Serve until the peer leaves, silence ends it, or the emulator stops."""
        log = self._service.log
        if not await self._emit({"type": "websocket.accept"}):
            return
        log.connections += 1
        log.open_connections += 1
        try:
            async with anyio.create_task_group() as workers:
                workers.start_soon(self._write, workers)
                workers.start_soon(self._close_when_idle, workers)
                workers.start_soon(self._close_when_stopped, workers)
                while True:
                    message = await receive()
                    if message["type"] != "websocket.receive":
                        break
                    self._active_at = time.monotonic()
                    log.frames_received += 1
                    raw = message.get("text")
                    self._take(raw if raw is not None else message["bytes"], workers)
                workers.cancel_scope.cancel()
        finally:
            log.open_connections -= 1
            if self._session is not None:
                self._service.sessions.lose(self._session, self, time.monotonic())

    def _take(self, raw: bytes | str, workers: TaskGroup) -> None:
        tasks = read_tasks(raw, self._service.settings.max_tasks)
        if isinstance(tasks, Problem):
            self._queue(Frame(errors=[tasks.entry()]), workers)
            return
        rest: list[Any] = []
        for element in tasks:
            task = as_object(element)
            if task.get("taskType") == "authentication":
                self._authenticate(task, workers)
            elif self._session is None:
                message = "The connection is not authenticated: the first task must be an authentication."
                problem = Problem(self._service.settings.unauthenticated_code, message)
                self._queue(Frame(errors=[problem.entry(task.get("taskType"), task.get("taskUUID"))]), workers)
            else:
                rest.append(element)
        if rest:
            reply = self._driver.receive(rest, self._session, dry_run=self._dry_run)
            for frame in (reply.frame, *reply.frames):
                self._queue(frame, workers)

    def _authenticate(self, task: dict[str, Any], workers: TaskGroup) -> None:
        slow = self._service.faults.trigger("slow-auth")
        delay = 0.0 if slow is None else slow.seconds or 1.0
        opened = self._service.authenticate(task, time.monotonic())
        if isinstance(opened, Problem):
            refusal = Frame(errors=[opened.entry("authentication")], delay=delay, shape=opened.shape)
            self._queue(refusal, workers, own=True)
            return
        if self._service.faults.trigger("stray-frame") is not None:
            self._queue(Frame(data=[{"taskType": "ping", "pong": True}]), workers, own=True)
        item = {"taskType": "authentication", "connectionSessionUUID": opened.session_id}
        if self._session is not None and self._session is not opened:
            self._service.sessions.lose(self._session, self, time.monotonic())
        self._session = opened
        self._queue(Frame(data=[item], delay=delay), workers, own=True)
        opened.attach(self, self._wake)

    def _queue(self, frame: Frame, workers: TaskGroup, *, own: bool = False) -> None:
        if frame.is_empty and not frame.is_acknowledgement:
            return
        if frame.delay:
            delay, frame.delay = frame.delay, 0.0
            workers.start_soon(self._queue_later, frame, delay, workers, own)
            return
        frame.queued_at = time.monotonic()
        if own or self._session is None:
            self._own.append(frame)
        else:
            self._session.outbox.append(frame)
        self._wake()

    async def _queue_later(self, frame: Frame, delay: float, workers: TaskGroup, own: bool) -> None:
        try:
            await anyio.sleep(delay)
        except BaseException:
            if self._session is not None and not own:
                self._session.outbox.append(frame)  # the connection ends first: the session keeps it
            raise
        self._queue(frame, workers, own=own)

    def _wake(self) -> None:
        self._signal.set()

    async def _write(self, workers: TaskGroup) -> None:
        while True:
            frame, queue = self._next()
            if frame is None or queue is None:
                self._signal = anyio.Event()
                await self._signal.wait()
                continue
            try:
                is_alive = await self._send_frame(frame, queue)
            except BaseException:
                queue.appendleft(frame)
                raise
            if not is_alive:
                queue.appendleft(frame)
                workers.cancel_scope.cancel()
                return

    def _next(self) -> tuple[Frame | None, deque[Frame] | None]:
        if self._own:
            return self._own.popleft(), self._own
        session = self._session
        if session is not None and session.connection is self and session.outbox:
            return session.outbox.popleft(), session.outbox
        return None, None

    async def _send_frame(self, frame: Frame, queue: deque[Frame]) -> bool:
        """Send a frame as the faults have it; False if one of them cut the connection instead."""
        faults = self._service.faults
        if faults.trigger("kill") is not None:
            cut(self._send)
            return False
        merge = faults.trigger("merge")
        if merge is not None:
            await anyio.sleep(merge.seconds or 0.02)
            while queue:
                frame.extend(queue.popleft())
        lost = faults.trigger("drop-frame") is not None
        self._active_at = time.monotonic()
        self._service.sent(frame, self._active_at)
        for body in [] if lost else self._bodies(frame):
            self._service.log.frames_sent += 1
            if not await self._emit({"type": "websocket.send", "text": msgspec.json.encode(body).decode()}):
                self._service.returned(frame)
                return False
        return True

    async def _emit(self, message: dict[str, Any]) -> bool:
        """Send one message; False if the peer is gone."""
        try:
            await self._send(message)
        except Exception as error:  # noqa: BLE001 - servers raise what their sockets raise while these are closed
            _logger.debug("the connection is gone: %r", error)
            return False
        return not is_closed(self._send)

    def _bodies(self, frame: Frame) -> list[dict[str, Any]]:
        faults = self._service.faults
        bodies = [frame.body()]
        if faults.trigger("split") is not None:
            bodies = [{"data": [item]} for item in frame.data] + [{"errors": [entry]} for entry in frame.errors]
        if faults.trigger("shuffle") is not None:
            bodies = [{**body, "data": list(reversed(body.get("data", [])))} for body in bodies]
        if faults.trigger("empty-errors") is not None:
            bodies = [{**body, "errors": body.get("errors", [])} for body in bodies]
        if faults.trigger("bare-data") is not None:
            bodies = [bare(body) for body in bodies]
        if faults.trigger("duplicate") is not None:
            bodies += bodies
        if faults.trigger("empty-data") is not None:
            bodies.insert(0, {"data": []})
        return bodies

    async def _close_when_idle(self, workers: TaskGroup) -> None:
        limit = self._service.settings.idle_timeout
        while True:
            left = self._active_at + limit - time.monotonic()
            if left <= 0:
                break
            await anyio.sleep(left)
        await self._close(1000, workers)

    async def _close_when_stopped(self, workers: TaskGroup) -> None:
        await self._driver.closing.wait()
        await self._close(1001, workers)

    async def _close(self, code: int, workers: TaskGroup) -> None:
        with anyio.move_on_after(0.5) as closing:
            await self._emit({"type": "websocket.close", "code": code})
        if closing.cancelled_caught:
            cut(self._send)  # the peer does not read
        workers.cancel_scope.cancel()


async def serve_websocket(driver: ServiceDriver, scope: Scope, receive: Receive, send: Send) -> None:
    """Serve one WebSocket handshake and what follows; other paths than /v1 are refused."""
    await receive()
    if str(scope["path"]).rstrip("/") != "/v1" or driver.closing.is_set():
        await send({"type": "websocket.close", "code": 1000})
        return
    await Connection(driver, send, dry_run=is_dry_run(scope)).run(receive)
