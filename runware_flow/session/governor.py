"""How many tasks one model is sent at the same time: grown while the service bears it, cut when it shows strain.

The service publishes no limit. It has a queue for each model, shares it fairly, lets latency grow first and refuses
later (429, 503), and advises two to four requests at a time [doc]. So a governor begins with four, and finds out:

* It *doubles* at first: each success makes room for one more, as long as what there is room for is used.
* Latency is compared with the model's own at low concurrency, the *baseline*, in windows of several tasks. It counts as
  grown if the window's mean lies above the baseline's by half of that, by more than chance explains (three standard
  errors), and by more than polls and the event loop blur anyway. So tasks whose durations differ by nature do not slow
  anybody down. A window like that, or a refusal, ends the doubling and cuts the limit.
* After that a window without trouble *adds* one.
* One trouble is one cut: what was sent before a cut has no say any more. A `Retry-After` lets nothing go until then.
* Latency never cuts below the four, refusals do. Latency that is high with four is no queue of ours: it is the new
  baseline, and doubling begins again.

The governor does not hold anybody back itself; who asks `has_room` does. It reads no clock: times come in.
"""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from runware_flow.errors import RunwareError

__all__ = ("START", "Governor", "GovernorStatistics", "Sample", "is_strain")

START = 4
"""What the service advises at most [doc]."""

_GROWN = 0.5
"""Latency may grow by this share of the baseline: a queue half as long as what is being worked on."""
_ERRORS = 3.0
"""Standard errors that chance is good for."""
_GRAIN_SECONDS = 0.1
"""A poll comes at most about so late, and an event loop under load handles it about so late."""
_WINDOW = 8
"""Tasks in the smallest window that is judged."""
_MEMORY = 32
"""Tasks that the baseline remembers; older ones fade."""
_KNOWN = 0.1
"""Standard error, as a share of the baseline, with which doubling begins; or when twice a window's tasks are known."""
_LEAST_CUT, _MOST_CUT = 0.7, 0.5
_CLEAR_CUT, _STAYED = 0.8, 0.9
"""After a cut this deep, a queue of ours would be shorter; latency that keeps this share of itself is none."""

_QUEUE_CODES = frozenset({"noAvailableServer", "serviceUnavailable", "serverUnavailable", "modelNotReady"})
_QUEUE_STATUS = frozenset({429, 503, 504})


def is_strain(error: RunwareError) -> bool:
    """Tell whether an error says that the service, or the model's queue, has too much to do."""
    if error.code == "quota":
        return False
    return error.code == "rateLimit" or error.raw_code in _QUEUE_CODES or error.status_code in _QUEUE_STATUS


class GovernorStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """One model's governor at one moment. Latencies are in seconds, from the send to the last result."""

    limit: int
    """Tasks that may be in flight at the same time."""
    in_flight: int
    """Tasks that are, direct calls included; these may be more than the limit."""
    waiting: int
    """Runs and batches that wait for a place."""
    baseline: float | None
    """Mean latency at low concurrency; `None` until a task has come back."""
    recent: float | None
    """Mean latency of the last window that was judged."""
    cuts: int
    """How often the limit was cut."""


class Sample(msgspec.Struct):
    """A task that was begun: what its latency will mean."""

    epoch: int
    is_low: bool
    """It had at most `START` beside it, itself included."""


class _Mean:
    """Mean and variance, over at most `memory` values: of more, older ones fade."""

    __slots__ = ("_memory", "count", "mean", "variance")

    def __init__(self, memory: float) -> None:
        self._memory = memory
        self.count = 0.0
        self.mean = 0.0
        self.variance = 0.0

    def add(self, value: float) -> None:
        self.count = min(self.count + 1.0, self._memory)
        weight = 1.0 / self.count
        delta = value - self.mean
        self.mean += weight * delta
        self.variance += weight * ((1.0 - weight) * delta * delta - self.variance)

    def remember(self, memory: float) -> None:
        """Let old values fade from now on."""
        self._memory = memory
        self.count = min(self.count, memory)

    def error_squared(self) -> float:
        # The sample's variance, which that of few values understates.
        return self.variance / (self.count - 1.0) if self.count > 1.0 else self.mean * self.mean


class Governor:
    """The limit of one model.

    Attributes:
        in_flight: tasks that were begun and have not ended.
        opens_at: until then nobody has room, since the service asked to wait.
        cuts: how often the limit was cut.
    """

    def __init__(self) -> None:
        self.in_flight = 0
        self.opens_at = float("-inf")
        self.cuts = 0
        self._limit = float(START)
        self._doubles = True
        self._is_doubtful = False
        self._is_known = False
        self._last_cut: tuple[float, float, float] | None = None
        self._epoch = 0
        self._peak = 0
        self._baseline = _Mean(_MEMORY)
        self._window = _Mean(float("inf"))
        self._recent: float | None = None

    def __repr__(self) -> str:
        state = "doubling" if self._doubles else "adding"
        return f"<Governor {self.in_flight} of {self.limit} in flight, {state}>"

    @property
    def limit(self) -> int:
        """How many may be in flight."""
        return int(self._limit)

    def has_room(self, now: float) -> bool:
        """Tell whether one more may be sent."""
        return self.in_flight < int(self._limit) and now >= self.opens_at

    def statistics(self, waiting: int = 0) -> GovernorStatistics:
        """Describe it as it is now."""
        return GovernorStatistics(
            limit=self.limit,
            in_flight=self.in_flight,
            waiting=waiting,
            baseline=self._baseline.mean if self._baseline.count else None,
            recent=self._recent,
            cuts=self.cuts,
        )

    # What happens to a task

    def begin(self) -> Sample:
        """Count a task, whether there is room for it or not."""
        self.in_flight += 1
        self._peak = max(self._peak, self.in_flight)
        return Sample(self._epoch, self.in_flight <= (START if self._is_known else max(START, self.limit)))

    def end(self) -> None:
        """A task that was begun is over, however it ended."""
        self.in_flight -= 1

    def succeeded(self, sample: Sample, seconds: float) -> None:
        """A task came back with all its results."""
        if sample.is_low:
            self._baseline.add(seconds)
            self._is_known = self._is_known or _is_known(self._baseline)
        if sample.epoch != self._epoch:
            return
        self._window.add(seconds)
        if self._doubles and not self._is_doubtful and self._limit < 2 * self._peak and self._is_known:
            self._limit += 1.0
        if self._window.count >= (_WINDOW if self._doubles else max(START, self.limit)):
            self._judge()

    def strained(self, sample: Sample, now: float, retry_after: float | None = None) -> None:
        """The service said that it has too much to do, to a task that has not ended or that ends with it."""
        if retry_after is not None:
            self.opens_at = max(self.opens_at, now + retry_after)
        if sample.epoch == self._epoch:
            self._cut(_MOST_CUT, 1)

    # The rule

    def _judge(self) -> None:
        window = self._window
        self._recent = window.mean
        was_doubtful, self._is_doubtful = self._is_doubtful, self._has_grown()
        cut, self._last_cut = self._last_cut, None
        if self._is_doubtful and cut is not None and _has_not_followed(window, *cut):
            self._learn_anew()
            self._limit = max(self._limit, cut[0])
        elif self._is_doubtful and self._limit <= START:
            self._learn_anew()
            self._doubles = True
        elif self._is_doubtful and was_doubtful:
            before = None if self._doubles else self._limit
            self._cut(min(_LEAST_CUT, max(_MOST_CUT, (1.0 + _GROWN) * self._baseline.mean / window.mean)), START)
            if before is not None:  # while doubling, the window's tasks had less beside them than the limit says
                self._last_cut = (before, self._limit / before, window.mean)
            return
        elif not self._is_doubtful and not self._doubles and self._peak >= self.limit:
            self._limit += 1.0
        self._begin_window()

    def _has_grown(self) -> bool:
        window, baseline = self._window, self._baseline
        if not baseline.count:
            return False
        chance = _ERRORS * sqrt(window.error_squared() + baseline.error_squared())
        return window.mean - baseline.mean > max(_GROWN * baseline.mean, chance, _GRAIN_SECONDS)

    def _learn_anew(self) -> None:
        """Take the latency of this window for the model's own."""
        self._baseline = self._window
        self._baseline.remember(_MEMORY)
        self._is_doubtful = False

    def _cut(self, share: float, least: int) -> None:
        used = min(self._limit, float(max(self._peak, 1)))
        self._limit = min(self._limit, max(float(least), used * share))
        self._doubles = self._is_doubtful = False
        self._last_cut = None
        self._epoch += 1
        self.cuts += 1
        self._begin_window()

    def _begin_window(self) -> None:
        self._window = _Mean(float("inf"))
        self._peak = self.in_flight


def _is_known(baseline: _Mean) -> bool:
    if baseline.count >= 2 * _WINDOW:
        return True
    return baseline.count >= START and sqrt(baseline.error_squared()) <= _KNOWN * baseline.mean


def _has_not_followed(window: _Mean, limit: float, share: float, before: float) -> bool:
    """Tell whether latency stayed where it was when the limit was cut, so that it is no queue of ours."""
    if share > _CLEAR_CUT:
        return False
    expected = before * share
    return window.mean > max(_STAYED * before, expected + 2.0 * sqrt(window.error_squared()))
