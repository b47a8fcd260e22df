"""The state of a run in little memory: the nodes of a scope are bytes in an array and values in a list."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any

from runware_flow.graph.fingerprint import Ordinals, item_key
from runware_flow.graph.outcomes import Failed, Ok, Outcome, Skipped
from runware_flow.graph.tolerance import is_past_tolerance

if TYPE_CHECKING:
    from runware_flow.graph.plan import ScopePlan, Step

__all__ = (
    "ABANDONED",
    "FAILED",
    "OK",
    "READY",
    "RUNNING",
    "SETTLED",
    "SKIPPED",
    "WAITING",
    "FanRun",
    "ScopeRun",
    "because_of",
    "why_not",
)

READY = 0xF0
RUNNING = 0xF1
WAITING = 0xF2
"""Taken and given back: it waits for something that is no value, and holds no place."""
SETTLED = 0xF8
"""Cells from here up are outcomes."""
OK = 0xF8
FAILED = 0xF9
SKIPPED = 0xFA
ABANDONED = 0xFB

_UNKNOWN_TIMES = array("f", [-1.0]) * 128


class ScopeRun:
    """The nodes of one scope in one run: of the flow itself, or of one item.

    Attributes:
        fan, index: for an item, its fan-out and its position.
        known_key: its `key`, if that was given or worked out.
        cells: the state of each node; see `FlowMachine`.
        values: the value of each node that is OK, the `FanRun` of a fan-out that has begun, the outcome of any other
            node that has settled.
        open_count: how many nodes have no outcome yet.
        waiters: nodes of inner scopes that wait for one of these, by slot.
        records: what the shell knows of the requests of these nodes, by slot.
        failures: how many attempts of a node have failed, by slot.
        times: when functions began and ended, two numbers for each slot; those of items are kept by their fan-out.
    """

    __slots__ = (
        "cells",
        "failures",
        "fan",
        "index",
        "known_key",
        "open_count",
        "parent",
        "plan",
        "records",
        "times",
        "values",
        "waiters",
    )

    def __init__(
        self,
        plan: ScopePlan,
        parent: ScopeRun | None = None,
        fan: FanRun | None = None,
        index: int = 0,
        key: str | None = None,
    ) -> None:
        self.plan = plan
        self.parent = parent
        self.fan = fan
        self.index = index
        self.known_key = key
        self.cells = plan.cells[:]
        self.values: list[Any] = [None] * plan.size
        self.open_count = plan.size
        self.waiters: dict[int, list[tuple[ScopeRun, Step]]] | None = None
        self.records: dict[int, Any] | None = None
        self.failures: dict[int, int] | None = None
        self.times: array[float] | None = None

    def __repr__(self) -> str:
        return f"<ScopeRun {self.prefix() or 'of the flow'}, {self.open_count} of {self.plan.size} nodes open>"

    @property
    def key(self) -> str | None:
        """For an item, its identity, if it has one; that of an item known by its content is worked out when needed."""
        if self.known_key is None and self.fan is not None:
            self.fan.name_items(self.index + 1)
        return self.known_key

    def above(self, hops: int) -> ScopeRun:
        """Return the scope run that many scopes up."""
        run = self
        for _ in range(hops):
            assert run.parent is not None
            run = run.parent
        return run

    def prefix(self) -> str:
        """The path of the scope, with the keys of the items."""
        if self.fan is None or self.parent is None:
            return ""
        around = self.parent.prefix()
        name = self.fan.step.spec.name
        key = self.key if self.key is not None else str(self.index)
        return f"{around}/{name}[{key}]" if around else f"{name}[{key}]"

    def item(self) -> str:
        """The keys of the items around the scope, without names: what a journal knows an item by."""
        if self.fan is None or self.parent is None:
            return ""
        key = self.key if self.key is not None else str(self.index)
        return f"{self.parent.item()}[{key}]"

    def path(self, step: Step) -> str:
        """Where a node stands in the run: the names of its scopes with the keys of their items, and its own name."""
        prefix = self.prefix()
        return f"{prefix}/{step.spec.name}" if prefix else step.spec.name

    def place(self, step: Step) -> str:
        """The same for people: an item without a `key=` of its own is named by its position, not by a hash."""
        if self.fan is None or self.parent is None:
            return step.spec.name
        fan = self.fan.step
        name = self.key if fan.spec.key is not None else str(self.index)
        return f"{self.parent.place(fan)}[{name}]/{step.spec.name}"

    def outcome(self, slot: int) -> Outcome[Any] | None:
        """Return how a node ended, or `None` if it has not."""
        if slot >= self.plan.size:
            return None
        cell = self.cells[slot]
        if cell == OK:
            return Ok(self.values[slot])
        if cell < SETTLED:
            return None
        outcome: Outcome[Any] = self.values[slot]
        return outcome

    def failed_attempts(self, slot: int) -> int:
        """Return how many attempts of a node have failed so far."""
        return 0 if self.failures is None else self.failures.get(slot, 0)

    def note_failed_attempt(self, slot: int) -> None:
        """Count a failed attempt that another one follows."""
        if self.failures is None:
            self.failures = {}
        self.failures[slot] = self.failures.get(slot, 0) + 1

    def note_times(self, slot: int, began: float, ended: float) -> None:
        """Remember when a function began and ended, in seconds of the run's clock, to seven digits."""
        owner = self if self.fan is None else self.fan
        times = owner.times
        if times is None:
            times = owner.times = array("f")
        place = 2 * (self.index * self.plan.size + slot)
        while place >= len(times):
            times.extend(_UNKNOWN_TIMES)
        times[place] = began
        times[place + 1] = ended

    def times_of(self, slot: int) -> tuple[float, float] | None:
        """Return when a function began and ended, or `None` if that is not known."""
        times = self.times if self.fan is None else self.fan.times
        place = 2 * (self.index * self.plan.size + slot)
        if times is None or place >= len(times) or times[place] < 0:
            return None
        return times[place], times[place + 1]

    def note_record(self, slot: int, record: Any) -> None:
        """Keep what the shell knows of a node's request, to be found by who asks for the node's."""
        if self.records is None:
            self.records = {}
        self.records[slot] = record

    def record(self, slot: int) -> Any:
        """Return what the shell knows of the node's request, or `None`; its path is worked out here if it has none."""
        record = None if self.records is None else self.records.get(slot)
        if record is not None and not record.path:
            record.path = self.path(self.plan.steps[slot])
        return record


class FanRun:
    """A fan-out in one run.

    Attributes:
        around: the scope run that it stands in.
        items: the runs of its items, in order.
        live: those that are unfinished, by position.
        counts: for each gather, how many items have settled the node that it collects.
        is_queued: it waits to be pulled from; `is_lent`: it is being pulled from.
        problem_outcome: why there are not all items: the source failed, or the run was stopped first, or nothing needs
            them any more.
        length: how many items there will be, where that is known before.
        failed: the positions of its items that failed, and `failure` the first such node, if some are tolerated.
        winners: for each `first`, the items so far that have a value, in the order in which they had it.
        source: for the shell: the iterator.
        ordinals: how often each key was met, if the shell gives or has the items keys; see `name_items`.
        times: when the functions of its items began and ended: two numbers for each node, item by item.
    """

    __slots__ = (
        "around",
        "counts",
        "failed",
        "failure",
        "is_ended",
        "is_lent",
        "is_queued",
        "items",
        "length",
        "live",
        "named_count",
        "open_count",
        "ordinals",
        "plan",
        "problem_outcome",
        "pulled_count",
        "source",
        "step",
        "times",
        "winners",
    )

    def __init__(self, around: ScopeRun, step: Any, plan: Any) -> None:
        self.around = around
        self.step: Step = step
        self.plan: ScopePlan = plan
        self.items: list[ScopeRun] = []
        self.live: dict[int, ScopeRun] = {}
        self.counts = [0] * (len(plan.gathers) if plan is not None else 0)
        self.open_count = 0
        self.pulled_count = 0
        self.is_queued = False
        self.is_lent = False
        self.is_ended = False
        self.problem_outcome: Outcome[Any] | None = None
        self.length: int | None = None
        self.failed: set[int] = set()
        self.failure: tuple[ScopeRun, Step, Exception] | None = None
        self.winners: dict[int, list[Any]] = {}
        self.source: Any = None
        self.ordinals: Ordinals | None = None
        self.named_count = 0
        self.times: array[float] | None = None

    def __repr__(self) -> str:
        state = "ended" if self.is_ended else "queued" if self.is_queued else "lent" if self.is_lent else "full"
        return f"<FanRun {self.around.path(self.step)}, {state}, {self.pulled_count} pulled, {self.open_count} open>"

    def name_next(self, key: str) -> str:
        """Give the key of the next item its ordinal."""
        assert self.ordinals is not None
        self.name_items(self.pulled_count)
        self.named_count = self.pulled_count + 1
        return self.ordinals.name(key)

    def name_items(self, count: int) -> None:
        """Give the first `count` items that have no key yet the hash of their content, with its ordinal."""
        if self.ordinals is None:
            return
        for item in self.items[self.named_count : count]:
            item.known_key = self.ordinals.name(item_key(item.values[0]))
            self.named_count += 1

    @property
    def is_past_tolerance(self) -> bool:
        """Whether more of its items have failed than it tolerates."""
        share = self.step.spec.tolerate
        if not self.failed or share is None:
            return bool(self.failed)
        return is_past_tolerance(len(self.failed), share, self.pulled_count, self.length, is_ended=self.is_ended)

    def problem(self) -> object:
        """Tell why there are not all items: an outcome, `"pending"` while they are still being pulled, or `None`."""
        if self.problem_outcome is not None:
            return self.problem_outcome
        return None if self.is_ended else "pending"


def why_not(run: ScopeRun, step: Step) -> Skipped:
    """Tell why what waits for a node is skipped; the node has an outcome other than OK."""
    cell, outcome = run.cells[step.slot], run.values[step.slot]
    if cell == SKIPPED and isinstance(outcome, Skipped):
        return outcome
    return because_of(run, step, cell, outcome)


def because_of(run: ScopeRun, step: Step, cell: int, outcome: Any) -> Skipped:
    """Tell why what waits for a node is skipped: it was abandoned, or `outcome` says how it failed."""
    if cell == ABANDONED:
        return Skipped(f"{run.place(step)} was abandoned")
    error = outcome.error if isinstance(outcome, Failed) else None
    return Skipped(f"{run.place(step)} failed", error)
