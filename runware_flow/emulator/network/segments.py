"""Finds the messages in the bytes of the service: frames on a WebSocket, replies over HTTP. Sans-IO.

The relay counts by messages, so that "the third frame is cut in the middle" means the same on every machine, however
the network cut the bytes before.
"""

from __future__ import annotations

__all__ = ("Segments",)

_SWITCH = b"HTTP/1.1 101"
_TEXT, _BINARY = 1, 2


class Segments:
    """Reads the service's side of one connection."""

    def __init__(self) -> None:
        self._is_websocket = False
        self._is_answering = False
        self._held: bytes = b""
        self._left: int = 0

    def begin_answer(self) -> None:
        """Say that the client has sent something: over HTTP, what the service sends next begins an answer."""
        self._is_answering = False

    def split(self, data: bytes) -> list[tuple[bytes, int]]:
        """Cut bytes of the service where messages begin; all bytes come out again, in order.

        Each piece comes with the length of the message that it begins, as far as it is known (over HTTP: of this
        piece), or with 0: it goes on with a message, or is a handshake or a control frame.
        """
        if not self._is_websocket:
            return self._split_http(data)
        pieces: list[tuple[bytes, int]] = []
        data, self._held = self._held + data, b""
        while data:
            begun = 0
            if not self._left:
                length = _frame_length(data)
                if length is None:
                    self._held = data
                    break
                self._left = length
                begun = length if data[0] & 0x0F in (_TEXT, _BINARY) else 0
            pieces.append((data[: self._left], begun))
            data, self._left = data[self._left :], max(0, self._left - len(data))
        return pieces

    def _split_http(self, data: bytes) -> list[tuple[bytes, int]]:
        data, self._held = self._held + data, b""
        if not self._is_answering and _SWITCH.startswith(data):
            self._held = data  # too short to tell
            return []
        if not self._is_answering and data.startswith(_SWITCH):
            head, end, rest = data.partition(b"\r\n\r\n")
            if not end:
                self._held = data
                return []
            self._is_websocket = True
            return [(head + end, 0), *self.split(rest)]
        begun = 0 if self._is_answering else len(data)
        self._is_answering = True
        return [(data, begun)]


def _frame_length(data: bytes) -> int | None:
    """Return the length of the frame at the start of `data`, header included; None if the header is not there yet.

    A server's frames have no mask (RFC 6455, section 5.2).
    """
    if len(data) < 2:
        return None
    length = data[1] & 0x7F
    extra = {126: 2, 127: 8}.get(length, 0)
    if len(data) < 2 + extra:
        return None
    return 2 + extra + (int.from_bytes(data[2 : 2 + extra]) if extra else length)
