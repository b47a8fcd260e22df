"""What a frame says about a task, and what follows from it.

All items and errors of one task in one frame are read together, so that the order in which the service lists them
changes nothing. What they can say:

    accepted    a placeholder, or `conflictTaskUUID` for a task that was sent before: the service has it
    pending     it works on it
    done        a result
    failed      a failure of one result, or the refusal of the task
    unknown     it knows no such task: an item of type `getResponse` [3p], `taskNotFound` and the like, an empty archive
    busy        it accepts nothing now: 429, 503, `rateLimitExceeded`, `serviceUnavailable`, `noAvailableServer`
    overdue     it did not finish a sync task within its time; the task runs on and is billed [doc]

A refusal before anything was accepted ends the task, whatever its number of results. Of an accepted task each failure
fills one slot. When nothing is pending, slots are still open, and the service says so again and again, nothing more is
expected: if there are failures, they count for the open slots too (the documented example has one error for what may be
several generations [doc]); without failures the task is done with fewer results than requested.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import msgspec

from runware_flow.errors import ProtocolError, stable_code
from runware_flow.session.commands import Deliver, Lane, Log, Progress
from runware_flow.session.inflight import Entry, TaskState
from runware_flow.wire.frames import ErrorItem, Frame, Item, decode_frame, read_member
from runware_flow.wire.items import PENDING
from runware_flow.wire.problems import to_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runware_flow.errors import RunwareError
    from runware_flow.session.tracker import Tracker
    from runware_flow.types import TaskId

__all__ = ("REFUSALS", "Part", "group", "is_busy", "may_be_of", "read_frame", "read_parts", "read_webhook")

Part: TypeAlias = Item | ErrorItem

UNKNOWN_CODES = frozenset({"taskNotFound", "taskFailedOrNotFound", "taskExpired"})
BUSY_CODES = frozenset(
    {
        "rateLimitExceeded",
        "inferenceRateLimitExceeded",
        "serviceUnavailable",
        "serverUnavailable",
        "noAvailableServer",
    },
)
_SAYS_LITTLE = frozenset({"rateLimit", "serverError", "unknown"})
"""Stable codes beside which a status of 429 or 503 says what is meant."""
_QUESTIONS = {"getResponse": Lane.POLL, "getTaskDetails": Lane.LOOKUP}
REFUSALS = frozenset({"validation", "auth", "quota"})
"""Stable codes that speak of the request, not of one of its results."""

_SHORT = (4, 15.0)
"""How many replies in a row, over how many seconds, must leave slots open before nothing more is expected."""
_SHORT_WITH_FAILURE = (3, 2.0)
"""The same where some results have failed, which is reason enough for others to be missing."""
_STRAGGLERS = 2.0
"""After the failure of one result of a pushed task, the time left for the others to arrive."""


_LEGACY = {
    "imageUpscale": "upscale",
    "imageCaption": "caption",
    "imageBackgroundRemoval": "removeBackground",
    "imageControlNetPreProcess": "controlNetPreprocess",
    "photoMaker": "imageInference",
}
"""Older names of task types, in which the service may still answer (protocol facts, section 16)."""


def may_be_of(item: Item, task_type: str) -> bool:
    """Tell whether an item that names no task can be the answer to a task of that type, or to a question about it."""
    told = item.task_type
    return told is None or told in _QUESTIONS or _LEGACY.get(told, told) == _LEGACY.get(task_type, task_type)


def group(frame: Frame) -> tuple[dict[TaskId, list[Part]], list[Part]]:
    """Sort what a frame holds by task, in order, items before errors; and what names no task."""
    groups: dict[TaskId, list[Part]] = {}
    nameless: list[Part] = []
    parts: tuple[Part, ...] = (*frame.items, *frame.errors)
    for part in parts:
        if part.task_id is None:
            nameless.append(part)
        else:
            groups.setdefault(part.task_id, []).append(part)
    return groups, nameless


def read_frame(tracker: Tracker, frame: Frame, at: float) -> int:
    """Read a frame of a WebSocket; return how many of its parts were for tasks no longer in flight."""
    if not frame.items and not frame.errors:
        tracker.saw_empty_frame()
        return 0
    frame = _read_usual(tracker, frame, at)
    if not frame.items and not frame.errors:
        return 0
    groups, nameless = group(frame)
    dropped = 0
    for task_id, parts in groups.items():
        entry = tracker.entries.get(task_id)
        if entry is None:
            dropped += len(parts)
            tracker.emit(Log("receive", "dropped results of a task that has ended", {"task": task_id}))
        else:
            read_parts(tracker, entry, parts, at)
    for part in nameless:
        if isinstance(part, ErrorItem):
            if is_busy(part):
                tracker.refused_without_name(to_error(part), at)
            # It may concern any task or none, so it fails none of them. The official clients fail all of them [sdk].
            data = {"code": part.code, "message": part.message}
            tracker.emit(Log("receive", "the service reported an error without a taskUUID", data, "warning"))
    return dropped


def _read_usual(tracker: Tracker, frame: Frame, at: float) -> Frame:
    """Read what most frames say, in as few steps as it can be done; give the rest of the frame.

    That is: a task was accepted, a task of one result still runs or has its result. `read_parts` would do the same, but
    count each answer to a poll as a reply, where this counts the frame as one.
    """
    if frame.errors or len({item.task_id for item in frame.items}) < len(frame.items):
        return frame  # what a frame says of one task is read together
    entries = tracker.entries
    rest: list[Item] = []
    is_reply = False
    for item in frame.items:
        entry = None if item.task_id is None else entries.get(item.task_id)
        if entry is None or item.error is not None or item.task_type in _QUESTIONS or entry.is_read_only:
            rest.append(item)
            continue
        is_polled = entry.open_poll is Lane.POLL
        if entry.polled_at is not None and is_polled and not is_reply:
            is_reply = True
            tracker.poller.answered(at, entry.polled_at)
        if item.is_result and entry.result_slots.slots == 1:
            tracker.found_done(entry, item, at)
        elif is_polled and item.status in PENDING and entry.result_slots.slots == 1:
            tracker.found_running(entry, item, at)
        elif item.status is None and entry.state is TaskState.SENT and item.phase == "accepted":
            tracker.found_accepted(entry, at)
        else:
            rest.append(item)
    return frame if len(rest) == len(frame.items) else Frame(tuple(rest))


def read_webhook(tracker: Tracker, frame: Frame, at: float) -> int:
    """Read what a webhook was called with; return how many of its parts were for tasks that are not in flight.

    A call has single results and says nothing about the others. So, unlike the answer to a poll, it never ends a task
    that is not full, and polling goes on.
    """
    dropped = 0
    for task_id, parts in group(frame)[0].items():
        entry = tracker.entries.get(task_id)
        if entry is None or entry.is_read_only:
            dropped += len(parts)
            continue
        ends = [part for part in parts if _is_end(part, entry)]
        if not ends:
            continue
        entry.confirmed = True
        entry.is_doubted = False
        entry.unknowns = 0
        tracker.take(entry, ends)
        if entry.result_slots.is_full:
            _finish(tracker, entry, at, is_pushed=True)
        elif entry.state is TaskState.SENT:
            tracker.accepted(entry, at)
    return dropped


def _is_end(part: Part, entry: Entry) -> bool:
    """Whether a webhook tells of a result or a failure of this task, and not of another kind of task."""
    if part.task_type not in (None, entry.submission.task_type):
        return False
    return isinstance(part, ErrorItem) or part.error is not None or part.is_result


class ReplySummary:
    """What the parts of one task in one frame say, taken together."""

    __slots__ = (
        "accepted",
        "busy",
        "has_terminal",
        "kept",
        "overdue",
        "pending",
        "refused",
        "unknown",
        "unknown_to",
    )

    def __init__(self) -> None:
        self.kept: list[Part] = []
        """What counts for slots and positions."""
        self.has_terminal = False
        self.accepted = False
        self.pending = False
        self.unknown = False
        self.unknown_to: Lane | None = None
        """Which of the two questions was answered so, if that can be seen."""
        self.busy: ErrorItem | None = None
        self.overdue: ErrorItem | None = None
        self.refused: ErrorItem | None = None


def read_parts(
    tracker: Tracker,
    entry: Entry,
    parts: Sequence[Part],
    at: float,
    *,
    is_whole: bool = False,
    retry_after: float | None = None,
) -> None:
    """Apply to a task what one frame says of it.

    Args:
        tracker: the table it is in.
        entry: the task.
        parts: everything in the frame that names it.
        at: when the frame came.
        is_whole: the frame is the whole answer to a sync task, by REST: nothing more will come.
        retry_after: seconds that the service asked to wait, by REST.
    """
    if entry.is_read_only:
        _read_only(tracker, entry, parts, at, retry_after)
        return
    lane = entry.open_poll or entry.lost_poll
    summary = _summarise(tracker, entry, parts, lane, at)
    refused = summary.refused
    if refused is not None and entry.is_in_doubt and not entry.confirmed and _is_refusal(entry, summary):
        tracker.reject(entry, _refusal(refused, entry, retry_after), at)
        return
    _note_answer(tracker, entry, summary, at)
    if summary.has_terminal:
        tracker.take(entry, summary.kept, is_refusal=_is_refusal(entry, summary))
    has_verdict = entry.result_slots.filled > 0
    if entry.result_slots.is_full or (is_whole and has_verdict):
        _finish(tracker, entry, at)
    elif entry.state is TaskState.POLLED:
        _read_polled(tracker, entry, summary, lane, at, retry_after)
    elif summary.busy is not None:
        if entry.state is TaskState.SENT and not entry.confirmed:
            tracker.refused(entry, _refusal(summary.busy, entry, retry_after), at)
    elif summary.overdue is not None and entry.state is TaskState.SENT:
        tracker.look_up(entry, at, to_error(summary.overdue, task_type=entry.submission.task_type))
    else:
        _read_sent(tracker, entry, summary, at)


def _note_answer(tracker: Tracker, entry: Entry, summary: ReplySummary, at: float) -> None:
    if summary.kept or summary.accepted:
        entry.confirmed = True
        entry.is_doubted = False
        entry.unknowns = 0
    if summary.kept or summary.unknown or summary.busy:
        tracker.answered(entry, at)


def _is_refusal(entry: Entry, summary: ReplySummary) -> bool:
    """Whether the service does not take the task at all; then its error is raised, and is no outcome of a result.

    In both official clients a refused submit raises before any callback (protocol facts, section 16).
    """
    if summary.refused is None or entry.state is not TaskState.SENT or entry.result_slots.filled:
        return False
    if any(isinstance(part, Item) and part.error is None for part in summary.kept):
        return False
    code = stable_code(summary.refused.code, summary.refused.status_code, summary.refused.message)
    return entry.submission.delivery != "sync" or code in REFUSALS


def _read_sent(tracker: Tracker, entry: Entry, summary: ReplySummary, at: float) -> None:
    """Something came for a task that lacks results, before it was polled."""
    is_pushed = entry.submission.delivery == "sync"
    if summary.refused is not None:
        code = stable_code(summary.refused.code, summary.refused.status_code, summary.refused.message)
        if entry.result_slots.failed == entry.result_slots.filled and (not is_pushed or code in REFUSALS):
            tracker.settle(entry, entry.error)
        elif entry.state is TaskState.SENT and is_pushed:
            tracker.look_up(entry, at, entry.error, _STRAGGLERS)
        else:
            tracker.accepted(entry, at)
    elif summary.accepted or (summary.kept and not (is_pushed and entry.state is TaskState.SENT)):
        tracker.accepted(entry, at)  # also a sync task that was to be sent again: its other results are polled
    elif summary.kept:
        tracker.pushed(entry, at)


def _read_polled(
    tracker: Tracker,
    entry: Entry,
    summary: ReplySummary,
    lane: Lane | None,
    at: float,
    retry_after: float | None,
) -> None:
    """Something came for a task that is polled and lacks results."""
    if summary.pending:
        # Also when this frame is the second half of a split reply, whose first half counted as the answer.
        entry.shorts = 0
    if summary.busy is not None:
        tracker.poller.strained(at, retry_after)
        tracker.poll_later(entry, at)
    elif lane is None:
        return
    elif summary.unknown and not summary.kept and not summary.accepted:
        tracker.unknown(entry, lane, at)
    elif summary.pending or entry.result_slots.filled == 0 or not summary.kept:
        if summary.kept or summary.accepted:
            tracker.answered(entry, at)
            tracker.still_running(entry, at)
    else:
        _read_short(tracker, entry, at)


def _read_short(tracker: Tracker, entry: Entry, at: float) -> None:
    """The reply had results or failures, nothing unfinished, and yet too few: it may be half of a split reply."""
    if entry.shorts == 0:
        entry.short_since = at
    entry.shorts += 1
    times, seconds = _SHORT if entry.error is None else _SHORT_WITH_FAILURE
    if entry.shorts >= times and at - entry.short_since >= seconds:
        data = {"task": entry.task_id, "expected": entry.result_slots.slots, "came": entry.result_slots.filled}
        tracker.emit(Log("task", "the service finished a task with fewer results than expected", data, "warning"))
        _finish(tracker, entry, at)
    else:
        tracker.poll_later(entry, at)


def _finish(tracker: Tracker, entry: Entry, at: float, *, is_pushed: bool = False) -> None:
    if entry.error is None:
        tracker.learn(entry, at, is_pushed=is_pushed)
    tracker.settle(entry, entry.error)


def _summarise(tracker: Tracker, entry: Entry, parts: Sequence[Part], lane: Lane | None, at: float) -> ReplySummary:
    summary = ReplySummary()
    for part in parts:
        if isinstance(part, ErrorItem) or part.error is not None:
            _read_failure(entry, part, summary)
        elif part.task_type == "getTaskDetails":
            _open_archive(tracker, entry, part, summary)
        elif part.task_type == "getResponse" and not part.is_result:
            summary.unknown, summary.unknown_to = True, Lane.POLL
        else:
            _read_item(tracker, entry, part, summary)
    if summary.pending:
        entry.pending_at = at
    # Otherwise it is a copy, or a late answer to the other call.
    summary.unknown = summary.unknown and summary.unknown_to in (None, lane)
    return summary


def _read_item(tracker: Tracker, entry: Entry, item: Item, summary: ReplySummary) -> None:
    phase = item.phase
    if phase == "accepted":
        summary.accepted = True
        return
    summary.kept.append(item)
    if phase == "done":
        summary.has_terminal = True
    else:
        # An unknown status does not prove that the task runs, but it is an answer: poll again.
        summary.pending = True
        if entry.reported != (item.progress, item.status):
            entry.reported = (item.progress, item.status)
            tracker.emit(Progress(entry.task_id, item.progress, item.status))


def _read_failure(entry: Entry, part: Part, summary: ReplySummary) -> None:
    failure = part if isinstance(part, ErrorItem) else part.error
    assert failure is not None
    is_entry = isinstance(part, ErrorItem)
    code = failure.code
    if code == "conflictTaskUUID" and entry.may_be_known:
        summary.accepted = True
    elif code in UNKNOWN_CODES and entry.may_be_known and is_entry:
        # After a resend it is a late answer to an earlier poll.
        summary.unknown, summary.unknown_to = True, _QUESTIONS.get(failure.task_type or "")
    elif is_entry and is_busy(failure):
        summary.busy = failure
    elif is_entry and entry.state is TaskState.SENT and _is_overdue(entry, failure):
        summary.overdue = failure
    else:
        summary.refused = failure
        summary.has_terminal = True
        summary.kept.append(part)


def is_busy(failure: ErrorItem) -> bool:
    """Tell whether an error says that the service, or the queue of a model, has too much to do to take a request.

    What a provider's code says is the failure of a task that was accepted.
    """
    code = failure.code or ""
    if read_member(failure, "status") is not None or code.startswith(("provider", "thirdParty")):
        return False  # with a status of its own it is the failure of a result, not the refusal of a request
    if code in BUSY_CODES:
        return True
    is_told = failure.status_code in (429, 503) and not code.endswith("TooLarge")
    return is_told and stable_code(failure.code) in _SAYS_LITTLE


def _refusal(failure: ErrorItem, entry: Entry, retry_after: float | None) -> RunwareError:
    return to_error(failure, task_type=entry.submission.task_type, task_uuid=entry.task_id, retry_after=retry_after)


def _is_overdue(entry: Entry, failure: ErrorItem) -> bool:
    if entry.submission.delivery != "sync" or "provider" in (failure.code or "").lower():
        return False
    return stable_code(failure.code, failure.status_code, failure.message) == "timeout"


def _open_archive(tracker: Tracker, entry: Entry, details: Item, summary: ReplySummary) -> None:
    """Read the answer to `getTaskDetails`: the request as it was sent, the response as it was returned [doc]."""
    response = read_member(details, "response")
    if isinstance(response, dict):
        try:
            frame = decode_frame(msgspec.json.encode(response))
        except ProtocolError:
            frame = Frame()
        inner: tuple[Part, ...] = (*frame.items, *frame.errors)
        for part in inner:
            if part.task_id not in (None, entry.task_id):
                continue
            if isinstance(part, ErrorItem) or part.error is not None:
                _read_failure(entry, part, summary)
            else:
                _read_item(tracker, entry, part, summary)
    if summary.kept or summary.accepted:
        return
    if read_member(details, "request"):
        summary.accepted = True
    else:
        summary.unknown, summary.unknown_to = True, Lane.LOOKUP


def _read_only(tracker: Tracker, entry: Entry, parts: Sequence[Part], at: float, retry_after: float | None) -> None:
    """The answer to a task that only reads: whatever came is the result, as it came."""
    delivered = 0
    for part in parts:
        failure = part if isinstance(part, ErrorItem) else part.error
        if failure is None:
            assert isinstance(part, Item)
            tracker.emit(Deliver(entry.task_id, delivered, item=part))
            delivered += 1
        elif isinstance(part, ErrorItem) and is_busy(part):
            if entry.state is TaskState.SENT:  # else this answers an earlier send, and it waits for its turn
                tracker.refused(entry, _refusal(part, entry, retry_after), at)
            return
        else:
            entry.error = entry.error or to_error(failure, task_type=entry.submission.task_type)
    tracker.settle(entry, entry.error)
