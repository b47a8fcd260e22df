"""A relay of bytes in front of the service, whose connections break as they do in a network.

It knows nothing of tasks: it passes bytes between a client's socket and the server's, and lets the faults of
`BYTE_FAULTS` strike at the messages that come by (see `segments.py`). The server puts it in front of a connection that
is opened while there is such a fault; without one, no byte passes here.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from runware_flow.emulator.network.segments import Segments

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from runware_flow.emulator.network.faults import Fault, FaultBook

__all__ = ("Relay",)

_CHUNK = 2**16
_TICK = 0.05
"""Seconds between the portions of a connection that is slowed down."""


class Relay:
    """One client's connection, from its socket `outer` to the server's `inner`; both are closed at its end."""

    def __init__(self, faults: FaultBook, outer: socket.socket, inner: socket.socket) -> None:
        for one in (outer, inner):
            one.settimeout(0)
        self._faults = faults
        self._outer, self._inner = outer, inner
        self._segments = Segments()
        self.is_silent = False
        """Half-open: nothing passes any more, and neither side learns of it."""
        self._left: int | None = None
        """Bytes of the service that still pass before the connection ends; None: it does not."""
        self._is_reset = False
        self._piece = _CHUNK
        self._rate: float | None = None
        self._scope = anyio.CancelScope()

    def end_if_silent(self) -> None:
        """End a half-open connection: the emulator stops."""
        if self.is_silent:
            self._scope.cancel()

    async def run(self) -> None:
        """Pass bytes until either side ends, or a fault ends both."""
        try:
            if self._faults.trigger("refuse-connection") is not None:
                self._is_reset = True
                return
            with self._scope:
                async with anyio.create_task_group() as pumps:
                    pumps.start_soon(self._pump, self._up)
                    pumps.start_soon(self._pump, self._down)
        finally:
            self._close()

    def _close(self) -> None:
        with contextlib.suppress(OSError):
            if self._is_reset:
                self._outer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                self._outer.shutdown(socket.SHUT_RDWR)
        self._outer.close()
        self._inner.close()

    async def _pump(self, advance: Callable[[], Awaitable[None]]) -> None:
        with contextlib.suppress(OSError):
            await advance()
        self._scope.cancel()

    async def _up(self) -> None:
        """What the client sends, to the service."""
        slow = self._faults.trigger("slow-reader")
        size = _CHUNK
        if slow is not None:
            size = _portion(slow.rate or 10_000)
            self._outer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        while data := await _receive(self._outer, size):
            if not self.is_silent:
                self._segments.begin_answer()
                await _send(self._inner, data)
            if slow is not None:
                await anyio.sleep(_TICK)
        if not self.is_silent:
            self._inner.shutdown(socket.SHUT_WR)
            await anyio.sleep_forever()  # what was asked is still answered; the service's end ends both

    async def _down(self) -> None:
        """What the service sends, to the client, as the faults have it."""
        while data := await _receive(self._inner, _CHUNK):
            for piece, length in self._segments.split(data):
                if length:
                    await self._begin(length)
                if not self.is_silent:
                    await self._pass(piece)
                if self._left == 0:
                    return
        if self.is_silent:
            await anyio.sleep_forever()  # the client is not told of that end either

    async def _begin(self, length: int) -> None:
        """A message of the service begins: decide what becomes of it."""
        trigger = self._faults.trigger
        delay = trigger("delay")
        if delay is not None:
            await anyio.sleep(0.1 if delay.seconds is None else delay.seconds)
        if trigger("half-open") is not None:
            self.is_silent = True
        cut, reset = trigger("kill-mid-frame"), trigger("reset")
        if cut is not None:
            self._left = _passing(cut, length // 2, length)
        elif reset is not None:
            self._left, self._is_reset = _passing(reset, 0, length), True
        pieces, throttle = trigger("fragment"), trigger("throttle")
        self._piece = _CHUNK if pieces is None else pieces.size or 7
        self._rate = None if throttle is None else throttle.rate or 10_000

    async def _pass(self, data: bytes) -> None:
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
        size = self._piece if self._rate is None else min(self._piece, _portion(self._rate))
        for at in range(0, len(data), size):
            await _send(self._outer, data[at : at + size])
            if self._rate is not None:
                await anyio.sleep(size / self._rate)
            elif size < _CHUNK:
                await anyio.lowlevel.checkpoint()


def _passing(fault: Fault, default: int, length: int) -> int:
    """Return how many bytes of a message pass before it is cut: never all of them."""
    return min(default if fault.after is None else fault.after, length - 1)


def _portion(rate: float) -> int:
    return max(1, int(rate * _TICK))


async def _receive(source: socket.socket, size: int) -> bytes:
    while True:
        await anyio.wait_readable(source)
        with contextlib.suppress(BlockingIOError):
            return source.recv(size)


async def _send(target: socket.socket, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[target.send(rest) :]
        except BlockingIOError:
            await anyio.wait_writable(target)
