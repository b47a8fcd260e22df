"""The messages of `TransportError`, in one place, so that all carriers report a failure in the same words."""

from __future__ import annotations

import os
import re
import socket
import ssl
from typing import TYPE_CHECKING, cast

from .connection import TransportError

if TYPE_CHECKING:
    from .address import Address

__all__ = (
    "closed",
    "could_not_open",
    "could_not_secure",
    "frame_refused",
    "frame_too_large",
    "handshake_failed",
    "lost",
    "message_too_large",
    "timed_out",
)

MESSAGE_TOO_BIG = 1009
"""RFC 6455, section 7.4.1."""

STATUS_LINE_BYTES = 13
"""Enough of an HTTP reply to read its status."""

_STATUS_LINE = re.compile(rb"HTTP/1\.\d (\d{3})\s")
_ERRNO = re.compile(r"\[Errno (\d+)\]")


def could_not_open(address: Address, error: Exception) -> TransportError:
    """Explain a failure of the name lookup, of TCP or, where one error stands for all of them, of TLS."""
    chain = _chain(error)
    if any(isinstance(one, ssl.SSLError) for one in chain):
        return could_not_secure(address, error)
    if any(isinstance(one, socket.gaierror) for one in chain):
        message = f"Could not connect to {address}: there is no such host, or names cannot be looked up."
        return TransportError(message, kind="refused", sent=False)
    if any(isinstance(one, TimeoutError) for one in chain):
        return TransportError(f"Could not connect to {address}: it did not answer.", kind="timeout", sent=False)
    return TransportError(f"Could not connect to {address}: {_reason(chain)}.", kind="refused", sent=False)


def could_not_secure(address: Address, error: Exception) -> TransportError:
    """Explain a failure of the TLS handshake."""
    told = next((one for one in _chain(error) if isinstance(one, ssl.SSLError)), None)
    verdict = (
        getattr(told, "verify_message", None) or getattr(told, "reason", None) or "the server closed the connection"
    )
    plain = str(verdict).replace("_", " ").lower() if verdict == getattr(told, "reason", None) else str(verdict)
    return TransportError(f"No secure connection to {address}: {plain}.", kind="tls", sent=False)


def _chain(error: BaseException | None) -> list[BaseException]:
    """List an error, what caused it, and what is inside of groups (several addresses of one host)."""
    found: list[BaseException] = []
    waiting = [error]
    while waiting:
        one = waiting.pop(0)
        if one is None or one in found:
            continue
        found.append(one)
        waiting.append(one.__cause__)
        if isinstance(one, BaseExceptionGroup):
            waiting.extend(cast("BaseExceptionGroup[BaseException]", one).exceptions)
    return found


def _reason(chain: list[BaseException]) -> str:
    for one in chain:
        # asyncio folds the errors of several addresses into the text of one without a number of its own.
        in_text = _ERRNO.search(str(one))
        number = one.errno if isinstance(one, OSError) and one.errno else int(in_text[1]) if in_text else None
        if number is not None:
            return os.strerror(number).lower()
    return "the connection was lost"


def timed_out(address: Address, seconds: float) -> TransportError:
    """The time for opening passed."""
    return TransportError(f"{address} did not answer within {seconds:g} s.", kind="timeout", sent=False)


def handshake_failed(address: Address, beginning: bytes) -> TransportError:
    """No WebSocket was opened; `beginning` is how the answer began (`STATUS_LINE_BYTES` of it).

    The libraries tell these cases apart differently, and not all of them; the status line tells them alike.
    """
    if not beginning:
        return TransportError(f"{address} closed the connection during the handshake.", kind="refused", sent=False)
    status_line = _STATUS_LINE.match(beginning)
    if status_line is None or int(status_line[1]) == 101:
        return TransportError(f"The server at {address} is not a WebSocket server.", kind="invalid", sent=False)
    status = int(status_line[1])
    message = f"{address} answered HTTP {status} instead of opening a WebSocket."
    return TransportError(message, kind="refused", sent=False, status=status)


def lost(address: Address, *, sent: bool, close_code: int | None = None) -> TransportError:
    """An open connection ended, from the other side or by the network."""
    how = (
        f"{address} closed the connection (code {close_code})."
        if close_code
        else f"The connection to {address} was lost."
    )
    return TransportError(how, kind="lost", sent=sent, close_code=close_code)


def closed(address: Address) -> TransportError:
    """The connection was used after its block."""
    return TransportError(f"The connection to {address} has been closed on this side.", kind="closed", sent=False)


def message_too_large(address: Address, limit: int) -> TransportError:
    """A message came that exceeds the limit; its rest is not read."""
    message = f"A message from {address} is larger than the limit of {limit} bytes."
    return TransportError(message, kind="too-large", sent=True)


def frame_too_large(address: Address, size: int, limit: int) -> TransportError:
    """A frame of this side exceeds the limit; it was not sent."""
    message = f"A frame of {size} bytes for {address} is larger than the limit of {limit} bytes."
    return TransportError(message, kind="too-large", sent=False)


def frame_refused(address: Address, *, sent: bool) -> TransportError:
    """The other side closed because a frame of this side was too large for it."""
    message = f"{address} closed the connection because a frame was too large for it (code {MESSAGE_TOO_BIG})."
    return TransportError(message, kind="too-large", sent=sent, close_code=MESSAGE_TOO_BIG)
