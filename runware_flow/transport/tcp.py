"""TCP connections on asyncio that try several addresses, as trio's `open_tcp_stream` does.

asyncio's own race between the addresses of a host (RFC 8305, "happy eyeballs") leaves tasks behind when it is
cancelled, loses the winner's socket if the cancel comes late, and is unknown to uvloop; without any race a broken IPv6
route eats the whole time for connecting.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import anyio

from runware_flow.lifetime import open_task_group

if TYPE_CHECKING:
    from .address import Address

__all__ = ("open_tcp",)

HEAD_START = 0.25
"""Seconds before the next address is tried beside the one that has not answered yet (RFC 8305, section 5)."""


async def open_tcp(address: Address) -> socket.socket:
    """Connect to the first address of a host that answers, and return the socket, which does not block.

    Raises:
        OSError: when the name is unknown, or when no address could be reached; the cause then has all reasons.
    """
    race = _Race()
    found = await asyncio.get_running_loop().getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    try:
        async with open_task_group() as tasks:
            for family, kind, protocol, _, destination in found:
                failed = anyio.Event()
                tasks.start_soon(race.attempt, (family, kind, protocol), destination, failed, tasks.cancel_scope)
                with anyio.move_on_after(HEAD_START):
                    await failed.wait()
    except BaseException:
        if race.winner is not None:
            race.winner.close()
        raise
    if race.winner is None:
        raise OSError(f"no address of {address.host} could be reached") from ExceptionGroup("attempts", race.errors)
    return race.winner


class _Race:
    def __init__(self) -> None:
        self.winner: socket.socket | None = None
        self.errors: list[OSError] = []

    async def attempt(
        self, kind: tuple[int, int, int], destination: Any, failed: anyio.Event, others: anyio.CancelScope
    ) -> None:
        try:
            connection = socket.socket(*kind)
        except OSError as error:  # an address family that this machine does not have
            self._lose(error, failed)
            return
        try:
            connection.setblocking(False)  # noqa: FBT003
            await asyncio.get_running_loop().sock_connect(connection, destination)
            if self.winner is None:
                self.winner = connection
                others.cancel()
        except OSError as error:
            self._lose(error, failed)
        finally:
            if self.winner is not connection:
                connection.close()

    def _lose(self, error: OSError, failed: anyio.Event) -> None:
        self.errors.append(error)
        failed.set()
