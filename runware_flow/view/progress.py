"""What a run looks like while it runs: events in, counts by stage out. Pure; nothing here prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runware_flow.graph.events import NodeSettled, NodeStarted, RunFinished
from runware_flow.graph.outcomes import Failed, Ok

if TYPE_CHECKING:
    from runware_flow.graph.events import Event

__all__ = ("ProgressBoard", "Stage", "money")


class Stage:
    """The counts of one label: the nodes that have it, in whatever item."""

    __slots__ = ("failed", "label", "ok", "other", "running")

    def __init__(self, label: str) -> None:
        self.label = label
        self.running = 0
        self.ok = 0
        self.failed = 0
        self.other = 0
        """Skipped or abandoned."""

    @property
    def settled(self) -> int:
        """How many are over, however they ended."""
        return self.ok + self.failed + self.other


class ProgressBoard:
    """Folds the events of a run into counts by stage, in the order in which the stages first appeared."""

    def __init__(self) -> None:
        self.stages: dict[str, Stage] = {}
        self.cost_micro_usd = 0
        self.seconds = 0.0
        self.is_finished = False

    def take(self, event: Event) -> None:
        """Take the next event."""
        self.seconds = event.time
        match event:
            case NodeStarted(attempt=1, label=label):
                self._stage(label).running += 1
            case NodeSettled():
                self._settle(event)
            case RunFinished():
                self.is_finished = True
            case _:
                pass

    def line(self) -> str:
        """One plain line: every stage's finished and running nodes, the failures, the cost, the time."""
        stages = " · ".join(_describe(stage) for stage in self.stages.values())
        return f"{self.seconds:6.1f} s  {stages or 'starting'}  {money(self.cost_micro_usd)}"

    def _stage(self, label: str) -> Stage:
        return self.stages.setdefault(label, Stage(label))

    def _settle(self, event: NodeSettled) -> None:
        stage = self._stage(event.label)
        stage.running -= event.attempts > 0
        if isinstance(event.outcome, Ok):
            stage.ok += 1
        elif isinstance(event.outcome, Failed):
            stage.failed += 1
        else:
            stage.other += 1
        if event.cost is not None:
            self.cost_micro_usd += round(event.cost * 1_000_000)


def _describe(stage: Stage) -> str:
    running = f" (+{stage.running} running)" if stage.running else ""
    failed = f", {stage.failed} failed" if stage.failed else ""
    other = f", {stage.other} not done" if stage.other else ""
    return f"{stage.label} {stage.ok}{running}{failed}{other}"


def money(micro_usd: int) -> str:
    """Integer micro-USD as people write dollars: four places, six where four would hide it."""
    return f"${micro_usd / 1_000_000:.4f}" if micro_usd >= 100 or micro_usd == 0 else f"${micro_usd / 1_000_000:.6f}"
