"""The plan of a batch: what it would send and cost, from a sample of its items."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from runware_flow.errors import DeclarationError
from runware_flow.flow.checks import caller, read_source
from runware_flow.flow.flow import Flow
from runware_flow.flow.plan import make_plan
from runware_flow.graph.declaration import has_method
from runware_flow.graph.forecast import Cost, Plan, count_text, times

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runware_flow.graph.prices import PriceList

__all__ = ("BatchPlan", "plan_batch")


N = TypeVar("N", int, float)


class BatchPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a batch would send, as a sample of its items says. `print(plan)` shows it.

    Attributes:
        batch: its name.
        items: how many there are; `None` if that is not known before.
        sample: the plans of the items that were looked at.
    """

    batch: str
    items: int | None
    sample: tuple[Plan, ...]

    @property
    def tasks_of_one(self) -> tuple[int, int | None]:
        """How many tasks one item sends: the lowest and the highest of the sample; `None` is not known."""
        return min((plan.least for plan in self.sample), default=0), _highest([plan.most for plan in self.sample], 0)

    @property
    def cost_of_one(self) -> Cost:
        """USD for one item: the lowest and the highest of the sample."""
        highs = [plan.cost.high for plan in self.sample]
        return Cost(min((plan.cost.low for plan in self.sample), default=0.0), _highest(highs, 0.0))

    @property
    def cost(self) -> Cost:
        """USD for all items, were all like the cheapest, or the dearest, of the sample."""
        one = self.cost_of_one
        if self.items is None:
            return Cost(one.low, None)
        return Cost(self.items * one.low, None if one.high is None else self.items * one.high)

    @property
    def estimate(self) -> float | None:
        """USD for all items, were they on average like the sample; `None` if a price or their number is not known."""
        highs = [plan.cost.high for plan in self.sample]
        if self.items is None or not highs or any(high is None for high in highs):
            return None
        mean = sum((plan.cost.low + (plan.cost.high or 0.0)) / 2 for plan in self.sample) / len(self.sample)
        return self.items * mean

    @property
    def unpriced(self) -> list[tuple[str, str | None]]:
        """Task types and models in the sample whose price is not known."""
        return list(dict.fromkeys(pair for plan in self.sample for pair in plan.unpriced))

    def __str__(self) -> str:
        least, most = self.tasks_of_one
        many = "an unknown number of" if self.items is None else str(self.items)
        lines = [
            f"batch {self.batch!r}: {many} items, {len(self.sample)} in the sample",
            f"one item: {count_text(least, most)} tasks, {self.cost_of_one}",
        ]
        if self.items is not None:
            total = count_text(self.items * least, times(self.items, most))
            about = "" if self.estimate is None else f", about {Cost(self.estimate, self.estimate)}"
            lines.append(f"all items: {total} tasks, {self.cost}{about}")
        if self.unpriced:
            named = ", ".join(f"{task_type} with {model}" if model else task_type for task_type, model in self.unpriced)
            lines.append(
                f"no price is known for {named}: give prices=, or a journal that has finished requests of them"
            )
        return "\n".join(lines)


def _highest(values: Sequence[N | None], default: N) -> N | None:
    known = [value for value in values if value is not None]
    return max(known, default=default) if len(known) == len(values) else None


def plan_batch(
    name: str, builder: Callable[..., Any], items: Any, sample: int, prices: PriceList, shared: Any
) -> BatchPlan:
    """Plan a sample of the items of a batch. Sends nothing; a one-shot iterator is not touched.

    Raises:
        DeclarationError: the items cannot be looked at twice, or an item's declaration makes no sense.
    """
    where = caller()
    if type(sample) is not int or sample < 1:
        raise DeclarationError(f"plan(sample=), declared at {where}, is a whole number from 1, not {sample!r}")
    source = read_source(items, where)
    if source.is_one_shot:
        raise DeclarationError(
            f"plan, declared at {where}, was given a {type(items).__name__}, which can be read only once: give it a"
            " list, or a callable that makes the iterator"
        )
    opened: Any = (
        items() if callable(items) and not has_method(items, "__iter__", "__aiter__", "__getitem__") else items
    )
    if has_method(opened, "__aiter__"):
        raise DeclarationError(
            f"plan, declared at {where}, was given an async source, which it cannot read: give it a list of some items"
        )
    total: int | None = len(opened) if has_method(opened, "__len__") else None
    is_sequence = total is not None and has_method(opened, "__getitem__")
    chosen: Any = _spread(opened, sample) if is_sequence else islice(opened, sample)
    more = () if shared is None else (shared,)
    plans: list[Plan] = []
    for item in chosen:
        flow = Flow(name)
        builder(flow, item, *more)
        plans.append(make_plan(flow.declaration, prices))
    return BatchPlan(batch=name, items=total, sample=tuple(plans))


def _spread(items: Sequence[Any], sample: int) -> list[Any]:
    """Take items from all over a sequence, since those at its beginning are often alike."""
    total = len(items)
    if total <= sample:
        return list(items)
    return [items[number * total // sample] for number in range(sample)]
