"""Imports heavy libraries in a thread, so that they do not block the event loop."""

from __future__ import annotations

import sys
from importlib import import_module

import anyio.to_thread

__all__ = ("load",)


async def load(name: str) -> None:
    """Import a module in a worker thread, if it is not imported yet.

    httpx, trio and the WebSocket libraries take up to a few hundred milliseconds, and what they do meanwhile blocks.
    """
    if name not in sys.modules:
        await anyio.to_thread.run_sync(import_module, name)
