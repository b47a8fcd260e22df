"""The progress of a batch in numbers: items begun and finished, and the time that the rest will take."""

from __future__ import annotations

import msgspec

__all__ = ("BatchStatistics",)


class BatchStatistics(msgspec.Struct, frozen=True):
    """How a batch stands.

    Attributes:
        total: how many items there are; `None` for a source without a length.
        begun: items that were pulled.
        in_flight: of those, the ones without an outcome.
        ok, failed: items by outcome.
        restored: items whose outcome is an earlier run's, from the journal, without a request; they count as ok, too.
        abandoned: items that a cancel left without an outcome.
        seconds: since the start of the run.
        rate: items a second, on average, those from the journal left out; `None` before the first.
        cost: USD, what earlier runs paid included; `None` if one cost is unknown.
    """

    total: int | None
    begun: int
    in_flight: int
    ok: int
    failed: int
    restored: int
    abandoned: int
    seconds: float
    rate: float | None
    cost: float | None

    @property
    def settled(self) -> int:
        """Items that have an outcome."""
        return self.ok + self.failed

    @property
    def seconds_left(self) -> float | None:
        """How long the rest takes at this rate; `None` if that is not known."""
        if self.total is None or not self.rate:
            return None
        return max(0, self.total - self.settled) / self.rate
