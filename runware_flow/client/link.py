"""Carries the frames of a session to the service: over one WebSocket, or in one POST each.

A link carries out, and decides nothing: what happened goes back to the session machine as an event. Both kinds have the
same four verbs; `open`, `close` and `send` only note what is wanted, the workers in `run` do it.

A server that repeats the API key (in the message of an error, say) is not believed to have meant it: what comes in is
redacted before anything else reads it.
"""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Protocol

import anyio

from runware_flow.client.bundles import bundle
from runware_flow.errors import ProtocolError
from runware_flow.lifetime import open_task_group
from runware_flow.session import events
from runware_flow.session.commands import Lane
from runware_flow.transport.connection import CONNECT_TIMEOUT, MAX_FRAME_BYTES, TransportError
from runware_flow.wire.frames import decode_frame, decode_reply, encode_frame

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping
    from types import TracebackType

    from runware_flow.lifetime import Event, EventLoop
    from runware_flow.secret import Secret
    from runware_flow.session.commands import Outgoing
    from runware_flow.transport.connection import Connection, Connector
    from runware_flow.transport.rest import RestTransport
    from runware_flow.types import TaskId

    Report = Callable[[events.Event], None]
    Fail = Callable[[Iterable[TaskId], Exception], None]
    Leave = Callable[[Iterable[TaskId]], None]

    class EndConnection(Protocol):
        """Notes why a connection cannot go on, and ends it."""

        def __call__(self, error: Exception, *, in_reading: bool) -> None: ...


__all__ = ("ExchangeLink", "Link", "SocketLink")


class Link(Protocol):
    """The connection of a session driver to the service."""

    def open(self) -> None:
        """Open a connection."""
        ...

    def close(self, reason: str) -> None:
        """Close the connection, or give up opening it."""
        ...

    def send(self, entries: Iterable[Outgoing]) -> None:
        """Send entries as soon as the connection takes them."""
        ...

    def forget(self, task_id: TaskId) -> None:
        """No call waits for this task any more: its unsent entries are dropped, and a POST of its own may end."""
        ...

    async def run(self, report: Report, fail: Fail, leave: Leave) -> None:
        """Do what is wanted, for ever, and report what happened.

        Args:
            fail: is told of the tasks that an unexpected exception hits.
            leave: is told of tasks before the service may have them; one that is forgotten earlier is never sent.
        """
        ...


class Outbox:
    """Entries that wait to be sent: at most one for each task, because the session sends them one at a time."""

    def __init__(self, new_event: Callable[[], Event]) -> None:
        self._entries: list[Outgoing] = []
        self._new_event = new_event
        self._arrived = new_event()

    def put(self, entries: Iterable[Outgoing]) -> None:
        """Add entries at the end."""
        self._entries.extend(entries)
        self._arrived.set()

    def clear(self) -> None:
        """Drop what waits."""
        self._entries.clear()

    def drop(self, task_id: TaskId) -> None:
        """Drop what waits for one task."""
        self._entries = [entry for entry in self._entries if entry.task_id != task_id]

    async def take(self) -> list[Outgoing]:
        """Wait until something is there, and take all.

        If the first is a task to be submitted, other callers that are ready get one turn to submit theirs with it.
        """
        while not self._entries:
            self._arrived = self._new_event()
            await self._arrived.wait()
        if self._entries[0].lane is Lane.SUBMIT:
            await anyio.lowlevel.checkpoint()
        taken, self._entries = self._entries, []
        return taken


class SocketLink:
    """One WebSocket at a time: a reader, a writer, and the worker that opens and closes."""

    def __init__(
        self,
        connector: Connector,
        url: str,
        headers: Mapping[str, str],
        api_key: Secret,
        event_loop: EventLoop,
    ) -> None:
        self._connector = connector
        self._clock = event_loop.time
        self._api_key = api_key
        self._url = url
        self._headers = headers
        self._wanted = anyio.Event()
        self._outbox = Outbox(event_loop.new_event)
        self._scope: anyio.CancelScope | None = None
        self._closed_because: str | None = None
        self._largest: tuple[int, tuple[TaskId, ...]] = (0, ())
        self._is_too_large = False
        self._is_reply_too_large = False

    def open(self) -> None:
        self._closed_because = None
        self._wanted.set()

    def close(self, reason: str) -> None:
        self._closed_because = reason
        if self._scope is not None:
            self._scope.cancel()

    def send(self, entries: Iterable[Outgoing]) -> None:
        self._outbox.put(entries)

    def forget(self, task_id: TaskId) -> None:
        """Drop what waits for this task; the connection serves all tasks, and stays."""
        self._outbox.drop(task_id)

    async def run(self, report: Report, fail: Fail, leave: Leave) -> None:
        while True:
            await self._wanted.wait()
            self._wanted = anyio.Event()
            await self._connect(report, leave)

    async def _connect(self, report: Report, leave: Leave) -> None:
        """One connection from its opening to its end."""
        failure: str | None = None
        is_open = False
        with anyio.CancelScope() as self._scope:
            try:
                async with AsyncExitStack() as stack:
                    connection = await self._enter(stack)
                    is_open = True
                    self._outbox.clear()
                    self._largest, self._is_too_large, self._is_reply_too_large = (0, ()), False, False
                    report(events.ConnectionOpened(self._clock()))
                    failure = await self._converse(connection, report, leave)
            except TransportError as error:
                failure = failure or error.message
        self._scope = None
        self._outbox.clear()
        now, jitter = self._clock(), random.random()
        if self._closed_because is not None:
            report(events.ConnectionLost(now, self._closed_because, jitter))
        elif is_open:
            too_large = self._largest[1] if self._is_too_large else ()
            lost = events.ConnectionLost(now, failure or "connection lost", jitter, too_large, self._is_reply_too_large)
            report(lost)
        else:
            report(events.ConnectionRefused(now, failure or "connection refused", jitter))

    async def _enter(self, stack: AsyncExitStack) -> Connection:
        try:
            connecting = self._connector(
                self._url, headers=self._headers, max_frame_bytes=MAX_FRAME_BYTES, connect_timeout=CONNECT_TIMEOUT
            )
            connection = await connecting.__aenter__()
        except TransportError:
            raise
        except Exception as error:
            raise _of_connector(error) from error

        async def leave(
            kind: type[BaseException] | None, body_error: BaseException | None, traceback: TracebackType | None
        ) -> bool | None:
            try:
                return await connecting.__aexit__(kind, body_error, traceback)
            except TransportError:
                raise
            except Exception as error:
                if error is body_error:
                    raise
                raise _of_connector(error) from error

        stack.push_async_exit(leave)
        return connection

    async def _converse(self, connection: Connection, report: Report, leave: Leave) -> str:
        """Read and write until the connection is lost; returns why it was."""
        reasons: list[str] = []
        async with open_task_group() as workers:

            def end_connection(error: Exception, *, in_reading: bool) -> None:
                failure = error if isinstance(error, TransportError) else _of_connector(error)
                if failure.kind == "too-large":
                    # Without a close code it is a message of the peer's that is too large.
                    is_reply = in_reading and failure.close_code is None
                    self._is_reply_too_large = self._is_reply_too_large or is_reply
                    self._is_too_large = self._is_too_large or not is_reply
                reasons.append(failure.message)
                workers.cancel_scope.cancel()

            workers.start_soon(self._write, connection, leave, end_connection)
            while not reasons:
                try:
                    data = self._api_key.redact_bytes(await connection.receive())
                except Exception as error:  # noqa: BLE001  # whatever it is, it ends the connection
                    end_connection(error, in_reading=True)
                else:
                    report(self._frame_event(data))
        return reasons[0]

    async def _write(self, connection: Connection, leave: Leave, end_connection: EndConnection) -> None:
        while True:
            taken = await self._outbox.take()
            leave(_submitted(taken))
            for entries in bundle(taken, by_lane=False):
                data = encode_frame([entry.body for entry in entries])
                if len(data) > self._largest[0]:
                    self._largest = (len(data), _ids(entries))
                try:
                    await connection.send(data)
                except Exception as error:  # noqa: BLE001  # whatever it is, it ends the connection
                    end_connection(error, in_reading=False)
                    return

    def _frame_event(self, data: bytes) -> events.FrameReceived | events.FrameUnreadable:
        try:
            return events.FrameReceived(self._clock(), decode_frame(data))
        except ProtocolError as error:
            return events.FrameUnreadable(self._clock(), str(error))


def _of_connector(error: Exception) -> TransportError:
    """The error of a connector that does not know ours, such as a user's."""
    return TransportError(f"the connector failed: {type(error).__name__}: {error}", kind="lost", sent=True)


def _ids(entries: Iterable[Outgoing]) -> tuple[TaskId, ...]:
    return tuple([entry.task_id for entry in entries if entry.task_id is not None])


def _submitted(entries: Iterable[Outgoing]) -> tuple[TaskId, ...]:
    """The tasks that these entries send."""
    return _ids([entry for entry in entries if entry.lane is Lane.SUBMIT])


class ExchangeLink:
    """One POST for each bundle, side by side; there is no connection to open, and none to lose."""

    def __init__(
        self, rest: Callable[[], Awaitable[RestTransport]], api_key: Secret, event_loop: EventLoop, *, timeout: float
    ) -> None:
        """Args: rest: opens HTTP on first use, and gives the same transport from then on."""
        self._rest = rest
        self._api_key = api_key
        self._timeout = timeout
        self._clock = event_loop.time
        self._outbox = Outbox(event_loop.new_event)
        self._alone: dict[TaskId, anyio.CancelScope] = {}

    def open(self) -> None:
        """HTTP connects by itself."""

    def close(self, reason: str) -> None:
        self._outbox.clear()

    def send(self, entries: Iterable[Outgoing]) -> None:
        self._outbox.put(entries)

    def forget(self, task_id: TaskId) -> None:
        """End the POST that only this task waits for; its connection is closed."""
        self._outbox.drop(task_id)
        scope = self._alone.get(task_id)
        if scope is not None:
            scope.cancel()

    async def run(self, report: Report, fail: Fail, leave: Leave) -> None:
        async with open_task_group() as exchanges:
            while True:
                for entries in bundle(await self._outbox.take(), by_lane=True):
                    scope = anyio.CancelScope()
                    task_ids = _ids(entries)
                    if len(task_ids) == 1:
                        self._alone[task_ids[0]] = scope
                    else:
                        leave(_submitted(entries))  # one of several that is forgotten leaves with the others
                    exchanges.start_soon(self._exchange, entries, scope, report, fail, leave)

    async def _exchange(
        self, entries: list[Outgoing], scope: anyio.CancelScope, report: Report, fail: Fail, leave: Leave
    ) -> None:
        task_ids = _ids(entries)
        lane = entries[0].lane
        event: events.Event | None = None
        failure: Exception | None = None
        with scope:
            try:
                rest = await self._rest()
                body = encode_frame([entry.body for entry in entries])
                reply = await rest.post(body, timeout=self._timeout, on_begin=lambda: leave(_submitted(entries)))
            except TransportError as error:
                now = self._clock()
                is_too_large = error.kind == "too-large"
                message = self._api_key.redact(error.message)
                event = events.ExchangeFailed(now, task_ids, lane, message, error.sent, is_too_large)
            except Exception as error:  # noqa: BLE001  # of a user's HTTP client: it belongs to the calls in this POST
                if lane is Lane.SUBMIT:
                    failure = error
                else:  # the task is at the service: a poll that could not be sent is repeated
                    message = self._api_key.redact(f"the HTTP client raised {type(error).__name__}: {error}")
                    event = events.ExchangeFailed(self._clock(), task_ids, lane, message, sent=True)
            else:
                frame = decode_reply(reply.status, self._api_key.redact_bytes(reply.body))
                event = events.ExchangeFinished(self._clock(), task_ids, lane, reply.status, frame, reply.retry_after)
        for task_id in task_ids:
            if self._alone.get(task_id) is scope:
                del self._alone[task_id]
        if failure is not None:
            fail(task_ids, failure)
        elif event is not None:  # otherwise no call waits for it any more
            report(event)
