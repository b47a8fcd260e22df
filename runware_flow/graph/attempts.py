"""Decides what follows a failed attempt of a node: another attempt after a pause, its fallback, or the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from runware_flow.errors import RunwareError
from runware_flow.graph.policies import may_fall_back, may_try_again

if TYPE_CHECKING:
    from runware_flow.graph.policies import Policy

__all__ = ("Attempts", "Next", "RetryBudget", "what_follows")

_LONGEST_PAUSE = 16.0
"""How many times the first pause the longest one is."""
_FREE_RETRIES = 50
_EARNED = 0.2


class RetryBudget:
    """How many second attempts a run may still make, so that an outage is not multiplied by the retries of all.

    There are fifty at the start, and each first attempt adds a fifth of one. So failures of one request in six can be
    retried without end, while a service that fails all requests soon gets little more than one for each node. Only
    attempts that send a request count.
    """

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = float(_FREE_RETRIES)

    def earn(self) -> None:
        """A node is tried for the first time."""
        self.left += _EARNED

    def spend(self) -> bool:
        """Take one retry; `False` if none is left."""
        if self.left < 1:
            return False
        self.left -= 1
        return True


class Attempts:
    """The attempts of one node so far, where more is needed than their number.

    Attributes:
        began: when the first began, in seconds since the start of the run.
        first_error: why the first work failed, once its fallback is used.
        before_fallback: how many attempts there were before the fallback; `None` until it is used.
        is_recorded: the journal has that the fallback is used.
        entry: for the shell: what the journal has of the last attempt before the fallback.
    """

    __slots__ = ("before_fallback", "began", "entry", "first_error", "is_recorded")

    def __init__(self, began: float) -> None:
        self.began = began
        self.first_error: Exception | None = None
        self.before_fallback: int | None = None
        self.is_recorded = False
        self.entry: Any = None

    def fall_back(self, after: int, error: Exception | None) -> None:
        """Give the fallback its turn."""
        self.before_fallback = after
        self.first_error = error


class Next(NamedTuple):
    """What follows: another attempt in so many seconds, the fallback, or nothing, and if need be, why nothing."""

    action: Literal["again", "fallback", "end"]
    seconds: float = 0.0
    note: str | None = None


def what_follows(
    error: Exception,
    policy: Policy,
    *,
    attempt: int,
    sends: bool | None,
    now: float,
    attempts: Attempts | None = None,
    budget: RetryBudget | None = None,
    has_fallback: bool = False,
    jitter: float = 0.0,
) -> Next:
    """Decide what follows a failed attempt.

    Args:
        error: how it failed.
        attempt: its number, from 1; those of the fallback go on counting.
        sends: an attempt is a purchase; `None` if nothing in it could be one; see `may_try_again`.
        now: seconds since the start of the run. Nothing is tried that could only begin past the deadline.
        attempts: what else is known of the node's attempts.
        budget: the run's, from which a second purchase takes.
        jitter: from 0 to 1, by which a pause of ours is made shorter, up to half of it.
    """
    retry, note = policy.retry, None
    before = (attempts.before_fallback if attempts is not None else None) or 0
    tries = attempt - before
    if tries < retry.attempts and may_try_again(error, sends=sends, on=retry.on):
        seconds = _pause_seconds(error, tries, retry.backoff, jitter)
        then = now + seconds
        is_late = policy.deadline is not None and then >= policy.deadline
        if retry.max_elapsed is not None and attempts is not None:
            is_late = is_late or then >= attempts.began + retry.max_elapsed
        if not is_late:
            if not sends or budget is None or budget.spend():
                return Next("again", seconds)
            note = "it was not tried again: too many requests failed in this run, and its retries are used up"
    is_late = policy.deadline is not None and now >= policy.deadline
    is_first_choice = attempts is None or attempts.before_fallback is None
    if has_fallback and is_first_choice and not is_late and may_fall_back(error, sends=bool(sends)):
        return Next("fallback")
    return Next("end", note=note)


def _pause_seconds(error: Exception, tries: int, backoff: float, jitter: float) -> float:
    if isinstance(error, RunwareError) and error.retry_after is not None:
        return error.retry_after
    return min(backoff * 2.0 ** min(tries - 1, 8), backoff * _LONGEST_PAUSE) * (1 - jitter / 2)
