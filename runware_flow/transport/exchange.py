"""One request and its reply over httpx. Imported with the first request, because httpx is slow to import."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import httpx

from .connection import CLOSE_TIMEOUT, TransportError
from .failures import could_not_open

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping

    from .address import Address

    Take = Callable[[bytes], bool]

__all__ = ("Body", "exchange", "explain", "prepare")


class Body(httpx.AsyncByteStream):
    """The bytes of a request, and whether anything has asked for them yet: until then no request can have arrived.

    httpx's own are an async generator, which a cancel would leave to the garbage collector.
    """

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.begun = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _Pieces(self)

    def take(self) -> bytes:
        """Give the bytes away."""
        self.begun = True
        return self._body


class _Pieces:
    def __init__(self, body: Body) -> None:
        self._body: Body | None = body

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._body is None:
            raise StopAsyncIteration
        body, self._body = self._body, None
        return body.take()


def prepare(
    http_client: httpx.AsyncClient,
    url: str,
    body: Body | None,
    size: int,
    *,
    headers: Mapping[str, str],
    connect_timeout: float,
) -> httpx.Request:
    """Build a POST (without a body: a GET) whose only timeout is that for connecting.

    The body can only be had by reading `body`.
    """
    timeout = httpx.Timeout(None, connect=connect_timeout)
    if body is None:
        return http_client.build_request("GET", url, headers=headers, timeout=timeout)
    request = http_client.build_request(
        "POST", url, content=body, headers={**headers, "Content-Length": str(size)}, timeout=timeout
    )
    request.stream = body
    return request


async def exchange(
    http_client: httpx.AsyncClient, request: httpx.Request, limit: int, take: Take | None = None
) -> tuple[httpx.Response, bytes | None]:
    """Send a request and read its whole reply; the body is `None` if it exceeds `limit` bytes.

    With `take`, a reply that is a stream of events is handed over piece by piece until `take` says that it has enough;
    its body is empty here.

    A reply is never given up half-way by leaving a loop or a generator: that would leave httpx's own generators to the
    garbage collector, which trio warns of. A cancel ends them from the inside.
    """
    response = await http_client.send(request, stream=True, follow_redirects=False)
    try:
        if response.is_stream_consumed:  # a transport that made its reply in memory
            return response, response.content if len(response.content) <= limit else None
        streams = take if _is_event_stream(response) else None
        pieces: list[bytes] = []
        size = 0
        with anyio.CancelScope() as reading:
            async for piece in response.aiter_raw():
                if streams is not None:
                    if streams(piece):
                        reading.cancel()
                    continue
                size += len(piece)
                if size > limit:
                    reading.cancel()
                else:
                    pieces.append(piece)
    finally:
        with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
            await response.aclose()
    return response, None if size > limit else _decode(response, pieces, limit)


def _is_event_stream(response: httpx.Response) -> bool:
    return response.status_code == 200 and response.headers.get("Content-Type", "").startswith("text/event-stream")


def _decode(response: httpx.Response, pieces: list[bytes], limit: int) -> bytes | None:
    """Undo the content encoding by httpx's rules, and stop where that swells a small body beyond the limit."""
    if "Content-Encoding" not in response.headers:
        return b"".join(pieces)
    encoded: Iterable[bytes] = iter(pieces)
    decoded: list[bytes] = []
    size = 0
    for piece in httpx.Response(response.status_code, headers=response.headers, content=encoded).iter_bytes():
        size += len(piece)
        if size > limit:
            return None
        decoded.append(piece)
    return b"".join(decoded)


def explain(address: Address, error: Exception, body: Body, connect_timeout: float) -> TransportError:
    """Say in our words what httpx raised. Its errors hold the request, and with it the key: do not chain them."""
    if isinstance(error, httpx.ConnectTimeout):
        message = f"{address} did not answer within {connect_timeout:g} s."
        return TransportError(message, kind="timeout", sent=False)
    if isinstance(error, httpx.ConnectError):
        return could_not_open(address, _origin(error))
    if isinstance(error, httpx.ProxyError):
        return TransportError(f"The proxy did not connect to {address}.", kind="refused", sent=False)
    if isinstance(error, httpx.TimeoutException):
        return TransportError(f"{address} did not reply in time.", kind="timeout", sent=body.begun)
    if isinstance(error, (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.LocalProtocolError)):
        return TransportError(f"A request for {address} cannot be sent.", kind="invalid", sent=body.begun)
    if isinstance(error, httpx.DecodingError):
        return TransportError(f"The reply from {address} is not encoded as it says.", kind="invalid", sent=True)
    message = f"The connection to {address} was lost before the whole reply came."
    return TransportError(message, kind="lost", sent=body.begun)


def _origin(error: BaseException) -> Exception:
    """Find what the operating system or the TLS library said below the layers of httpx, which hide it as context."""
    below: BaseException | None = error
    while below is not None and type(below).__module__.partition(".")[0] in ("httpx", "httpcore"):
        error, below = below, below.__cause__ or below.__context__
    found = error if below is None else below
    return found if isinstance(found, Exception) else Exception()
