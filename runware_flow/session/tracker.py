"""The tasks' side of a session: sent, acknowledged, asked for, sent again where that is safe, settled once.

`Tracker` holds the table of what is in flight and nothing else: an id that settled or was withdrawn is forgotten, and
what comes for it later is dropped. What a frame says of a task is judged in `reading`; this module does what follows.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from runware_flow.errors import RunwareError, RunwareTimeoutError
from runware_flow.session.commands import Deliver, Lane, Log, Outgoing, Refused, Settle
from runware_flow.session.delivery import ResultSlots
from runware_flow.session.governor import is_strain
from runware_flow.session.inflight import Entry, TaskState
from runware_flow.session.polling import Poller
from runware_flow.session.retry import backoff, spread
from runware_flow.session.timer_queue import TimerQueue
from runware_flow.wire.frames import ErrorItem, Item
from runware_flow.wire.problems import to_error

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runware_flow.session.commands import Command
    from runware_flow.session.events import Submission
    from runware_flow.session.options import SessionOptions
    from runware_flow.types import TaskId

__all__ = ("Tracker",)

_DEAF = 6
"""Asks in a row without a reply, a minute and a half, before a task that was overdue anyway is given up."""

_REPLAY_GRACE = 0.25
"""After a resume the service first sends again what it could not deliver; a lookup before that would be idle."""


class Tracker:
    """Everything in flight, and what is due for it."""

    def __init__(
        self,
        options: SessionOptions,
        timers: TimerQueue[TaskId],
        emit: Callable[[Command], None],
        send: Callable[[Outgoing], None],
    ) -> None:
        self.options = options
        self.entries: dict[TaskId, Entry] = {}
        self.poller = Poller(options.poll)
        self.is_open = not options.duplex
        """Whether there is a connection to send on; REST always has."""
        self.emit = emit
        self.submits = 0
        self.resends = 0
        self.asks = 0
        self._send_out = send
        self._deadlines = timers
        self._asks: TimerQueue[TaskId] = TimerQueue()

    # What callers want

    def submit(self, submission: Submission, at: float) -> None:
        """Take up a task; send it if there is a connection."""
        entry = Entry(submission.task_id, submission, ResultSlots(submission.slots), sent_at=at)
        self.entries[submission.task_id] = entry
        is_old = submission.sent_before == "yes"
        if is_old or (submission.sent_before == "maybe" and not entry.resends_freely):
            entry.has_history = True
            entry.move("sent by an earlier process")
        if self.is_open:
            self._start(entry, at)

    def withdraw(self, task_id: TaskId) -> None:
        """Forget a task."""
        if self.entries.pop(task_id, None) is not None:
            self._deadlines.drop(task_id)
            self._asks.drop(task_id)

    def fail_all(self, error: RunwareError) -> None:
        """Settle everything in flight with this error."""
        for entry in list(self.entries.values()):
            self.settle(entry, own_error(error, entry))

    # What the connection does

    def connected(self, at: float) -> None:
        """There is a connection: send what waits, ask for what was sent before."""
        self.is_open = True
        for entry in list(self.entries.values()):
            self._start(entry, at)

    def disconnected(self) -> None:
        """The connection is gone, and with it every answer that was under way on it, unless it is replayed.

        What was to be asked when stays: connections that break one after the other must not put it off for ever.
        """
        self.is_open = False
        self._deadlines.clear()
        for entry in self.entries.values():
            entry.owed = entry.asking or entry.owed
            entry.asking = None
            entry.has_history = entry.has_history or entry.sends > 0
            if entry.state is TaskState.SENT:
                entry.went_down = True
                lost = "async or read-only, connection lost" if entry.resends_freely else "sync answer lost or overdue"
                entry.move(lost)

    def _start(self, entry: Entry, at: float) -> None:
        if entry.state is TaskState.WAITING:
            self.send(entry, at)
        elif entry.state is TaskState.ASKED and entry.task_id not in self._asks:
            grace = 0.0 if entry.sends == 0 or entry.confirmed else _REPLAY_GRACE
            self._asks.set(entry.task_id, at + grace)

    # Time

    @property
    def next_ask_at(self) -> float:
        """When the next frame of asks may leave; infinity if none is to leave."""
        return max(self._asks.next_at, self.poller.open_at) if self.is_open else inf

    def ask_due(self, at: float) -> None:
        """Send every ask that is due, all together."""
        if not self.is_open or at < self.poller.open_at:
            return
        due = self._asks.pop_due(at)
        for task_id in due:
            entry = self.entries[task_id]
            if entry.owed is not None and entry.saw_empty:
                self.unknown(entry, entry.owed, at)
            else:
                self._ask(entry, Lane.LOOKUP if entry.is_doubted else Lane.POLL, at)
        if due:
            self.poller.asked(at)

    def overdue(self, task_id: TaskId, at: float) -> None:
        """The deadline of a task has come: its turn after a backoff, or something awaited that did not come."""
        entry = self.entries[task_id]
        if entry.state is TaskState.WAITING:
            if self.is_open:
                self.send(entry, at)
        elif entry.state is TaskState.ASKED:
            self._unanswered(entry, at)
        elif not entry.resends_freely:
            self.look_up(entry, at, timed_out(entry, "the service did not answer in time"))
        elif entry.unacknowledged == 0:
            entry.unacknowledged += 1
            entry.alone = True
            entry.move("not acknowledged in time")
            self.send(entry, at)
        elif entry.submission.is_read_only:
            self.settle(entry, timed_out(entry, "the service did not answer, nor on a second try"))
        else:
            # What was lost may be the acknowledgements: a look before it is given up costs nothing.
            entry.fallback = timed_out(entry, "the service did not acknowledge the task, nor on a second try")
            entry.move("not acknowledged twice")
            self.ask_now(entry, at)

    def _unanswered(self, entry: Entry, at: float) -> None:
        lane, entry.asking = entry.asking, None
        if lane is not None and entry.saw_empty:
            entry.unanswered = 0
            self.unknown(entry, lane, at)
            return
        entry.unanswered += 1
        entry.alone = entry.alone or entry.unanswered > 1
        if entry.fallback is not None and not entry.confirmed and entry.unanswered >= _DEAF:
            self.settle(entry, entry.fallback)
        else:
            self.ask_now(entry, at)

    # Sending

    def send(self, entry: Entry, at: float) -> None:
        """Give a task to the transport."""
        entry.move("send")
        if entry.sends:
            self.resends += 1
            entry.has_history = True
        else:
            self.submits += 1
        entry.sends += 1
        entry.sent_at = at
        entry.went_down = False
        entry.owed = None
        entry.is_doubted = False
        submission, duplex = entry.submission, self.options.duplex
        joins = not entry.alone and (duplex or submission.delivery == "async")
        self._send_out(Outgoing(submission.body, Lane.SUBMIT, submission.task_id, joins=joins))
        if duplex:
            wait = self.options.ack_timeout if entry.resends_freely else self.options.sync_timeout
            self._deadlines.set(entry.task_id, at + wait)

    def retry(self, entry: Entry, error: RunwareError, at: float, retry_after: float | None = None) -> None:
        """The service has not accepted a task, for now: send it again later, or give up."""
        if is_strain(error):
            self.emit(Refused(entry.task_id, retry_after))
        entry.retries += 1
        if entry.retries > self.options.max_retries:
            if entry.may_have_arrived:
                # It may be bought: whoever pays for it wants to know, and asking is free.
                entry.fallback = error
                entry.move("no reply, no retries left")
                self.ask_now(entry, at)
            else:
                self.settle(entry, error)
            return
        options = self.options
        jitter = spread(entry.task_id, entry.retries)
        delay = backoff(entry.retries, options.retry_delay, options.retry_strategy, jitter)
        entry.move("refused for now (429, 503, ...)")
        self._deadlines.set(entry.task_id, at + max(delay, retry_after or 0.0))
        self.emit(Log("retry", f"{error.message}; trying again", {"task": entry.task_id, "retry": entry.retries}))

    def resend_alone(self, entry: Entry, at: float) -> None:
        """The batch it was in was refused as a whole."""
        entry.alone = True
        entry.move("batch refused")
        self.send(entry, at)

    # Asking

    def _ask(self, entry: Entry, lane: Lane, at: float) -> None:
        entry.asking = lane
        entry.owed = None
        entry.saw_empty = False
        if lane is Lane.POLL:
            entry.asked_at = at
        self.asks += 1
        joins = not entry.alone and self.poller.may_join
        self._send_out(Outgoing(entry.ask_body(lane), lane, entry.task_id, joins=joins))
        if self.options.duplex:
            self._deadlines.set(entry.task_id, at + self.poller.reply_wait(entry.unanswered))

    def accepted(self, entry: Entry, at: float) -> None:
        """The service has the task, or may have it: ask for its results from now on."""
        if entry.state is TaskState.ASKED:
            return
        entry.move("acknowledged")
        self._deadlines.drop(entry.task_id)
        first = entry.sent_at + self.poller.next_ask(entry.kind, 0.0)
        self._asks.set(entry.task_id, max(first, at))

    def look_up(self, entry: Entry, at: float, fallback: RunwareError | None, delay: float = 0.0) -> None:
        """The answer to a sync task is lost: find out what became of it, and say `fallback` if nobody knows."""
        entry.fallback = entry.fallback or fallback
        entry.has_history = True
        entry.move("sync answer lost or overdue")
        self._deadlines.drop(entry.task_id)
        self._asks.set(entry.task_id, at + delay)

    def ask_later(self, entry: Entry, at: float, delay: float = 0.0) -> None:
        """Ask (again) when the task is likely to be further, and not before `delay` has passed."""
        due = entry.sent_at + self.poller.next_ask(entry.kind, at - entry.sent_at)
        self._asks.set(entry.task_id, max(due, at + delay))

    def ask_now(self, entry: Entry, at: float) -> None:
        """Ask with the next frame of asks."""
        self._asks.set(entry.task_id, at)

    def pushed(self, entry: Entry, at: float) -> None:
        """Part of a sync task's answer came: the rest has time, less once there are results."""
        wait = self.options.ack_timeout if entry.result_slots.filled else self.options.sync_timeout
        self._deadlines.set(entry.task_id, at + wait)

    def answered(self, entry: Entry, at: float) -> None:
        """The ask that was out has its reply."""
        entry.owed = None
        if entry.asking is None:
            return
        if entry.asking is Lane.POLL and entry.asked_at is not None:
            self.poller.answered(at, entry.asked_at)
        entry.asking = None
        entry.unanswered = 0
        self._deadlines.drop(entry.task_id)

    def saw_empty_frame(self) -> None:
        """A frame without items came: whichever ask it answers, nothing was known of the task."""
        for entry in self.entries.values():
            if entry.asking is not None or entry.owed is not None:
                entry.saw_empty = True

    def unknown(self, entry: Entry, lane: Lane, at: float) -> None:
        """The service said, or let see, that it knows no such task. Ask the archive too before believing it."""
        entry.owed = None
        entry.is_doubted = lane is Lane.POLL
        if entry.is_doubted:
            if self.is_open:  # else this was replayed before the session stands; it is asked on with the others then
                self._asks.drop(entry.task_id)
                self._ask(entry, Lane.LOOKUP, at)
            return
        if entry.unknowns == 0:
            entry.unknown_since = at
        entry.unknowns += 1
        policy = self.options.poll
        needed = 0.0 if entry.resends_freely or entry.sends == 0 else policy.unknown_patience
        if entry.confirmed:
            needed = policy.unknown_timeout
        is_over = entry.unknowns >= policy.unknown_limit and at - entry.unknown_since >= needed
        if is_over and self.is_open:
            self._asks.drop(entry.task_id)
            self._give_up_unknown(entry, at)
        elif entry.confirmed:
            self.ask_later(entry, at, policy.unknown_wait(entry.unknowns))
        else:
            self._asks.set(entry.task_id, at + policy.unknown_wait(entry.unknowns) * self.poller.pressure)

    def _give_up_unknown(self, entry: Entry, at: float) -> None:
        # A send that went down with its connection was no try that the service refused.
        has_tries = entry.went_down or entry.retries < self.options.max_retries
        if entry.may_send and entry.fallback is None and has_tries:
            entry.retries += not entry.went_down
            entry.unknowns = 0
            entry.move("not known to the service")
            self.emit(Log("retry", "the service does not know the task; sending it again", {"task": entry.task_id}))
            self.send(entry, at)
            return
        message = "the service says that it does not know this task"
        if entry.confirmed:
            message += ", although it had accepted it"
        unknown = RunwareError(
            message,
            code="notFound",
            raw_code="taskNotFound",
            task_type=entry.submission.task_type,
            task_uuid=entry.task_id,
        )
        self.settle(entry, entry.fallback or entry.last_failure or unknown)

    # Results

    def take(self, entry: Entry, parts: Sequence[Item | ErrorItem], *, is_refusal: bool = False) -> int:
        """Deliver what is new, but a refusal, which is only kept; return how many results and failures that were."""
        arrivals = entry.result_slots.take(parts)
        for position, part in arrivals:
            failure = part if isinstance(part, ErrorItem) else part.error
            if failure is None:
                assert isinstance(part, Item)
                self.emit(Deliver(entry.task_id, position, item=part))
                continue
            error = to_error(failure, task_type=entry.submission.task_type, task_uuid=entry.task_id)
            entry.error = entry.error or error
            if not is_refusal:
                self.emit(Deliver(entry.task_id, position, error=error))
        return len(arrivals)

    def settle(self, entry: Entry, error: RunwareError | None) -> None:
        """The task is over."""
        self.withdraw(entry.task_id)
        self.emit(Settle(entry.task_id, error))

    def learn(self, entry: Entry, at: float) -> None:
        """Remember what a task took, if a clean measurement was possible."""
        if entry.has_history or entry.submission.is_read_only:
            return
        if entry.state is TaskState.ASKED:
            if entry.asked_at is not None:
                self.poller.history.record(entry.kind, entry.lower, entry.asked_at - entry.sent_at)
        else:
            exact = at - entry.sent_at
            self.poller.history.record(entry.kind, exact, exact)


def own_error(error: RunwareError, entry: Entry) -> RunwareError:
    """A copy of a session's error for one task: each caller raises an object of its own."""
    return RunwareError(
        error.message,
        code=error.code,
        raw_code=error.raw_code,
        retryable=error.retryable,
        status_code=error.status_code,
        documentation=error.documentation,
        task_type=entry.submission.task_type,
        task_uuid=entry.task_id,
    )


def timed_out(entry: Entry, message: str) -> RunwareTimeoutError:
    """The error of a task that the service was silent about: our patience ended, the service has judged nothing."""
    return RunwareTimeoutError(
        message,
        code="timeout",
        raw_code="timeout",
        task_type=entry.submission.task_type,
        task_uuid=entry.task_id,
    )
