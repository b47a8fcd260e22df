"""How many tasks of one model are in flight at the same time: the send window.

The service publishes no limit. It shares a queue for each model and refuses what does not fit (429, 503) [doc]; thirty
tasks at once are answered in 1.3 times the time of one, and none of them is refused [3p]. So a window is open until the
service refuses a task, and the user's own `concurrency` and `limits` are the bound.

A refused task was not accepted, so it costs nothing but the frame that carried it. The rule after a refusal:

* The window closes to what was sent and not refused, at least one task. The refused task waits at its old turn.
* After one round (as many tasks have ended as the window holds), or after `STEP` seconds where tasks are longer, one
  more task may be in flight. If it is not refused either, two more, then four, and so on; each of these steps lasts one
  round, or `ANSWER` seconds where tasks are longer. A refusal begins the steps anew.
* Above the peak, the most that were in flight when the service refused, the window is open again.
* Where nothing is in flight, one task is tried after a growing wait, `STEP` seconds at most. A `Retry-After` is obeyed.
* A model that has accepted nothing for `refusal_timeout`, with nothing in flight, ends what waits for it with an error.

* Where several clients share the work of one batch, all but one of them hold their windows while a model refuses tasks
  (`graph.shares` says whose turn it is): a held window takes no steps, and an open one closes to what is in flight.

So at a steady capacity a round costs one refusal, and a window is fully open within half a minute after the service
accepts again: steps double, so that ten of them are enough for a thousand tasks.

A window reads no clock and holds no task: times come in, and the tracker sends what `next_waiting` gives.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import msgspec

from runware_flow.errors import RunwareError
from runware_flow.session.retry import backoff
from runware_flow.session.timer_queue import TimerQueue
from runware_flow.types import TaskId

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from runware_flow.session.options import SessionOptions

__all__ = ("ANSWER", "STEP", "Waiting", "Window", "WindowState", "WindowStatistics", "Windows", "window_of")

STEP = 5.0
"""Seconds without a refusal after which one more task is tried, where a round takes longer."""
ANSWER = 1.0
"""Seconds after which what was tried counts as accepted: refusals come within milliseconds [sdk]."""

_KEPT = 256
"""Windows that are kept; of more, the oldest open ones that nothing goes through are forgotten."""

Waiting: TypeAlias = TaskId | int
"""A waiter for room: a task of the session, or the number of a caller that has tasks of its own."""


def window_of(task_type: str, model: str | None) -> str:
    """Name the window that a task goes through: its model, or its type if it has none."""
    return model or task_type


class WindowStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """The send window of one model at one moment."""

    window: int | None
    """Tasks that may be in flight at the same time; `None` while the service refuses none."""
    in_flight: int
    """Tasks that were sent, or are about to be, and have not ended."""
    waiting: int
    """Tasks that wait because the service has refused some, those of runs and batches included."""
    refusals: int
    """How often a task was refused since the session began."""


class WindowState(NamedTuple):
    """The state of a window, for the other clients that share the work of one batch.

    Attributes:
        refusals: how often a task was refused since the session began.
        is_open: there is no bound.
        peak: the most that were in flight when the service refused; 0 for an open window.
    """

    refusals: int
    is_open: bool
    peak: int


class Window:
    """The window of one model; see the module's docstring.

    Attributes:
        in_flight: tasks that were let go and have not ended.
        is_held: it takes no steps; another client finds out whether more may be in flight.
        limit: how many that may be; infinite while the window is open.
        refusals: how often a task was refused.
        held_until: nothing is sent before.
        waiting: who waits for room; the order is that of the numbers they were given.
        failure: why what waits has no more chance, as long as `held_until` has not passed.
        refusal: what the service said last, to this client or to another one that shares the work.
        tasks: tasks of the session that go through it, those without a connection included.
    """

    __slots__ = (
        "_extra",
        "_finished",
        "_options",
        "_peak",
        "_refusing_since",
        "_step_at",
        "_tries",
        "failure",
        "held_until",
        "in_flight",
        "is_held",
        "limit",
        "name",
        "refusal",
        "refusals",
        "tasks",
        "waiting",
    )

    def __init__(self, name: str, options: SessionOptions) -> None:
        self.name = name
        self.tasks = 0
        self.in_flight = 0
        self.is_held = False
        self.limit = inf
        self.refusals = 0
        self.held_until = -inf
        self.waiting: TimerQueue[Waiting] = TimerQueue()
        self.failure: RunwareError | None = None
        self.refusal: RunwareError | None = None
        self._options = options
        self._peak = 0
        self._extra = 0
        self._finished = 0
        self._step_at = inf
        self._tries = 0
        self._refusing_since: float | None = None

    def __repr__(self) -> str:
        limit = "open" if self.limit == inf else f"of {self.limit:g}"
        return f"<Window {self.name}: {self.in_flight} {limit}, {len(self.waiting)} waiting>"

    @property
    def is_open(self) -> bool:
        """Whether there is no bound."""
        return self.limit == inf

    def has_room(self, at: float) -> bool:
        """Tell whether one more may be sent now, and nothing waits for the same."""
        return self.limit == inf or (not self.waiting and self._can_go(at))

    def is_failing(self, at: float) -> bool:
        """Tell whether the model refuses everything, so that a task to be sent now fails."""
        return self.failure is not None and at < self.held_until

    def statistics(self) -> WindowStatistics:
        """Describe it as it is now."""
        return WindowStatistics(
            window=None if self.limit == inf else int(self.limit),
            in_flight=self.in_flight,
            waiting=sum(isinstance(who, str) for who in self.waiting),
            refusals=self.refusals,
        )

    # What happens to a task that was let go

    def accepted(self) -> None:
        """The service has taken a task."""
        self._refusing_since = None
        self._tries = 0

    def left(self, *, has_ended: bool) -> None:
        """A task is no longer in flight.

        Args:
            has_ended: the service has ended it, and so has room for another one; else we only stopped waiting.
        """
        self.in_flight -= 1
        if has_ended and self.limit != inf:
            self._finished += 1
            self.accepted()

    def refused(self, error: RunwareError, at: float, jitter: float) -> None:
        """The service has not taken a task.

        Args:
            error: what it said; its `retry_after` is obeyed.
            at: the time now.
            jitter: a number in [0, 1) by which clients differ in when they try again.
        """
        options = self._options
        self.refusals += 1
        self.refusal = error
        self._peak = max(self._peak, self.in_flight)
        self.in_flight -= 1
        self.limit = max(1, self.in_flight)
        self._extra = self._finished = 0
        if error.retry_after is not None:
            self.held_until = max(self.held_until, at + min(error.retry_after, options.refusal_timeout))
        if self.in_flight == 0:
            self._tries += 1
            wait = min(backoff(self._tries, options.retry_delay, "exponential", jitter), STEP)
            self.held_until = max(self.held_until, at + wait)
            if self._refusing_since is None:
                self._refusing_since = at
            if at - self._refusing_since >= options.refusal_timeout:
                self.failure = error
                self.held_until = max(self.held_until, at + STEP)
                self._refusing_since = None
        self._step_at = max(at, self.held_until) + STEP

    # What other clients of the same work have found out

    def hold(self, peak: int) -> None:
        """Take no steps from now on; a window that is open closes to what is in flight.

        Args:
            peak: the most that another client had in flight when it was refused.
        """
        if self.limit == inf:
            self._peak = max(peak, self.in_flight)
            self.limit = max(1, self.in_flight)
        if self.refusal is None:
            self.refusal = RunwareError(
                f"the service has refused tasks of {self.name} that another client of the same batch sent",
                code="rateLimit",
                raw_code="rateLimitExceeded",
            )
        self.is_held = True

    def release(self, at: float) -> None:
        """Take steps again, the first one after a round, as after a refusal."""
        self.is_held = False
        self._extra = self._finished = 0
        self._step_at = max(at, self.held_until) + STEP

    def state(self) -> WindowState:
        """Return its state, for other clients."""
        return WindowState(self.refusals, self.limit == inf, self._peak)

    # What waits

    def next_waiting(self, at: float, *, has_connection: bool) -> Waiting | None:
        """Take out the next waiter, if there is room; the caller sends it, and counts it in `in_flight`."""
        self._take_steps(at)
        return self.waiting.pop() if self._can_go(at) and self._has_next(has_connection=has_connection) else None

    def _has_next(self, *, has_connection: bool) -> bool:
        first = self.waiting.first
        return first is not None and (has_connection or not isinstance(first, str))

    def next_at(self, *, has_connection: bool) -> float:
        """When there may be room for a waiter, even if no event comes before."""
        if not self._has_next(has_connection=has_connection):
            return inf
        if self.in_flight < self.limit:
            return self.held_until
        return inf if self.is_held else max(self._step_at, self.held_until)

    def _can_go(self, at: float) -> bool:
        return (self.in_flight < self.limit and at >= self.held_until) or self.is_failing(at)

    def _take_steps(self, at: float) -> None:
        if at < self.held_until or self.is_held:
            return
        if self._finished >= self.limit:
            self._step(at)
        while at >= self._step_at:
            self._step(self._step_at)

    def _step(self, at: float) -> None:
        self._extra = max(1, 2 * self._extra)
        self._finished = 0
        self.limit += self._extra
        self._step_at = at + ANSWER
        if self.limit > self._peak:
            self.limit = self._step_at = inf
            self._peak = self._extra = 0
            self.accepted()


class Windows:
    """The windows of one session, by model, or by task type where a task has no model."""

    def __init__(self, options: SessionOptions) -> None:
        self._options = options
        self._by_name: dict[str, Window] = {}
        self.closed: dict[str, Window] = {}
        """Those that had a refusal, until they are open again."""

    def of(self, name: str) -> Window:
        """The window of a model."""
        window = self._by_name.get(name)
        if window is None:
            if len(self._by_name) >= _KEPT:
                self._forget()
            window = self._by_name[name] = Window(name, self._options)
        return window

    def is_open(self, name: str) -> bool:
        """Whether a model's window has no bound."""
        return name not in self.closed

    def next_at(self, *, has_connection: bool) -> float:
        """When one of them may have room, even if no event comes before."""
        return min((window.next_at(has_connection=has_connection) for window in self.closed.values()), default=inf)

    def let_go(self, at: float, *, has_connection: bool) -> Iterator[tuple[Window, Waiting]]:
        """Give all waiters that may go now, in their order; those of one model never delay those of another.

        Args:
            at: the time now.
            has_connection: tasks of the session may be sent; otherwise only callers with tasks of their own may go.
        """
        for window in list(self.closed.values()):
            while (who := window.next_waiting(at, has_connection=has_connection)) is not None:
                yield window, who
            if window.is_open and not window.waiting:  # without a connection, tasks wait for one
                del self.closed[window.name]

    def hold(self, peaks: Mapping[str, int], at: float) -> None:
        """Hold the windows of these models, each with a peak that another client has met, and release all others."""
        for name, peak in peaks.items():
            window = self.of(name)
            if not window.is_held:
                window.hold(peak)
                self.closed[name] = window
        for name, window in self.closed.items():
            if window.is_held and name not in peaks:
                window.release(at)

    def states(self) -> dict[str, WindowState]:
        """Return the state of those that had a refusal, for other clients; may be called from any thread."""
        return {name: window.state() for name, window in list(self._by_name.items()) if window.refusals}

    def statistics(self) -> dict[str, WindowStatistics]:
        """Describe each, by name."""
        return {name: window.statistics() for name, window in self._by_name.items()}

    def _forget(self) -> None:
        for name, window in list(self._by_name.items()):
            if window.is_open and not (window.tasks or window.in_flight or window.waiting):
                del self._by_name[name]
                return
