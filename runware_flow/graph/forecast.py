"""`Plan`: what a run would send and cost, as far as the declaration shows it, as plain data.

Not to be taken for `plan.py`, which is a declaration made ready to run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from runware_flow.graph.prices import Price, dollars

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ("Cost", "Plan", "PlannedStage", "WayCounts")

_SHOWN_STAGES = 60
_HEAD = ("stage", "task", "model", "tasks", "one result", "cost")


class Cost(msgspec.Struct, frozen=True):
    """USD, from `low` to `high`; a `high` of `None` says that the highest is not known."""

    low: float
    high: float | None

    def __str__(self) -> str:
        if self.high is None:
            return f"at least {dollars(self.low)}" if self.low else "unknown"
        return dollars(self.low) if self.low == self.high else f"{dollars(self.low)} to {dollars(self.high)}"


class PlannedStage(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of request that a node would send. A node that may go several ways has a stage for each of them.

    Attributes:
        label: the node's name; `path`: the same below the fan-outs around it, without the keys of items.
        where: the line that declared it.
        task_type, model: what it would send; both `None` for an async function, and where only the run decides.
        least, most: how often, for a whole run; `most` is `None` where there is no end that can be known.
        runs: the same for the node itself, whichever way it goes.
        results: how many results one such task has.
        price: what one result costs; `None` is unknown, never free.
        open_question: what only the run decides, in words; `None` if nothing.
        is_function: it is an async function, and what that sends by itself is not in the plan.
        is_fallback: it would only be sent if the node's first choice fails; it is not in the plan's own numbers.
    """

    label: str
    path: str
    where: str
    task_type: str | None = None
    model: str | None = None
    least: int = 1
    most: int | None = 1
    runs: tuple[int, int | None] = (1, 1)
    results: int = 1
    price: Price | None = None
    open_question: str | None = None
    is_function: bool = False
    is_fallback: bool = False

    @property
    def count(self) -> int | None:
        """How many tasks, if that is known."""
        return self.least if self.least == self.most else None

    @property
    def cost(self) -> Cost:
        """What all of it would cost."""
        if self.is_function or self.most == 0:
            return Cost(0.0, 0.0)
        low, high = self.one
        most = None if high is None or self.most is None else self.most * high / 1_000_000
        return Cost(self.least * low / 1_000_000, most)

    @property
    def one(self) -> tuple[int, int | None]:
        """What one task costs, in micro-USD: the lowest and the highest."""
        if self.price is None:
            return 0, None
        return self.results * micro(self.price.low), self.results * micro(self.price.high)

    def row(self) -> tuple[str, ...]:
        """The stage as cells of a table."""
        task = "(function)" if self.is_function else self.task_type or "(decided by the run)"
        several = f" x {self.results}" if self.results > 1 else ""
        price = "" if self.is_function else "unknown" if self.price is None else str(self.price)
        cost = "" if self.is_function else str(self.cost)
        label = " ".join(self.label.split()) + (" (fallback)" if self.is_fallback else "")
        return (label, task, self.model or "", count_text(self.least, self.most) + several, price, cost)


class Plan(msgspec.Struct, frozen=True):
    """What a run of a flow would send. `print(plan)` shows it as a table; so does a notebook.

    Attributes:
        flow: the flow's name.
        stages: in the order in which their nodes were declared.
    """

    flow: str
    stages: tuple[PlannedStage, ...]

    @property
    def least(self) -> int:
        """How many tasks would be sent at least, were nothing to fail."""
        return sum(ways[0].runs[0] for ways in self._by_node())

    @property
    def most(self) -> int | None:
        """How many at most; `None` if that cannot be known.

        What follows a failure or a delay is not counted: retries, fallbacks, hedges.
        """
        most = [ways[0].runs[1] for ways in self._by_node()]
        known = [one for one in most if one is not None]
        return sum(known) if len(known) == len(most) else None

    @property
    def cost(self) -> Cost:
        """What it would cost together. What an async function buys by itself is not seen here."""
        low, highs = 0, list[int | None]()
        for ways in self._by_node():
            low += _lowest(ways)
            highs.append(_highest(ways))
        known = [high for high in highs if high is not None]
        return Cost(low / 1_000_000, sum(known) / 1_000_000 if len(known) == len(highs) else None)

    def _by_node(self) -> Iterable[list[PlannedStage]]:
        found: dict[str, list[PlannedStage]] = {}
        for stage in self.stages:
            if not (stage.is_function or stage.is_fallback):
                found.setdefault(stage.path, []).append(stage)
        return found.values()

    @property
    def unpriced(self) -> list[tuple[str, str | None]]:
        """The task types and models whose prices are not known."""
        found = [(one.task_type, one.model) for one in self.stages if one.task_type is not None and one.price is None]
        return list(dict.fromkeys(found))

    @property
    def open_questions(self) -> list[str]:
        """What only the run decides: a sentence for each such stage."""
        told = [
            f"{' '.join(one.label.split())}: {one.open_question}"
            for one in self.stages
            if one.open_question is not None
        ]
        return list(dict.fromkeys(told))

    def __str__(self) -> str:
        rows = [_HEAD, *self._rows()]
        widths = [max(len(row[place]) for row in rows) for place in range(len(_HEAD))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([self._summary(), *lines, *self._notes()])

    def _repr_markdown_(self) -> str:
        rows = [_HEAD, ("---",) * len(_HEAD), *self._rows()]
        table = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
        return "\n".join([self._summary(), "", *table, "", *(f"- {note.strip()}" for note in self._notes())])

    def _summary(self) -> str:
        tasks = count_text(self.least, self.most)
        noun = "of tasks" if tasks == "any number" else "task" if tasks == "1" else "tasks"
        return f"flow {self.flow!r} would send {tasks} {noun}; cost: {self.cost}"

    def _rows(self) -> list[tuple[str, ...]]:
        return [stage.row() for stage in self.stages[:_SHOWN_STAGES]]

    def _notes(self) -> list[str]:
        more = len(self.stages) - _SHOWN_STAGES
        notes = [f"... and {more} more"] if more > 0 else []
        questions = self.open_questions
        notes += ["only the run decides:"] if questions else []
        notes += [f"  {question}" for question in questions[:_SHOWN_STAGES]]
        more = len(questions) - _SHOWN_STAGES
        return [*notes, f"  ... and {more} more"] if more > 0 else notes


Way: TypeAlias = tuple[str | None, str | None, int, str | None]
"""What a node would send: task type, model, results, and what only the run decides."""


class WayCounts:
    """Counts the ways that one node goes over all samples of its scope."""

    def __init__(self) -> None:
        self._ways: dict[Way, list[int | None]] = {}
        self._runs: tuple[int, int | None] = (0, 0)
        self._question: str | None = None

    def add(self, ways: Iterable[Way], least: int, most: int | None, unknown_inputs: Iterable[str]) -> None:
        """Count one sample, which stands for `least` to `most` runs of the node; several ways exclude each other.

        Args:
            unknown_inputs: the values that were read and that are known at run time only.
        """
        self._runs = self._runs[0] + least, plus(self._runs[1], most)
        found = list(dict.fromkeys(ways))
        if len(found) > 1:
            self._question = f"which of {len(found)} tasks it sends ({', '.join(unknown_inputs) or 'its inputs'})"
        for way in found:
            counted = self._ways.setdefault(way, [0, 0])
            counted[0] = (counted[0] or 0) + (least if len(found) == 1 else 0)
            counted[1] = plus(counted[1], most)

    def stages(self, price_of: Callable[[str, str | None], Price | None], **named: Any) -> list[PlannedStage]:
        """Return a stage for each way; `price_of` is asked with a task type and a model."""
        return [
            PlannedStage(
                **named,
                task_type=task_type,
                model=model,
                least=least or 0,
                most=most,
                runs=self._runs,
                results=results,
                price=None if task_type is None else price_of(task_type, model),
                open_question=question or self._question,
            )
            for (task_type, model, results, question), (least, most) in self._ways.items()
        ]


def _lowest(ways: list[PlannedStage]) -> int:
    """The least that one node costs: what is certain of each way, and the rest on the cheapest of them."""
    rest = ways[0].runs[0] - sum(way.least for way in ways)
    return sum(way.least * way.one[0] for way in ways) + rest * min(way.one[0] for way in ways)


def _highest(ways: list[PlannedStage]) -> int | None:
    """The most: what is certain of each way, and the rest on the dearest of them."""
    rest = ways[0].runs[1]
    if rest is None:
        return None
    total, rest = 0, rest - sum(way.least for way in ways)
    for way in sorted(ways, key=lambda way: -(way.one[1] or 0)):
        price, most = way.one[1], way.most
        if most == 0:
            continue
        if price is None or most is None:
            return None
        more = min(rest, most - way.least)
        rest -= more
        total += (way.least + more) * price
    return total


def plus(a: int | None, b: int | None) -> int | None:
    """Add two counts of which one may be unknown."""
    return None if a is None or b is None else a + b


def times(a: int | None, b: int | None) -> int | None:
    """Multiply two counts of which one may be unknown; nothing of an unknown number is nothing."""
    if a == 0 or b == 0:
        return 0
    return None if a is None or b is None else a * b


def micro(amount: float) -> int:
    """Turn USD into whole micro-USD."""
    return round(amount * 1_000_000)


def count_text(least: int, most: int | None) -> str:
    """Write how many there are: `3`, `0 to 3`, `any number`, `3 or more`."""
    if most is None:
        return f"{least:,} or more" if least else "any number"
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"
