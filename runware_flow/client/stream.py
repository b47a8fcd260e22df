"""`TextStream`: a text that is read while the model writes it, from one POST, by any number of readers."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import anyio
import msgspec

from runware_flow.client.refusal import TaskRefused
from runware_flow.errors import ClientStateError, RunwareError, RunwareTimeoutError
from runware_flow.session.reading import is_busy
from runware_flow.session.streaming import DeltaKind, StreamMachine, StreamResult
from runware_flow.tracebacks import Block, bordered
from runware_flow.transport.connection import TransportError
from runware_flow.wire.codec import encode
from runware_flow.wire.frames import decode_reply, encode_frame
from runware_flow.wire.items import Item
from runware_flow.wire.problems import to_error
from runware_flow.wire.results import decode_result

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from runware_flow.client.request import Prepared
    from runware_flow.client.send_windows import SendWindows, Slot
    from runware_flow.lifetime import Worker, Workers
    from runware_flow.transport.rest import Reply, RestTransport

__all__ = ("StreamBlock", "StreamTurn", "TextReader", "TextStream", "follow", "start_stream")


@bordered
class TextStream:
    """The answer of a text model, as it comes.

    `text` and `reasoning` return a new reader each time. Every reader reads from the beginning, independently of the
    others. An error of the stream is raised to each reader after the pieces before it.
    """

    def __init__(
        self,
        task_uuid: str,
        *,
        document: Callable[[RunwareError], RunwareError] = lambda error: error,
        redact: Callable[[str], str] = str,
    ) -> None:
        """Prepare for a stream.

        Args:
            task_uuid: of the task.
            document: gives an error the link to the documentation that it lacks.
            redact: takes the API key out of what a server sends, as everywhere else.
        """
        self._document = document
        self._machine = StreamMachine(task_uuid, redact=redact)
        self._pieces: dict[DeltaKind, list[str]] = {kind: [] for kind in DeltaKind}
        self._result: StreamResult | None = None
        self._error: Exception | None = None
        self._changed = anyio.Event()

    if not TYPE_CHECKING:  # hidden, so that type checkers reject it too

        def __aiter__(self) -> Any:
            raise TypeError("a stream has two texts: iterate over stream.text, or stream.reasoning")

    @property
    def text(self) -> TextReader:
        """A new reader of the answer: `async for word in stream.text`."""
        return TextReader(self, DeltaKind.TEXT)

    @property
    def reasoning(self) -> TextReader:
        """A new reader of the reasoning of the model; it ends at once for models without."""
        return TextReader(self, DeltaKind.REASONING)

    async def full_text(self) -> str:
        """Wait for the end and return the whole answer. Cancelled, it is as `result`.

        Raises:
            RunwareError: the task failed, or the stream broke off.
        """
        return (await self.result()).text

    async def result(self) -> StreamResult:
        """Wait for the end and return text, reasoning, finish reason, usage and cost.

        A cancel ends the waiting only; the stream goes on as long as its block.

        Raises:
            RunwareError: the task failed, or the stream broke off.
        """
        while self._result is None:
            if self._error is not None:
                raise self._error
            await self.wait_changed()
        return self._result

    def piece(self, kind: DeltaKind, index: int) -> str | None:
        """The piece at `index`, None if it is not there yet; at the end `StopAsyncIteration`, or the stream's error."""
        pieces = self._pieces[kind]
        if index < len(pieces):
            return pieces[index]
        if self._error is not None:
            raise self._error
        if self._result is not None:
            raise StopAsyncIteration
        return None

    async def wait_changed(self) -> None:
        """Wait until more has come, or the end."""
        await self._changed.wait()

    # What the worker that reads the connection calls.

    def take(self, piece: bytes) -> bool:
        """Take bytes of the reply; tell whether there is nothing more to read."""
        try:
            for delta in self._machine.feed(piece):
                self._pieces[delta.kind].append(delta.text)
        except RunwareError as error:
            self._error = self._document(error)
        self._wake()
        return self._error is not None or self._machine.is_done

    def end(self, error: Exception | None) -> None:
        """The reply is over, or never came."""
        if self._error is None:
            try:
                self._result = self._machine.end() if error is None or self._machine.is_done else None
            except RunwareError as truncated:
                self._error = self._document(truncated)
            if self._result is None and self._error is None and error is not None:
                self._error = self._document(error) if isinstance(error, RunwareError) else error
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


@bordered
class TextReader:
    """A reader of a stream, from its beginning. It may stop at any time; a cancelled read loses nothing."""

    def __init__(self, stream: TextStream, kind: DeltaKind) -> None:
        self._stream = stream
        self._kind = kind
        self._index = 0

    def __aiter__(self) -> TextReader:
        return self

    async def __anext__(self) -> str:
        while (piece := self._stream.piece(self._kind, self._index)) is None:
            await self._stream.wait_changed()
        self._index += 1
        return piece


class StreamTurn:
    """What a stream has to do with the send window of its model.

    Args:
        seconds: how long its caller waits for it, for an error.
        slot: room that a run took for it.
        parks: a refusal ends it with `TaskRefused`, instead of being waited out.
    """

    def __init__(self, windows: SendWindows, model: str, seconds: float, slot: Slot | None, *, parks: bool) -> None:
        self.parks = parks
        self._seconds = seconds
        self._windows = windows
        self._model = model
        self._slot = slot
        self._refusal: RunwareError | None = None

    async def wait(self) -> None:
        """Wait until the request may be sent."""
        if self._slot is None:
            self._slot = self._windows.enter(self._model) if self.parks else await self._windows.wait(self._model)

    def refused(self, error: RunwareError) -> None:
        """The service has too much to do to take the request."""
        self._refusal = error
        if self._slot is not None:
            self._slot.close(error)
            self._slot = None

    def end(self, *, has_ended: bool) -> None:
        """The stream is over."""
        if self._slot is not None:
            self._slot.close(has_ended=has_ended)

    def not_done(self, task_uuid: str, *, may_be_billed: bool) -> RunwareTimeoutError:
        """The error of a stream that was not at its end when its time was over."""
        rest = "the service may finish and bill it" if may_be_billed else "it was not sent, and is not billed"
        return RunwareTimeoutError(
            f"this stream was not at its end within {self._seconds:g} s, its timeout; {rest}",
            code="timeout",
            raw_code="timeout",
            task_type="textInference",
            task_uuid=task_uuid,
            may_be_billed=may_be_billed,
        )

    def too_late(self, task_uuid: str) -> RunwareTimeoutError:
        """The error of a stream that waited for its turn until its time was over."""
        refusal = self._refusal
        last = "" if refusal is None else f", the last time with {refusal.raw_code or refusal.code} ({refusal.message})"
        return RunwareTimeoutError(
            f"the service refused this stream for {self._seconds:g} s, its timeout{last}; nothing was billed",
            code="rateLimit",
            raw_code=None if refusal is None else refusal.raw_code,
            task_type="textInference",
            task_uuid=task_uuid,
        )


@bordered
class StreamBlock(Block[TextStream]):
    """The block in which a stream is open: `async with client.stream(...) as stream`.

    It may be left in another task than the one that entered it, for example by an async generator that is dropped.
    """

    def __init__(self, start: Callable[[ExitStack], Awaitable[tuple[TextStream, Worker]]]) -> None:
        super().__init__("write `async with client.stream(task) as stream:` and in it `async for word in stream.text:`")
        self._start = start
        self._worker: Worker | None = None

    async def __aenter__(self) -> TextStream:
        if self._worker is not None:
            raise ClientStateError("the block of a stream is entered once; call client.stream() again")
        with ExitStack() as stack:
            stream, self._worker = await self._start(stack)
            self._stack = stack.pop_all()
        return stream

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._worker is not None:
            self._worker.stop()
            try:
                await self._worker.wait_ended()
            finally:
                self._stack.__exit__(kind, error, traceback)


def start_stream(
    rest: RestTransport,
    prepared: Prepared,
    turn: StreamTurn,
    workers: Workers,
    *,
    timeout: float,
    document: Callable[[RunwareError], RunwareError] = lambda error: error,
    redact: Callable[[str], str] = str,
) -> tuple[TextStream, Worker]:
    """Send a streamed task; stopping the worker closes the connection at once.

    What the service has begun is billed, read or not.
    """
    stream = TextStream(prepared.task_id, document=document, redact=redact)
    body = encode_frame([encode(prepared.wire)])
    return stream, workers.start_soon(_read, rest, body, stream, turn, timeout, prepared, redact)


async def follow(stream: TextStream, prepared: Prepared, on_delta: Callable[[str, str], None]) -> Any:
    """Read a stream to its end; returns its result as any other request's, after all pieces were told in order."""
    told = {DeltaKind.REASONING: 0, DeltaKind.TEXT: 0}
    is_over = False
    while not is_over:
        for kind, index in told.items():  # reasoning first: a model reasons before it answers
            try:
                while (piece := stream.piece(kind, index)) is not None:
                    on_delta(kind.value, piece)
                    index += 1
            except StopAsyncIteration:
                is_over = True
            told[kind] = index
        if not is_over:
            await stream.wait_changed()
    done = await stream.result()
    item = {
        "taskType": prepared.task_type,
        "taskUUID": done.task_uuid,
        "text": done.text,
        "reasoningContent": done.reasoning or None,
        "finishReason": done.finish_reason,
        "usage": done.usage,
        "cost": done.cost,
    }
    raw = msgspec.json.encode({name: value for name, value in item.items() if value is not None})
    return decode_result(Item(raw=raw), prepared.result_type)


async def _read(
    rest: RestTransport,
    body: bytes,
    stream: TextStream,
    turn: StreamTurn,
    timeout: float,
    prepared: Prepared,
    redact: Callable[[str], str],
) -> None:
    has_ended = False
    error: Exception | None
    try:
        error = await _send(rest, body, stream, turn, timeout, prepared, redact)
        has_ended = error is None
    except Exception as unexpected:  # noqa: BLE001  # of a user's HTTP client: it is raised in the readers
        error = unexpected
    except BaseException:
        stream.end(_closed(prepared))
        raise
    finally:
        turn.end(has_ended=has_ended)
    stream.end(error)


async def _send(
    rest: RestTransport,
    body: bytes,
    stream: TextStream,
    turn: StreamTurn,
    timeout: float,
    prepared: Prepared,
    redact: Callable[[str], str],
) -> Exception | None:
    """Send the request, again and again while the service refuses to take it, and read the reply; returns its error."""
    task_uuid = prepared.task_id

    def leave() -> None:
        prepared.send_state.has_left = True

    deadline = anyio.current_time() + timeout
    while True:
        with anyio.CancelScope(deadline=deadline) as scope:
            await turn.wait()
        if scope.cancelled_caught:
            return turn.too_late(task_uuid)
        try:
            left = deadline - anyio.current_time()
            reply = await rest.stream(body, stream.take, timeout=left, on_begin=leave)
        except TransportError as failure:
            if failure.kind == "timeout" and anyio.current_time() >= deadline:
                return turn.not_done(task_uuid, may_be_billed=failure.sent)
            return RunwareError(
                failure.message,
                code="connection",
                raw_code="connectionLost",
                task_type=prepared.task_type,
                task_uuid=task_uuid,
                may_be_billed=failure.sent,
            )
        if reply is None:
            return None
        error, has_too_much = _refusal(reply, task_uuid, redact)
        if not has_too_much:
            return error
        turn.refused(error)
        if turn.parks:
            return TaskRefused(error)


def _refusal(reply: Reply, task_uuid: str, redact: Callable[[str], str]) -> tuple[RunwareError, bool]:
    """The reply is no stream: the service says why, or says nothing that helps; and whether it has too much to do."""
    body = redact(reply.body.decode("latin-1")).encode("latin-1")  # a key is ASCII, and all else stays as it came
    errors = decode_reply(reply.status, body).errors
    if errors:
        error = to_error(errors[0], task_type="textInference", task_uuid=task_uuid, retry_after=reply.retry_after)
        # Without a code it is the answer of something on the way, which may have passed the request on.
        error.may_be_billed = errors[0].code is None and reply.status >= 500 and reply.status != 503
        return error, is_busy(errors[0])
    unreadable = RunwareError(
        f"the service answered a request for a stream with something else (HTTP {reply.status})",
        code="serverError",
        raw_code="streamUnsupported",
        task_uuid=task_uuid,
        status_code=reply.status,
        may_be_billed=reply.status < 400,
    )
    return unreadable, False


def _closed(prepared: Prepared) -> RunwareError:
    return RunwareError(
        "the stream was closed before its end",
        code="aborted",
        raw_code="aborted",
        task_type=prepared.task_type,
        task_uuid=prepared.task_id,
        may_be_billed=bool(prepared.send_state.has_left),
    )
