"""REST: what the outcome of one POST means for the tasks that went in it.

A reply may name some tasks, all, or none. Its items are read as on a WebSocket. This module decides what becomes of
the tasks that the reply does not name, by its status, and of a POST without a reply. An error that names
no task belongs to the task of a POST that carried exactly one; of a POST with several, each is sent again alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from runware_flow.errors import RunwareError, stable_code
from runware_flow.session.commands import Lane, Log
from runware_flow.session.events import ExchangeFailed
from runware_flow.session.inflight import Entry, TaskState
from runware_flow.session.reading import REFUSALS, Part, group, is_busy, may_be_of, read_parts
from runware_flow.session.retry import backoff, spread
from runware_flow.session.tracker import reply_too_large
from runware_flow.wire.frames import UNREADABLE, ErrorItem
from runware_flow.wire.problems import to_error

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runware_flow.session.events import ExchangeFinished
    from runware_flow.session.tracker import Tracker
    from runware_flow.types import TaskId

__all__ = ("exchange_failed", "exchange_finished")

BUSY = frozenset({429, 503})
"""The service has not accepted the request [doc]."""

_MAX_FAILED_POLLS = 10
"""Failed polls in a row, three minutes by the usual backoff, before a task that may have arrived is given up."""


def _unreadable(event: ExchangeFinished) -> str | None:
    """Say why a reply below 400 cannot be read (cut short, or the page of a portal); `None` if it can.

    Such a reply says nothing of the request: it is handled like a POST without a reply.
    """
    errors = event.frame.errors
    is_unreadable = event.status < 400 and len(errors) == 1 and errors[0].code == UNREADABLE
    return errors[0].message if is_unreadable else None


def exchange_finished(tracker: Tracker, event: ExchangeFinished, *, has_reached: bool) -> bool:
    """Apply the reply to one POST; tell whether it is the service's.

    Args:
        has_reached: the service has answered a POST before.
    """
    if (reason := _unreadable(event)) is not None:
        failed = ExchangeFailed(event.at, event.task_ids, event.lane, reason, sent=True)
        exchange_failed(tracker, failed, has_reached=has_reached)
        return False
    _read_reply(tracker, event)
    return True


def _read_reply(tracker: Tracker, event: ExchangeFinished) -> None:
    if event.status < 400:
        tracker.poller.relieved(event.at)
    groups, errors = _by_task(tracker, event)
    silent: list[Entry] = []
    for task_id in event.task_ids:
        entry = tracker.entries.get(task_id)
        if entry is None or not _is_awaiting(entry, event.lane):
            groups.pop(task_id, None)
        elif (parts := groups.pop(task_id, None)) is None:
            silent.append(entry)
        elif event.lane is Lane.SUBMIT:
            is_whole = entry.submission.delivery == "sync"
            read_parts(tracker, entry, parts, event.at, is_whole=is_whole, retry_after=event.retry_after)
            _go_on(tracker, entry, event)
        else:
            _read_answer(tracker, entry, parts, event)
            _go_on(tracker, entry, event)
    for task_id in groups:
        tracker.emit(Log("receive", "dropped results of a task that is not in this request", {"task": task_id}))
    if silent:
        read_silence = _submit_silence if event.lane is Lane.SUBMIT else _poll_silence
        read_silence(tracker, silent, event, errors)
    elif errors:
        data = {"code": errors[0].code, "message": errors[0].message}
        tracker.emit(Log("receive", "the service reported an error without a taskUUID", data, "warning"))


def exchange_failed(tracker: Tracker, event: ExchangeFailed, *, has_reached: bool) -> None:
    """Apply the failure of one POST.

    Args:
        tracker: the tasks in flight.
        event: what happened.
        has_reached: whether the service was ever reached; until then a failure to connect is an error at once.
    """
    for task_id in event.task_ids:
        entry = tracker.entries.get(task_id)
        if entry is None or not _is_awaiting(entry, event.lane):
            continue
        if event.is_reply_too_large:
            _too_large(tracker, entry, event)
            continue
        entry.has_left = entry.has_left or event.sent or event.lane is not Lane.SUBMIT
        error = RunwareError(
            f"no reply from the service: {event.reason}",
            code="connection",
            # The last attempt says nothing of those before: what has left may have been accepted, and be billed.
            raw_code="connectionLost" if entry.is_in_doubt else "connectionFailed",
            task_type=entry.submission.task_type,
            task_uuid=task_id,
            may_be_billed=entry.is_in_doubt,
        )
        entry.last_failure = error
        entry.may_have_arrived = entry.may_have_arrived or (event.sent and has_reached)
        if event.lane is not Lane.SUBMIT:
            _poll_failed(tracker, entry, error, event.at, has_reached=has_reached)
        elif not event.sent and not has_reached:
            tracker.settle(entry, error)
        elif event.sent and not entry.resends_freely:
            tracker.look_up(entry, event.at, None)
        else:
            tracker.retry(entry, error, event.at)


def _too_large(tracker: Tracker, entry: Entry, event: ExchangeFailed) -> None:
    """A reply is too large to be read: that of one task is given up, that of several is had task by task."""
    if len(event.task_ids) == 1:
        tracker.settle(entry, reply_too_large(entry, event.reason))
        return
    entry.alone = True
    _find_out(tracker, entry, event.lane, event.at, tracker.poll_now)


def _by_task(tracker: Tracker, event: ExchangeFinished) -> tuple[dict[TaskId, list[Part]], list[ErrorItem]]:
    """What the reply says of each task, and its errors of no task."""
    groups, nameless = group(event.frame)
    if len(event.task_ids) != 1 or _is_passing(event.status):
        return groups, [part for part in nameless if isinstance(part, ErrorItem)]
    # What stands in the reply to a POST of one task belongs to that task, if it is of its type.
    task_id = event.task_ids[0]
    entry = tracker.entries.get(task_id)
    adopted: list[Part] = [
        msgspec.structs.replace(part, task_id=task_id)
        for part in nameless
        if isinstance(part, ErrorItem) or entry is None or may_be_of(part, entry.submission.task_type)
    ]
    if adopted:
        groups.setdefault(task_id, []).extend(adopted)
    return groups, []


def _go_on(tracker: Tracker, entry: Entry, event: ExchangeFinished) -> None:
    """Let a task go on whose reply said nothing decisive: no more will come of this POST."""
    if tracker.entries.get(entry.task_id) is not entry or not _is_awaiting(entry, event.lane):
        return
    _find_out(tracker, entry, event.lane, event.at, tracker.poll_later)


def _find_out(
    tracker: Tracker, entry: Entry, lane: Lane, at: float, poll_again: Callable[[Entry, float], None]
) -> None:
    """Go on with polls for a task that the service has, or may have: its POST has ended without an answer to it."""
    if lane is not Lane.SUBMIT:
        entry.open_poll = None
        poll_again(entry, at)
    elif entry.resends_freely:
        tracker.accepted(entry, at)
    else:
        tracker.look_up(entry, at, None)


def _is_passing(status: int) -> bool:
    """Whether the same request may succeed later; the official clients retry the same [sdk]."""
    return status in (408, 429) or status >= 500


def _is_awaiting(entry: Entry, lane: Lane) -> bool:
    return entry.state is TaskState.SENT if lane is Lane.SUBMIT else entry.open_poll is lane


def _first(errors: Sequence[ErrorItem], event: ExchangeFinished) -> ErrorItem:
    if errors:
        return errors[0]
    return ErrorItem(status_code=event.status, message=f"HTTP {event.status} without a reason")


def _error_of(errors: Sequence[ErrorItem], event: ExchangeFinished, entry: Entry) -> RunwareError:
    return to_error(
        _first(errors, event),
        task_type=entry.submission.task_type,
        task_uuid=entry.task_id,
        retry_after=event.retry_after,
    )


def _submit_silence(
    tracker: Tracker, entries: Sequence[Entry], event: ExchangeFinished, errors: Sequence[ErrorItem]
) -> None:
    """Tasks were sent and the reply does not mention them."""
    is_refused = is_busy(_first(errors, event))
    for entry in entries:
        error = _error_of(errors, event, entry)
        if is_refused:
            tracker.refused(entry, error, event.at)
        elif event.status in BUSY:
            tracker.reject(entry, error, event.at)
        elif _is_passing(event.status):
            entry.last_failure = error
            entry.may_have_arrived = True
            if entry.resends_freely:
                tracker.retry(entry, error, event.at, event.retry_after)
            else:
                tracker.look_up(entry, event.at, None)
        elif event.status >= 400 or errors:
            if len(event.task_ids) > 1:
                tracker.resend_alone(entry, event.at)
            else:
                tracker.reject(entry, error, event.at)
        elif entry.is_read_only:
            tracker.settle(entry, None)
        elif entry.submission.delivery == "async":
            # Some servers acknowledge with `{"data": []}` [3p]: not confirmed, and no failure.
            tracker.accepted(entry, event.at)
        else:
            tracker.look_up(entry, event.at, None)


def _read_answer(tracker: Tracker, entry: Entry, parts: list[Part], event: ExchangeFinished) -> None:
    code = parts[0].code if isinstance(parts[0], ErrorItem) else None
    is_alone = len(event.task_ids) == 1
    if is_alone and event.status == 404 and stable_code(code, 404) == "notFound":
        tracker.answered(entry, event.at)
        tracker.unknown(entry, event.lane, event.at)
    elif is_alone and isinstance(parts[0], ErrorItem) and _is_about_poll(parts[0], event):
        error = _error_of([parts[0]], event, entry)
        error.may_be_billed = True
        tracker.settle(entry, error)
    else:
        read_parts(tracker, entry, parts, event.at, retry_after=event.retry_after)


def _is_about_poll(error: ErrorItem, event: ExchangeFinished) -> bool:
    """Whether an error in the reply to the poll of one task speaks of the poll, and not of what became of the task."""
    code = stable_code(error.code, event.status, error.message)
    if event.status in (401, 403) and code == "auth":
        return True
    is_nameless = any(error.task_id is None for error in event.frame.errors)
    return event.status >= 400 and is_nameless and code in REFUSALS


def _poll_silence(
    tracker: Tracker, entries: Sequence[Entry], event: ExchangeFinished, errors: Sequence[ErrorItem]
) -> None:
    """Tasks were polled and the reply does not mention them."""
    is_refused = not _is_passing(event.status) and (event.status >= 400 or bool(errors))
    if event.status in BUSY:
        tracker.poller.strained(event.at, event.retry_after)
    if is_refused:
        tracker.poller.rejected_batches += 1
    for entry in entries:
        if is_refused:
            # One bad task can fail the whole POST (REST 4xx) [inferred], so each is polled alone.
            entry.alone = True
            entry.open_poll = None
            tracker.poll_now(entry, event.at)
        elif event.status in BUSY:
            entry.open_poll = None
            tracker.poll_later(entry, event.at)
        elif _is_passing(event.status):
            _poll_failed(tracker, entry, _error_of(errors, event, entry), event.at)
        else:
            tracker.answered(entry, event.at)
            tracker.unknown(entry, event.lane, event.at)


def _poll_failed(tracker: Tracker, entry: Entry, error: RunwareError, at: float, *, has_reached: bool = True) -> None:
    """A poll brought no reply. An accepted task is paid for, so it is polled as long as the caller waits."""
    options = tracker.options
    entry.open_poll = None
    entry.unanswered += 1
    limit = options.max_reconnect_attempts
    if not entry.confirmed:
        limit = min(limit, max(options.max_retries, _MAX_FAILED_POLLS) if has_reached else options.max_retries)
    if entry.unanswered > limit:
        error.may_be_billed = True  # it says nothing of the task
        tracker.settle(entry, error)
        return
    jitter = spread(entry.task_id, entry.unanswered)
    tracker.poll_later(entry, at, backoff(entry.unanswered, options.retry_delay, options.retry_strategy, jitter))
