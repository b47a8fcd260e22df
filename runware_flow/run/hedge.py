"""Asking twice for one node: a second request if the first takes long, and the first of the two to succeed wins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio

from runware_flow.errors import RunwareError
from runware_flow.graph.policies import is_verdict
from runware_flow.lifetime import open_task_group
from runware_flow.run.flight import Flight

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

    from runware_flow.graph.plan import Step
    from runware_flow.graph.scope_run import ScopeRun
    from runware_flow.run.journal.store import Entry
    from runware_flow.run.purchase import Purchases
    from runware_flow.run.result import NodeRecord

__all__ = ("Bid", "Hedge", "first_of", "hedge_path", "may_hedge")


class Bid:
    """A request of a node, which may be one of two.

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


class Hedge:
    """One attempt of a node that may ask twice; each request has its own place, grant, entry and booking."""

    def __init__(self, purchases: Purchases, run: ScopeRun, step: Step, task: Any, attempt: int) -> None:
        """Args: task: what a second request is made of; an id of the user's names the first one only."""
        self._purchases = purchases
        self._run = run
        self._step = step
        self._task = task
        self._attempt = attempt
        self._machine = purchases.machine
        self._admission = purchases.admission

    async def ask(self, first: Bid, seconds: float) -> list[Any]:
        """Send a second request if the first takes long; the first of the two to succeed wins."""
        run, slot = self._run, self._step.slot

        async def ask(bid: Bid) -> list[Any]:
            results = await self._purchases.ask(run, self._step, bid)
            first.flight.paid = results or None  # the flight that is asked after a cancel
            if bid.flight.record is not None:
                run.note_record(slot, bid.flight.record)
            return results

        def give_up(bid: Bid) -> None:
            self._purchases.end(self._step, bid.flight, bid.error)
            if bid is not first:
                self._machine.give_place_back()

        winner, others = await first_of(first, seconds, self._second, ask, give_up)
        record = winner.flight.record
        assert record is not None
        record.given_up = tuple(bid.request.task_id for bid in others)
        run.note_record(slot, record)
        if winner is not first:
            self._admission.give_back(winner.flight.grant)
            self._machine.give_place_back()
        assert winner.results is not None
        return winner.results

    async def _second(self) -> Bid | None:
        """Make the second request, up to where it is sent; `None` if there is no place or no grant for it now."""
        if not self._machine.take_place():
            return None
        run, step, purchases = self._run, self._step, self._purchases
        flight = Flight()
        try:
            request = purchases.prepare(step.spec, self._task)
            flight.grant = self._admission.ask_beside(run, step, request)
            if flight.grant is None:
                self._machine.give_place_back()
                return None
            record = purchases.record(run, step, request, self._attempt)
            entry = None
            if purchases.ledger is not None:
                entry = await purchases.ledger.begin(hedge_path(record), record.fingerprint, request)
                request = purchases.as_written(self._task, request, entry)
                record.task_uuid = request.task_id
        except BaseException:
            self._admission.give_back(flight.grant)
            self._machine.give_place_back()
            raise
        flight.record = record
        purchases.news.node_started(run, step, self._attempt, record)
        flight.is_sent = True
        return Bid(request, flight, entry)


def may_hedge(bid: Bid) -> bool:
    """Tell whether a request may have a second one beside it."""
    # What an earlier run sent is asked for, not bought; pieces of two texts would be told as one.
    is_old = bid.entry is not None and bid.entry.advice.action != "buy"
    return not is_old and bid.request.wire.get("deliveryMethod") != "stream"


def hedge_path(record: NodeRecord) -> str:
    """Return where a second request stands in a journal: beside the node, so as not to be taken for the first."""
    return f"{record.path}#2"


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
