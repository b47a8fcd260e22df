"""What follows a failed attempt of a node: another one after a pause, or the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runware_flow.errors import RunwareError
from runware_flow.graph.policies import may_try_again

if TYPE_CHECKING:
    from runware_flow.graph.policies import Policy

__all__ = ("next_pause",)

_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 8.0


def next_pause(error: Exception, policy: Policy, *, attempt: int, buys: bool, now: float) -> float | None:
    """Tell how many seconds to wait before another attempt; `None` if there is to be none.

    Args:
        error: how the last attempt failed.
        attempt: its number, from 1.
        buys: an attempt is a purchase; see `may_try_again`.
        now: seconds since the start of the run. An attempt that could only begin past the deadline is not made.
    """
    if attempt >= policy.retry or not may_try_again(error, buys=buys):
        return None
    seconds = _pause_seconds(error, attempt)
    if policy.deadline is not None and now + seconds >= policy.deadline:
        return None
    return seconds


def _pause_seconds(error: Exception, attempt: int) -> float:
    if not isinstance(error, RunwareError):
        return 0.0
    if error.retry_after is not None:
        return error.retry_after
    return min(_PAUSE_SECONDS * 2.0 ** (attempt - 1), _LONGEST_PAUSE_SECONDS)
