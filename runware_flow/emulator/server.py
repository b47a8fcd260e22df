"""Hypercorn's protocols under an application, started and stopped without a trace.

Hypercorn's own `serve` is not used: on trio one connection's protocol error ends the whole server, and cancelling it
with open sockets logs tracebacks (asyncio) or ends them with 1006 (trio). Here each connection is a worker of ours that
runs Hypercorn's `TCPServer`; what goes wrong in it ends that connection alone. To stop, the application ends its own
connections, idle ones are told, and what is left after little grace is cut.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

import anyio
import sniffio

from runware_flow.emulator.sockets import close_connection, cut_connection

if TYPE_CHECKING:
    import socket

    from anyio.abc import TaskGroup, TaskStatus

    from runware_flow.emulator.app import App

__all__ = ("Server",)

_logger = logging.getLogger("runware_flow.emulator")


class Server:
    """One application on one listening socket, which the server takes over and closes."""

    def __init__(self, app: App, listener: socket.socket) -> None:
        self._app = app
        self._listener = listener
        self._stop = anyio.Event()
        self._idle = anyio.Event()
        self._ended = anyio.Event()
        self._open: set[Any] = set()
        self._context: Any = None

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until `aclose`, whatever is cancelled around it."""
        library = sniffio.current_async_library()
        self._context = importlib.import_module(f"hypercorn.{library}.worker_context").WorkerContext(None)
        accept = self._accept_on_trio if library == "trio" else self._accept_on_asyncio
        try:
            with anyio.CancelScope(shield=True):
                async with anyio.create_task_group() as connections:
                    task_status.started()
                    await accept(connections)
                    connections.cancel_scope.cancel()
        finally:
            for connection in self._open:
                close_connection(connection)  # accepted, but cancelled before its first step
            self._ended.set()

    async def aclose(self, grace: float = 0.5) -> None:
        """End all connections and the server; what has not ended after `grace` seconds is cut."""
        await self._app.aclose(grace)
        if self._context is not None:
            await self._context.terminated.set()
        with anyio.move_on_after(grace):
            while self._open:
                self._idle = anyio.Event()
                await self._idle.wait()
        for connection in self._open:
            cut_connection(connection)  # a peer that does not read holds a write that no cancel reaches
        self._stop.set()
        await self._ended.wait()

    async def _accept_on_asyncio(self, connections: TaskGroup) -> None:
        import asyncio

        from hypercorn.asyncio.tcp_server import TCPServer

        loop, config, application = asyncio.get_running_loop(), _config(), _wrap(self._app)

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = TCPServer(application, loop, config, self._context, _state(), reader, writer)
            self._start(connections, connection)

        server = await asyncio.start_server(connected, sock=self._listener, backlog=1024)
        try:
            await self._stop.wait()
        finally:
            server.close()

    async def _accept_on_trio(self, connections: TaskGroup) -> None:
        import trio
        from hypercorn.trio.tcp_server import TCPServer

        config, application = _config(), _wrap(self._app)

        async def accept() -> None:
            while True:
                stream: Any = await listener.accept()
                self._start(connections, TCPServer(application, config, self._context, _state(), stream))

        listener = trio.SocketListener(trio.socket.from_stdlib_socket(self._listener))
        async with listener, anyio.create_task_group() as workers:
            workers.start_soon(accept)
            await self._stop.wait()
            workers.cancel_scope.cancel()

    def _start(self, connections: TaskGroup, connection: Any) -> None:
        self._open.add(connection)
        connections.start_soon(self._guard, connection)

    async def _guard(self, connection: Any) -> None:
        """Run one connection; its errors (nonsense from the peer, a socket that is gone) end nothing else."""
        try:
            await connection.run()
        except Exception as error:  # noqa: BLE001 - see above
            _logger.debug("a connection ended with %r", error)
        finally:
            close_connection(connection)
            self._open.discard(connection)
            self._idle.set()


def _config() -> Any:
    from hypercorn.config import Config

    config = Config()
    config.errorlog = _logger
    config.keep_alive_timeout = 75
    config.keep_alive_max_requests = 1_000_000_000
    config.websocket_max_message_size = 256 * 2**20
    config.include_server_header = False
    return config


def _wrap(app: Any) -> Any:
    from hypercorn.app_wrappers import ASGIWrapper

    return ASGIWrapper(app)


def _state() -> Any:
    from hypercorn.typing import ConnectionState, LifespanState

    return ConnectionState(LifespanState())
