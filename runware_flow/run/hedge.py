"""Asking twice for one node: a second request if the first takes long, and the first of the two to succeed wins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio

from runware_flow.errors import RunwareError
from runware_flow.graph.policies import is_verdict
from runware_flow.lifetime import open_task_group

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

    from runware_flow.run.journal.store import Entry
    from runware_flow.run.purchase import Flight

__all__ = ("Bid", "first_of")


class Bid:
    """One of the requests of a node that may be asked for twice.

    Attributes:
        results: what came of it; `None` if nothing did.
        error: why it failed.
    """

    __slots__ = ("entry", "error", "flight", "request", "results")

    def __init__(self, request: Any, flight: Flight, entry: Entry | None) -> None:
        self.request = request
        self.flight = flight
        self.entry = entry
        self.results: list[Any] | None = None
        self.error: Exception | None = None


async def first_of(
    first: Bid,
    seconds: float,
    second: Callable[[], Awaitable[Bid | None]],
    ask: Callable[[Bid], Awaitable[list[Any]]],
    give_up: Callable[[Bid], None],
) -> tuple[Bid, list[Bid]]:
    """Ask for `first`, and if it has not ended after so many seconds, for a second one too; the other is withdrawn.

    Args:
        first: the request to begin with.
        seconds: how long it has before the second one is made, and between two tries to make it.
        second: makes the second request; `None` if it may not be sent now.
        ask: sends a request and waits for its results.
        give_up: is told of each request but the winner, once, when it has failed or was withdrawn; of the second one
            also when all of it is cancelled.

    Returns:
        The first to succeed, and the others.

    Raises:
        Exception: both failed. An error after which a request may still stand comes before a verdict of the service.
    """
    bids = [first]
    sender, receiver = anyio.create_memory_object_stream[Bid](2)
    won: list[Bid] = []
    ended_count = 0
    try:
        with sender, receiver:
            async with open_task_group() as group:
                group.start_soon(_ask, first, ask, sender)
                while not won and ended_count < len(bids):
                    ended = await _next(receiver, seconds if len(bids) == 1 else None)
                    if ended is not None:
                        ended_count += 1
                        won += [ended] if ended.results is not None else []
                    elif (made := await second()) is not None:
                        bids.append(made)
                        group.start_soon(_ask, made, ask, sender)
                group.cancel_scope.cancel()
    finally:
        others = [bid for bid in bids if bid not in won] if won else bids[1:]
        for bid in others:
            give_up(bid)
    if not won:
        raise _error_of(bids)
    return won[0], others


async def _next(receiver: MemoryObjectReceiveStream[Bid], seconds: float | None) -> Bid | None:
    with anyio.move_on_after(seconds):
        return await receiver.receive()
    return None


async def _ask(bid: Bid, ask: Callable[[Bid], Awaitable[list[Any]]], sender: MemoryObjectSendStream[Bid]) -> None:
    try:
        bid.results = await ask(bid)
    except Exception as error:  # noqa: BLE001 - raised by `first_of`, unless the other one succeeds
        bid.error = error
    sender.send_nowait(bid)


def _error_of(bids: list[Bid]) -> Exception:
    errors = [bid.error for bid in bids if bid.error is not None]
    open_ended = [error for error in errors if not (isinstance(error, RunwareError) and is_verdict(error))]
    return (open_ended or errors)[0]
