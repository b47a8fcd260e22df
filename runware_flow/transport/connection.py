"""The protocol of a connection, which carries whole frames of bytes, and its one error, `TransportError`.

Nothing here, and nothing in the carriers, knows what the frames mean. A connector of one's own (a proxy, a recording,
a test without sockets) fits `Connector` and raises `TransportError` as documented on `Connection`.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias, get_args

from runware_flow.errors import RunwareFlowError
from runware_flow.secret import Secret

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

__all__ = (
    "CLOSE_TIMEOUT",
    "CONNECT_TIMEOUT",
    "MAX_FRAME_BYTES",
    "BodySource",
    "Connection",
    "Connector",
    "Headers",
    "TransportError",
    "TransportFailure",
    "as_text",
    "check_headers",
    "reveal_headers",
)

MAX_FRAME_BYTES = 64 * 2**20
"""The largest frame or reply body that is sent or accepted; base64 results exceed the libraries' usual 1 MiB."""

CONNECT_TIMEOUT = 10.0
"""Seconds to open a connection (name, TCP, TLS and handshake together), whatever the request's own timeout is."""

CLOSE_TIMEOUT = 1.0
"""Seconds that closing waits for the other side before the socket is dropped."""

Headers: TypeAlias = Mapping[str, str | Secret]
"""A value not to be shown by accident is a `Secret`; it is revealed to the HTTP library and to no frame of ours."""

TransportFailure: TypeAlias = Literal["refused", "timeout", "tls", "lost", "closed", "too-large", "invalid"]
"""What went wrong with a connection.

- `refused`: nothing was opened: unknown host, refused or broken connection, or an HTTP status instead of a WebSocket
- `timeout`: no answer within the time allowed
- `tls`: no encrypted connection: an untrusted certificate, a wrong name, or no TLS on the other side
- `lost`: an open connection ended: the other side closed it, or the network did
- `closed`: it was used after this side closed it
- `too-large`: a frame or a reply body beyond the limit, in either direction
- `invalid`: an unusable URL or header, or bytes that are neither HTTP nor WebSocket
"""

# RFC 9110, section 5: a name is a token, a value is visible ASCII with single-line white space inside.
_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_HEADER_VALUE = re.compile(r"(?:[\x21-\x7e](?:[\x20\x09\x21-\x7e]*[\x21-\x7e])?)?")


class TransportError(RunwareFlowError):
    """Bytes could not be carried.

    The message is one sentence that names the host and the port, and holds neither headers nor content.

    Attributes:
        kind: what went wrong, see `TransportFailure`.
        sent: whether the request, or the frame given to `send`, may have reached the other side. `False` is certain.
        status: the HTTP status that a WebSocket handshake was answered with, if it was.
        close_code: the WebSocket close code that the other side gave, if it did.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: TransportFailure,
        sent: bool,
        status: int | None = None,
        close_code: int | None = None,
    ) -> None:
        if kind not in get_args(TransportFailure):
            raise ValueError(f"kind must be one of {', '.join(get_args(TransportFailure))}")
        super().__init__(message)
        self.message = message
        self.kind: TransportFailure = kind
        self.sent = sent
        self.status = status
        self.close_code = close_code

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.message, self.kind, self.sent, self.status, self.close_code)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.message!r}, kind={self.kind!r}, sent={self.sent})"


def _restore(
    message: str, kind: TransportFailure, sent: bool, status: int | None, close_code: int | None
) -> TransportError:
    return TransportError(message, kind=kind, sent=sent, status=status, close_code=close_code)


class Connection(Protocol):
    """One connection's life, from open to closed: it is never reopened.

    One task receives and any number of tasks send at the same time. Both methods are cancel points where they wait.
    """

    async def send(self, frame: bytes) -> None:
        """Send one frame: UTF-8 text, as one text message. Frames of several tasks never mix.

        Returning means that it was handed to the operating system or waits just before it, not that it arrived.
        A cancel before the first byte leaves the connection as it was; a cancel later leaves part of a frame in the
        stream, so from then on the connection counts as lost.

        Raises:
            TransportError: `lost`, `closed`, or `too-large`; its `sent` tells whether this frame may have arrived.
        """
        ...

    async def receive(self) -> bytes:
        """Wait for the next whole message and return its bytes, whether it came as text or as binary.

        Messages come in the order in which they were sent, and those that arrived before the connection ended are
        still delivered. A cancel ends the waiting and loses no message; one that is there already may be returned all
        the same.

        Raises:
            TransportError: `lost` when the other side or the network ended the connection (`close_code` if one was
                given), `too-large` when a message exceeded the limit, `closed` after this side closed it. Each further
                call raises again.
        """
        ...


class Connector(Protocol):
    """Opens connections: what `Client(connector=...)` takes, and what `open_websocket` is.

    The block's end closes the connection, shielded from cancellation and within about a second. What its body raises
    leaves as itself. Entering raises `TransportError`, with `sent=False`.
    """

    def __call__(
        self, url: str, /, *, headers: Headers, max_frame_bytes: int, connect_timeout: float
    ) -> AbstractAsyncContextManager[Connection]: ...


class BodySource(NamedTuple):
    """A body of a request that never lies in memory as a whole."""

    size: int
    """In bytes, exactly."""
    pieces: Callable[[], AsyncIterator[bytes]]
    """Gives them, from the first on. Not an async generator: a cancel would leave it half-way."""


def check_headers(headers: Headers) -> dict[str, str | Secret]:
    """Return a copy of `headers` if HTTP allows them, else raise `TransportError` of kind `invalid`.

    The libraries below would quote an offending value, and that value may be a key; here only the name is given.
    """
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            raise TransportError("A header's name is not allowed by HTTP.", kind="invalid", sent=False)
        if not _HEADER_VALUE.fullmatch(value.reveal() if isinstance(value, Secret) else value):
            problem = (
                f"The value of the header {name} holds a character that HTTP does not allow (a line break, perhaps)."
            )
            raise TransportError(problem, kind="invalid", sent=False)
    return dict(headers)


def reveal_headers(headers: Headers) -> list[tuple[str, str]]:
    """The headers as they are sent; for the call of a library, and no local variable."""
    return [(name, value.reveal() if isinstance(value, Secret) else value) for name, value in headers.items()]


def as_text(frame: bytes) -> str:
    """Decode a frame, or raise `TransportError` of kind `invalid`, which does not quote it."""
    try:
        return frame.decode()
    except UnicodeDecodeError:
        raise TransportError("A frame must be UTF-8 text.", kind="invalid", sent=False) from None
