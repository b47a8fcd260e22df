"""The httpx client of this library: without the layers that it does not use, and with a fast lookup of connections.

Imported with the first request, because httpx is slow to import.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio
import httpx

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable

__all__ = ("PlainClient", "Pools")

Origin: TypeAlias = tuple[str, str, int | None]


class PlainClient(httpx.AsyncClient):
    """A client whose streamed requests go straight to `Pools`.

    httpx looks for cookies, redirects, authentication and hooks around each request; this client has none of them, and
    they are a tenth of what a request costs.
    """

    def __init__(self, pools: Pools, **options: Any) -> None:
        """Args: pools: carries everything. options: of `httpx.AsyncClient`."""
        super().__init__(transport=pools, **options)
        self._pools = pools

    async def send(self, request: httpx.Request, *, stream: bool = False, **options: Any) -> httpx.Response:
        """Send a request; a redirect is followed, and a reply read whole, only by httpx's own way."""
        if not stream or options.get("follow_redirects") is not False:
            return await super().send(request, stream=stream, **options)
        response = await self._pools.handle_async_request(request)
        response.request = request
        return response


class Pools(httpx.AsyncBaseTransport):
    """A pool of httpx for each connection: the one used last is used next, and beyond the limit requests wait.

    httpcore's pool (1.0.9) looks at all its connections, sockets included, once for each of them whenever a request
    begins or ends: with 64 connections that is 4,096 looks, several milliseconds of the loop's time, and more than the
    request itself.
    """

    def __init__(self, *, max_connections: int, verify: ssl.SSLContext) -> None:
        """Args: max_connections: over all pools together."""
        self._verify = verify
        self._most = max_connections
        self._room = anyio.Semaphore(max_connections, fast_acquire=True)
        self._pools: list[httpx.AsyncHTTPTransport] = []
        self._free: dict[Origin, list[httpx.AsyncHTTPTransport]] = {}
        """By the origin that each is connected to."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; it counts as in flight until its reply is closed."""
        url = request.url
        origin = (url.scheme, url.host, url.port)
        await self._room.acquire()
        pool = self._take(origin)
        try:
            response = await pool.handle_async_request(request)
        except BaseException:
            self._put_back(origin, pool)
            raise
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _Lent(response.stream, partial(self._put_back, origin, pool))
        return response

    def _take(self, origin: Origin) -> httpx.AsyncHTTPTransport:
        if origin not in self._free:
            if len(self._pools) < self._most:
                return self._open()
            origin = next(iter(self._free))  # it closes its connection and opens another
        pools = self._free[origin]
        pool = pools.pop()
        if not pools:
            del self._free[origin]
        return pool

    def _put_back(self, origin: Origin, pool: httpx.AsyncHTTPTransport) -> None:
        self._free.setdefault(origin, []).append(pool)
        self._room.release()

    def _open(self) -> httpx.AsyncHTTPTransport:
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
        pool = httpx.AsyncHTTPTransport(verify=self._verify, limits=limits, trust_env=False)
        self._pools.append(pool)
        return pool

    async def aclose(self) -> None:
        """Close every pool."""
        for pool in self._pools:
            await pool.aclose()


class _Lent(httpx.AsyncByteStream):
    """The body of a reply, which gives its pool back when it is closed."""

    def __init__(self, stream: httpx.AsyncByteStream, put_back: Callable[[], None]) -> None:
        self._stream = stream
        self._put_back = put_back
        self._is_closed = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._stream.__aiter__()

    async def aclose(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        try:
            await self._stream.aclose()
        finally:
            self._put_back()
