"""The commands that a `SessionMachine` gives to its driver.

The driver executes the commands of one `handle` call in their order. The machine does not wait for any of them: their
outcomes come back as events.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Literal, TypeAlias

import msgspec

from runware_flow.errors import RunwareError  # noqa: TC001  # help() reads the annotations of a struct
from runware_flow.types import TaskId  # noqa: TC001  # help() reads the annotations of a struct
from runware_flow.wire.frames import Item  # noqa: TC001  # help() reads the annotations of a struct

__all__ = (
    "CloseConnection",
    "Command",
    "Deliver",
    "EndSession",
    "Lane",
    "Log",
    "LogCategory",
    "OpenConnection",
    "Outgoing",
    "Progress",
    "Refused",
    "Send",
    "SessionReady",
    "SetTimer",
    "Settle",
    "SlotOffered",
)


class Lane(Enum):
    """What kind of traffic an entry is. Entries of different lanes never share a POST."""

    CONTROL = "control"
    """Authentication and pings (WebSocket only)."""
    SUBMIT = "submit"
    POLL = "poll"
    """`getResponse` for tasks in flight."""
    LOOKUP = "lookup"
    """`getTaskDetails` for tasks whose answer was lost."""


class Outgoing(msgspec.Struct, frozen=True):
    """One task object that is to travel to the service."""

    body: bytes
    lane: Lane
    task_id: TaskId | None = None
    joins: bool = True
    """Whether it may share a frame or a POST with others of its lane. False: it travels alone, on either transport."""

    def __repr__(self) -> str:
        # The body may hold the API key, a prompt or megabytes: none of them belongs into a log.
        alone = "" if self.joins else ", alone"
        return f"Outgoing({self.lane.value}, {self.task_id}, {len(self.body)} bytes{alone})"


class OpenConnection(msgspec.Struct, frozen=True):
    """Open a connection; answer with `ConnectionOpened` or `ConnectionRefused`."""


class CloseConnection(msgspec.Struct, frozen=True):
    """Close the connection, or give up opening it; answer with `ConnectionLost`, soon, whatever the peer does.

    The command that ends a closed session needs no answer.
    """

    reason: str


class Send(msgspec.Struct, frozen=True):
    """Send these, in this order. Entries that may join and wait at the same time leave together."""

    entries: tuple[Outgoing, ...]


class SetTimer(msgspec.Struct, frozen=True):
    """Fire `TimerFired` at this monotonic time; `None`: never. Replaces the timer set before; there is only one."""

    at: float | None


class SessionReady(msgspec.Struct, frozen=True):
    """The session is authenticated (again): waiters for `ConnectRequested` may go on."""


class Deliver(msgspec.Struct, frozen=True):
    """One result of a task, or one failed result, is here: exactly one of `item` and `error` is set."""

    task_id: TaskId
    position: int
    """Where it belongs among the task's results, in the server's order, as far as that is known. Sort by it, stably."""
    item: Item | None = None
    error: RunwareError | None = None


class Progress(msgspec.Struct, frozen=True):
    """A task in flight reported something short of a result, and more than in its report before."""

    task_id: TaskId
    progress: float | None
    """0 to 100, on the few long tasks that tell it [doc]."""
    status: str | None = None
    """The wire's word: `processing`, or `validated`, `downloaded`, ... of a modelUpload."""


class Refused(msgspec.Struct, frozen=True):
    """The service refused a task for now (429, 503, a full queue).

    It is sent again by itself. A task that `parks` is forgotten instead, and its slot with it: its caller asks for
    another one with `SlotWanted`, and sends it again under the same taskUUID. Then this is the last command that names
    it. It comes for such a task too if there was no room to send it.
    """

    task_id: TaskId
    error: RunwareError
    number: int
    """Its turn in the queue of its model's window."""
    may_have_arrived: bool = False
    """An earlier send of it brought no reply, so the service may have accepted it then."""


class SlotOffered(msgspec.Struct, frozen=True):
    """A send window has room for a task of a caller that asked with `SlotWanted`; the room is kept for it.

    The caller submits a task with it or gives it back with `SlotReturned`, and takes another one for the next.
    """

    model: str
    waiter: int


class Settle(msgspec.Struct, frozen=True):
    """The task is over; the last command that names it. Comes exactly once a task, unless the task was withdrawn.

    With an error, the results delivered before stay good; it is the first error of the task, or why it was given up.
    """

    task_id: TaskId
    error: RunwareError | None = None
    pending_at: float | None = None
    """When the service last said that it still works on the task, if it did."""


class EndSession(msgspec.Struct, frozen=True):
    """There will be no connection: the key was rejected, or all attempts to connect have failed.

    Waiters for `ConnectRequested` get `error`; the tasks were settled one by one before. With `is_final` (a rejected
    key) every later task is settled with the same error; otherwise the next task or `ConnectRequested` tries anew.
    """

    error: RunwareError
    is_final: bool


LogCategory: TypeAlias = Literal["connection", "auth", "send", "receive", "poll", "task", "retry"]


class Log(msgspec.Struct, frozen=True):
    """A line for the log. It never holds a key, a prompt or a result."""

    category: LogCategory
    message: str
    data: dict[str, Any] = {}
    level: Literal["debug", "warning"] = "debug"


Command: TypeAlias = (
    OpenConnection
    | CloseConnection
    | Send
    | SetTimer
    | SessionReady
    | Deliver
    | Progress
    | Refused
    | SlotOffered
    | Settle
    | EndSession
    | Log
)
