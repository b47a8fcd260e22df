"""The numbers of each box of a shape: counts, times and costs of its nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from runware_flow.view.progress import money, short_duration

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runware_flow.view.story import Row

__all__ = ("STATES", "Figures", "figures_of")

STATES = ("ok", "failed", "abandoned", "skipped", "running", "waiting")
"""The states of a row and their words for people: success, then the worst first."""


class Figures(msgspec.Struct):
    """Counts, costs and times of the rows of one box.

    Attributes:
        counts: rows by state.
        restored: how many of them an earlier run paid for.
        cost, unknown_count: USD, the known ones together; and how many that may have been billed are not known.
        work_seconds, work_count: how long nodes took from their start to their outcome, together, and how many did.
        queue_seconds, queue_count: how long they waited for a free place, where that is known.
        begin, end: seconds from the start of the run: of the first to begin, and the last to settle.
    """

    counts: dict[str, int] = {}
    restored: int = 0
    cost: float | None = None
    unknown_count: int = 0
    work_seconds: float = 0.0
    work_count: int = 0
    queue_seconds: float = 0.0
    queue_count: int = 0
    begin: float | None = None
    end: float | None = None

    @property
    def state(self) -> str:
        """How the box as a whole stands: what needs a look comes first."""
        order = ("failed", "running", "abandoned", "waiting", "ok", "skipped")
        return next((state for state in order if self.counts.get(state)), "waiting")

    def words(self) -> tuple[str, str]:
        """Say the counts in one line, and time and cost in another."""
        counts = [f"{self.counts[state]} {state}" for state in STATES if self.counts.get(state)]
        if self.restored:
            counts.append(f"{self.restored} restored")
        facts: list[str] = []
        if self.work_count:
            mean = "" if self.work_count == 1 else " each"
            facts.append(f"{short_duration(self.work_seconds / self.work_count)}{mean}")
        if self.cost is not None:
            facts.append(money(self.cost))
        if self.unknown_count:
            facts.append(f"{self.unknown_count} of unknown cost")
        return " · ".join(counts), " · ".join(facts)

    def take(self, row: Row) -> None:
        """Add a row."""
        self.counts[row.state] = self.counts.get(row.state, 0) + 1
        self.restored += row.restored
        if row.cost is not None:
            self.cost = round((self.cost or 0.0) + row.cost, 6)
        elif row.may_be_billed:
            self.unknown_count += 1
        if row.restored or row.started is None:
            return
        begun = row.started if row.began is None else row.began
        self.begin = begun if self.begin is None else min(begun, self.begin)
        if row.ready is not None:
            self.queue_seconds += max(0.0, begun - row.ready)
            self.queue_count += 1
        if row.settled is not None:
            self.work_seconds += row.settled - begun
            self.work_count += 1
            self.end = row.settled if self.end is None else max(row.settled, self.end)


def figures_of(rows: Iterable[Row], boxes: Iterable[str]) -> dict[str, Figures]:
    """Add up the rows of each box."""
    figures = {box: Figures() for box in boxes}
    for row in rows:
        figures.setdefault(row.box, Figures()).take(row)
    return figures
