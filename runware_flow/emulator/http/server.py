"""Runs Hypercorn's protocols under the application, and stops them without log messages or open sockets.

Hypercorn's own `serve` is not used: on trio one connection's protocol error ends the whole server, and cancelling it
with open sockets logs tracebacks (asyncio) or ends them with 1006 (trio). Here each connection is a worker of ours that
runs Hypercorn's `TCPServer`; what goes wrong in it ends that connection alone. To stop, the application ends its own
connections, idle ones are told, and what is left after little grace is cut.
"""

from __future__ import annotations

import errno
import importlib
import logging
import socket
from typing import TYPE_CHECKING, Any

import anyio
import sniffio

from runware_flow.emulator.http.sockets import close_connection, cut_connection
from runware_flow.emulator.network.relay import Relay

if TYPE_CHECKING:
    from anyio.abc import TaskGroup, TaskStatus
    from hypercorn.config import Config

    from runware_flow.emulator.http.app import App
    from runware_flow.emulator.network.faults import FaultBook

__all__ = ("Server",)

_logger = logging.getLogger("runware_flow.emulator")


class Server:
    """One application on one listening socket, which the server takes over and closes."""

    def __init__(self, app: App, listener: socket.socket, faults: FaultBook, max_message_bytes: int) -> None:
        self._app = app
        self._listener = listener
        self._faults = faults
        self._config = _make_config(max_message_bytes)
        self._library = ""
        self._stop = anyio.Event()
        self._idle = anyio.Event()
        self._ended = anyio.Event()
        self._open: set[Any] = set()
        self._sockets: set[socket.socket] = set()
        """Accepted, and not yet in the hands of a worker."""
        self._relays: set[Relay] = set()
        self._context: Any = None

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until `aclose`, whatever is cancelled around it."""
        self._library = sniffio.current_async_library()
        self._context = importlib.import_module(f"hypercorn.{self._library}.worker_context").WorkerContext(None)
        try:
            with anyio.CancelScope(shield=True):
                async with anyio.create_task_group() as connections:
                    task_status.started()
                    await self._accept(connections)
                    connections.cancel_scope.cancel()
        finally:
            self._listener.close()
            for accepted in self._sockets:
                accepted.close()  # cancelled before its first step
            self._ended.set()

    async def aclose(self, grace: float = 0.5) -> None:
        """End all connections and the server; what has not ended after `grace` seconds is cut."""
        for relay in self._relays:
            relay.end_if_silent()
        await self._app.aclose(grace)
        if self._context is not None:
            await self._context.terminated.set()
        with anyio.move_on_after(grace):
            while self._open or self._relays:
                self._idle = anyio.Event()
                await self._idle.wait()
        for connection in self._open:
            cut_connection(connection)  # a peer that does not read holds a write that no cancel reaches
        self._stop.set()
        await self._ended.wait()

    async def _accept(self, connections: TaskGroup) -> None:
        """Accept connections until stopped; one that faults of bytes may meet gets a relay in front."""
        async with anyio.create_task_group() as workers:

            async def stop() -> None:
                await self._stop.wait()
                workers.cancel_scope.cancel()

            workers.start_soon(stop)
            while True:
                await anyio.wait_readable(self._listener)
                try:
                    accepted, _ = self._listener.accept()
                except OSError as error:  # the peer has left already, or there are too many open files
                    if error.errno in (errno.EMFILE, errno.ENFILE):
                        await anyio.sleep(0.1)
                    continue
                accepted.settimeout(0)
                self._sockets.add(accepted)
                connections.start_soon(self._take, accepted)

    async def _take(self, accepted: socket.socket) -> None:
        self._sockets.discard(accepted)
        if not self._faults.has_byte_faults:
            await self._serve(accepted)
            return
        inner, served = socket.socketpair()
        served.settimeout(0)
        relay = Relay(self._faults, accepted, inner)
        self._relays.add(relay)
        try:
            async with anyio.create_task_group() as ends:
                ends.start_soon(self._serve, served)
                await relay.run()
        finally:
            self._relays.discard(relay)
            self._idle.set()

    async def _serve(self, accepted: socket.socket) -> None:
        """Serve one connection; its errors (nonsense from the peer, a socket that is gone) end nothing else."""
        connection: Any = None
        try:
            connection = await self._open_connection(accepted)
            self._open.add(connection)
            await connection.run()
        except Exception as error:  # noqa: BLE001 - see above
            _logger.debug("a connection ended with %r", error)
        finally:
            if connection is None:
                accepted.close()
            else:
                close_connection(connection)
            self._open.discard(connection)
            self._idle.set()

    async def _open_connection(self, accepted: socket.socket) -> Any:
        """Put Hypercorn's protocols for the running event loop on a socket."""
        from hypercorn.app_wrappers import ASGIWrapper
        from hypercorn.typing import ConnectionState, LifespanState

        app: Any = self._app  # Hypercorn has types of its own for what ASGI says
        application, state = ASGIWrapper(app), ConnectionState(LifespanState())
        if self._library == "trio":
            import trio
            from hypercorn.trio.tcp_server import TCPServer as TrioServer

            stream: Any = trio.SocketStream(trio.socket.from_stdlib_socket(accepted))
            return TrioServer(application, self._config, self._context, state, stream)
        import asyncio

        from hypercorn.asyncio.tcp_server import TCPServer

        loop = asyncio.get_running_loop()
        reader, writer = await asyncio.open_connection(sock=accepted)
        return TCPServer(application, loop, self._config, self._context, state, reader, writer)


def _make_config(max_message_bytes: int) -> Config:
    from hypercorn.config import Config

    config = Config()
    config.errorlog = _logger
    config.keep_alive_timeout = 75
    config.keep_alive_max_requests = 1_000_000_000
    config.websocket_max_message_size = max_message_bytes
    config.include_server_header = False
    return config
