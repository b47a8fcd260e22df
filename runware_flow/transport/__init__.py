"""The transports: the only modules that know HTTP and WebSocket libraries. They carry bytes and do not read them.

The libraries themselves are imported on first use, not with this package.
"""

from __future__ import annotations

from .connection import CONNECT_TIMEOUT, MAX_FRAME_BYTES, Connection, Connector, TransportError, TransportFailure
from .rest import Reply, RestTransport, fetch
from .websocket import open_websocket

__all__ = (
    "CONNECT_TIMEOUT",
    "MAX_FRAME_BYTES",
    "Connection",
    "Connector",
    "Reply",
    "RestTransport",
    "TransportError",
    "TransportFailure",
    "fetch",
    "open_websocket",
)
