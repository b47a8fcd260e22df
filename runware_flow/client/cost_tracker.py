"""Counts what the function of a node sends through a client, so that its run can include the cost.

A client adds every task that it sends to the `CostTracker` of the context that it is called in. A flow or batch that
runs inside a function inherits the context, so what it sends counts there too.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runware_flow.client.delivery import Delivery

__all__ = ("CostTracker", "current_cost_tracker")

_MOST_KEPT = 64


class CostTracker:
    """The tasks that one call of a function sent.

    Attributes:
        count: how many there were.
    """

    __slots__ = ("_deliveries", "_micro_usd", "count")

    def __init__(self) -> None:
        self.count = 0
        self._micro_usd: int | None = 0
        self._deliveries: list[Delivery[Any]] = []

    def add(self, delivery: Delivery[Any] | None) -> None:
        """Count a task that is being sent; `None` if nothing will say what it cost."""
        self.count += 1
        if delivery is None:
            self._micro_usd = None
            return
        self._deliveries.append(delivery)
        if len(self._deliveries) > _MOST_KEPT:
            kept = [one for one in self._deliveries if not one.is_settled]
            self._count([one for one in self._deliveries if one.is_settled])
            self._deliveries = kept

    def absorb(self, inner: CostTracker) -> None:
        """Count what a function inside of this one sent; call it when that has ended."""
        self.count += inner.count
        cost = inner.micro_usd()
        self._micro_usd = None if cost is None or self._micro_usd is None else self._micro_usd + cost

    def micro_usd(self) -> int | None:
        """What it cost so far; `None` as soon as the cost of one task is unknown."""
        self._count(self._deliveries)
        self._deliveries = []
        return self._micro_usd

    def _count(self, deliveries: list[Delivery[Any]]) -> None:
        for delivery in deliveries:
            cost = delivery.micro_usd
            self._micro_usd = None if cost is None or self._micro_usd is None else self._micro_usd + cost


current_cost_tracker: ContextVar[CostTracker | None] = ContextVar("runware_flow_cost_tracker", default=None)
