"""Opens WebSockets: one function for both event loops, with the library that fits each.

On asyncio it is `websockets`, on trio it is trio-websocket. What they do by default differs, so all of it is said
here and alike: no compression, no pings of the library's own (the session pings), no redirects, no proxy unless
`trust_env` asks for that of the environment, TLS by the rules of `tls.py`, and one limit for frames.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from runware_flow.lifetime import on_asyncio

from .address import parse_address
from .connection import CONNECT_TIMEOUT, MAX_FRAME_BYTES, Connection, check_headers, reveal_headers
from .loading import load
from .proxy import find_proxy

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator

    from .connection import Headers

__all__ = ("open_websocket",)


@asynccontextmanager
async def open_websocket(
    url: str,
    *,
    headers: Headers | None = None,
    max_frame_bytes: int = MAX_FRAME_BYTES,
    connect_timeout: float = CONNECT_TIMEOUT,
    ssl_context: ssl.SSLContext | None = None,
    trust_env: bool = False,
) -> AsyncGenerator[Connection, None]:
    """Open a WebSocket for the time of a block; see `Connector` for what is guaranteed.

    On trio the block owns a task, so it must be left in the task and in the order in which it was entered: use it
    with `async with`, or by an `AsyncExitStack`, never inside of an async generator that others iterate.

    Args:
        url: `ws://` or `wss://`, without credentials.
        headers: for the handshake. They appear in no error and in no log of this library's.
        max_frame_bytes: the largest message in either direction.
        connect_timeout: seconds for name lookup, TCP, TLS and handshake together.
        ssl_context: instead of the default one, for `wss://`.
        trust_env: go through the proxy that the environment names, if it names one; see `find_proxy`.

    Raises:
        TransportError: `refused`, `timeout`, `tls` or `invalid`, always with `sent=False`.
    """
    address = parse_address(url, ("ws", "wss"))
    checked = dict(reveal_headers(check_headers(headers or {})))
    if on_asyncio():
        await load("runware_flow.transport.websockets_carrier")
        from .websockets_carrier import open_carrier
    else:
        await load("runware_flow.transport.trio_carrier")
        from .trio_carrier import open_carrier
    carrier = open_carrier(
        address,
        headers=checked,
        max_frame_bytes=max_frame_bytes,
        connect_timeout=connect_timeout,
        ssl_context=ssl_context,
        proxy=find_proxy(address) if trust_env else None,
    )
    async with carrier as connection:
        yield connection
