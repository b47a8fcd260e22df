"""When to poll for results that are not pushed.

An early poll finds nothing, a late one costs the user's time. The rule, for one task that has been running for
`elapsed` seconds, is the same for its first poll and for every later one:

    poll when a further share (`quantile`) of the tasks that still run after `elapsed` will have finished,

by the durations of earlier tasks of the same type and model. If they do not help (too few, or the task already
outlasts them all) the interval is a share of the elapsed time. All of it is bounded by a floor and a
ceiling, and stretched while the service is under pressure.

Two polls give an interval: the task was not ready at one and ready at the next. Every time in it is equally likely, so
the remembered times are spread over it. If the first poll finds the task ready, the interval has no lower bound: then
the latest duration that was measured between two polls and fits is repeated; if none fits, a guess counts as one.
So that there are such durations, a few tasks are polled earlier than the rule says: the first ones of a kind, and every
eighth later. That is also how a model that has become faster is noticed. It may have become many times faster (its
first tasks waited until it was loaded, say): so every 32nd task is polled at a sixteenth of the shortest remembered
time, and at a fourth.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import deque
from typing import TYPE_CHECKING, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ("LONGEST_HOLD", "DurationKey", "Durations", "History", "PollPolicy", "Poller", "first_poll", "next_poll")

_GOLDEN = 0.6180339887
"""Its multiples, without their whole parts, are spread evenly over [0, 1), however many there are."""

LONGEST_HOLD = 60.0
"""The longest time, in seconds, for which a `Retry-After` holds back polls, and second sends of what may have arrived.

Results may be ready. What was refused waits as long as the service asks, see `window`.
"""

DurationKey: TypeAlias = tuple[str, str | None]
"""What durations are remembered under: task type and model."""


class PollPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When to poll a task with `getResponse`. Times are seconds.

    The service's documentation advises 1 to 2 s and growing, and a first wait for tasks of predictable length [doc].
    The official clients poll after 1 s, then every 0.5 s growing to 10 s [sdk], with a frame for each poll.
    """

    initial: float = 0.2
    """The first poll, and the shortest interval, while the duration of such tasks is not known."""
    share: float = 0.1
    """The interval as a share of the elapsed time, where earlier tasks do not help."""
    scout: float = 0.025
    """The same for the first `min_samples` tasks of a kind, so that the others need not wait as long."""
    floor: float = 0.02
    """The shortest time between two frames of polls, and between two polls of a task."""
    frame_rate: float = 22.0
    """Frames of polls a second, if more than `burst` are due: a frame costs more than the polls in it."""
    frames_a_result: float = 1 / 32
    """Frames that may leave in addition for each result found: with many results a second, each of them pays a part."""
    burst: int = 6
    """How many frames may leave faster than that."""
    floor_share: float = 0.03
    """The shortest interval of a task, as a share of the time it runs."""
    ceiling: float = 10.0
    """The longest interval, whatever is predicted."""
    quantile: float = 0.09
    """The share of the still running that should be ready when they are polled: about 1/quantile polls a task."""
    probe_every: int = 8
    """One in this many tasks of a kind is polled earlier than the others."""
    probe_share: float = 0.05
    """How much earlier, as a share of the usual time; by `floor` if that is more."""
    search_every: int = 32
    """One in this many tasks of a kind is polled far earlier, in case the model has become many times faster."""
    search_factor: float = 4.0
    """Its first polls come at the shortest remembered time, divided by the square of this number and by this number."""
    samples: int = 64
    """How many durations are remembered for each task type and model."""
    min_samples: int = 4
    """The least number of durations from which a time is predicted."""
    reply_timeout: float = 2.0
    """The longest time until a poll without a reply is repeated on a WebSocket; it grows with each repetition."""
    reply_floor: float = 0.5
    """The shortest such time, where replies usually come at once."""
    unknown_limit: int = 3
    """How often the service must say, to `getResponse` and `getTaskDetails` both, that it knows no such task, before a
    task that it never acknowledged is sent again under the same taskUUID, or given up."""
    unknown_patience: float = 5.0
    """For how long it must say so of a sync task that was sent, or of one (or a stream) that is only polled. Whether
    `getResponse` knows it while it runs is not documented; most are done within this time, and then it does."""
    unknown_timeout: float = 150.0
    """For how long it must say so of a task that it did acknowledge, before that one is given up: longer than the 120 s
    that a sync task may take."""

    def unknown_wait(self, round_number: int) -> float:
        """Seconds before the next poll after the service did not know the task for the `round_number`-th time."""
        return min(0.25 * 2.0 ** min(round_number - 1, 30), 2.0)


def next_poll(samples: Sequence[float], elapsed: float, policy: PollPolicy) -> float:
    """Return the elapsed time at which to poll a task that has run for `elapsed` seconds.

    Args:
        samples: durations of earlier tasks of its kind, sorted.
        elapsed: seconds since the task was sent; 0 for the first poll.
        policy: the bounds.

    Returns:
        A time greater than `elapsed`, by at most `policy.ceiling`.
    """
    count = len(samples)
    if count < policy.min_samples:
        is_scout = 0.0 < elapsed < policy.initial  # all others are polled later
        return elapsed + min(max(policy.scout if is_scout else policy.initial, policy.share * elapsed), policy.ceiling)
    first = bisect_right(samples, elapsed)
    left = count - first
    if left == 0:
        return elapsed + min(max(policy.floor, policy.share * elapsed), policy.ceiling)
    if 0.0 < elapsed * policy.search_factor < samples[0]:  # the second poll of a search
        return min(max(elapsed + policy.floor, elapsed * policy.search_factor), elapsed + policy.ceiling)
    shortest = policy.floor_share * elapsed
    if shortest < policy.floor:  # this runs at every poll: comparisons cost less than calls of min and max
        shortest = policy.floor
    if shortest > policy.ceiling:
        shortest = policy.ceiling
    target = samples[first + int(left * policy.quantile)]
    # They end so close together that one later poll finds all, or nearly all, ready.
    nearly_all = samples[first + int(left * 0.9)]
    if samples[-1] - target <= shortest:
        target = samples[-1]
    elif nearly_all - target <= shortest:
        target = nearly_all
    if target < elapsed + shortest:
        return elapsed + shortest
    latest = elapsed + policy.ceiling
    return target if target < latest else latest


def first_poll(samples: Sequence[float], number: int, policy: PollPolicy, *, may_probe: bool = True) -> float:
    """Return the elapsed time at which to poll a task for the first time.

    Args:
        samples: durations of earlier tasks of its kind, sorted.
        number: how many tasks of its kind came before it.
        policy: the bounds.
        may_probe: whether it may be polled earlier, if it is its turn.

    Returns:
        The time by the rule; for a scout, a probe or a search an earlier one.
    """
    if len(samples) < policy.min_samples:
        return policy.scout if number < policy.min_samples else policy.initial
    if may_probe and number % policy.search_every == 0:
        return min(max(policy.floor, samples[0] / policy.search_factor**2), policy.ceiling)
    usual = next_poll(samples, 0.0, policy)
    if may_probe and number % policy.probe_every == 0:
        # Early enough that the next poll, if it is needed, comes at the usual time.
        probe = usual - 1.001 * max(policy.floor, policy.probe_share * usual)
        if probe >= policy.floor:
            return probe
    return usual


class Durations:
    """What the most recent tasks of one kind took.

    Attributes:
        ordered: the remembered durations, sorted.
        begun: how many tasks of this kind have a time for their first poll.
    """

    __slots__ = ("_bracketed", "_count", "_recent", "begun", "ordered")

    def __init__(self, samples: int) -> None:
        self.ordered: list[float] = []
        self.begun = 0
        self._count = 0
        self._recent: deque[float] = deque(maxlen=samples)
        self._bracketed: deque[float] = deque(maxlen=max(1, samples // 2))

    def record(self, lower: float, upper: float) -> None:
        """Remember that a task took more than `lower` and at most `upper` seconds; `lower` 0: not polled before."""
        if lower > 0.0:
            self._count += 1
            duration = lower + (upper - lower) * (self._count * _GOLDEN % 1.0)
            self._bracketed.append(duration)
        else:
            for duration in reversed(self._bracketed):
                if duration <= upper:
                    break
            else:
                self._count += 1
                duration = upper * (0.75 + 0.25 * (self._count * _GOLDEN % 1.0))
                self._bracketed.append(duration)
        recent, ordered = self._recent, self.ordered
        if len(recent) == recent.maxlen:
            ordered.pop(bisect_right(ordered, recent[0]) - 1)
        recent.append(duration)
        insort(ordered, duration)


class History:
    """What tasks took, by task type and model: of a bounded number of kinds, those used last."""

    kinds = 256

    def __init__(self, samples: int) -> None:
        self._samples = samples
        self._by_key: dict[DurationKey, Durations] = {}

    def of(self, key: DurationKey) -> Durations:
        """What is known of a kind; it grows as its tasks end."""
        by_key = self._by_key
        durations = by_key.pop(key, None)
        if durations is None:
            if len(by_key) >= self.kinds:
                del by_key[next(iter(by_key))]
            durations = Durations(self._samples)
        by_key[key] = durations  # moved to the end: the kinds used last are kept
        return durations


class Poller:
    """The pace of all polls of one session: due polls leave together, and refusals of the service slow all."""

    _SLOWEST = 16.0

    def __init__(self, policy: PollPolicy) -> None:
        self.policy = policy
        self.history = History(policy.samples)
        self.open_at = float("-inf")
        """No poll may leave before."""
        self.pressure = 1.0
        """By how much every interval is stretched."""
        self.rejected_batches = 0
        self._refused_until = float("-inf")
        self._paid_until = float("-inf")
        self._held_until = float("-inf")
        self._next_frame_at = float("-inf")
        self._changed_at = 0.0
        self._reply_time: float | None = None

    @property
    def may_join(self) -> bool:
        """Whether polls may share a frame: until the service has refused three such frames."""
        return self.rejected_batches < 3

    def first_poll(self, durations: Durations, at: float) -> float:
        """Return the elapsed time of the first poll of a task of this kind, which the service has taken at `at`."""
        number = durations.begun
        durations.begun = number + 1
        # The frame of a probe, which holds few polls, would delay all the others.
        may_probe = at >= self._held_until
        return first_poll(durations.ordered, number, self.policy, may_probe=may_probe) * self.pressure

    def next_poll(self, durations: Durations, elapsed: float) -> float:
        """Return the elapsed time of the next poll of a task of this kind."""
        target = next_poll(durations.ordered, elapsed, self.policy)
        return elapsed + (target - elapsed) * self.pressure

    def note_poll(self, at: float) -> None:
        """A frame of polls was sent."""
        policy = self.policy
        self._paid_until = max(self._paid_until, at) + self.pressure / policy.frame_rate
        self._held_until = self._paid_until - policy.burst / policy.frame_rate
        self._next_frame_at = at + policy.floor * self.pressure
        self.open_at = max(self._refused_until, self._next_frame_at, self._held_until)

    def note_result(self) -> None:
        """A poll found its task ready, and pays a part of a frame."""
        policy = self.policy
        credit = policy.frames_a_result * self.pressure / policy.frame_rate
        self._paid_until -= credit
        self._held_until -= credit
        if self.open_at > self._next_frame_at:
            self.open_at = max(self._refused_until, self._next_frame_at, self._held_until)

    def strained(self, at: float, retry_after: float | None) -> None:
        """The service said that it is overloaded (429, 503, `rateLimitExceeded`). A burst of refusals counts as one."""
        if self.pressure <= 1.0 or at - self._changed_at >= 0.25 * self.pressure:
            self.pressure = min(self.pressure * 2.0, self._SLOWEST)
            self._changed_at = at
        wait = 0.25 * self.pressure if retry_after is None else min(retry_after, LONGEST_HOLD)
        self._refused_until = max(self._refused_until, at + wait)
        self.open_at = max(self.open_at, self._refused_until)

    def relieved(self, at: float) -> None:
        """The service answered: with every second of answers the pressure falls."""
        if self.pressure > 1.0 and at - self._changed_at >= 1.0:
            self.pressure = max(1.0, self.pressure * 0.7)
            self._changed_at = at

    def answered(self, at: float, polled_at: float) -> None:
        """A poll that was sent at `polled_at` has its reply."""
        taken = max(0.0, at - polled_at)
        self._reply_time = taken if self._reply_time is None else 0.9 * self._reply_time + 0.1 * taken
        self.relieved(at)

    def reply_wait(self, unanswered: int) -> float:
        """Seconds to wait for the reply to a poll, after so many without one: from the usual time, within bounds."""
        policy = self.policy
        usual = policy.reply_timeout
        if self._reply_time is not None:
            usual = min(max(8.0 * self._reply_time, policy.reply_floor), usual)
        return min(usual * 1.5 ** min(unanswered, 30), 10.0)
