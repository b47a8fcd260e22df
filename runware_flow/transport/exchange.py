"""One request and its reply over httpx. Imported with the first request, because httpx is slow to import."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import anyio
import httpx

from .address import parse_address
from .connection import CLOSE_TIMEOUT, TransportError, check_headers, reveal_headers
from .decoding import ACCEPTED_ENCODINGS, BodyDecoder, EncodingError
from .failures import could_not_open
from .pools import PlainClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from .address import Address
    from .connection import BodySource, Headers

    Take = Callable[[bytes], bool]

__all__ = ("Answer", "Body", "Endpoint", "StreamedBody", "explain")


class Body(httpx.AsyncByteStream):
    """The bytes of a request, and whether anything has read them yet: until then no request can have arrived.

    httpx's own are an async generator, which a cancel would leave to the garbage collector.
    """

    def __init__(self, body: bytes, on_begin: Callable[[], None] | None = None) -> None:
        """Args: on_begin: is called before the bytes are given away."""
        self._body = body
        self._on_begin = on_begin
        self.size = len(body)
        self.begun = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _Pieces(self)

    def take(self) -> bytes:
        """Give the bytes away."""
        self.begun = True
        if self._on_begin is not None:
            self._on_begin()
        return self._body


class StreamedBody(Body):
    """A body that is made while it is sent, and anew if it is sent again."""

    def __init__(self, source: BodySource) -> None:
        super().__init__(b"")
        self.size = source.size
        self._source = source

    def __aiter__(self) -> AsyncIterator[bytes]:
        self.begun = True
        return self._source.pieces()


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


class Answer(NamedTuple):
    """What came back: the headers' names are in lower case, the body is `None` if it exceeded the limit."""

    status: int
    headers: dict[str, str]
    body: bytes | None


class Endpoint:
    """One URL and how it is asked. What all requests to it have in common is worked out once.

    The only timeout of a request is that for connecting.
    """

    def __init__(
        self, http_client: httpx.AsyncClient, url: str, headers: Headers, *, limit: int, connect_timeout: float
    ) -> None:
        """Args: limit: the largest body of a reply, in bytes.

        Raises:
            TransportError: of kind `invalid`, for a URL or a header that HTTP does not allow.
        """
        self.address = parse_address(url, ("http", "https"))
        self.limit = limit
        self.connect_timeout = connect_timeout
        self._http_client = http_client
        self._url = url
        # httpx hides the value of Authorization in the repr of its Headers.
        self._headers = httpx.Headers(reveal_headers(check_headers(headers)))
        self._headers.setdefault("Accept-Encoding", ACCEPTED_ENCODINGS)
        self._timeout = httpx.Timeout(None, connect=connect_timeout)
        self._template: httpx.Request | None = None

    async def get(self) -> Answer:
        """Send a GET and read its whole reply."""
        request = self._http_client.build_request("GET", self._url, headers=self._headers, timeout=self._timeout)
        return await _exchange(self._http_client, request, self.limit)

    async def post(self, body: Body, more_headers: Headers | None = None, take: Take | None = None) -> Answer:
        """Send a POST and read its whole reply; what is sent can only be had by reading `body`.

        `take` gets the pieces of a stream of events, see `_exchange`.
        """
        template = self._template
        if template is None or not isinstance(self._http_client, PlainClient):
            # What a client of the user's adds (headers, parameters, cookies) may be different each time.
            headers = self._headers.copy()
            headers["Content-Length"] = "0"
            template = self._template = self._http_client.build_request(
                "POST", self._url, headers=headers, content=Body(b""), timeout=self._timeout
            )
        request = httpx.Request(
            "POST", template.url, headers=template.headers, stream=body, extensions=template.extensions
        )
        request.headers["Content-Length"] = str(body.size)
        request.headers.update(reveal_headers(more_headers or {}))
        return await _exchange(self._http_client, request, self.limit, take)


async def _exchange(
    http_client: httpx.AsyncClient, request: httpx.Request, limit: int, take: Take | None = None
) -> Answer:
    """Send a request and read its whole reply.

    With `take`, a reply that is a stream of events is handed over piece by piece until `take` says that it has enough;
    its body is empty here.

    A reply is never given up half-way by leaving a loop or a generator: that would leave httpx's own generators to the
    garbage collector, which trio warns of. A cancel ends them from the inside.
    """
    response = await http_client.send(request, stream=True, follow_redirects=False)
    try:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers.raw}
        if response.is_stream_consumed:  # a transport that made its reply in memory
            content = response.content if len(response.content) <= limit else None
            return Answer(response.status_code, headers, content)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        decoder = BodyDecoder(headers.get("content-encoding", ""))
        body = _Body(limit, take if _is_event_stream(response.status_code, headers) else None)
        failure: EncodingError | None = None
        with anyio.CancelScope() as reading:
            async for encoded in response.stream:
                try:
                    if not all(body.add(piece) for piece in decoder.feed(encoded)):
                        reading.cancel()
                except EncodingError as error:
                    failure = error
                    reading.cancel()
        if failure is not None:
            raise failure
        if not body.is_over:
            decoder.end()
    finally:
        with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
            await response.aclose()
    return Answer(response.status_code, headers, body.whole())


class _Body:
    """What has come of a reply, decoded."""

    def __init__(self, limit: int, take: Take | None) -> None:
        self._limit = limit
        self._take = take
        self._pieces: list[bytes] = []
        self._size = 0
        self.is_over = False
        """Whether the rest is not wanted: `take` has enough, or it is too much."""

    def add(self, piece: bytes) -> bool:
        """Add a piece; tell whether more is wanted."""
        if self._take is not None:
            self.is_over = self._take(piece)
        else:
            self._size += len(piece)
            self.is_over = self._size > self._limit
            self._pieces.append(piece)
        return not self.is_over

    def whole(self) -> bytes | None:
        """All of it; None if it is too much."""
        return None if self._size > self._limit else b"".join(self._pieces)


def _is_event_stream(status: int, headers: Mapping[str, str]) -> bool:
    return status == 200 and headers.get("content-type", "").startswith("text/event-stream")


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
    if isinstance(error, EncodingError):
        return TransportError(f"The reply from {address} cannot be read: {error}.", kind="invalid", sent=True)
    if isinstance(error, httpx.DecodingError):
        return TransportError(
            f"The reply from {address} does not match its Content-Encoding.", kind="invalid", sent=True
        )
    message = f"The connection to {address} was lost before the whole reply came."
    return TransportError(message, kind="lost", sent=body.begun)


def _origin(error: BaseException) -> Exception:
    """Find what the operating system or the TLS library said below the layers of httpx, which hide it as context."""
    below: BaseException | None = error
    while below is not None and type(below).__module__.partition(".")[0] in ("httpx", "httpcore"):
        error, below = below, below.__cause__ or below.__context__
    found = error if below is None else below
    return found if isinstance(found, Exception) else Exception()
