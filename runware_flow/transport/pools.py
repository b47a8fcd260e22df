"""Many small connection pools behind one HTTP client, because a large one is slow. Imported with the first request."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

__all__ = ("Pools",)

_CONNECTIONS_A_POOL = 8


class Pools(httpx.AsyncBaseTransport):
    """Spreads requests over pools of eight connections each, to the one with the most room.

    httpcore's pool (1.0.9) looks through all its connections once for each of them whenever a request begins or ends:
    with 64 connections that is 4,096 looks, several milliseconds of the loop's time, and more than the request itself.
    """

    def __init__(self, *, max_connections: int, verify: ssl.SSLContext) -> None:
        """Args: max_connections: over all pools together."""
        whole, rest = divmod(max_connections, _CONNECTIONS_A_POOL)
        self._free = [_CONNECTIONS_A_POOL] * whole + [rest] * (rest > 0)
        self._pools = [
            httpx.AsyncHTTPTransport(
                verify=verify,
                limits=httpx.Limits(max_connections=size, max_keepalive_connections=size),
                trust_env=False,
            )
            for size in self._free
        ]

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; it counts as in flight until its reply is closed."""
        chosen = self._free.index(max(self._free))
        self._free[chosen] -= 1
        try:
            response = await self._pools[chosen].handle_async_request(request)
        except BaseException:
            self._free[chosen] += 1
            raise
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _Counted(response.stream, self._free, chosen)
        return response

    async def aclose(self) -> None:
        """Close every pool."""
        for pool in self._pools:
            await pool.aclose()


class _Counted(httpx.AsyncByteStream):
    """The body of a reply, which takes its request off the count when it is closed."""

    def __init__(self, stream: httpx.AsyncByteStream, free: list[int], chosen: int) -> None:
        self._stream = stream
        self._free = free
        self._chosen = chosen
        self._is_closed = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._stream.__aiter__()

    async def aclose(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._free[self._chosen] += 1
        await self._stream.aclose()
