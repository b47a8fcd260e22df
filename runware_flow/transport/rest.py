"""Requests and replies over HTTP, on httpx: a POST of bytes, and what came back, whatever its status.

A reply of any status is a `Reply`; only what kept a reply from coming is a `TransportError`.
"""

from __future__ import annotations

import math
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, Any

import anyio

from .address import parse_address
from .connection import CLOSE_TIMEOUT, CONNECT_TIMEOUT, MAX_FRAME_BYTES, TransportError, check_headers
from .failures import could_not_open
from .tls import default_context

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator

    import httpx

    from .connection import Headers

__all__ = ("Reply", "RestTransport", "open_http")

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
    """

    status: int
    body: bytes
    retry_after: float | None = None
    content_type: str = ""


@asynccontextmanager
async def open_http(
    *, max_connections: int = MAX_CONNECTIONS, ssl_context: ssl.SSLContext | None = None
) -> AsyncGenerator[httpx.AsyncClient, None]:
    """Open an HTTP client as this library wants it, for the time of a block.

    HTTP/1.1 with connections kept alive, no redirects, no cookies, and nothing from the environment but the names of
    certificate files (see `tls.py`): no proxies and no .netrc. Closing is shielded and bounded. Who needs something
    else opens an `httpx.AsyncClient` of their own.
    """
    import httpx

    limits = httpx.Limits(max_connections=max_connections, max_keepalive_connections=max_connections)
    http_client = httpx.AsyncClient(
        verify=ssl_context or await default_context(),
        limits=limits,
        timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT),
        cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=())),
        follow_redirects=False,
        trust_env=False,
    )
    try:
        yield http_client
    finally:
        with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
            await http_client.aclose()


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
            http_client: from `open_http`, or the user's own, whose proxies, certificates and hooks then hold.
            url: `http://` or `https://`.
            headers: sent with every request; the key is here, and is never shown.
            max_reply_bytes: the largest body that is accepted.
            connect_timeout: seconds for opening a connection, whatever the timeout of a request is.

        Raises:
            TransportError: of kind `invalid`, for a URL or a header that HTTP does not allow.
        """
        self._address = parse_address(url, ("http", "https"))
        self._http_client = http_client
        self._url = url
        self._headers = check_headers(headers)
        self._max_reply_bytes = max_reply_bytes
        self._connect_timeout = connect_timeout

    def __repr__(self) -> str:
        return f"RestTransport({self._address.scheme}://{self._address})"

    async def post(self, body: bytes, *, timeout: float | None = None) -> Reply:
        """Send `body` and wait for the whole reply.

        Nothing is repeated here: one call is at most one request.

        Args:
            body: JSON, as bytes.
            timeout: seconds for all of it, the wait for a free connection included; `None` waits for ever.

        Raises:
            TransportError: no reply, or none that can be read. `sent` is `False` only if the request certainly did not
                reach the service. A reply that exceeds the limit is `too-large`.
        """
        import httpx

        progress = _Progress()
        limits = httpx.Timeout(None, connect=self._connect_timeout)
        with anyio.move_on_after(timeout):
            try:
                return await self._exchange(body, progress, limits)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                failure = self._explain(error, progress)
            # The library's error holds the request and with it the key: it is neither cause nor context.
            raise failure
        message = f"{self._address} did not reply within {timeout:g} s."
        raise TransportError(message, kind="timeout", sent=progress.sent)

    async def _exchange(self, body: bytes, progress: _Progress, limits: httpx.Timeout) -> Reply:
        request = self._http_client.stream(
            "POST",
            self._url,
            content=body,
            headers={"Content-Type": "application/json", **self._headers},
            timeout=limits,
            follow_redirects=False,
            extensions={"trace": progress.trace},
        )
        chunks: list[bytes] = []
        size = 0
        async with request as response:
            # Leaving the loop early would leave httpx's generators to the garbage collector, which trio warns of. A
            # cancel ends them from the inside.
            with anyio.CancelScope() as reading:
                async for chunk in response.aiter_bytes():
                    size += len(chunk)
                    if size > self._max_reply_bytes:
                        chunks.clear()
                        reading.cancel()
                    else:
                        chunks.append(chunk)
            if size > self._max_reply_bytes:
                message = f"A reply from {self._address} is larger than the limit of {self._max_reply_bytes} bytes."
                raise TransportError(message, kind="too-large", sent=True)
            headers = response.headers
            return Reply(
                status=response.status_code,
                body=b"".join(chunks),
                retry_after=parse_retry_after(headers.get("Retry-After"), now=time.time()),
                content_type=headers.get("Content-Type", "").partition(";")[0].strip().lower(),
            )

    def _explain(self, error: Exception, progress: _Progress) -> TransportError:
        import httpx

        address = self._address
        if isinstance(error, httpx.ConnectTimeout):
            message = f"{address} did not answer within {self._connect_timeout:g} s."
            return TransportError(message, kind="timeout", sent=False)
        if isinstance(error, httpx.PoolTimeout):
            return TransportError(f"No connection to {address} came free in time.", kind="timeout", sent=False)
        if isinstance(error, (httpx.ConnectError, httpx.ProxyError)):
            return could_not_open(address, error)
        if isinstance(error, httpx.TimeoutException):
            return TransportError(f"{address} did not reply in time.", kind="timeout", sent=progress.sent)
        if isinstance(error, (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.LocalProtocolError)):
            return TransportError(f"A request for {address} cannot be sent.", kind="invalid", sent=progress.sent)
        if isinstance(error, httpx.DecodingError):
            message = f"The reply from {address} is not encoded as it says."
            return TransportError(message, kind="invalid", sent=True)
        message = f"The connection to {address} was lost before the whole reply came."
        return TransportError(message, kind="lost", sent=progress.sent)


class _Progress:
    """How far a request got, by httpx's trace events; with a transport that has none it counts as sent."""

    def __init__(self) -> None:
        self._traced = False
        self._began = False

    async def trace(self, event: str, _info: dict[str, Any]) -> None:
        self._traced = True
        self._began = self._began or event.endswith(".send_request_headers.started")

    @property
    def sent(self) -> bool:
        """Whether any byte of the request may have left."""
        return self._began or not self._traced


def parse_retry_after(value: str | None, *, now: float) -> float | None:
    """Read a Retry-After header: seconds, or a date, which becomes the seconds from `now` (Unix time), at least 0.

    What is neither is no header (RFC 9110, section 10.2.3).
    """
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - now
        except (ValueError, OverflowError):
            return None
        return max(seconds, 0.0)
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
