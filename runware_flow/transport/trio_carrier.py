"""The carrier on trio: the trio-websocket library. Imported only when trio runs.

The carrier opens and closes the TCP or TLS stream itself, because trio-websocket 0.12.2 leaves the socket open when
the server closes first, and because it waits for ever when the stream ends before the handshake is answered.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, cast

import anyio
import trio
from trio_websocket import ConnectionClosed, wrap_client_stream
from wsproto.utilities import LocalProtocolError

from runware_flow.lifetime import open_task_group

from . import failures
from .connection import CLOSE_TIMEOUT, as_text
from .proxy import open_tunnel
from .tls import default_context

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator

    from trio_websocket import WebSocketConnection

    from .address import Address
    from .connection import Connection, TransportError
    from .proxy import Proxy

__all__ = ("open_carrier",)

_RECEIVE_BYTES = 64 * 2**10
_HTTP = b"HTTP/"


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
    """Open a connection for the time of a block, which owns the task that reads."""
    connection = TrioConnection(address, max_frame_bytes)
    async with open_task_group() as tasks:
        try:
            with trio.move_on_after(connect_timeout):
                if address.secure and ssl_context is None:
                    ssl_context = await default_context()
                stream = await _open_stream(address, proxy, ssl_context)
                connection.attach(stream)
                tasks.start_soon(connection.read, headers)
                await connection.wait_open()
            if not connection.is_open:
                raise failures.timed_out(address, connect_timeout)
            yield connection
        finally:
            await connection.close()


async def _connect(address: Address, proxy: Proxy | None) -> trio.SocketStream:
    """Connect to an address, or through a proxy to it."""
    target = address if proxy is None else proxy.address
    try:
        stream = await trio.open_tcp_stream(target.host, target.port)
    except OSError as error:
        raise failures.could_not_open(target, error) from error
    if proxy is not None:
        try:
            await open_tunnel(address, proxy, stream.send_all, stream.receive_some)
        except BaseException as error:
            await trio.aclose_forcefully(stream)
            if isinstance(error, trio.BrokenResourceError):
                raise failures.lost(target, sent=False) from error
            raise
    return stream


async def _open_stream(address: Address, proxy: Proxy | None, ssl_context: ssl.SSLContext | None) -> trio.abc.Stream:
    stream = await _connect(address, proxy)
    if not address.secure:
        return stream
    secure = trio.SSLStream(
        stream, cast("ssl.SSLContext", ssl_context), server_hostname=address.host, https_compatible=True
    )
    try:
        await secure.do_handshake()
    except BaseException as error:
        await trio.aclose_forcefully(secure)
        if isinstance(error, trio.BrokenResourceError):
            raise failures.could_not_secure(address, error) from error
        raise
    return secure


class _Observed(trio.abc.Stream):
    """A stream that remembers how what it carried began, and tells when nothing more can be hoped for."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.beginning = b""
        self.ended = trio.Event()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data: bytes | bytearray = b""
        try:
            data = await self._stream.receive_some(max_bytes)
        finally:
            if not data:
                self.ended.set()
        if len(self.beginning) < failures.STATUS_LINE_BYTES:
            self.beginning += data[: failures.STATUS_LINE_BYTES]
            if not self.beginning.startswith(_HTTP[: len(self.beginning)]):
                self.ended.set()  # of what is not HTTP the library would wait for the end of its first line
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        self.ended.set()
        await self._stream.aclose()


async def _cancel_at_end(stream: _Observed, scope: trio.CancelScope) -> None:
    await stream.ended.wait()
    scope.cancel()


class TrioConnection:
    """A `Connection` over trio-websocket."""

    def __init__(self, address: Address, max_frame_bytes: int) -> None:
        self._address = address
        self._max_frame_bytes = max_frame_bytes
        self._stream: _Observed | None = None
        self._websocket: WebSocketConnection | None = None
        self._failure: TransportError | None = None
        self._settled = trio.Event()
        self._reading = trio.CancelScope()
        self._sending = trio.StrictFIFOLock()  # frames leave in the order of the calls, whole
        self._receiving = anyio.ResourceGuard("receiving from")
        self._broken = False
        self._closed = False

    def attach(self, stream: trio.abc.Stream) -> None:
        """Take over an open stream; from here on `close` closes it."""
        self._stream = _Observed(stream)

    @property
    def is_open(self) -> bool:
        """Whether the handshake has succeeded."""
        return self._websocket is not None

    async def wait_open(self) -> None:
        """Wait until the handshake has succeeded, or raise what it failed with."""
        await self._settled.wait()
        if self._failure is not None:
            raise self._failure

    async def read(self, headers: dict[str, str]) -> None:
        """Shake hands, then read until the connection ends. Never fails: a failure is raised in the calls that wait."""
        try:
            with self._reading:
                async with trio.open_nursery() as nursery:
                    await self._shake_hands(nursery, headers)
                    if not self.is_open:
                        raise trio.BrokenResourceError("the stream ended during the handshake")
                    # From here on only `close` ends the reading: its goodbye needs a reader when all else is cancelled.
                    self._reading.shield = True
                    self._settled.set()
        except* Exception as group:  # noqa: BLE001 - whatever a server provokes is told, not raised
            if not self.is_open:
                beginning = b"" if self._stream is None else self._stream.beginning
                self._failure = failures.handshake_failed(self._address, beginning)
                self._failure.__cause__ = group
            self._broken = True
        finally:
            self._settled.set()

    async def _shake_hands(self, nursery: trio.Nursery, headers: dict[str, str]) -> None:
        stream = self._stream
        assert stream is not None
        async with trio.open_nursery() as race:
            race.start_soon(_cancel_at_end, stream, race.cancel_scope)
            self._websocket = await wrap_client_stream(
                nursery,
                cast("trio.SocketStream", stream),
                self._address.authority,
                self._address.target,
                extra_headers=[(name.encode(), value.encode()) for name, value in headers.items()],
                # Handed over one by one: what was received before a failure is never dropped with it.
                message_queue_size=0,
                max_message_size=self._max_frame_bytes,
                receive_buffer_size=_RECEIVE_BYTES,
            )
            race.cancel_scope.cancel()

    async def send(self, frame: bytes) -> None:
        self._check()
        if len(frame) > self._max_frame_bytes:
            raise failures.frame_too_large(self._address, len(frame), self._max_frame_bytes)
        text = as_text(frame)
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            self._sending.acquire_nowait()  # most often it is free, and `acquire` would take a turn of the loop
        except trio.WouldBlock:
            await self._sending.acquire()
        try:
            websocket = self._check()
            was_open = websocket.closed is None
            try:
                await websocket.send_message(text)
            except ConnectionClosed as error:
                raise self._ended(sent=was_open) from error
            except LocalProtocolError as error:
                raise self._ended(sent=False) from error
            except BaseException:
                self._broken = True
                raise
        finally:
            self._sending.release()

    async def receive(self) -> bytes:
        with self._receiving:
            websocket = self._check()
            try:
                message = await websocket.get_message()
            except ConnectionClosed as error:
                raise self._ended(sent=True) from error
            data = message.encode() if isinstance(message, str) else message
            if len(data) > self._max_frame_bytes:  # the library counts characters
                self._broken = True
                raise failures.message_too_large(self._address, self._max_frame_bytes)
            return data

    async def close(self) -> None:
        """Say goodbye, wait for the answer if there is one, and let go of the socket in any case."""
        self._closed = True
        with trio.CancelScope(shield=True):
            if self._websocket is not None and not self._broken:
                with trio.move_on_after(CLOSE_TIMEOUT), suppress(LocalProtocolError):
                    await self._websocket.aclose()
            if self._stream is not None:
                await trio.aclose_forcefully(self._stream)
        self._reading.cancel()

    def _check(self) -> WebSocketConnection:
        if self._closed or self._websocket is None:
            raise failures.closed(self._address)
        if self._broken:
            raise failures.lost(self._address, sent=False)
        return self._websocket

    def _ended(self, *, sent: bool) -> TransportError:
        if self._closed or self._websocket is None:
            return failures.closed(self._address)
        reason = self._websocket.closed
        if reason is None or reason.code == 1006:
            return failures.lost(self._address, sent=sent)
        if reason.code == failures.MESSAGE_TOO_BIG:
            # Only the text tells who found a message too large: this one is trio-websocket's own.
            if reason.reason == f"Exceeded maximum message size: {self._max_frame_bytes} bytes":
                return failures.message_too_large(self._address, self._max_frame_bytes)
            return failures.frame_refused(self._address, sent=sent)
        return failures.lost(self._address, sent=sent, close_code=reason.code)
