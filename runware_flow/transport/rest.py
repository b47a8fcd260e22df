"""REST over httpx: sends a POST of bytes and returns the reply, whatever its status.

A reply of any status is a `Reply`; only what kept a reply from coming is a `TransportError`.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import anyio

from .connection import CONNECT_TIMEOUT, MAX_FRAME_BYTES, TransportError
from .decoding import EncodingError
from .loading import load
from .tls import default_context

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    import httpx

    from .connection import BodySource, Headers
    from .exchange import Answer, Endpoint

__all__ = ("Reply", "RestTransport", "create_http", "fetch")

MAX_CONNECTIONS = 100
"""Requests in flight at once over one client of ours; the rest wait in its pool."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the service answered to one request.

    Attributes:
        status: the HTTP status; redirects are not followed, so it may be a 3xx.
        body: decoded from its content encoding, whole.
        retry_after: seconds, from now, that the service asked to wait (Retry-After, in either of its forms).
        content_type: the media type in lower case, without parameters; empty if there was none.
        etag: the ETag header, for a later request that is answered only if something has changed.
        request_id: the X-Request-Id header, by which the service knows this request.
    """

    status: int
    body: bytes
    retry_after: float | None = None
    content_type: str = ""
    etag: str | None = None
    request_id: str | None = None


async def create_http(
    *, max_connections: int = MAX_CONNECTIONS, ssl_context: ssl.SSLContext | None = None, trust_env: bool = False
) -> httpx.AsyncClient:
    """Make an HTTP client as this library wants it. The caller closes it (`aclose`), from any task.

    HTTP/1.1 with connections kept alive, no redirects, no cookies, and nothing from the environment but the names of
    certificate files (see `tls.py`) and, with `trust_env`, of proxies. For anything else there is
    `Client(http_client=...)`.
    """
    from http.cookiejar import CookieJar, DefaultCookiePolicy

    await load("httpcore")  # httpx imports it late, when the first client is made, and it imports trio
    await load("runware_flow.transport.exchange")
    import httpx

    from .pools import PlainClient, Pools

    verify = ssl_context or await default_context()
    options: dict[str, Any] = {
        "timeout": httpx.Timeout(None, connect=CONNECT_TIMEOUT),
        "cookies": CookieJar(policy=DefaultCookiePolicy(allowed_domains=())),
        "follow_redirects": False,
        "trust_env": trust_env,
    }
    if trust_env:
        limits = httpx.Limits(max_connections=max_connections, max_keepalive_connections=max_connections)
        try:
            return httpx.AsyncClient(verify=verify, limits=limits, **options)
        except (ValueError, ImportError) as error:
            message = f"The proxy of the environment cannot be used: {error}"
            raise TransportError(message, kind="invalid", sent=False) from None
    return PlainClient(Pools(max_connections=max_connections, verify=verify), **options)


class RestTransport:
    """Posts to one URL. It owns nothing: who opened the HTTP client closes it.

    Any number of tasks may post at the same time. A cancel closes the connection of that request and no other.
    """

    def __init__(
        self,
        http_client: httpx.AsyncClient,
        url: str,
        *,
        headers: Headers,
        max_reply_bytes: int = MAX_FRAME_BYTES,
        connect_timeout: float = CONNECT_TIMEOUT,
    ) -> None:
        """Prepare posting to `url`.

        Args:
            http_client: from `create_http`, or the user's own, whose proxies, certificates and hooks then hold.
            url: `http://` or `https://`.
            headers: sent with every request; the key is here, and is never shown.
            max_reply_bytes: the largest body that is accepted.
            connect_timeout: seconds for opening a connection, whatever the timeout of a request is.

        Raises:
            TransportError: of kind `invalid`, for a URL or a header that HTTP does not allow.
        """
        from .exchange import Endpoint

        headers = {"Content-Type": "application/json", **headers}
        self._endpoint = Endpoint(http_client, url, headers, limit=max_reply_bytes, connect_timeout=connect_timeout)

    def __repr__(self) -> str:
        address = self._endpoint.address
        return f"RestTransport({address.scheme}://{address})"

    async def post(
        self, body: bytes, *, timeout: float | None = None, on_begin: Callable[[], None] | None = None
    ) -> Reply:
        """Send `body` and wait for the whole reply.

        Nothing is repeated here: one call is at most one request.

        Args:
            body: JSON, as bytes.
            timeout: seconds for all of it, the wait for a free connection included; `None` waits for ever.
            on_begin: called before the first byte of the body leaves; until then the service cannot have it.

        Raises:
            TransportError: no reply, or none that can be read. `sent` is `False` only if the request certainly did not
                reach the service. A reply that exceeds the limit is `too-large`.
        """
        return await _request(self._endpoint, "POST", body, timeout, on_begin=on_begin)

    async def stream(
        self,
        body: bytes,
        take: Callable[[bytes], bool],
        *,
        timeout: float | None = None,
        on_begin: Callable[[], None] | None = None,
    ) -> Reply | None:
        """Send `body` and hand the reply to `take`, piece by piece as it comes, if it is a stream of events.

        `take` is called synchronously, must not raise, and returns whether it has enough; then the connection closes.

        Returns:
            None after a stream. Any other reply as it is, with nothing given to `take`.

        Raises:
            TransportError: as for `post`; pieces that came before stay taken.
        """
        headers = {"Accept": "text/event-stream", "Accept-Encoding": "identity"}
        reply = await _request(self._endpoint, "POST", body, timeout, headers, take, on_begin)
        return None if reply.status == 200 and reply.content_type == "text/event-stream" else reply


async def fetch(
    http_client: httpx.AsyncClient,
    url: str,
    *,
    headers: Headers,
    method: Literal["GET", "POST"] = "GET",
    body: bytes | BodySource = b"",
    timeout: float | None = None,
    max_reply_bytes: int = MAX_FRAME_BYTES,
    connect_timeout: float = CONNECT_TIMEOUT,
) -> Reply:
    """Send one request, with these headers and no others of ours, and wait for the whole reply.

    Raises:
        TransportError: as for `RestTransport.post`.
    """
    from .exchange import Endpoint

    endpoint = Endpoint(http_client, url, headers, limit=max_reply_bytes, connect_timeout=connect_timeout)
    return await _request(endpoint, method, body, timeout)


async def _request(
    endpoint: Endpoint,
    method: Literal["GET", "POST"],
    body: bytes | BodySource,
    timeout: float | None,
    more_headers: Headers | None = None,
    take: Callable[[bytes], bool] | None = None,
    on_begin: Callable[[], None] | None = None,
) -> Reply:
    from httpx import HTTPError, InvalidURL

    from .exchange import Body, StreamedBody, explain

    address = endpoint.address
    content = Body(body, on_begin) if isinstance(body, bytes) else StreamedBody(body)
    with anyio.move_on_after(timeout):
        try:
            answer = await (endpoint.get() if method == "GET" else endpoint.post(content, more_headers, take))
        except (HTTPError, InvalidURL, EncodingError) as error:
            failure = explain(address, error, content, endpoint.connect_timeout)
        else:
            return _reply(endpoint, answer)
        raise failure  # here, where the library's error is neither its cause nor its context
    raise TransportError(f"{address} did not reply within {timeout:g} s.", kind="timeout", sent=content.begun)


def _reply(endpoint: Endpoint, answer: Answer) -> Reply:
    if answer.body is None:
        message = f"A reply from {endpoint.address} is larger than the limit of {endpoint.limit} bytes."
        raise TransportError(message, kind="too-large", sent=True)
    headers = answer.headers
    return Reply(
        status=answer.status,
        body=answer.body,
        retry_after=parse_retry_after(headers.get("retry-after"), now=time.time()),
        content_type=headers.get("content-type", "").partition(";")[0].strip().lower(),
        etag=headers.get("etag"),
        request_id=headers.get("x-request-id"),
    )


def parse_retry_after(value: str | None, *, now: float) -> float | None:
    """Read a Retry-After header: seconds, or a date, which becomes the seconds from `now` (Unix time), at least 0.

    What is neither is no header (RFC 9110, section 10.2.3).
    """
    if value is None:
        return None
    from email.utils import parsedate_to_datetime

    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - now
        except (ValueError, OverflowError):
            return None
        return max(seconds, 0.0)
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
