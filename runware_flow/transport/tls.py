"""The trusted certificates: the same for REST and for WebSocket, on both event loops."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

import anyio.to_thread

from .connection import TransportError

if TYPE_CHECKING:
    import ssl

__all__ = ("default_context",)


async def default_context() -> ssl.SSLContext:
    """Make a context that verifies names and certificates as httpx does.

    Trusted is what certifi has, or, where the environment sets them, what SSL_CERT_FILE and SSL_CERT_DIR name. Reading
    the certificates takes some 40 ms of a worker thread, so a process does it once: all its clients share the context,
    and a file that changes later is read by the next process.

    Raises:
        TransportError: of kind `tls`: they cannot be read.
    """
    return await anyio.to_thread.run_sync(_load, os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


@functools.lru_cache(maxsize=4)
def _load(_file: str | None, _folder: str | None) -> ssl.SSLContext:
    import httpx

    try:
        return httpx.create_ssl_context()
    except OSError as error:  # ssl.SSLError is one
        named = {name: os.environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR")}
        missing = {name: path for name, path in named.items() if path and not os.path.exists(path)}
        found = [f"{name}={path!r}" for name, path in (missing or named).items() if path]
        what = " and ".join(found) or "the certificates of the package certifi"
        reason = error.strerror or "it holds no certificate"
        message = f"No secure connection: {what} cannot be read ({reason})."
        raise TransportError(message, kind="tls", sent=False) from error
