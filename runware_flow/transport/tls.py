"""Which certificates are trusted: the same for REST and for WebSocket, on both event loops."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio.to_thread

if TYPE_CHECKING:
    import ssl

__all__ = ("default_context",)


async def default_context() -> ssl.SSLContext:
    """Make a context that verifies names and certificates as httpx does.

    Trusted is what certifi has, or, where the environment sets them, what SSL_CERT_FILE and SSL_CERT_DIR name. Reading
    the certificates takes a few milliseconds of a worker thread.
    """
    return await anyio.to_thread.run_sync(_load)


def _load() -> ssl.SSLContext:
    import httpx

    return httpx.create_ssl_context()
