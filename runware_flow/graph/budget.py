"""The account of a budget: an amount is reserved before a request is sent and replaced by its cost afterwards.

All amounts are whole micro-USD. A request asks with its task type, its model and its number of results:

* a price is known, from the caller or because such a request has ended with a cost: the largest known is reserved, for
  each result. It goes if that is left. If it is not, it *waits* while others in flight may give some of theirs back,
  and is *refused* as soon as nothing in flight could help.
* no price is known: one such request is in flight at a time, until the first cost is known. Nothing can be reserved for
  it, so it goes while anything is left at all. Once one has ended and its cost was not reported, all others of the kind
  are refused: what they spend would not be known.

Whatever may have been billed without a known cost (a timeout, a cancel) is withheld; where no price is known, from when
one is. If a request is refused that would fit without it, the service is polled for such tasks: each is reserved
meanwhile, as any request in flight is, and ends as those do.

No wait is without an end: a waiter waits for a request in flight; each of those ends once, and then `settle`,
`release` or `withhold` name who is to ask again.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from runware_flow.graph.prices import Price, PriceList

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

__all__ = ("BudgetMachine", "BudgetRequest", "Elsewhere", "Past", "Refused", "Reservation")

Kind: TypeAlias = tuple[str, str | None]
"""A task type and a model."""


class BudgetRequest(NamedTuple):
    """A request that wants to be sent."""

    task_type: str
    model: str | None
    results: int = 1

    @property
    def kind(self) -> Kind:
        """The kind by which its price is found."""
        return self.task_type, self.model


class Past(NamedTuple):
    """What earlier runs of a flow did.

    Attributes:
        spent: micro-USD, all known costs together.
        may_be_billed: requests that are open, by taskUUID.
        without_cost: how many others finished without a known cost, by task type and model.
        prices: what one result cost, by task type and model.
        unreported: the task types and models whose cost was requested and not reported.
    """

    spent: int = 0
    may_be_billed: dict[str, BudgetRequest] = {}  # noqa: RUF012 - never changed
    without_cost: dict[Kind, int] = {}  # noqa: RUF012
    prices: dict[Kind, Price] = {}  # noqa: RUF012
    unreported: frozenset[Kind] = frozenset()


class Elsewhere(NamedTuple):
    """The spending of other processes from the same budget.

    Attributes:
        spent: micro-USD.
        in_flight: how many results they wait for, by task type and model.
        is_live: one of them is at work, so that what is in flight will end.
    """

    spent: int = 0
    in_flight: dict[Kind, int] = {}  # noqa: RUF012 - never changed
    is_live: bool = False


class Reservation:
    """An amount that is kept for one request in flight.

    Attributes:
        amount: micro-USD.
        is_probe: no price is known for it.
    """

    __slots__ = ("amount", "is_over", "is_probe", "request")

    def __init__(self, request: BudgetRequest, amount: int, *, is_probe: bool) -> None:
        self.request = request
        self.amount = amount
        self.is_probe = is_probe
        self.is_over = False

    def __repr__(self) -> str:
        state = "over" if self.is_over else "open"
        return f"<Reservation of {self.amount} micro-USD for {self.request.task_type} {self.request.model}, {state}>"


class Refused(NamedTuple):
    """A refusal: even if all requests in flight cost nothing, the request would not fit.

    Attributes:
        need: micro-USD; `None` if it is not known.
        is_unreported: the cost of such a request was not reported, and no price of it is known.
    """

    need: int | None
    is_unreported: bool = False


class BudgetMachine:
    """The state of a budget, which any number of runs may share.

    Attributes:
        limit: what may be spent.
        spent: what has been.
        reserved: what is kept for requests in flight.
        in_flight: how many reservations are open.
    """

    def __init__(self, limit: int, prices: Mapping[str, Price] | None = None) -> None:
        self.limit = limit
        self.spent = 0
        self.reserved = 0
        self.in_flight = 0
        self._withheld = 0
        self._withheld_results: dict[Kind, int] = {}
        """Results that may have been billed while no price was known for them."""
        self._prices = PriceList(prices)
        self._largest: dict[Kind, int] = {}
        self._probing: set[Kind] = set()
        self._unreported: set[Kind] = set()
        self._elsewhere: dict[str, Elsewhere] = {}
        self._waiting: deque[tuple[BudgetRequest, Any]] = deque()
        self._behind_probes: dict[Kind, deque[tuple[BudgetRequest, Any]]] = {}

    def __repr__(self) -> str:
        return (
            f"<BudgetMachine: {self.spent} spent, {self.reserved} reserved, {self.withheld} withheld"
            f" of {self.limit} micro-USD>"
        )

    @property
    def withheld(self) -> int:
        """The amount kept for requests that may have been billed and whose outcome is not known."""
        unpriced = (self.estimate(BudgetRequest(*kind, count)) or 0 for kind, count in self._withheld_results.items())
        return self._withheld + sum(unpriced)

    @property
    def left(self) -> int:
        """What is neither spent nor kept; less than nothing if something cost more than was known."""
        return self.limit - self.spent - self.reserved - self.withheld - self.elsewhere

    @property
    def elsewhere(self) -> int:
        """What other processes have spent, and what they have in flight."""
        return sum(one.spent + self._reserved_by(one) for one in self._elsewhere.values())

    @property
    def coming_back(self) -> int:
        """What may come back at most: a part of what is reserved for requests in flight, here or elsewhere."""
        return self.reserved + sum(self._reserved_by(one) for one in self._elsewhere.values() if one.is_live)

    def _reserved_by(self, one: Elsewhere) -> int:
        return sum(self.estimate(BudgetRequest(*kind, count)) or 0 for kind, count in one.in_flight.items())

    def note_elsewhere(self, whose: str, elsewhere: Elsewhere) -> None:
        """Note the spending of other processes with the same budget: those of one flow in one journal."""
        self._elsewhere[whose] = elsewhere

    @property
    def waiting_count(self) -> int:
        """The number of waiters."""
        return len(self._waiting) + sum(map(len, self._behind_probes.values()))

    def estimate(self, request: BudgetRequest) -> int | None:
        """The most that is known of what a request costs; `None` if nothing is."""
        price = self._prices.find(request.task_type, request.model)
        largest = self._largest.get(request.kind)
        if price is None:
            return None if largest is None else request.results * largest
        return request.results * max(round(price.high * 1_000_000), largest or 0)

    # Before a request is sent

    def reserve(self, request: BudgetRequest, waiter: Any) -> Reservation | Refused | None:
        """Reserve for a request, or refuse it for good; `None`: `waiter` tries again when it is named.

        Without a waiter, nothing waits.
        """
        need = self.estimate(request)
        if need is None and request.kind in self._unreported:
            return Refused(None, is_unreported=True)
        if need is None and request.kind in self._probing:
            if waiter is not None:
                self._behind_probes.setdefault(request.kind, deque()).append((request, waiter))
            return None
        least = 1 if need is None else need
        if least <= self.left or need == 0:
            return self._make_reservation(request, need)
        if least <= self.left + self.coming_back:
            if waiter is not None:
                self._waiting.append((request, waiter))
            return None
        return Refused(need)

    def is_worth_polling(self, refused: Refused, withheld: int) -> bool:
        """Whether a request that was refused could fit, should all of an amount that is withheld come back."""
        return not refused.is_unreported and (refused.need or 1) <= self.left + self.coming_back + withheld

    def force(self, request: BudgetRequest) -> Reservation:
        """Reserve for a request that was sent before, whatever is left: only its result is collected."""
        return self._make_reservation(request, self.estimate(request))

    def _make_reservation(self, request: BudgetRequest, need: int | None) -> Reservation:
        if need is None:
            self._probing.add(request.kind)
        amount = need or 0
        self.reserved += amount
        self.in_flight += 1
        return Reservation(request, amount, is_probe=need is None)

    # When it has ended

    def settle(self, reservation: Reservation, cost: int) -> list[Any]:
        """A request has ended at this cost; returns the waiters that are to try again."""
        self._close(reservation)
        self.add_spent(cost)
        self.learn(reservation.request, cost)
        return self._after(reservation)

    def settle_unreported(self, reservation: Reservation) -> list[Any]:
        """A request has ended without the cost that it asked for; returns the waiters that are to try again."""
        self.note_unreported(reservation.request)
        return self.withhold(reservation)

    def note_unreported(self, request: BudgetRequest) -> None:
        """Note that the cost of such requests is not reported."""
        self._unreported.add(request.kind)

    def release(self, reservation: Reservation) -> list[Any]:
        """A request was not sent, or the service reported its failure: it is free; returns waiters that try again."""
        self._close(reservation)
        return self._after(reservation)

    def withhold(self, reservation: Reservation) -> list[Any]:
        """A request may have been billed at an unknown cost; returns the waiters that are to try again."""
        self._close(reservation)
        self.keep(reservation.request, None if reservation.is_probe else reservation.amount)
        return self._after(reservation)

    def learn(self, request: BudgetRequest, cost: int) -> None:
        """Note the cost of a request."""
        each = -(-max(0, cost) // request.results)
        self._largest[request.kind] = max(each, self._largest.get(request.kind, 0))

    def forget(self, waiters: Container[Any]) -> list[Any]:
        """Drop waiters that have ended; returns the waiters that are to try instead."""
        self._waiting = deque(one for one in self._waiting if one[1] not in waiters)
        queues = {
            kind: deque(one for one in queue if one[1] not in waiters) for kind, queue in self._behind_probes.items()
        }
        self._behind_probes = {kind: queue for kind, queue in queues.items() if queue}
        return self.recheck()

    def recheck(self) -> list[Any]:
        """Name the waiter that tries next: to be called when one that was named has ended without a request."""
        return [*self._next_probes(), *self._next()]

    # What earlier runs did

    def add_spent(self, cost: int) -> None:
        """Count what was spent; it never decreases."""
        self.spent += max(0, cost)

    def keep(self, request: BudgetRequest, amount: int | None) -> None:
        """Keep an amount for a request that may have been billed; `None`: its price, once that is known."""
        self._keep(request, amount, 1)

    def keep_no_more(self, request: BudgetRequest, amount: int | None) -> None:
        """Give back what was kept with these: the request is collected, and its result has the cost."""
        self._keep(request, amount, -1)

    def _keep(self, request: BudgetRequest, amount: int | None, sign: int) -> None:
        if amount is not None:
            self._withheld += sign * amount
            return
        count = self._withheld_results.get(request.kind, 0) + sign * request.results
        self._withheld_results[request.kind] = count

    def _close(self, reservation: Reservation) -> None:
        if reservation.is_over:
            raise RuntimeError(f"{reservation!r} has ended before; this is a bug in runware_flow")
        reservation.is_over = True
        self.reserved -= reservation.amount
        self.in_flight -= 1
        if reservation.is_probe:
            self._probing.discard(reservation.request.kind)

    def _after(self, reservation: Reservation) -> list[Any]:
        kind = reservation.request.kind
        queue = self._behind_probes.get(kind)
        if queue is not None and kind in self._largest:
            del self._behind_probes[kind]
            self._waiting.extend(queue)
        return self.recheck()

    def _next_probes(self) -> list[Any]:
        """Name one waiter for each kind that is not tried any more; all of them once nothing is left to try with."""
        named: list[Any] = []
        if self.left + self.coming_back < 1:
            queues, self._behind_probes = self._behind_probes, {}
            return [waiter for queue in queues.values() for _, waiter in queue]
        for kind in [kind for kind in self._behind_probes if kind not in self._probing]:
            if kind in self._unreported:
                named += [waiter for _, waiter in self._behind_probes.pop(kind)]
                continue
            queue = self._behind_probes[kind]
            named.append(queue.popleft()[1])
            if not queue:
                del self._behind_probes[kind]
        return named

    def _next(self) -> list[Any]:
        """Name those at the head of the queue that fit now, and those that never will."""
        named: list[Any] = []
        left = self.left
        while self._waiting:
            request, waiter = self._waiting[0]
            need = self.estimate(request) or 1
            if need <= left:
                left -= need
            elif need <= self.left + self.coming_back:
                break
            self._waiting.popleft()
            named.append(waiter)
        return named
