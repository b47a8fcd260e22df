"""`Entry`: one task in flight, with its state and the facts that decide what may be sent for it.

    WAITING   to be sent when there is a connection, when its model's window has room, or when its turn after a backoff
              comes
    SENT      sent; the service has not yet said anything
    POLLED    the service knows it, or may know it: it is polled with `getResponse`

`TRANSITIONS` has every move; a task that settles or is withdrawn leaves the table. Two facts decide what is safe:
`sends` (0: it cannot have been bought) and `confirmed` (the service itself showed that it knows the task: it is never
sent again). A sync task whose answer is lost goes to POLLED, never straight back to WAITING: only after the service has
repeatedly said that it knows no such task is it sent again, under the same taskUUID.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from runware_flow.errors import ClientStateError
from runware_flow.session.commands import Lane

if TYPE_CHECKING:
    from runware_flow.errors import RunwareError
    from runware_flow.session.delivery import ResultSlots
    from runware_flow.session.events import Submission
    from runware_flow.session.polling import Durations
    from runware_flow.session.window import Window
    from runware_flow.types import TaskId

__all__ = ("TRANSITIONS", "Entry", "TaskState")


class TaskState(StrEnum):
    """Where a task in flight stands."""

    WAITING = "waiting"
    SENT = "sent"
    POLLED = "polled"


TRANSITIONS: dict[tuple[TaskState, str], TaskState] = {
    (TaskState.WAITING, "send"): TaskState.SENT,
    (TaskState.WAITING, "sent by an earlier process"): TaskState.POLLED,
    (TaskState.WAITING, "acknowledged"): TaskState.POLLED,
    (TaskState.WAITING, "refused, and in doubt"): TaskState.POLLED,
    (TaskState.SENT, "acknowledged"): TaskState.POLLED,
    (TaskState.SENT, "sync answer lost or overdue"): TaskState.POLLED,
    (TaskState.SENT, "not acknowledged in time"): TaskState.WAITING,
    (TaskState.SENT, "not acknowledged twice"): TaskState.POLLED,
    (TaskState.SENT, "no reply, no retries left"): TaskState.POLLED,
    (TaskState.SENT, "async or read-only, connection lost"): TaskState.WAITING,
    (TaskState.SENT, "refused for now (429, 503, ...)"): TaskState.WAITING,
    (TaskState.SENT, "refused, and in doubt"): TaskState.POLLED,
    (TaskState.SENT, "send failed"): TaskState.WAITING,
    (TaskState.SENT, "batch refused"): TaskState.WAITING,
    (TaskState.POLLED, "acknowledged"): TaskState.POLLED,
    (TaskState.POLLED, "not known to the service"): TaskState.WAITING,
}
"""(state, what happened) → state."""


@dataclass(slots=True)
class Entry:
    """A task in flight. Times are monotonic seconds."""

    task_id: TaskId
    submission: Submission
    result_slots: ResultSlots
    window: Window
    """The send window of its model."""
    durations: Durations
    """What tasks of its type and model took before."""
    number: int = 0
    """Its turn in the queue of the window."""
    is_let_go: bool = False
    """It counts in the window: it is in flight, or will be with the next connection."""
    state: TaskState = TaskState.WAITING
    sends: int = 0
    """How often it was given to the transport."""
    sent_at: float = 0.0
    """The last send; for a task of an earlier process the time it was taken up."""
    confirmed: bool = False
    """The service has shown that it knows the task."""
    has_history: bool = False
    """A loss or a resend blurred its duration: nothing is learnt from it."""
    went_down: bool = False
    """The connection was lost after the last send, or a refusal without a name came, before any answer to it."""
    retries: int = 0
    may_have_arrived: bool = False
    """By REST: a POST that carried it brought no reply."""
    has_left: bool = False
    """It left in an earlier send that was not answered."""
    unacknowledged: int = 0
    """Sends whose acknowledgement did not come in time."""
    open_poll: Lane | None = None
    """The kind of the poll that has no reply yet; `None` if there is none."""
    lost_poll: Lane | None = None
    """The open poll of a connection that was lost: the service may replay its answer."""
    is_doubted: bool = False
    """`getResponse` does not know the task; the archive has not answered yet."""
    reply_by: float = 0.0
    """When the reply to the open poll is overdue."""
    polled_at: float | None = None
    lower: float = 0.0
    """The longest elapsed time at which a poll found the task unfinished."""
    unanswered: int = 0
    """Polls in a row that brought no reply."""
    unknowns: int = 0
    """Rounds in a row in which the service knew no such task."""
    unknown_since: float = 0.0
    saw_empty: bool = False
    """A frame without any item came while a poll was open: some servers answer so for what they do not know [3p]."""
    shorts: int = 0
    """Replies in a row that had nothing unfinished and yet left slots open."""
    short_since: float = 0.0
    reported: tuple[float | None, str | None] = (None, None)
    """The last progress passed on."""
    pending_at: float | None = None
    """When the service last said that it works on the task."""
    large_replies: int = 0
    """Connections in a row that were lost to a message that was too large while its answer alone was due."""
    alone: bool = False
    """It was part of a refused or unanswered batch: from now on it travels alone."""
    error: RunwareError | None = None
    """The first failure of one of its slots."""
    fallback: RunwareError | None = None
    """What to say if the service turns out not to know the task; it is not sent again then."""
    last_failure: RunwareError | None = None
    """The error of the last attempt to send or poll it."""
    poll_bytes: bytes | None = None
    """The JSON of its `getResponse`, once it was polled."""
    is_read_only: bool = field(kw_only=True)
    """Whether it changes nothing at the service and buys nothing."""
    resends_freely: bool = field(kw_only=True)
    """Whether sending it again can buy nothing twice.

    An async task sent again under the same taskUUID is refused with `conflictTaskUUID` if the service has it.
    """

    @property
    def may_be_known(self) -> bool:
        """Whether the service may have met this taskUUID before its last send: a conflict then acknowledges it."""
        submission = self.submission
        if submission.is_journalled or submission.sent_before != "no":
            return True
        return self.sends > 1 or self.confirmed or self.state is TaskState.POLLED

    @property
    def may_send(self) -> bool:
        """Whether there is something to send, and leave to send it."""
        return self.submission.sent_before != "yes" and not self.confirmed

    @property
    def is_in_doubt(self) -> bool:
        """Whether the service may have accepted it in an earlier send, of which no answer came: it may be billed."""
        if self.is_read_only:
            return False
        return self.has_left or self.may_have_arrived or self.submission.sent_before != "no"

    @property
    def may_be_billed(self) -> bool:
        """Whether the service has it, or may have it: it was accepted, or no answer to a send has come."""
        return self.is_in_doubt or (self.state is not TaskState.WAITING and not self.is_read_only)

    @property
    def is_awaited(self) -> bool:
        """Whether a reply for it is under way: it was sent, or polled for, and not answered."""
        return self.open_poll is not None or self.state is TaskState.SENT

    @property
    def may_come_unasked(self) -> bool:
        """Whether the service may send its results without a request: it pushes those of a sync task, and replays."""
        return self.lost_poll is not None or (self.submission.delivery == "sync" and self.state is TaskState.POLLED)

    def move(self, happening: str) -> None:
        """Change the state by `TRANSITIONS`; a move that is not in it is a bug of this library."""
        try:
            self.state = TRANSITIONS[self.state, happening]
        except KeyError:
            raise ClientStateError(f"a task in state {self.state.name} cannot take {happening!r}") from None

    def poll_body(self, lane: Lane) -> bytes:
        """The JSON of a poll of this task."""
        if lane is Lane.LOOKUP:
            return msgspec.json.encode({"taskType": "getTaskDetails", "taskUUID": self.task_id})
        if self.poll_bytes is None:
            self.poll_bytes = msgspec.json.encode({"taskType": "getResponse", "taskUUID": self.task_id})
        return self.poll_bytes
