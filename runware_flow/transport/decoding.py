"""Decodes the content encoding of a body, in pieces of bounded size, so that a small body cannot fill the memory.

httpx decodes any number of encodings, and each piece that arrives in one go: 3.5 KB of gzip in gzip become 4 GiB. Here
a body has one encoding at most, and no piece is larger than `PIECE_BYTES`, so that the reader can stop in time.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ("ACCEPTED_ENCODINGS", "PIECE_BYTES", "BodyDecoder", "EncodingError")

ACCEPTED_ENCODINGS = "gzip, deflate"
"""What requests accept."""

PIECE_BYTES = 64 * 1024

_GZIP = {"gzip", "x-gzip"}


class EncodingError(ValueError):
    """A body does not match its Content-Encoding, or has one that the request does not accept."""


class BodyDecoder:
    """Decodes one body: `feed` each piece as it arrives, then `end`."""

    def __init__(self, encoding: str = "") -> None:
        """Args: encoding: the value of Content-Encoding.

        Raises:
            EncodingError: it names several encodings, or one that no request of ours accepts.
        """
        names = [name.strip().lower() for name in encoding.split(",")]
        names = [name for name in names if name not in ("", "identity")]
        if len(names) > 1:
            raise EncodingError("its Content-Encoding names several encodings")
        self._name = names[0] if names else None
        if self._name is not None and self._name not in (*_GZIP, "deflate"):
            raise EncodingError("its Content-Encoding is not one that the request accepts")
        self._begun = False
        # With 32 added zlib tells gzip and zlib apart by itself; "deflate" may also be bare, see `_start`.
        self._decompressor = zlib.decompressobj(zlib.MAX_WBITS | 32)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Give what `data` decodes to, in pieces of at most `PIECE_BYTES`.

        Raises:
            EncodingError: it cannot be decoded.
        """
        if self._name is None:
            if data:
                yield data
            return
        try:
            if not self._begun and data:
                self._start(data)
            while data and not self._decompressor.eof:
                piece = self._decompressor.decompress(data, PIECE_BYTES)
                data = self._decompressor.unconsumed_tail
                if piece:
                    yield piece
        except zlib.error:
            raise EncodingError("its content does not match its Content-Encoding") from None

    def end(self) -> None:
        """The body is over.

        Raises:
            EncodingError: something is missing.
        """
        if self._begun and not self._decompressor.eof:
            raise EncodingError("its content does not match its Content-Encoding: its end is missing")

    def _start(self, data: bytes) -> None:
        """Servers send "deflate" with and without the zlib header (RFC 9110, section 8.4.1.2): the first byte tells."""
        self._begun = True
        if self._name == "deflate" and data[0] & 0x0F != zlib.DEFLATED:
            self._decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
