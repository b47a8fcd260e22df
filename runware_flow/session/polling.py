"""When to ask for results that are not pushed.

Asking early costs a poll, asking late costs the user's time. The rule, for one task that has been running for
`elapsed` seconds, is the same for its first ask and for every later one:

    ask when a further share (`quantile`) of the tasks that still run after `elapsed` will have finished,

as far as the durations of earlier tasks of the same type and model tell. Where they tell nothing (too few, or the
task already outlasts them all) the interval is a share of the elapsed time. All of it is bounded by a floor and a
ceiling, and stretched while the service is under pressure.

What is learnt is an interval: the task was not ready at one ask and ready at the next. Its middle is remembered. When
the very first ask finds the task ready, nothing says how long it had been; remembering little more than half of the
time makes the next first ask earlier, so that too late a guess corrects itself in a few tasks.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import deque
from typing import TYPE_CHECKING, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ("DurationKey", "History", "PollPolicy", "Poller", "next_ask")

DurationKey: TypeAlias = tuple[str, str | None]
"""What durations are remembered under: task type and model."""


class PollPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When `getResponse` is asked for a task. Times are seconds; the defaults are polite to the service.

    The service's documentation advises 1 to 2 s and growing, and a first wait for tasks of predictable length; the
    official clients ask after 1 s, then every 0.5 s growing to 10 s. Those asks travel one a frame, ours together.
    """

    initial: float = 0.1
    """The first ask, and the shortest interval, while the duration of such tasks is not known."""
    share: float = 0.1
    """The interval as a share of the elapsed time, where earlier tasks tell nothing."""
    floor: float = 0.02
    """No two frames of asks leave within this time, and no task is asked for again sooner."""
    floor_share: float = 0.03
    """The shortest interval of a task, as a share of the time it runs."""
    ceiling: float = 10.0
    """The longest interval, whatever is predicted."""
    quantile: float = 0.1
    """The share of the still running that should be ready when they are asked for: about 1/quantile asks a task."""
    samples: int = 64
    """How many durations are remembered for each task type and model."""
    min_samples: int = 4
    """How many it takes to believe them."""
    reply_timeout: float = 2.0
    """An ask without a reply on a WebSocket is repeated after this time at most, and then after longer ones."""
    reply_floor: float = 0.5
    """And after this time at least, where replies usually come at once."""
    unknown_limit: int = 3
    """How often the service must say, to `getResponse` and `getTaskDetails` both, that it knows no such task, before a
    task that it never acknowledged is sent again under the same taskUUID, or given up."""
    unknown_patience: float = 5.0
    """For how long it must say so of a sync task that was sent. Whether `getResponse` knows a sync task while it runs
    is not documented; most are done within this time, and then it does."""
    unknown_timeout: float = 150.0
    """For how long it must say so of a task that it did acknowledge, before that one is given up: longer than the 120 s
    that a sync task may take."""

    def unknown_wait(self, round_number: int) -> float:
        """Seconds before asking again after the service did not know the task for the `round_number`-th time."""
        return min(0.25 * 2.0 ** min(round_number - 1, 30), 2.0)


def next_ask(samples: Sequence[float], elapsed: float, policy: PollPolicy) -> float:
    """Say at which elapsed time to ask for a task that has run for `elapsed` seconds.

    Args:
        samples: durations of earlier tasks of its kind, sorted.
        elapsed: seconds since the task was sent; 0 for the first ask.
        policy: the bounds.

    Returns:
        A time greater than `elapsed`, by at most `policy.ceiling`.
    """
    shortest = max(policy.floor, policy.floor_share * elapsed)
    first = bisect_right(samples, elapsed)
    left = len(samples) - first
    if len(samples) < policy.min_samples:
        target = elapsed + max(policy.initial, policy.share * elapsed)
    elif left == 0:
        target = elapsed + max(policy.floor, policy.share * elapsed)
    else:
        target = samples[first + int(left * policy.quantile)]
        nearly_all = samples[first + int(left * 0.9)]
        if nearly_all - target <= shortest:
            # They end so close together that one ask finds them all.
            target = nearly_all
        target = max(target, elapsed + shortest)
    return min(target, elapsed + policy.ceiling)


class History:
    """What tasks took, by task type and model: the most recent few of each, of a bounded number of kinds."""

    kinds = 256

    def __init__(self, samples: int) -> None:
        self._samples = samples
        self._recent: dict[DurationKey, deque[float]] = {}
        self._sorted: dict[DurationKey, list[float]] = {}

    def record(self, key: DurationKey, lower: float, upper: float) -> None:
        """Remember that a task took more than `lower` and at most `upper` seconds; `lower` 0: not asked before."""
        duration = 0.6 * upper if lower <= 0.0 else (lower + upper) / 2
        recent = self._recent.pop(key, None)
        if recent is None:
            if len(self._recent) >= self.kinds:
                oldest = next(iter(self._recent))
                del self._recent[oldest], self._sorted[oldest]
            recent = deque[float]()
        self._recent[key] = recent  # moved to the end: the kinds used last are kept
        ordered = self._sorted.setdefault(key, [])
        if len(recent) >= self._samples:
            ordered.pop(bisect_right(ordered, recent.popleft()) - 1)
        recent.append(duration)
        insort(ordered, duration)

    def durations(self, key: DurationKey) -> Sequence[float]:
        """The remembered durations, sorted; empty if there are none."""
        return self._sorted.get(key, ())


class Poller:
    """The pace of all asks of one session: what waits leaves together, and pressure slows everything."""

    _SLOWEST = 16.0

    def __init__(self, policy: PollPolicy) -> None:
        self.policy = policy
        self.history = History(policy.samples)
        self.open_at = float("-inf")
        """No ask may leave before."""
        self.pressure = 1.0
        """By how much every interval is stretched."""
        self.rejected_batches = 0
        self._changed_at = 0.0
        self._reply_time: float | None = None

    @property
    def may_join(self) -> bool:
        """Whether asks may share a frame: until the service has refused three such frames."""
        return self.rejected_batches < 3

    def next_ask(self, key: DurationKey, elapsed: float) -> float:
        """Say at which elapsed time to ask for a task of this kind."""
        target = next_ask(self.history.durations(key), elapsed, self.policy)
        return elapsed + (target - elapsed) * self.pressure

    def asked(self, at: float) -> None:
        """A frame of asks left."""
        self.open_at = max(self.open_at, at + self.policy.floor * self.pressure)

    def strained(self, at: float, retry_after: float | None) -> None:
        """The service said that it is overloaded (429, 503, `rateLimitExceeded`). A burst of refusals counts as one."""
        if self.pressure <= 1.0 or at - self._changed_at >= 0.25 * self.pressure:
            self.pressure = min(self.pressure * 2.0, self._SLOWEST)
            self._changed_at = at
        self.open_at = max(self.open_at, at + (0.25 * self.pressure if retry_after is None else retry_after))

    def relieved(self, at: float) -> None:
        """The service answered: with every second of answers the pressure falls."""
        if self.pressure > 1.0 and at - self._changed_at >= 1.0:
            self.pressure = max(1.0, self.pressure * 0.7)
            self._changed_at = at

    def answered(self, at: float, asked_at: float) -> None:
        """An ask that left at `asked_at` has its reply."""
        taken = max(0.0, at - asked_at)
        self._reply_time = taken if self._reply_time is None else 0.9 * self._reply_time + 0.1 * taken
        self.relieved(at)

    def reply_wait(self, unanswered: int) -> float:
        """Seconds to wait for the reply to an ask, after so many without one: by what replies take, within bounds."""
        policy = self.policy
        usual = policy.reply_timeout
        if self._reply_time is not None:
            usual = min(max(8.0 * self._reply_time, policy.reply_floor), usual)
        return min(usual * 1.5 ** min(unanswered, 30), 10.0)
