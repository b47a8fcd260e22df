"""`tolerate=`: the share of the items of a fan-out or a batch that may fail before `on_error` applies."""

from __future__ import annotations

from math import ceil

__all__ = ("Tolerance", "is_past_tolerance")

_ROUNDING = 1e-9
"""A share such as 0.1 is not exact in binary: 3 of 30 items are a tenth."""


def is_past_tolerance(failed_count: int, share: float, seen_count: int, total: int | None, *, is_ended: bool) -> bool:
    """Tell whether more items have failed than are tolerated.

    Until the source has ended, the share is of `total` items, or, where that is not known, of those seen so far, but
    of enough for one failure: the first failure alone ends nothing before the source has ended, however early it comes.

    Args:
        share: from 0, where the first failure is one too many, to 1.
        seen_count: items that the source has given.
        total: how many there are; `None` for a source without a length.
    """
    if not is_ended:
        seen_count = max(seen_count, total if total is not None else ceil(1 / share) if share else 0)
    return failed_count > share * seen_count + _ROUNDING


class Tolerance:
    """Counts the items of a batch that fail.

    Args:
        share: the share of items that may fail.
        total: how many items there are; `None` if that is not known.
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
        return is_failed and self._is_past(is_ended=False)

    def is_past(self) -> bool:
        """Tell whether too many have failed of those that there were, at the end."""
        return self._is_past(is_ended=True)

    def _is_past(self, *, is_ended: bool) -> bool:
        return is_past_tolerance(self._failed_count, self.share, self._settled_count, self._total, is_ended=is_ended)
