"""The events that a `SessionMachine` handles.

Events are plain frozen data. Each carries `at`, the monotonic time in seconds at which it happened: the machine reads
no clock, so time reaches it only here. Events that may lead to a wait of random length carry `jitter`, a number drawn
from [0, 1) by the caller, because the machine draws none.

The order of events must be the order in which things happened; `at` never goes back.
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  # help() reads the annotations of a struct
from typing import Literal, TypeAlias

import msgspec

from runware_flow.errors import RunwareError  # noqa: TC001  # help() reads the annotations of a struct
from runware_flow.session.commands import Lane  # noqa: TC001  # help() reads the annotations of a struct
from runware_flow.types import TaskId  # noqa: TC001  # help() reads the annotations of a struct
from runware_flow.wire.frames import Frame  # noqa: TC001  # help() reads the annotations of a struct

__all__ = (
    "READ_ONLY",
    "ConnectRequested",
    "ConnectionLost",
    "ConnectionOpened",
    "ConnectionRefused",
    "Event",
    "ExchangeFailed",
    "ExchangeFinished",
    "FrameReceived",
    "FrameUnreadable",
    "SentBefore",
    "SessionClosed",
    "SlotReturned",
    "SlotTaken",
    "SlotUnwanted",
    "SlotWanted",
    "Submission",
    "TaskSubmitted",
    "TaskWithdrawn",
    "TimerFired",
    "WebhookReceived",
    "WindowsHeld",
)

READ_ONLY = frozenset({"accountManagement", "getResponse", "getTaskDetails", "modelSearch"})
"""Task types that only read: a second send costs nothing. The newest official client resends the same four [sdk]."""

SentBefore: TypeAlias = Literal["no", "maybe", "yes"]


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """One task as the session needs to know it: bytes to send and what to expect back."""

    task_id: TaskId
    body: bytes
    """The task's JSON object, encoded; `taskType` and `taskUUID` included."""
    task_type: str
    model: str | None = None
    """With `task_type`, what the durations of earlier tasks are remembered under."""
    delivery: Literal["sync", "async"] = "async"
    """What the body says (or the service's default for it). Tasks with a webhook are "async": they are acknowledged."""
    slots: int = 1
    """How many results are expected: `numberResults`, or `promptVersions` of a promptEnhance."""
    sent_before: SentBefore = "no"
    """Whether an earlier process sent this very task (a journal knows). "maybe": an async task is sent and a
    `conflictTaskUUID` is its acknowledgement, a sync one is looked up first and sent only if the service does not know
    it. "yes": it is only looked up, never sent; `body` may be empty."""
    is_journalled: bool = False
    """The taskUUID is on record for this very task: a `conflictTaskUUID` acknowledges it, also on its first send."""
    has_slot: bool = False
    """Room in its model's send window was taken for it (`SlotTaken`, `SlotOffered`), and is its own from now on."""
    parks: bool = False
    """It does not wait for its model's send window: if there is no room, or the service refuses it, it is forgotten,
    and its caller told so; see `Refused`."""


class TaskSubmitted(msgspec.Struct, frozen=True):
    """A caller wants a task done."""

    at: float
    submission: Submission


class SlotTaken(msgspec.Struct, frozen=True):
    """A caller takes room in a model's send window for a task that it will submit, once `has_room` has said yes."""

    at: float
    model: str
    """Here and in the next events: its AIR, or the task type of tasks without a model."""


class SlotReturned(msgspec.Struct, frozen=True):
    """A slot that no task was submitted with is given back.

    A request that the session does not carry (a stream) has its slot for as long as it is in flight.
    """

    at: float
    model: str
    has_ended: bool = False
    """The service has ended a request that had the slot."""
    error: RunwareError | None = None
    """Why the service has refused the request that had the slot, if it did."""


class SlotWanted(msgspec.Struct, frozen=True):
    """A caller waits for room in a model's send window; it gets one `SlotOffered`. Asking twice is the same as once."""

    at: float
    model: str
    waiter: int
    """Any number that tells callers apart."""
    number: int | None = None
    """Its turn, of a task that was refused; by default the last."""


class SlotUnwanted(msgspec.Struct, frozen=True):
    """A caller waits no longer for room in a model's send window. What it was offered before is its own still."""

    at: float
    model: str
    waiter: int


class WindowsHeld(msgspec.Struct, frozen=True):
    """Other clients share the work: the send windows of these models take no steps, all others do."""

    at: float
    peaks: Mapping[str, int]
    """By model, the most that another client had in flight when the service refused."""


class TaskWithdrawn(msgspec.Struct, frozen=True):
    """A caller waits for the task no longer (a cancel, a deadline). Nothing more is delivered for it.

    The service knows no cancel [doc]: what was sent runs on and is billed. An unknown id is no error: the task may
    have settled a moment ago.
    """

    at: float
    task_id: TaskId


class ConnectRequested(msgspec.Struct, frozen=True):
    """A caller wants the connection now, with or without a task. Does nothing where there is one, or over REST."""

    at: float


class ConnectionOpened(msgspec.Struct, frozen=True):
    """The connection of an `OpenConnection` is open."""

    at: float


class ConnectionRefused(msgspec.Struct, frozen=True):
    """The connection of an `OpenConnection` could not be opened."""

    at: float
    reason: str
    jitter: float = 0.0


class ConnectionLost(msgspec.Struct, frozen=True):
    """The connection is gone, whichever side ended it: also the answer to `CloseConnection`.

    Whatever the caller had not written yet must be forgotten: the machine sends again what is still wanted.
    """

    at: float
    reason: str = "connection lost"
    jitter: float = 0.0
    too_large: tuple[TaskId, ...] = ()
    """If it was lost because a frame was too large for the peer: the tasks of the largest frame that was written on it.
    A frame that is smaller than one that was taken is never the one."""
    is_reply_too_large: bool = False
    """It was lost because a message of the service was larger than this side takes."""


class FrameReceived(msgspec.Struct, frozen=True):
    """A frame arrived on the connection."""

    at: float
    frame: Frame


class FrameUnreadable(msgspec.Struct, frozen=True):
    """Something arrived that is no frame of the protocol. It is logged; tasks are not touched by it."""

    at: float
    reason: str


class WebhookReceived(msgspec.Struct, frozen=True):
    """The service called a webhook: results and failures of tasks, outside of any connection.

    It may come before the acknowledgement, more than once, and for tasks that are not in flight here.
    """

    at: float
    frame: Frame


class ExchangeFinished(msgspec.Struct, frozen=True):
    """REST: the reply to one POST is here. `task_ids` and `lane` are those of the entries that went in it."""

    at: float
    task_ids: tuple[TaskId, ...]
    lane: Lane
    status: int
    frame: Frame
    retry_after: float | None = None
    """Seconds, from the `Retry-After` header."""


class ExchangeFailed(msgspec.Struct, frozen=True):
    """REST: one POST brought no reply (refused, timed out, cut off)."""

    at: float
    task_ids: tuple[TaskId, ...]
    lane: Lane
    reason: str
    sent: bool
    """Whether the request may have reached the service."""
    is_reply_too_large: bool = False
    """There was a reply, larger than this side takes."""


class TimerFired(msgspec.Struct, frozen=True):
    """The time of the last `SetTimer` has come. Firing early, late or twice does no harm."""

    at: float


class SessionClosed(msgspec.Struct, frozen=True):
    """The client closes. Every task in flight is settled with an error; later events do nothing."""

    at: float


Event: TypeAlias = (
    TaskSubmitted
    | SlotTaken
    | SlotReturned
    | SlotWanted
    | SlotUnwanted
    | WindowsHeld
    | TaskWithdrawn
    | ConnectRequested
    | ConnectionOpened
    | ConnectionRefused
    | ConnectionLost
    | FrameReceived
    | FrameUnreadable
    | WebhookReceived
    | ExchangeFinished
    | ExchangeFailed
    | TimerFired
    | SessionClosed
)
