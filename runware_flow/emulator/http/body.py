"""Bodies of requests and replies, read within a limit: one for the bytes received, one for the unpacked bytes."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import anyio

from runware_flow.emulator.http.sockets import is_closed
from runware_flow.emulator.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import Message, Receive, Send

__all__ = ("BodyFirst", "BodyReader", "read_body")

_STEP = 2**20
_MOST_SECONDS = 5.0


class BodyReader:
    """Collects a body of at most `limit` bytes, unpacked.

    At most one content encoding is taken, gzip or deflate: two of them turn 3 KB into gigabytes.

    Raises:
        Problem: the body is too large (413), is encoded otherwise (415), or is damaged (400).
    """

    def __init__(self, encoding: str, limit: int) -> None:
        encoding = encoding.strip().lower()
        if encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
            message = f"A body is sent as it is, or with the content encoding gzip or deflate, not {encoding[:40]!r}."
            raise Problem("unsupportedContentEncoding", message, status=415)
        self._encoding = encoding
        # 32 and more: the zlib header or the gzip header, whichever comes
        self._inflater = None if encoding in ("", "identity") else zlib.decompressobj(32 + zlib.MAX_WBITS)
        self._limit = limit
        self._chunks: list[bytes] = []
        self._size = 0
        self._is_begun = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes from the wire."""
        self._is_begun = self._is_begun or bool(data)
        if self._inflater is None:
            self._add(data)
            return
        try:
            while True:
                # one step more than the limit at most, whatever the data claims to hold
                piece = self._inflater.decompress(data, _STEP)
                self._add(piece)
                data = self._inflater.unconsumed_tail
                if not data and len(piece) < _STEP:  # a full piece: there may be more in the inflater itself
                    break
        except zlib.error as error:
            raise Problem("invalidContent", f"The body cannot be unpacked as {self._encoding}.") from error

    def _add(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._limit:
            raise Problem("valueTooLarge", f"A body holds at most {self._limit} bytes, unpacked.", status=413)
        self._chunks.append(data)

    def finish(self) -> bytes:
        """Return the whole body."""
        if self._inflater is not None and self._is_begun and not self._inflater.eof:
            raise Problem("invalidContent", f"The body ends in the middle of its {self._encoding} data.")
        return b"".join(self._chunks)


async def read_body(headers: Mapping[bytes, bytes], receive: Receive, limit: int) -> bytes | None:
    """Read the whole body of a request; None if the client left in the middle of it.

    Raises:
        Problem: as `BodyReader` does; what follows is still to be read (see `BodyFirst`).
    """
    reader = BodyReader(headers.get(b"content-encoding", b"").decode("latin-1"), limit)
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        reader.feed(message.get("body", b""))
        if not message.get("more_body"):
            return reader.finish()


class BodyFirst:
    """An ASGI `receive` and `send` for one request, which answer it only once its body has been read.

    HTTP/1.1 lets no connection be used again whose request was answered in the middle of its body. The server would
    close it, and a client that has just sent its next request on it would lose that one.
    So what the client has not sent yet is read and dropped; after `limit` bytes, or a few seconds, the answer is sent
    all the same. `send` and `closed` are those of the server's own, where `sockets.py` looks for them.
    """

    def __init__(self, receive: Receive, send: Send, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self.send = send
        self._is_read = False

    @property
    def closed(self) -> bool:
        """Whether the connection is known to be gone."""
        return is_closed(self.send)

    async def receive(self) -> Message:
        """Take the next message of the client."""
        message = await self._receive()
        self._is_read = message["type"] == "http.disconnect" or not message.get("more_body")
        return message

    async def deliver(self, message: Message) -> None:
        """Send a message; before the first of an answer, read what the client has still to send."""
        if message["type"] == "http.response.start" and not self._is_read:
            size = 0
            with anyio.move_on_after(_MOST_SECONDS):
                while not self._is_read and size < self._limit:
                    size += len((await self.receive()).get("body", b""))
        await self.send(message)
