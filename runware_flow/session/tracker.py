"""The tasks of a session: sent, acknowledged, polled, sent again where that is safe, settled once.

`Tracker` holds the table of what is in flight and nothing else: an id that settled or was withdrawn is forgotten, and
what comes for it later is dropped. What a frame says of a task is judged in `reading`; this module does what follows.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from runware_flow.errors import RunwareError, RunwareTimeoutError
from runware_flow.session.commands import Deliver, Lane, Log, Outgoing, Progress, Refused, Settle, SlotOffered
from runware_flow.session.delivery import ResultSlots
from runware_flow.session.events import READ_ONLY, SlotReturned, SlotTaken, SlotUnwanted, SlotWanted
from runware_flow.session.inflight import Entry, TaskState
from runware_flow.session.polling import LONGEST_HOLD, Poller
from runware_flow.session.retry import backoff, spread
from runware_flow.session.timer_queue import TimerQueue
from runware_flow.session.window import Windows, window_of
from runware_flow.types import TaskId
from runware_flow.wire.frames import ErrorItem, Item
from runware_flow.wire.problems import to_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from runware_flow.session.commands import Command
    from runware_flow.session.events import Submission
    from runware_flow.session.options import SessionOptions
    from runware_flow.session.polling import Durations

__all__ = ("Tracker",)

_MAX_UNANSWERED = 6
"""Polls in a row without a reply (a minute and a half) before a task that was overdue anyway is given up."""

_REPLAY_GRACE = 0.25
"""Seconds after a resume before lost answers are polled: the service first replays undelivered frames [doc]."""


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
        self.windows = Windows(options)
        self.poller = Poller(options.poll)
        self.is_open = not options.duplex
        """Whether there is a connection to send on; REST always has."""
        self.emit = emit
        self.submits = 0
        self.resends = 0
        self.polls = 0
        self._send_out = send
        self._deadlines = timers
        self._polls: TimerQueue[TaskId] = TimerQueue()
        self._replies: TimerQueue[tuple[TaskId, ...]] = TimerQueue()
        """When the reply to a frame of polls is overdue, by the tasks that were polled in it."""
        self.suspects: list[TaskId] = []
        """Tasks of which one has an answer that is too large: they have their turn one by one, and all others wait."""
        self._has_turn: TaskId | None = None
        self._count = 0

    # What callers want

    def submit(self, submission: Submission, at: float) -> None:
        """Take up a task; send it if there is a connection."""
        window = self.windows.of(window_of(submission.task_type, submission.model))
        self._count += 1
        durations = self.poller.history.of((submission.task_type, submission.model))
        slots = ResultSlots(submission.slots)
        is_read_only = submission.task_type in READ_ONLY
        entry = Entry(
            submission.task_id,
            submission,
            slots,
            window,
            durations,
            is_read_only=is_read_only,
            resends_freely=is_read_only or submission.delivery == "async",
            number=self._count,
            is_let_go=submission.has_slot,
            sent_at=at,
        )
        self.entries[submission.task_id] = entry
        window.tasks += 1
        is_old = submission.sent_before == "yes" and not is_read_only
        if is_old or (submission.sent_before == "maybe" and not entry.resends_freely):
            entry.has_history = True
            entry.move("sent by an earlier process")
        if self.is_open:
            self._start(entry, at)

    def slot_event(self, event: SlotTaken | SlotReturned | SlotWanted | SlotUnwanted) -> None:
        """A caller takes, gives back or waits for room in a window, for tasks that it submits itself."""
        window = self.windows.of(event.model)
        match event:
            case SlotTaken():
                window.in_flight += 1
            case SlotWanted(at, _, waiter, number):
                if self.windows.is_open(event.model):
                    window.in_flight += 1
                    self.emit(SlotOffered(window.name, waiter))
                elif waiter not in window.waiting or number is not None:
                    self._count += 1
                    window.waiting.set(waiter, self._count if number is None else number)
            case SlotUnwanted():
                window.waiting.drop(event.waiter)
            case SlotReturned(at, _, has_ended, error):
                if error is None:
                    window.left(has_ended=has_ended)
                else:
                    self.windows.closed[window.name] = window
                    window.refused(error, at, spread(TaskId(window.name), window.refusals))

    def withdraw(self, task_id: TaskId) -> None:
        """Forget a task."""
        entry = self.entries.get(task_id)
        if entry is not None:
            self._forget(entry, has_ended=False)

    def fail_all(self, error: RunwareError) -> None:
        """Settle everything in flight with this error."""
        for entry in list(self.entries.values()):
            self.settle(entry, own_error(error, entry))
        self.offer_all()

    def offer_all(self) -> None:
        """Offer every waiter its slot: the session has ended, so a submit returns the error of that."""
        for window in self.windows.closed.values():
            while (who := window.waiting.pop()) is not None:
                if not isinstance(who, str):
                    window.in_flight += 1
                    self.emit(SlotOffered(window.name, who))

    # What the connection does

    def connected(self, at: float) -> None:
        """There is a connection: send waiting tasks, poll those that were sent before."""
        self.is_open = True
        for entry in list(self.entries.values()):
            if entry.task_id not in entry.window.waiting:  # else its window lets it go
                self._start(entry, at)

    def disconnected(self, *, may_replay: bool = True) -> None:
        """The connection was lost, with every answer on its way.

        The times of polls stay: connections that break one after the other must not postpone them without end.

        Args:
            may_replay: the service may send the answers again on the next connection.
        """
        self.is_open = False
        self._has_turn = None
        self._deadlines.clear()
        self._replies.clear()
        for entry in self.entries.values():
            entry.lost_poll = (entry.open_poll or entry.lost_poll) if may_replay else None
            entry.open_poll = None
            entry.has_history = entry.has_history or entry.sends > 0
            if entry.state is TaskState.SENT:
                entry.went_down = entry.has_left = True
                lost = "async or read-only, connection lost" if entry.resends_freely else "sync answer lost or overdue"
                entry.move(lost)

    def _start(self, entry: Entry, at: float) -> None:
        if entry.state is TaskState.WAITING:
            self.send_in_turn(entry, at)
        elif entry.state is TaskState.POLLED and entry.task_id not in self._polls:
            grace = 0.0 if entry.sends == 0 or entry.confirmed else _REPLAY_GRACE
            self._polls.set(entry.task_id, at + grace)

    # Time

    def next_due(self) -> float:
        """When a poll may leave, a reply is overdue, or a window may have room; infinity if nothing of this is due."""
        at = inf
        if self.is_open:
            at = self._polls.next_at
            if self.suspects and (suspect := self._next_suspect()) is not None:
                at = inf if suspect.is_awaited else 0.0
            if at < self.poller.open_at:
                at = self.poller.open_at
        if self._replies.next_at < at:
            at = min(at, self._next_reply_at())
        if self.windows.closed and not self.suspects:
            at = min(at, self.windows.next_at(has_connection=self.is_open))
        return at

    def _next_reply_at(self) -> float:
        """When the reply to a poll is overdue; infinity if none is awaited."""
        while (at := self._replies.next_at) < inf:
            polled = self._replies.first
            assert polled is not None
            if next(self._awaited(polled, at), None) is not None:
                return at
            self._replies.drop(polled)
        return inf

    def _awaited(self, polled: tuple[TaskId, ...], reply_by: float) -> Iterator[Entry]:
        """Yield the tasks of a frame of polls that have no reply and were not polled again."""
        for task_id in polled:
            entry = self.entries.get(task_id)
            if entry is not None and entry.open_poll is not None and entry.reply_by == reply_by:
                yield entry

    def replies_overdue(self, at: float) -> None:
        """Poll again what was polled and has no reply in time."""
        while (due := self._replies.next_at) <= at:
            polled = self._replies.pop()
            assert polled is not None
            for entry in list(self._awaited(polled, due)):
                self._unanswered(entry, at)

    def poll_due(self, at: float) -> None:
        """Send all polls that are due, together."""
        if not self.is_open or at < self.poller.open_at:
            return
        if self.suspects and (suspect := self._next_suspect()) is not None:
            due = self._take_turn(suspect, at)
        else:
            due = self._polls.pop_due(at)
        if not due:
            return
        may_join, reply_by = self.poller.may_join, at + self.poller.reply_wait(0)
        others: list[TaskId] = []
        for task_id in due:
            entry = self.entries[task_id]
            if entry.lost_poll is not None and entry.saw_empty:
                others.append(task_id)
                self.unknown(entry, entry.lost_poll, at)
            elif entry.is_doubted or entry.alone or entry.unanswered:
                others.append(task_id)
                self._poll(entry, Lane.LOOKUP if entry.is_doubted else Lane.POLL, at)
            else:  # the usual case, in as few steps as it can be done
                self._note_poll(entry, Lane.POLL, at)
                body = entry.poll_bytes or entry.poll_body(Lane.POLL)
                self._send_out(Outgoing(body, Lane.POLL, task_id, joins=may_join))
                entry.reply_by = reply_by
        usual = tuple(due) if not others else tuple(task_id for task_id in due if task_id not in others)
        self._await_replies(usual, reply_by)
        self.poller.note_poll(at)

    def reply_refused(self, reason: str) -> None:
        """A message of the service was too large for this side, and ended the connection.

        It may answer any request that is out or whose answer was lost with an earlier connection, and may be the
        pushed result of a sync task. If only one task can have caused it, that is given up, since its answer would be
        as large again. Else each of them has its turn, alone, while all others wait: one that is answered is not the
        one. If the connection is lost twice in a row in the turn of one task, it is that task; a single loss may come
        from another one.
        """
        tasks = [entry for entry in self.entries.values() if entry.is_awaited or entry.may_come_unasked]
        awaited = [entry for entry in tasks if entry.is_awaited]
        self._has_turn = None
        if len(awaited) == 1:
            awaited[0].large_replies += 1
        for entry in tasks:
            if len(tasks) == 1 or entry.large_replies > 1:
                self.settle(entry, reply_too_large(entry, reason))
            else:
                entry.alone = True
        known = set(self.suspects)
        self.suspects += [entry.task_id for entry in tasks if entry.task_id not in known]

    def _next_suspect(self) -> Entry | None:
        """The task that has its turn to show whether its answer is too large; `None` once all have."""
        while self.suspects:
            task_id = self.suspects[0]
            entry = self.entries.get(task_id)
            if entry is not None and (task_id != self._has_turn or entry.is_awaited):
                return entry
            if entry is not None:
                entry.large_replies = 0
            del self.suspects[0]
            self._has_turn = None
        return None

    def _take_turn(self, suspect: Entry, at: float) -> list[TaskId]:
        """Let a suspect have its turn; gives it back if it is to be polled."""
        if suspect.is_awaited:
            return []
        self._has_turn = suspect.task_id
        if suspect.state is TaskState.WAITING:
            self.send_in_turn(suspect, at)
            return []
        self._polls.drop(suspect.task_id)
        return [suspect.task_id]

    def go_on(self, at: float) -> None:
        """Once all suspects had their turn, let those go on that waited for that."""
        if self.is_open and self._next_suspect() is None:
            for entry in list(self.entries.values()):
                if not entry.is_awaited and entry.task_id not in entry.window.waiting:
                    self._start(entry, at)

    def overdue(self, task_id: TaskId, at: float) -> None:
        """The deadline of a task has come: its turn after a backoff, or something awaited that did not come."""
        entry = self.entries[task_id]
        if entry.state is TaskState.WAITING:
            if self.is_open:
                self.send_in_turn(entry, at)
        elif not entry.resends_freely:
            self.look_up(entry, at, timed_out(entry, "the service did not answer in time"))
        elif entry.unacknowledged == 0:
            entry.unacknowledged += 1
            entry.alone = entry.has_left = True
            entry.has_history = True
            entry.move("not acknowledged in time")
            self.send(entry, at)
        elif entry.is_read_only:
            self.settle(entry, timed_out(entry, "the service did not answer, not even on a second try"))
        else:
            # Perhaps only the acknowledgements were lost: a poll before it is given up costs nothing.
            entry.fallback = timed_out(entry, "the service did not acknowledge the task, not even on a second try")
            entry.move("not acknowledged twice")
            self.poll_now(entry, at)

    def _unanswered(self, entry: Entry, at: float) -> None:
        lane, entry.open_poll = entry.open_poll, None
        if lane is not None and entry.saw_empty:
            entry.unanswered = 0
            self.unknown(entry, lane, at)
            return
        entry.unanswered += 1
        entry.alone = entry.alone or entry.unanswered > 1
        # A poll of an answered sync task may get no reply [3p]: read the archive. Of an async task a reply was lost.
        patience = 2 if entry.submission.delivery == "async" else 0
        entry.is_doubted = lane is Lane.POLL and entry.unanswered > patience
        if entry.fallback is not None and not entry.confirmed and entry.unanswered >= _MAX_UNANSWERED:
            entry.fallback.may_be_billed = True  # whatever was said of a later send
            self.settle(entry, entry.fallback)
        else:
            self.poll_now(entry, at)

    # Sending

    def send_in_turn(self, entry: Entry, at: float) -> None:
        """Send a task now if its model's window has room, or let it wait for that."""
        if self.suspects and entry.task_id != self._has_turn and self._next_suspect() is not None:
            return
        window = entry.window
        if window.is_failing(at):
            self._fail_refused(entry, at)
        elif entry.is_let_go:
            self.send(entry, at)
        elif window.has_room(at):
            window.in_flight += 1
            entry.is_let_go = True
            self.send(entry, at)
        else:
            self._wait_for_window(entry)

    def _wait_for_window(self, entry: Entry) -> None:
        window = entry.window
        refusal = window.refusal
        assert refusal is not None
        if entry.submission.parks:
            self._forget(entry, has_ended=False)
        else:
            window.waiting.set(entry.task_id, entry.number)
        self.emit(Refused(entry.task_id, refusal, entry.number, entry.is_in_doubt))

    def let_go(self, at: float) -> None:
        """Send tasks whose window has room now, and offer room to waiters that have tasks of their own."""
        if self.suspects:
            return
        for window, who in self.windows.let_go(at, has_connection=self.is_open):
            if isinstance(who, str):
                entry = self.entries[who]
                if window.is_failing(at):
                    self._fail_refused(entry, at)
                    continue
                window.in_flight += 1
                entry.is_let_go = True
                self.send(entry, at)
            else:
                window.in_flight += 1
                self.emit(SlotOffered(window.name, who))

    def refused(self, entry: Entry, error: RunwareError, at: float) -> None:
        """The service refused a task for now. The task keeps its turn, and no retry is spent."""
        window = entry.window
        self.windows.closed[window.name] = window
        window.refused(error, at, spread(entry.task_id, entry.sends))
        entry.is_let_go = False
        entry.last_failure = error
        self.emit(Log("retry", f"refused for now: {error.message}", {"task": entry.task_id, "model": window.name}))
        if window.is_failing(at):
            self._fail_refused(entry, at)
        else:
            entry.move("refused for now (429, 503, ...)")
            self._deadlines.drop(entry.task_id)
            self._wait_for_window(entry)

    def frame_refused(self, task_ids: Sequence[TaskId], reason: str, at: float) -> None:
        """The peer closed the connection because a frame was too large; the largest one held these tasks."""
        entries = [entry for task_id in task_ids if (entry := self.entries.get(task_id)) is not None]
        if len(task_ids) > 1:
            for entry in entries:
                entry.alone = True  # sent alone, the task that is too large, if one is, is found
            return
        for entry in entries:
            if entry.state is TaskState.SENT and not entry.confirmed:
                self.reject(entry, too_large(entry, reason), at)

    def refused_without_name(self, error: RunwareError, at: float) -> None:
        """A refusal came that names no task: it may answer whatever was sent and not answered.

        What may be sent twice is refused by it; if the service has it all the same, its acknowledgement is on the way,
        or the next send is answered with `conflictTaskUUID`. A sync task may be at work: it is polled.
        """
        for entry in list(self.entries.values()):
            if entry.state is not TaskState.SENT or entry.confirmed:
                continue
            if entry.resends_freely:
                entry.has_history = entry.has_left = True
                self.refused(entry, own_error(error, entry), at)
            elif at - entry.sent_at < self.options.ack_timeout:
                entry.went_down = True
                self.look_up(entry, at, None, _REPLAY_GRACE)

    def _fail_refused(self, entry: Entry, at: float) -> None:
        failure = entry.window.failure
        assert failure is not None
        self.reject(entry, refused_too_long(failure, entry, self.options.refusal_timeout), at)

    def reject(self, entry: Entry, error: RunwareError, at: float) -> None:
        """The service does not take a task; if it may have taken it in an earlier send, a free poll tells."""
        if not entry.is_in_doubt or entry.fallback is not None:
            self.settle(entry, error)
            return
        entry.fallback = error
        entry.has_history = True
        entry.move("refused, and in doubt")
        if not entry.is_let_go:
            entry.window.waiting.drop(entry.task_id)
        self._deadlines.drop(entry.task_id)
        self.poll_now(entry, at)

    def send(self, entry: Entry, at: float) -> None:
        """Give a task to the transport."""
        entry.move("send")
        if entry.sends:
            self.resends += 1
        else:
            self.submits += 1
        entry.sends += 1
        entry.sent_at = at
        entry.went_down = False
        entry.lost_poll = None
        entry.is_doubted = False
        submission, duplex = entry.submission, self.options.duplex
        joins = not entry.alone and (duplex or submission.delivery == "async")
        self._send_out(Outgoing(submission.body, Lane.SUBMIT, submission.task_id, joins=joins))
        if duplex:
            wait = self.options.ack_timeout if entry.resends_freely else self.options.sync_timeout
            self._deadlines.set(entry.task_id, at + wait)

    def retry(self, entry: Entry, error: RunwareError, at: float, retry_after: float | None = None) -> None:
        """A send has failed, and not because the service refused it: send the task again later, or give up."""
        entry.retries += 1
        entry.has_history = True
        if entry.retries > self.options.max_retries:
            if entry.may_have_arrived and not entry.is_read_only:
                # It may be billed, and a poll is free.
                entry.fallback = error
                entry.move("no reply, no retries left")
                self.poll_now(entry, at)
            else:
                self.settle(entry, error)
            return
        options = self.options
        jitter = spread(entry.task_id, entry.retries)
        delay = backoff(entry.retries, options.retry_delay, options.retry_strategy, jitter)
        entry.move("send failed")
        self._deadlines.set(entry.task_id, at + max(delay, min(retry_after or 0.0, LONGEST_HOLD)))
        self.emit(Log("retry", f"{error.message}; trying again", {"task": entry.task_id, "retry": entry.retries}))

    def resend_alone(self, entry: Entry, at: float) -> None:
        """The frame or POST that held the task was refused as a whole."""
        entry.alone = True
        entry.move("batch refused")
        self.send(entry, at)

    # Polling

    def _note_poll(self, entry: Entry, lane: Lane, at: float) -> None:
        entry.open_poll = lane
        entry.lost_poll = None
        entry.saw_empty = False
        if lane is Lane.POLL:
            entry.polled_at = at
        self.polls += 1

    def _poll(self, entry: Entry, lane: Lane, at: float) -> None:
        self._note_poll(entry, lane, at)
        joins = not entry.alone and self.poller.may_join
        self._send_out(Outgoing(entry.poll_body(lane), lane, entry.task_id, joins=joins))
        entry.reply_by = at + self.poller.reply_wait(entry.unanswered)
        self._await_replies((entry.task_id,), entry.reply_by)

    def _await_replies(self, polled: tuple[TaskId, ...], reply_by: float) -> None:
        if self.options.duplex and polled:  # by REST a POST has a reply, or fails
            self._replies.set(polled, reply_by)

    def accepted(self, entry: Entry, at: float) -> None:
        """The service has the task, or may have it: poll for its results from now on."""
        if entry.state is TaskState.POLLED:
            return
        entry.move("acknowledged")
        window = entry.window
        window.accepted()
        if not entry.is_let_go:  # it was taken for refused
            window.waiting.drop(entry.task_id)
            window.in_flight += 1
            entry.is_let_go = True
        self._deadlines.drop(entry.task_id)
        first = entry.sent_at + self.poller.first_poll(entry.durations, at)
        self._polls.set(entry.task_id, first if first > at else at)

    def look_up(self, entry: Entry, at: float, fallback: RunwareError | None, delay: float = 0.0) -> None:
        """The answer to a sync task was lost: poll for it; `fallback` settles the task if that finds nothing."""
        entry.fallback = entry.fallback or fallback
        entry.has_history = True
        entry.move("sync answer lost or overdue")
        self._deadlines.drop(entry.task_id)
        self._polls.set(entry.task_id, at + delay)

    def poll_later(self, entry: Entry, at: float, delay: float = 0.0) -> None:
        """Poll when the task is likely to have made progress, and not before `delay` has passed."""
        due = entry.sent_at + self.poller.next_poll(entry.durations, at - entry.sent_at)
        self._polls.set(entry.task_id, max(due, at + delay))

    def still_running(self, entry: Entry, at: float) -> None:
        """The task was not ready when it was polled: poll again when it is likely to have made progress."""
        if entry.polled_at is None:
            self.poll_later(entry, at)
            return
        elapsed = entry.polled_at - entry.sent_at
        if elapsed > entry.lower:
            entry.lower = elapsed
        due = entry.sent_at + self.poller.next_poll(entry.durations, entry.lower)
        self._polls.set(entry.task_id, due if due > at else at)

    def found_accepted(self, entry: Entry, at: float) -> None:
        """The service has taken a task that was sent."""
        entry.confirmed = True
        entry.is_doubted = False
        entry.unknowns = 0
        self.accepted(entry, at)

    def found_done(self, entry: Entry, item: Item, at: float) -> None:
        """The result of a task of one result is here."""
        entry.confirmed = True
        self.emit(Deliver(entry.task_id, 0, item=item))
        self.learn(entry, at)
        self.settle(entry, None)

    def found_running(self, entry: Entry, item: Item, at: float) -> None:
        """The answer to a poll of a task of one result: the service works on it."""
        entry.confirmed = True
        entry.is_doubted = False
        entry.open_poll = entry.lost_poll = None
        entry.unanswered = entry.unknowns = entry.shorts = 0
        entry.pending_at = at
        reported = (item.progress, item.status)
        if reported != entry.reported:
            entry.reported = reported
            self.emit(Progress(entry.task_id, item.progress, item.status))
        self.still_running(entry, at)

    def poll_now(self, entry: Entry, at: float) -> None:
        """Poll the task with the next frame of polls."""
        self._polls.set(entry.task_id, at)

    def pushed(self, entry: Entry, at: float) -> None:
        """Part of a sync task's answer came: the rest has time, less once there are results."""
        wait = self.options.ack_timeout if entry.result_slots.filled else self.options.sync_timeout
        self._deadlines.set(entry.task_id, at + wait)

    def answered(self, entry: Entry, at: float) -> None:
        """The poll in flight has its reply."""
        entry.lost_poll = None
        if entry.open_poll is None:
            return
        if entry.open_poll is Lane.POLL and entry.polled_at is not None:
            self.poller.answered(at, entry.polled_at)
        entry.open_poll = None
        entry.unanswered = 0

    def saw_empty_frame(self) -> None:
        """A frame without items came: as the reply to a poll it means that the service does not know the task [3p]."""
        for entry in self.entries.values():
            if entry.open_poll is not None or entry.lost_poll is not None:
                entry.saw_empty = True

    def unknown(self, entry: Entry, lane: Lane, at: float) -> None:
        """The service said, or showed by an empty reply, that it knows no such task: check the archive too."""
        entry.lost_poll = None
        entry.is_doubted = lane is Lane.POLL
        if entry.is_doubted:
            self.poll_now(entry, at)
            return
        if entry.unknowns == 0:
            entry.unknown_since = at
        entry.unknowns += 1
        policy = self.options.poll
        needed = 0.0 if entry.resends_freely or (entry.sends == 0 and entry.may_send) else policy.unknown_patience
        if entry.confirmed:
            needed = policy.unknown_timeout
        is_over = entry.unknowns >= policy.unknown_limit and at - entry.unknown_since >= needed
        if is_over and self.is_open:
            self._polls.drop(entry.task_id)
            self._give_up_unknown(entry, at)
        elif entry.confirmed:
            self.poll_later(entry, at, policy.unknown_wait(entry.unknowns))
        else:
            self._polls.set(entry.task_id, at + policy.unknown_wait(entry.unknowns) * self.poller.pressure)

    def _give_up_unknown(self, entry: Entry, at: float) -> None:
        # The first send of this session is no retry, and one that went down with its connection was not refused.
        is_retry = entry.sends > 0 and not entry.went_down
        has_tries = not is_retry or entry.retries < self.options.max_retries
        if entry.may_send and entry.fallback is None and has_tries:
            entry.retries += is_retry
            entry.unknowns = 0
            entry.has_history = True
            entry.move("not known to the service")
            self.emit(Log("retry", "the service does not know the task; sending it again", {"task": entry.task_id}))
            self.send_in_turn(entry, at)
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
        # Of a task that it had accepted, the failure of an earlier send says nothing.
        self.settle(entry, entry.fallback or (None if entry.confirmed else entry.last_failure) or unknown)

    # Results

    def take(self, entry: Entry, parts: Sequence[Item | ErrorItem], *, is_refusal: bool = False) -> int:
        """Deliver what is new, but a refusal, which is only kept; return how many results and failures that were."""
        arrivals = entry.result_slots.take(parts)
        for position, part in arrivals:
            if isinstance(part, ErrorItem):
                failure = part
            elif part.error is None:
                self.emit(Deliver(entry.task_id, position, item=part))
                continue
            else:
                failure = part.error
            error = to_error(failure, task_type=entry.submission.task_type, task_uuid=entry.task_id)
            entry.error = entry.error or error
            if not is_refusal:
                self.emit(Deliver(entry.task_id, position, error=error))
        return len(arrivals)

    def settle(self, entry: Entry, error: RunwareError | None) -> None:
        """The task is over."""
        self._forget(entry, has_ended=entry.confirmed)
        self.emit(Settle(entry.task_id, error, entry.pending_at))

    def _forget(self, entry: Entry, *, has_ended: bool) -> None:
        task_id = entry.task_id
        del self.entries[task_id]
        entry.window.tasks -= 1
        if entry.state is TaskState.POLLED:
            self._polls.drop(task_id)
        else:
            self._deadlines.drop(task_id)
        if entry.is_let_go:
            entry.window.left(has_ended=has_ended)
        else:
            entry.window.waiting.drop(task_id)

    def learn(self, entry: Entry, at: float, *, is_pushed: bool = False) -> None:
        """A task has its results: what polls found pays for polls, and what it took is remembered if that is clear.

        Args:
            entry: the task.
            at: the time now.
            is_pushed: the service has sent the results without a poll.
        """
        is_found = entry.polled_at is not None and entry.state is TaskState.POLLED and not is_pushed
        if is_found:
            self.poller.note_result()
        if entry.has_history or entry.is_read_only:
            return
        durations = entry.durations
        known = len(durations.ordered)
        if is_found:
            assert entry.polled_at is not None
            durations.record(entry.lower, entry.polled_at - entry.sent_at)
        elif is_pushed or entry.state is not TaskState.POLLED:
            exact = at - entry.sent_at
            durations.record(exact, exact)
        if known < self.options.poll.min_samples <= len(durations.ordered):
            self._put_forward(durations, at)

    def _put_forward(self, durations: Durations, at: float) -> None:
        """Tasks of a kind are to be polled at a guessed time, and now it is known how long such tasks take."""
        for entry in self.entries.values():
            if entry.durations is durations and entry.polled_at is None and entry.task_id in self._polls:
                self._polls.set(entry.task_id, max(at, entry.sent_at + self.poller.next_poll(durations, 0.0)))


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
        may_be_billed=entry.may_be_billed,
    )


def refused_too_long(error: RunwareError, entry: Entry, seconds: float) -> RunwareError:
    """The error of a task whose model has refused everything for so many seconds."""
    told = "an earlier send of this one was not answered" if entry.is_in_doubt else "nothing was billed"
    return RunwareError(
        f"the service has refused every task of {entry.window.name} for {seconds:g} s, the last one with"
        f" {error.raw_code or error.code} ({error.message}); {told}; send the task again later",
        code="rateLimit",
        raw_code=error.raw_code,
        status_code=error.status_code,
        task_type=entry.submission.task_type,
        task_uuid=entry.task_id,
    )


def too_large(entry: Entry, reason: str) -> RunwareError:
    """The error of a task that the peer refuses for its size."""
    submission, why = entry.submission, reason.rstrip(".")
    return RunwareError(
        f"{submission.task_type} was not accepted: its {len(submission.body)} bytes are too many for one frame ({why});"
        " upload large media first and name them by UUID, or send smaller ones",
        code="validation",
        raw_code="valueTooLarge",
        task_type=submission.task_type,
        task_uuid=entry.task_id,
    )


def reply_too_large(entry: Entry, reason: str) -> RunwareError:
    """The error of a task whose answer this side cannot take for its size; it is at the service, and may be billed."""
    submission, why = entry.submission, reason.rstrip(".")
    model = f" with {submission.model}" if submission.model else ""
    return RunwareError(
        f"{submission.task_type}{model}: its answer is too large to be read ({why}), so it is not fetched again;"
        " request URLs (outputType) in place of data, or fewer results in one task",
        code="connection",
        raw_code="replyTooLarge",
        retryable=False,
        task_type=submission.task_type,
        task_uuid=entry.task_id,
        may_be_billed=True,
    )


def timed_out(entry: Entry, message: str) -> RunwareTimeoutError:
    """The error of a task that the service did not answer in our time; the task may still run and be billed."""
    return RunwareTimeoutError(
        message,
        code="timeout",
        raw_code="timeout",
        task_type=entry.submission.task_type,
        task_uuid=entry.task_id,
        may_be_billed=not entry.is_read_only,
    )
