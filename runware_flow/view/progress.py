"""The progress of a run: counts by stage in, lines and numbers out. Pure; nothing here prints."""

from __future__ import annotations

from collections import deque
from math import isfinite
from typing import TYPE_CHECKING, Any, TypeAlias

from runware_flow.graph.declaration import PURE, NodeKind
from runware_flow.graph.outcomes import Abandoned, Failed, Ok, Outcome
from runware_flow.view.terminal import visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from runware_flow.graph.declaration import Declaration, NodeSpec, ScopeSpec

__all__ = (
    "ProgressBoard",
    "SharedStages",
    "Stage",
    "StageCounts",
    "cost_text",
    "duration",
    "expected_counts",
    "is_shown",
    "money",
    "pictures_line",
    "short_duration",
)

_RATE_SECONDS = 15.0
"""How far back the rate looks."""
_LINE_STAGES = 6
"""How many stages a plain line names."""

StageCounts: TypeAlias = tuple[int, ...]
"""Nodes of a stage: running, ok, restored (of those that are ok), failed, skipped, abandoned."""
_NONE: StageCounts = (0, 0, 0, 0, 0, 0)


class Stage:
    """The counts of one label: the nodes that have it, in whatever item.

    Attributes:
        total: how many there will be; `None` while that cannot be known.
        restored: how many of `ok` an earlier run had paid for.
    """

    __slots__ = ("abandoned", "failed", "label", "ok", "restored", "running", "skipped", "total")

    def __init__(self, label: str, total: int | None = None) -> None:
        self.label = label
        self.total = total
        self.running = 0
        self.ok = 0
        self.restored = 0
        self.failed = 0
        self.skipped = 0
        self.abandoned = 0

    def counts(self) -> StageCounts:
        """What is counted, as plain data."""
        return (self.running, self.ok, self.restored, self.failed, self.skipped, self.abandoned)

    def take(self, counts: StageCounts) -> None:
        """Take such counts over."""
        self.running, self.ok, self.restored, self.failed, self.skipped, self.abandoned = counts

    def settle(self, outcome: Outcome[Any], *, is_restored: bool = False) -> None:
        """One more is over; `is_restored` says that its outcome is an earlier run's."""
        if isinstance(outcome, Ok):
            self.ok += 1
            self.restored += is_restored
        elif isinstance(outcome, Failed):
            self.failed += 1
        elif isinstance(outcome, Abandoned):
            self.abandoned += 1
        else:
            self.skipped += 1

    @property
    def settled(self) -> int:
        """How many are over, however they ended."""
        return self.ok + self.failed + self.skipped + self.abandoned

    @property
    def left(self) -> int | None:
        """How many are not over; `None` if that is not known."""
        return None if self.total is None else max(0, self.total - self.settled)


class SharedStages:
    """The stages of a run whose items are worked on by several workers, each of which counts by itself.

    What a worker says is late, and what it did for items that it did not finish is done again by another one if it is
    lost. So the counts of a worker are those that it has told, or those of the items that it has delivered, whichever
    are more; and of a lost one, those of the items that it has delivered.
    """

    def __init__(self) -> None:
        self._reported: dict[str, dict[str, StageCounts]] = {}
        self._delivered: dict[str, dict[str, StageCounts]] = {}

    def report(self, worker: str, counts: Mapping[str, StageCounts]) -> None:
        """A worker says what it has counted since it began."""
        self._reported[worker] = dict(counts)

    def deliver(self, worker: str, counts: Mapping[str, StageCounts]) -> None:
        """An item of a worker is over, which counted this."""
        delivered = self._delivered.setdefault(worker, {})
        for label, numbers in counts.items():
            delivered[label] = _added(delivered.get(label, _NONE), numbers)

    def lose(self, worker: str) -> None:
        """A worker is gone, or has begun anew: what it has not delivered is done again."""
        self._reported.pop(worker, None)
        gone = self._delivered.setdefault("", {})
        for label, numbers in self._delivered.pop(worker, {}).items():
            gone[label] = _added(gone.get(label, _NONE), numbers)

    def counts(self) -> dict[str, StageCounts]:
        """The counts of all workers together."""
        total: dict[str, StageCounts] = {}
        for worker in dict.fromkeys([*self._reported, *self._delivered]):
            reported, delivered = self._reported.get(worker, {}), self._delivered.get(worker, {})
            for label in dict.fromkeys([*reported, *delivered]):
                pairs = zip(reported.get(label, _NONE), delivered.get(label, _NONE), strict=True)
                total[label] = _added(total.get(label, _NONE), tuple(map(max, pairs)))
        return total


def _added(one: StageCounts, other: StageCounts) -> StageCounts:
    return tuple(a + b for a, b in zip(one, other, strict=True))


class ProgressBoard:
    """Counts what starts and settles, by stage, in the order in which the stages were declared or first seen.

    Attributes:
        name: the flow's or the batch's.
        concurrency: how many nodes (of a batch: items) are in flight at most.
        items: of a batch, its items, which `rate` and `eta` then speak of; its nodes are the stages.
        queued: nodes that are ready and wait for their turn; set by what drives the board. `None`: not known.
        refused: nodes that wait because the service has too much to do to take their tasks; set like `queued`.
        cost, unknown_count: what was spent so far, in USD, and how many tasks' costs are not known; set like `queued`.
        budget: USD, or `None` for none.
        seconds: since the start.
        end: how the run ended, as in `RunFinished`; `None` while it runs.
    """

    def __init__(self, name: str, concurrency: int, expected: dict[str, int | None] | None = None) -> None:
        self.name = name
        self.concurrency = concurrency
        self.stages = {label: Stage(label, total) for label, total in (expected or {}).items()}
        self.items: Stage | None = None
        self.queued: int | None = None
        self.refused = 0
        self.cost = 0.0
        self.unknown_count = 0
        self.budget: float | None = None
        self.seconds = 0.0
        self.end: str | None = None
        self._history: deque[tuple[float, int, int]] = deque()

    def start(self, label: str) -> None:
        """A node has begun its first attempt."""
        self._stage(label).running += 1

    def refuse(self, label: str) -> None:
        """The service has refused to take the task of a running node; it begins again later."""
        self._stage(label).running -= 1

    def settle(self, label: str, outcome: Outcome[Any], *, was_running: bool, is_restored: bool = False) -> None:
        """A node has its outcome; `is_restored` says that it is an earlier run's."""
        stage = self._stage(label)
        stage.running -= was_running
        stage.settle(outcome, is_restored=is_restored)

    def counts(self) -> dict[str, StageCounts]:
        """The counts of each stage as plain data; may be called from another thread."""
        return {stage.label: stage.counts() for stage in list(self.stages.values())}

    def take_counts(self, counts: Mapping[str, StageCounts]) -> None:
        """Show these counts from now on."""
        for label, numbers in counts.items():
            self._stage(label).take(numbers)

    def _stage(self, label: str) -> Stage:
        stage = self.stages.get(label)
        if stage is None:
            stage = self.stages[label] = Stage(label)
        return stage

    def spend(self, receipt: Iterable[Any]) -> None:
        """Take what was spent so far, as the lines of a receipt."""
        lines = list(receipt)
        self.cost = round(sum(line.cost or 0.0 for line in lines), 6)
        self.unknown_count = sum(line.unknown_count for line in lines)

    def tick(self, seconds: float) -> None:
        """Take the time, and a sample for the rate."""
        self.seconds = seconds
        history = self._history
        counted = self._counted()
        settled, worked = sum(stage.settled for stage in counted), sum(stage.ok + stage.failed for stage in counted)
        history.append((seconds, settled, worked))
        while len(history) > 2 and history[1][0] <= seconds - _RATE_SECONDS:
            history.popleft()

    def _counted(self) -> list[Stage]:
        return list(self.stages.values()) if self.items is None else [self.items]

    def rows(self) -> list[Stage]:
        """What has a line of its own: the items of a batch, then the stages."""
        return [*([self.items] if self.items is not None else []), *self.stages.values()]

    @property
    def running(self) -> int:
        """How many nodes are in flight."""
        return sum(stage.running for stage in self.stages.values())

    @property
    def rate(self) -> float | None:
        """Nodes (of a batch: items) a second that ran to their end, lately; `None` while too little is known."""
        return self._pace(2)

    @property
    def eta(self) -> float | None:
        """Seconds that are left at the present pace; `None` while what is left or the pace is not known."""
        lefts = [stage.left for stage in self._counted()]
        pace = self._pace(1)
        if self.end is not None or not pace or any(left is None for left in lefts):
            return None
        return sum(left for left in lefts if left is not None) / pace

    def _pace(self, column: int) -> float | None:
        if len(self._history) < 2:
            return None
        first, last = self._history[0], self._history[-1]
        seconds = last[0] - first[0]
        return (last[column] - first[column]) / seconds if seconds > 0 else None

    # What people see

    def line(self) -> str:
        """One plain line: the stages' finished and running nodes, the failures, what waits, the cost, the time."""
        stages = self.rows()
        unfinished = [stage for stage in stages if stage.left != 0]
        shown = stages if len(stages) <= _LINE_STAGES else (unfinished or stages)[:_LINE_STAGES]
        named = [f"{visible(stage.label)} {self.count(stage)}" for stage in shown]
        hidden = len(stages) - len(named)
        parts = [f"{visible(self.name)}: {duration(self.seconds)}", ", ".join(named) or "starting"]
        if hidden:
            parts.append(f"{hidden} more stages")
        return "  ".join([*parts, *self.totals()])

    def count(self, stage: Stage) -> str:
        """Say how many of a stage are done, and what the others are: `4 of 10 (2 running, 1 failed)`."""
        total = "" if stage.total is None else f" of {stage.total}"
        notes = ", ".join(f"{count} {word}" for count, word in self.notes(stage))
        return f"{stage.ok}{total}" + (f" ({notes})" if notes else "")

    def notes(self, stage: Stage) -> list[tuple[int, str]]:
        """What is to say of a stage beside what is done: numbers with their words, only those that are not 0."""
        never_begun = max(0, (stage.left or 0) - stage.running) if self.end is not None else 0
        found = (
            (stage.restored, "restored"),
            (stage.running, "running"),
            (stage.failed, "failed"),
            (stage.skipped, "skipped"),
            (stage.abandoned, "abandoned"),
            (never_begun, "never begun"),
        )
        return [(count, word) for count, word in found if count]

    def totals(self, columns: int | None = None) -> list[str]:
        """What holds for the whole run, each in a few words, two spaces apart.

        Where `columns` are too few for all, the time left and the cost stay longest.
        """
        parts = self._totals()
        while columns is not None and len(parts) > 1 and len("  ".join(text for _, text in parts)) > columns:
            parts.remove(min(parts, key=lambda part: part[0]))
        return [text for _, text in parts]

    def _totals(self) -> list[tuple[int, str]]:
        """The same, each with how important it is."""
        parts: list[tuple[int, str]] = []
        if self.end is None:
            parts.append((3, f"{self.running} in flight"))
            if self.queued is not None:
                parts.append((1, f"{self.queued} queued"))
            if self.refused:
                parts.append((4, f"the service is refusing: {self.refused} waiting"))
            if self.rate is not None:
                parts.append((2, f"{self.rate:.1f}/s"))
            if self.eta is not None:
                parts.append((8, f"{duration(self.eta)} left"))
        else:
            parts.append((9, self.end))
        budget = "" if self.budget is None else f" of {money(self.budget)}"
        parts.append((7, f"{money(self.cost)}{budget}"))
        if self.unknown_count:
            parts.append((5, f"{self.unknown_count} of unknown cost"))
        return parts

    def footer(self, columns: int) -> tuple[str, str]:
        """The name, and what holds for the run, for one line of a terminal that is no wider than `columns`."""
        name, time = visible(self.name), duration(self.seconds)
        if len(name) > columns // 3:
            name = name[: max(1, columns // 3 - 1)] + "…"
        room = columns - len(name) - 2
        facts = "  ".join([time, *self.totals(room - len(time) - 2)])
        return name, facts if len(facts) <= room else "  ".join(self.totals(room))

    def snapshot(self) -> dict[str, Any]:
        """The same as plain data: what a line of `progress="json"` holds."""
        return {
            "flow": self.name,
            "seconds": round(self.seconds, 3),
            "end": self.end,
            "in_flight": self.running,
            "queued": self.queued,
            "refused": self.refused,
            "concurrency": self.concurrency,
            "rate": _rounded(self.rate),
            "eta": _rounded(self.eta),
            "cost": round(self.cost, 6),
            "unknown_costs": self.unknown_count,
            "budget": self.budget,
            "items": None if self.items is None else _counts(self.items),
            "stages": [_counts(stage) for stage in self.stages.values()],
        }


def _counts(stage: Stage) -> dict[str, Any]:
    names = ("label", "total", "running", "ok", "restored", "failed", "skipped", "abandoned")
    return {name: getattr(stage, name) for name in names}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def is_shown(spec: NodeSpec) -> bool:
    """Tell whether a node is work that people wait for: not an item, a fan-out or a pure step."""
    return spec.kind not in PURE and spec.kind not in (NodeKind.ITEM, NodeKind.FAN)


def expected_counts(declaration: Declaration) -> dict[str, int | None]:
    """Count the nodes that there will be, by label; `None` where only the run can tell. Consumes no source."""
    counts: dict[str, int | None] = {}
    for scope in declaration.scopes:
        times = _times(scope)
        for spec in scope.nodes:
            if is_shown(spec):
                before = counts.get(spec.name, 0)
                counts[spec.name] = None if times is None or before is None else before + times
    return counts


def _times(scope: ScopeSpec) -> int | None:
    times = 1
    inner: ScopeSpec | None = scope
    while inner is not None and inner.fan is not None:
        width = _width(inner.fan)
        if width is None:
            return None
        times *= width
        inner = inner.parent
    return times


def _width(fan: NodeSpec) -> int | None:
    if fan.source is None:  # made from a node's value: of one task of several results, the task says how many
        work: Any = fan.deps[0].work if fan.deps and fan.deps[0].keeps_all else None
        count: Any = work.get("numberResults") if hasattr(work, "get") else getattr(work, "number_results", None)
        return count if isinstance(count, int) else None
    try:
        return len(fan.source.items)
    except TypeError:
        return None


def money(usd: float) -> str:
    """USD as people write them, with four places; what these would hide is `<$0.0001`."""
    return "<$0.0001" if 0 < usd < 0.0001 else f"${usd:.4f}"


def cost_text(usd: float | None) -> str:
    """The same, or `unknown cost` for `None`."""
    return "unknown cost" if usd is None else money(usd)


def pictures_line(done: int, total: int) -> str:
    """How far the writing of a report is."""
    return f"writing report: {done:,} of {total:,} pictures"


def duration(seconds: float) -> str:
    """Seconds as people say them: `8.1 s`, `2:05`, `1:02:05`."""
    if seconds < 60 or not isfinite(seconds):  # from a damaged journal
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def short_duration(seconds: float) -> str:
    """The same with milliseconds below a tenth of a second."""
    return f"{1000 * seconds:.0f} ms" if seconds < 0.1 else duration(seconds)
