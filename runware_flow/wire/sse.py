"""Server-sent events from bytes, by the HTML standard (section 9.2.6), whatever pieces they come in.

The same events come out for every way of cutting the same bytes, inside a character or between CR and LF too.
"""

from __future__ import annotations

from codecs import getincrementaldecoder

import msgspec

__all__ = ("MAX_EVENT_CHARS", "EventDecoder", "ServerEvent")

MAX_EVENT_CHARS = 16 * 2**20
"""The longest line or event that is kept; a server that never ends one must not fill the memory."""


class ServerEvent(msgspec.Struct, frozen=True):
    """One dispatched event."""

    data: str
    """Its data lines, joined by line feeds."""
    event: str = "message"


class EventDecoder:
    """Turns the bytes of a `text/event-stream` into events.

    Comments, ids and reconnection times are passed over: this library never resumes such a stream. An event that the
    end of the stream cuts off is not dispatched, as the standard wants it.
    """

    def __init__(self) -> None:
        self._text = getincrementaldecoder("utf-8")("replace")
        self._is_first = True
        self._after_cr = False
        self._line: list[str] = []
        self._data: list[str] = []
        self._event = ""
        self._size = 0

    def feed(self, piece: bytes) -> list[ServerEvent]:
        """Take the next bytes; give the events that they complete.

        Raises:
            ValueError: a line or an event is longer than `MAX_EVENT_CHARS`.
        """
        text = self._text.decode(piece)
        if not text:
            return []
        if self._is_first:
            self._is_first = False
            text = text.removeprefix("\ufeff")
        events: list[ServerEvent] = []
        for line in self._lines(text):
            event = self._take(line)
            if event is not None:
                events.append(event)
        return events

    def _lines(self, text: str) -> list[str]:
        if self._after_cr:
            self._after_cr = False
            text = text.removeprefix("\n")
        self._after_cr = text.endswith("\r")
        self._size += len(text)
        if self._size > MAX_EVENT_CHARS:
            raise ValueError(f"an event is longer than {MAX_EVENT_CHARS} characters")
        *whole, rest = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        if not whole:
            self._line.append(rest)
            return []
        whole[0] = "".join((*self._line, whole[0]))
        self._line = [rest]
        return whole

    def _take(self, line: str) -> ServerEvent | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        return None

    def _dispatch(self) -> ServerEvent | None:
        data, self._data = self._data, []
        kind, self._event = self._event, ""
        self._size = sum(map(len, self._line))
        return ServerEvent("\n".join(data), kind or "message") if data else None
