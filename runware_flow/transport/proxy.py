"""The proxy from the environment, and the tunnel through it that a WebSocket needs.

HTTP goes through proxies by httpx's own means. Of the WebSocket libraries one knows proxies and the other does not, so
the tunnel is asked for here, before either of them sees the connection.
"""

from __future__ import annotations

import re
from base64 import b64encode
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from .address import Address, parse_address
from .connection import TransportError
from .failures import lost

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ("Proxy", "find_proxy", "open_tunnel")

_MAX_REPLY_BYTES = 64 * 1024
_STATUS_LINE = re.compile(rb"HTTP/1\.\d (\d{3})[ \r]")


class Proxy(NamedTuple):
    """Where a proxy listens, and the header that it wants; both appear in no error but as `host:port`."""

    address: Address
    authorization: bytes

    def __repr__(self) -> str:
        return f"Proxy({self.address})"


def find_proxy(address: Address) -> Proxy | None:
    """The proxy that HTTPS_PROXY, HTTP_PROXY or ALL_PROXY name for a WebSocket, unless NO_PROXY leaves its host out.

    Raises:
        TransportError: of kind `invalid`: it is not of a kind that a WebSocket can go through.
    """
    if proxy_bypass(f"{address.host}:{address.port}"):
        return None
    proxies = getproxies()
    names = ("wss", "https", "all") if address.secure else ("ws", "http", "all")
    url = next((proxies[name] for name in names if proxies.get(name)), None)
    if url is None:
        return None
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme != "http":
        problem = f'A WebSocket to {address} goes through an http:// proxy only; transport="rest" may use it.'
        raise TransportError(problem, kind="invalid", sent=False)
    place = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    return Proxy(parse_address(place, ("http",), name="The address of the proxy"), _authorization(parts))


def _authorization(parts: SplitResult) -> bytes:
    if parts.username is None:
        return b""
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
    return b"Proxy-Authorization: Basic " + b64encode(pair) + b"\r\n"


async def open_tunnel(
    address: Address,
    proxy: Proxy,
    send: Callable[[bytes], Awaitable[object]],
    receive: Callable[[], Awaitable[bytes | bytearray]],
) -> None:
    """Ask a proxy, over a connection to it, to connect that to `address`.

    Raises:
        TransportError: it did not.
    """
    request = f"CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n".encode()
    await send(request + proxy.authorization + b"\r\n")
    reply = b""
    while b"\r\n\r\n" not in reply:
        received = await receive()
        if not received or len(reply) > _MAX_REPLY_BYTES:
            raise lost(proxy.address, sent=False)
        reply += received
    status = _STATUS_LINE.match(reply)
    if status is None or not 200 <= int(status[1]) < 300:
        said = f"HTTP {int(status[1])}" if status else "no HTTP"
        message = f"The proxy at {proxy.address} did not connect to {address}: {said}."
        raise TransportError(message, kind="refused", sent=False, status=int(status[1]) if status else None)
