"""The carrier on asyncio: the `websockets` library. Imported only when asyncio runs."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import anyio
import anyio.lowlevel
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.protocol import State

from . import failures
from .connection import CLOSE_TIMEOUT, as_text
from .proxy import open_tunnel
from .tcp import open_tcp
from .tls import default_context

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import AsyncGenerator

    from .address import Address
    from .connection import Connection, TransportError
    from .proxy import Proxy

__all__ = ("open_carrier",)

# At debug level the library logs every header and every frame, and the frames hold the key: never that low.
_log = logging.getLogger("runware_flow.transport.websockets")
_log.setLevel(logging.INFO)

_QUEUED_FRAMES = 4
_REPLY_BYTES = 4096


class _Connect(connect):
    """A connect that takes a redirect for what it is: no WebSocket."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class _Client(ClientConnection):
    """A connection that remembers how it began, and that waits in vain only so long for a peer to hang up."""

    beginning = b""
    _drop: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        if len(self.beginning) < failures.STATUS_LINE_BYTES:
            self.beginning += data[: failures.STATUS_LINE_BYTES]
        super().data_received(data)
        if self._drop is None and self.protocol.close_expected():
            self._drop = self.loop.call_later(CLOSE_TIMEOUT, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._drop is not None:
            self._drop.cancel()
        super().connection_lost(exc)


@asynccontextmanager
async def open_carrier(
    address: Address,
    *,
    headers: dict[str, str],
    max_frame_bytes: int,
    connect_timeout: float,
    ssl_context: ssl.SSLContext | None,
    proxy: Proxy | None = None,
) -> AsyncGenerator[Connection, None]:
    """Open a connection for the time of a block. No task is started; `websockets` works by callbacks."""
    options: dict[str, Any] = {"additional_headers": headers, "max_size": max_frame_bytes}
    websocket: ClientConnection | None = None
    with anyio.move_on_after(connect_timeout):
        if address.secure:
            options["ssl"] = ssl_context or await default_context()
        websocket = await _open(address, proxy, options)
    if websocket is None:
        raise failures.timed_out(address, connect_timeout)
    connection = WebSocketsConnection(websocket, address, max_frame_bytes)
    try:
        yield connection
    finally:
        await connection.close()


async def _connect(address: Address, proxy: Proxy | None) -> socket.socket:
    """Connect to an address, or through a proxy to it."""
    target = address if proxy is None else proxy.address
    try:
        raw = await open_tcp(target)
    except OSError as error:
        raise failures.could_not_open(target, error) from error
    if proxy is not None:
        loop = asyncio.get_running_loop()
        try:
            await open_tunnel(
                address, proxy, lambda data: loop.sock_sendall(raw, data), lambda: loop.sock_recv(raw, _REPLY_BYTES)
            )
        except BaseException as error:
            raw.close()
            if isinstance(error, OSError):
                raise failures.lost(target, sent=False) from error
            raise
    return raw


async def _open(address: Address, proxy: Proxy | None, options: dict[str, Any]) -> ClientConnection:
    raw = await _connect(address, proxy)
    made: list[_Client] = []

    def create(*args: Any, **kwargs: Any) -> _Client:
        made.append(_Client(*args, **kwargs))
        return made[-1]

    opening = _Connect(
        f"{address.scheme}://{address}{address.target}",
        sock=raw,
        compression=None,
        user_agent_header=None,
        proxy=None,
        open_timeout=None,
        ping_interval=None,
        close_timeout=CLOSE_TIMEOUT,
        max_queue=_QUEUED_FRAMES,
        logger=_log,
        create_connection=cast("type[ClientConnection]", create),
        **options,
    )
    try:
        return await opening
    except BaseException as error:
        for websocket in made:
            await _drop(websocket)
        # asyncio lets go of a socket whose TLS handshake failed at the next turn of the loop, and not before.
        await anyio.lowlevel.cancel_shielded_checkpoint()
        raw.close()
        beginning = made[-1].beginning if made else b""
        if isinstance(error, OSError) and address.secure:
            raise failures.could_not_secure(address, error) from error
        if isinstance(error, (InvalidHandshake, OSError)):
            raise failures.handshake_failed(address, beginning) from error
        raise


async def _drop(websocket: ClientConnection) -> None:
    """Close the socket without a word, if there ever was one, and wait until it is closed."""
    if hasattr(websocket, "transport"):
        websocket.transport.abort()
        with anyio.CancelScope(shield=True):
            await websocket.wait_closed()


class WebSocketsConnection:
    """A `Connection` over `websockets`."""

    def __init__(self, websocket: ClientConnection, address: Address, max_frame_bytes: int) -> None:
        self._websocket = websocket
        self._address = address
        self._max_frame_bytes = max_frame_bytes
        self._receiving = anyio.ResourceGuard("receiving from")
        self._broken = False
        self._closed = False

    async def send(self, frame: bytes) -> None:
        self._check()
        if len(frame) > self._max_frame_bytes:
            raise failures.frame_too_large(self._address, len(frame), self._max_frame_bytes)
        as_text(frame)
        await anyio.lowlevel.checkpoint_if_cancelled()
        was_open = self._websocket.state is State.OPEN
        try:
            await self._websocket.send(frame, text=True)
        except ConnectionClosed as error:
            raise self._ended(error, sent=was_open) from error
        except BaseException:
            self._broken = True
            raise

    async def receive(self) -> bytes:
        with self._receiving:
            self._check()
            try:
                return await self._websocket.recv(decode=False)
            except ConnectionClosed as error:
                raise self._ended(error, sent=True) from error

    async def close(self) -> None:
        """Say goodbye, wait for the answer if there is one, and let go of the socket in any case."""
        self._closed = True
        try:
            with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
                await self._websocket.close()
        finally:
            await _drop(self._websocket)

    def _check(self) -> None:
        if self._closed:
            raise failures.closed(self._address)
        if self._broken:
            raise failures.lost(self._address, sent=False)

    def _ended(self, error: ConnectionClosed, *, sent: bool) -> TransportError:
        if self._closed:
            return failures.closed(self._address)
        ours_first = error.sent is not None and not (error.rcvd is not None and error.rcvd_then_sent)
        if ours_first and error.sent is not None and error.sent.code == failures.MESSAGE_TOO_BIG:
            return failures.message_too_large(self._address, self._max_frame_bytes)
        code = None if error.rcvd is None else int(error.rcvd.code)
        if code == failures.MESSAGE_TOO_BIG:
            return failures.frame_refused(self._address, sent=sent)
        return failures.lost(self._address, sent=sent, close_code=code)
