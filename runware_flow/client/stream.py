"""A text that is read while it is written: one POST whose reply is a stream of events, shared by any readers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import msgspec

from runware_flow.errors import RunwareError
from runware_flow.session.streaming import DeltaKind, StreamMachine, StreamResult
from runware_flow.transport.connection import TransportError
from runware_flow.wire.codec import encode
from runware_flow.wire.frames import decode_reply, encode_frame
from runware_flow.wire.items import Item
from runware_flow.wire.problems import to_error
from runware_flow.wire.results import decode_result

if TYPE_CHECKING:
    from collections.abc import Callable

    from runware_flow.client.request import Prepared
    from runware_flow.lifetime import Worker, Workers
    from runware_flow.transport.rest import Reply, RestTransport

__all__ = ("TextReader", "TextStream", "follow", "start_stream")


class TextStream:
    """The answer of a text model, as it comes.

    `text` and `reasoning` give a reader of their own each time they are asked for: every reader sees everything from
    the beginning, whoever else reads. An error of the stream is raised to each reader after the pieces before it.
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

    @property
    def text(self) -> TextReader:
        """A new reader of the answer: `async for word in stream.text`."""
        return TextReader(self, DeltaKind.TEXT)

    @property
    def reasoning(self) -> TextReader:
        """A new reader of what the model says while it thinks; ends at once for models that do not."""
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


class TextReader:
    """One reader of a stream, from its beginning. It may be left at any time; a cancelled read loses nothing."""

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


def start_stream(
    rest: RestTransport,
    prepared: Prepared,
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
    return stream, workers.start_soon(_read, rest, body, stream, timeout, prepared.task_id, redact)


async def follow(stream: TextStream, prepared: Prepared, on_delta: Callable[[str, str], None]) -> Any:
    """Read a stream to its end; returns its result as any other request's, after all pieces were told in order."""
    told = {DeltaKind.REASONING: 0, DeltaKind.TEXT: 0}
    is_over = False
    while not is_over:
        for kind, index in told.items():  # a model thinks before it answers
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
    return decode_result(Item(raw=raw), prepared.request.result_type)


async def _read(
    rest: RestTransport,
    body: bytes,
    stream: TextStream,
    timeout: float,
    task_uuid: str,
    redact: Callable[[str], str],
) -> None:
    try:
        reply = await rest.stream(body, stream.take, timeout=timeout)
    except TransportError as error:
        stream.end(_failure(error.message, task_uuid))
    except Exception as error:  # noqa: BLE001  # of a user's HTTP client: it belongs to those who read
        stream.end(error)
    except BaseException:
        stream.end(_closed(task_uuid))
        raise
    else:
        stream.end(None if reply is None else _refusal(reply, task_uuid, redact))


def _refusal(reply: Reply, task_uuid: str, redact: Callable[[str], str]) -> RunwareError:
    """The reply is no stream: the service says why, or says nothing that helps."""
    body = redact(reply.body.decode("latin-1")).encode("latin-1")  # a key is ASCII, and all else stays as it came
    errors = decode_reply(reply.status, body).errors
    if errors:
        return to_error(errors[0], task_type="textInference", task_uuid=task_uuid, retry_after=reply.retry_after)
    return RunwareError(
        f"the service answered a request for a stream with something else (HTTP {reply.status})",
        code="serverError",
        raw_code="streamUnsupported",
        task_uuid=task_uuid,
        status_code=reply.status,
    )


def _failure(message: str, task_uuid: str) -> RunwareError:
    return RunwareError(
        message, code="connection", raw_code="connectionLost", task_type="textInference", task_uuid=task_uuid
    )


def _closed(task_uuid: str) -> RunwareError:
    message = "the stream was closed before its end"
    return RunwareError(message, code="aborted", raw_code="aborted", task_type="textInference", task_uuid=task_uuid)
