"""Hypercorn under an application, started and stopped without a trace.

Cancelling Hypercorn's `serve` with open sockets logs tracebacks (asyncio) or ends them with 1006 (trio). So it runs
shielded; to stop, the application ends its own connections, then the server is told to shut down, with little grace.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

import anyio
import sniffio

if TYPE_CHECKING:
    import socket

    from runware_flow.emulator.app import App

__all__ = ("Server",)

_logger = logging.getLogger("runware_flow.emulator")


class Server:
    """One application on one listening socket, which the server takes over and closes."""

    def __init__(self, app: App, listener: socket.socket) -> None:
        self._app = app
        self._listener = listener
        self._stop = anyio.Event()
        self._ended = anyio.Event()
        self._scope = anyio.CancelScope(shield=True)

    async def run(self) -> None:
        """Serve until `aclose`, whatever is cancelled around it."""
        from hypercorn.config import Config

        config = Config()
        config.errorlog = _logger
        config.keep_alive_timeout = 75
        config.keep_alive_max_requests = 1_000_000
        config.graceful_timeout = 1.0
        config.websocket_max_message_size = 256 * 2**20
        config.include_server_header = False
        config.bind = [f"fd://{self._listener.detach()}"]
        try:
            with self._scope:
                await _serve(self._app, config, self._stop.wait)
        finally:
            self._ended.set()

    async def aclose(self, grace: float = 5.0) -> None:
        """End all connections and the server; after `grace` seconds by force."""
        await self._app.aclose()
        self._stop.set()
        with anyio.move_on_after(grace) as waiting:
            await self._ended.wait()
        if waiting.cancelled_caught:
            self._scope.cancel()
            await self._ended.wait()


async def _serve(app: App, config: Any, shutdown_trigger: Any) -> None:
    module: Any = importlib.import_module(f"hypercorn.{sniffio.current_async_library()}")
    await module.serve(app, config, shutdown_trigger=shutdown_trigger, mode="asgi")
