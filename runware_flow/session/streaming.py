"""A streamed text task as a machine: server-sent events in, pieces of text and one result or one error out."""

from __future__ import annotations

from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING, Any

import msgspec

from runware_flow.errors import ProtocolError, RunwareError
from runware_flow.wire import salvage
from runware_flow.wire.frames import decode_frame
from runware_flow.wire.items import read_error
from runware_flow.wire.problems import to_error
from runware_flow.wire.sse import EventDecoder

if TYPE_CHECKING:
    from collections.abc import Callable

    from runware_flow.wire.sse import ServerEvent

__all__ = ("MAX_STREAM_CHARS", "Delta", "DeltaKind", "StreamMachine", "StreamResult")

MAX_STREAM_CHARS = 64 * 2**20
"""The longest answer that is kept, reasoning included; a server that never ends one must not fill the memory."""


_ERRORS = frozenset({"error", "errors"})
_ENDS = frozenset({"done", "end", "complete"})
"""Names of events that end a stream [OpenAI and Anthropic send some of them]; the service documents none."""
_NOTHING = frozenset({"", "ping", "keepalive", "keep-alive", "heartbeat"})
"""What some servers and proxies send to keep a connection open."""


class DeltaKind(Enum):
    """Which of the two texts a piece belongs to."""

    TEXT = "text"
    REASONING = "reasoning"


class Delta(msgspec.Struct, frozen=True):
    """A piece of the answer, or of the model's reasoning before it."""

    kind: DeltaKind
    text: str


class StreamResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a finished stream came to."""

    task_uuid: str
    text: str
    reasoning: str
    """Empty for models that do not reason aloud."""
    finish_reason: str | None
    """`stop`, `length`, `content_filter`, `unknown` [sdk]; None if the service ended the stream without a word."""
    usage: dict[str, Any] | None
    """By wire names: `promptTokens`, `completionTokens`, `totalTokens`, sometimes `thinkingTokens` [sdk]."""
    cost: float | None
    """USD, if the request asked for it; None is unknown, never free."""


class StreamMachine:
    """Follows one stream from its first byte to its end.

    `feed` gives pieces in their order; `end` judges how it ended. Of finish reason, usage and cost the last value
    counts, because the service may send them in chunks of their own [sdk].
    """

    def __init__(self, task_uuid: str, *, redact: Callable[[str], str] = str) -> None:
        """Args: redact: takes out of each event, and of the whole texts in the end, what no server should repeat."""
        self._task_uuid = task_uuid
        self._redact = redact
        self._events = EventDecoder()
        self._pieces: dict[DeltaKind, list[str]] = {kind: [] for kind in DeltaKind}
        self._held: dict[DeltaKind, str] = {}
        """The first half of a character whose second is in the next piece."""
        self._size = 0
        self._finish_reason: str | None = None
        self._usage: dict[str, Any] | None = None
        self._cost: float | None = None
        self.is_done = False
        """Whether the service said that nothing more comes."""

    def feed(self, piece: bytes) -> list[Delta]:
        """Take the next bytes of the body.

        Raises:
            RunwareError: an event says that the task failed, or is none of the protocol (raw code `parseError`), or the
                answer is longer than `MAX_STREAM_CHARS`.
        """
        deltas: list[Delta] = []
        try:
            events = self._events.feed(piece)
        except ValueError as error:
            raise self._unreadable(str(error)) from None
        for event in events:
            if not self.is_done:
                deltas.extend(self._take(event))
        return deltas

    def end(self) -> StreamResult:
        """The body has ended: the result.

        Raises:
            RunwareError: `connection`, raw code `streamTruncated`: it broke off, with neither a finish reason nor
                `[DONE]`. The official clients take that for a clean end.
        """
        if not self.is_done and self._finish_reason is None:
            raise RunwareError(
                "the stream broke off before its end; what was streamed so far is in stream.text",
                code="connection",
                raw_code="streamTruncated",
                task_type="textInference",
                task_uuid=self._task_uuid,
                may_be_billed=True,
            )
        self._release()
        return StreamResult(
            task_uuid=self._task_uuid,
            text=self._redact("".join(self._pieces[DeltaKind.TEXT])),
            reasoning=self._redact("".join(self._pieces[DeltaKind.REASONING])),
            finish_reason=self._finish_reason,
            usage=self._usage,
            cost=self._cost,
        )

    def _take(self, event: ServerEvent) -> list[Delta]:
        data = self._redact(event.data).strip()
        if data == "[DONE]" or (not data and event.event in _ENDS):
            self.is_done = True
            return self._release()
        if event.event in _ERRORS:
            raise self._failure(data)
        if data.lower() in _NOTHING:
            return []
        # A member that cannot be read (text in place of a number, say) does not lose the text beside it.
        chunk = salvage.halves(data)
        if chunk is None:
            raise self._unreadable("an event of the stream is not a JSON object")
        deltas = self._read(chunk)
        listed = chunk.get("data")
        for one in listed if salvage.is_array(listed) else ():
            if salvage.is_object(one):
                deltas += self._read(one)
        return deltas

    def _read(self, chunk: dict[str, Any]) -> list[Delta]:
        """Read one chunk: an event is one, or holds a list of them."""
        is_bare = all(isinstance(chunk.get(name), str) for name in ("code", "message"))
        if chunk.get("error") or chunk.get("errors") or (is_bare and "delta" not in chunk):
            raise self._failure(salvage.dump(chunk).decode())
        finish_reason, usage, cost = chunk.get("finishReason"), chunk.get("usage"), chunk.get("cost")
        if isinstance(finish_reason, str):
            self._finish_reason = salvage.whole(finish_reason)
        if isinstance(usage, dict):
            self._usage = usage
        if isinstance(cost, int | float) and not isinstance(cost, bool):
            with suppress(OverflowError):  # more digits than any amount has
                self._cost = float(cost)
        return self._deltas(chunk.get("delta"))

    def _deltas(self, delta: Any) -> list[Delta]:
        if not isinstance(delta, dict):
            return []
        found: list[Delta] = []
        for name, kind in (("reasoningContent", DeltaKind.REASONING), ("text", DeltaKind.TEXT)):
            given: Any = delta.get(name)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
            if isinstance(given, str) and (text := self._joined(kind, given)):
                self._size += len(text)
                if self._size > MAX_STREAM_CHARS:
                    raise self._unreadable(f"the stream is longer than {MAX_STREAM_CHARS} characters")
                self._pieces[kind].append(text)
                found.append(Delta(kind, text))
        return found

    def _joined(self, kind: DeltaKind, text: str) -> str:
        """A piece of text with whole characters: the first half of one at its end is held back for the next piece."""
        if text.isascii() and not self._held:
            return text
        text = self._held.pop(kind, "") + text
        if "\ud800" <= text[-1:] <= "\udbff":
            self._held[kind] = text[-1]
            text = text[:-1]
        return salvage.whole(text)

    def _release(self) -> list[Delta]:
        """Give what was held back for a second half that did not come."""
        kinds = list(self._held)
        self._held.clear()
        for kind in kinds:
            self._pieces[kind].append("\ufffd")
        return [Delta(kind, "\ufffd") for kind in kinds]

    def _failure(self, data: str) -> RunwareError:
        """The error that an event tells of: as in any reply, or the error alone, as an object or a text."""
        raw = salvage.to_bytes(data)
        try:
            errors = decode_frame(raw).errors
        except ProtocolError:
            errors = ()
        entry = salvage.value(raw)
        if not errors and (isinstance(entry, str) or salvage.is_object(entry)) and entry:
            errors = (read_error(entry, raw, around={}),)
        if not errors or not (errors[0].code or errors[0].message):
            return self._unreadable("the stream ends with an error that cannot be read")
        return to_error(errors[0], task_type="textInference", task_uuid=self._task_uuid)

    def _unreadable(self, problem: str) -> RunwareError:
        return RunwareError(
            problem,
            code="serverError",
            raw_code="parseError",
            task_type="textInference",
            task_uuid=self._task_uuid,
            may_be_billed=True,
        )
