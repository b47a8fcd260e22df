"""The rules of a batch: how it stands, and how many of its items may fail before it stops."""

from __future__ import annotations

import msgspec

__all__ = ("BatchStatistics", "Tolerance")

_FEWEST_JUDGED = 100


class Tolerance:
    """How large a share of items may fail.

    Args:
        share: from 0, where the first failure is one too many, to 1.
        total: how many items there are; `None` if that is not known. Then, so that one early failure is not taken for a
            share of a half, a share is of a hundred items at least until the end.
    """

    def __init__(self, share: float, total: int | None = None) -> None:
        self.share = share
        self._total = total
        self._settled_count = 0
        self._failed_count = 0

    def add(self, *, is_failed: bool) -> bool:
        """Count an item that has its outcome; tells whether too many have failed by now."""
        self._settled_count += 1
        self._failed_count += is_failed
        if not is_failed:
            return False
        of = self._total if self._total is not None else max(self._settled_count, _FEWEST_JUDGED)
        return self.is_past_of(of)

    def is_past(self) -> bool:
        """Tell whether too many have failed of those that there were, at the end."""
        return self.is_past_of(self._settled_count)

    def is_past_of(self, count: int) -> bool:
        """Tell whether more have failed than may of `count` items."""
        return self._failed_count > self.share * count


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
