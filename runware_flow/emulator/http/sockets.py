"""Cuts a connection as a network does: without a closing frame and without a reply.

ASGI has no word for that, so this module walks from the server's `send` down to its socket (Hypercorn 0.18: stream,
protocol, TCP server). Where the walk finds nothing, the connection is not cut and the caller goes on.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import Send

__all__ = ("close_connection", "cut", "cut_connection", "is_closed")


def cut(send: Send) -> bool:
    """Shut down the socket under an ASGI `send`; False if it was not found."""
    found = _find_server(send)
    if found is not None:
        cut_connection(found)
    return found is not None


def cut_connection(connection: Any) -> None:
    """Shut down the socket of one of Hypercorn's `TCPServer`s; what waits to read or write it is released."""
    writer = getattr(connection, "writer", None)
    found = connection.stream.socket if writer is None else writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        found.shutdown(socket.SHUT_RDWR)


def close_connection(connection: Any) -> None:
    """Close the socket of one of Hypercorn's `TCPServer`s, which on trio leaves it open when it is cancelled."""
    writer = getattr(connection, "writer", None)
    if writer is None:
        connection.stream.socket.close()
    else:
        writer.close()


def is_closed(send: Send) -> bool:
    """Tell whether the connection under an ASGI `send` is known to be gone: the server then drops what is sent."""
    return bool(getattr(getattr(send, "__self__", None), "closed", False))


def _find_server(send: Any) -> Any:
    owner: Any = getattr(send, "__self__", None)
    for _ in range(8):
        if owner is None:
            return None
        if type(owner).__name__ == "TCPServer":
            return owner
        owner = getattr(getattr(owner, "send", None), "__self__", None)
    return None
