"""The session as a machine: `handle` turns each event into the commands that follow from it.

Two halves decide. The link (`link`) knows the connection: when to open it, whether it is authenticated, when it is
dead, when to try again. The tracker (`tracker`) knows the tasks: what is sent, polled, sent again, settled. This
module passes events to the halves and lets them know of each other: the link opens or breaks, the tracker sends or
holds back.

One `handle` call gives at most one `Send`, with everything that follows from the event, and at most one `SetTimer`, for
the earliest thing due in either half.
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  # help() reads the annotations of a struct
from math import inf
from typing import TYPE_CHECKING, assert_never

import msgspec

from runware_flow.errors import ClientStateError, RunwareError
from runware_flow.session.commands import EndSession, Log, Send, SessionReady, SetTimer, Settle
from runware_flow.session.events import (
    ConnectionLost,
    ConnectionOpened,
    ConnectionRefused,
    ConnectRequested,
    ExchangeFailed,
    ExchangeFinished,
    FrameReceived,
    FrameUnreadable,
    SessionClosed,
    SlotReturned,
    SlotTaken,
    SlotUnwanted,
    SlotWanted,
    TaskSubmitted,
    TaskWithdrawn,
    TimerFired,
    WebhookReceived,
    WindowsHeld,
)
from runware_flow.session.exchange import exchange_failed, exchange_finished
from runware_flow.session.link import Link, LinkDue, LinkState
from runware_flow.session.reading import read_frame, read_webhook
from runware_flow.session.timer_queue import TimerQueue
from runware_flow.session.tracker import Tracker, own_error
from runware_flow.session.window import (  # noqa: TC001  # help() reads the annotations of a struct
    WindowState,
    WindowStatistics,
)

if TYPE_CHECKING:
    from runware_flow.session.commands import Command, Outgoing
    from runware_flow.session.events import Event, Submission
    from runware_flow.session.options import SessionOptions
    from runware_flow.types import TaskId

__all__ = ("SessionMachine", "SessionStatistics")


class SessionStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """A session at one moment."""

    state: str
    """The name of the link's state."""
    in_flight: int
    submits: int
    """Tasks sent for the first time."""
    resends: int
    """Tasks sent again, under the same taskUUID."""
    polls: int
    """`getResponse` and `getTaskDetails` sent for tasks in flight."""
    reconnects: int
    frames: int
    """Frames and replies that came."""
    dropped: int
    """Items and errors that came for tasks no longer in flight."""
    pressure: float
    """By how much polling is slowed down; 1 is not at all."""
    models: Mapping[str, WindowStatistics] = {}
    """The send window of each model that tasks were sent to, by AIR, or by task type where there is no model."""


class SessionMachine:
    """Decides everything that happens between a task and its results; see the module's docstring.

    Guarantees: every submitted task that is not withdrawn is settled exactly once, after its last `Deliver`; a task is
    never sent under another taskUUID, nor after the service has shown that it knows it; a sync task is sent again only
    after the service has repeatedly said that it does not know it, or that it accepts nothing now.

    Not safe to use from several threads at once.
    """

    def __init__(self, options: SessionOptions) -> None:
        self._options = options
        self._commands: list[Command] = []
        self._outgoing: list[Outgoing] = []
        self._link_timers: TimerQueue[LinkDue] = TimerQueue()
        self._task_timers: TimerQueue[TaskId] = TimerQueue()
        self._link = Link(options, self._link_timers, self._commands.append, self._outgoing.append)
        self._tracker = Tracker(options, self._task_timers, self._commands.append, self._outgoing.append)
        self._timer = inf
        self._frames = 0
        self._dropped = 0
        self._has_reached = False

    def __repr__(self) -> str:
        return f"<SessionMachine {self._link.state.name} with {len(self._tracker.entries)} in flight>"

    @property
    def state(self) -> LinkState:
        """The state of the link."""
        return self._link.state

    def statistics(self) -> SessionStatistics:
        """Describe the session as it is now."""
        tracker = self._tracker
        return SessionStatistics(
            state=self._link.state.name,
            in_flight=len(tracker.entries),
            submits=tracker.submits,
            resends=tracker.resends,
            polls=tracker.polls,
            reconnects=self._link.reconnects,
            frames=self._frames,
            dropped=self._dropped,
            pressure=tracker.poller.pressure,
            models=tracker.windows.statistics(),
        )

    def pending_at(self, task_id: TaskId) -> float | None:
        """When the service last said that it still works on a task in flight; `None` if it has not, and for others."""
        entry = self._tracker.entries.get(task_id)
        return None if entry is None else entry.pending_at

    def has_room(self, model: str, at: float) -> bool:
        """Whether a model's send window has room for one more, before which nothing waits; then it may be taken."""
        return self._tracker.windows.is_open(model) or self._tracker.windows.of(model).has_room(at)

    def refusal(self, task_id: TaskId) -> RunwareError | None:
        """What the service said when it last refused a task that waits for its model's send window.

        `None` also for one that it may have accepted in an earlier send: that may be billed.
        """
        entry = self._tracker.entries.get(task_id)
        if entry is None or entry.is_in_doubt or task_id not in entry.window.waiting:
            return None
        return entry.window.refusal

    def window_states(self) -> dict[str, WindowState]:
        """The state of the send windows that had a refusal, for other clients; may be called from any thread."""
        return self._tracker.windows.states()

    @property
    def closed_windows(self) -> Mapping[str, object]:
        """By model, the windows that had a refusal and are not open again; it changes as they do."""
        return self._tracker.windows.closed

    def handle(self, event: Event) -> list[Command]:
        """Handle an event; return the commands that follow, in order.

        Raises:
            ClientStateError: the event cannot happen in this state: a mistake of the caller. Nothing has changed.
            RunwareError: a task was submitted under a taskUUID that is in flight. Nothing has changed.
        """
        if self._link.state is LinkState.CLOSED:
            self._refuse_when_closed(event)
            return []
        waited = bool(self._tracker.suspects)
        self._dispatch(event)
        if waited or self._tracker.suspects:  # the last one may have had its turn by this very event
            self._tracker.go_on(event.at)
        if self._tracker.windows.closed:
            self._tracker.let_go(event.at)
        self._flush()
        commands = self._commands[:]
        self._commands.clear()
        return commands

    def _refuse_when_closed(self, event: Event) -> None:
        if isinstance(event, (TaskSubmitted, ConnectRequested)):
            raise ClientStateError(f"a session in state CLOSED cannot take {type(event).__name__}")

    def _dispatch(self, event: Event) -> None:  # noqa: C901 (one case an event)
        match event:
            case FrameReceived():
                self._frame_received(event)
            case TimerFired():
                self._timer_fired(event.at)
            case TaskSubmitted():
                self._task_submitted(event.submission, event.at)
            case TaskWithdrawn():
                self._tracker.withdraw(event.task_id)
            case SlotTaken() | SlotReturned() | SlotWanted() | SlotUnwanted():
                self._tracker.slot_event(event)
            case WindowsHeld(at, peaks):
                self._tracker.windows.hold(peaks, at)
            case WebhookReceived():
                self._dropped += read_webhook(self._tracker, event.frame, event.at)
            case ExchangeFinished():
                self._frames += 1
                is_reply = exchange_finished(self._tracker, event, has_reached=self._has_reached)
                self._has_reached = self._has_reached or is_reply
            case ExchangeFailed():
                exchange_failed(self._tracker, event, has_reached=self._has_reached)
            case ConnectRequested():
                self._connect_requested(event.at)
            case ConnectionOpened():
                self._link.opened(event.at)
            case ConnectionRefused() | ConnectionLost():
                self._connection_failed(event)
            case FrameUnreadable():
                self._commands.append(Log("receive", f"unreadable frame: {event.reason}", {}, "warning"))
            case SessionClosed():
                self._close()
            case _:
                assert_never(event)

    def _task_submitted(self, submission: Submission, at: float) -> None:
        task_id = submission.task_id
        if task_id in self._tracker.entries:
            message = f"a task with the taskUUID {task_id} is in flight already"
            raise RunwareError(message, code="validation", raw_code="conflictTaskUUID", task_uuid=task_id)
        self._tracker.submit(submission, at)
        if self._link.error is not None:
            self._tracker.fail_all(self._link.error)
        else:
            self._link.want(at)

    def _connect_requested(self, at: float) -> None:
        if self._link.is_open:
            self._commands.append(SessionReady())
        elif self._link.error is not None:
            self._commands.append(EndSession(self._link.error, is_final=True))
        else:
            self._link.want(at)

    def _frame_received(self, event: FrameReceived) -> None:
        self._frames += 1
        was_open = self._link.is_open
        error = self._link.received(event.frame, event.at)
        self._dropped += read_frame(self._tracker, event.frame, event.at)
        is_open = self._link.is_open
        if error is not None:
            self._tracker.fail_all(error)
        elif is_open and not was_open:
            self._tracker.connected(event.at)
        elif was_open and not is_open:
            self._tracker.disconnected()

    def _connection_failed(self, event: ConnectionRefused | ConnectionLost) -> None:
        if isinstance(event, ConnectionLost) and event.too_large:
            self._tracker.frame_refused(event.too_large, event.reason, event.at)
        is_reply_too_large = isinstance(event, ConnectionLost) and event.is_reply_too_large
        if is_reply_too_large:
            self._link.forget_session()
            self._tracker.reply_refused(event.reason)
        if self._tracker.is_open:
            self._tracker.disconnected(may_replay=not is_reply_too_large)
        error = self._link.failed(event.reason, event.at, event.jitter)
        if error is not None:
            self._tracker.fail_all(error)

    def _timer_fired(self, at: float) -> None:
        self._timer = inf
        was_open = self._link.is_open
        for what in self._link_timers.pop_due(at):
            error = self._link.due(what, at)
            if error is not None:
                self._tracker.fail_all(error)
        if was_open and not self._link.is_open:
            self._tracker.disconnected()
        for task_id in self._task_timers.pop_due(at):
            self._tracker.overdue(task_id, at)
        self._tracker.replies_overdue(at)
        self._tracker.poll_due(at)

    def _close(self) -> None:
        error = RunwareError("the client was closed before the task was done", code="aborted", raw_code="aborted")
        for entry in list(self._tracker.entries.values()):
            self._commands.append(Settle(entry.task_id, own_error(error, entry)))
        self._tracker.entries.clear()
        self._tracker.disconnected()
        self._tracker.offer_all()
        self._outgoing.clear()
        self._link.close()

    def _flush(self) -> None:
        if self._outgoing:
            self._commands.append(Send(tuple(self._outgoing)))
            self._outgoing.clear()
        due = min(self._task_timers.next_at, self._link_timers.next_at, self._tracker.next_due())
        if due != self._timer:
            self._timer = due
            self._commands.append(SetTimer(None if due == inf else due))
