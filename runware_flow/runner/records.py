"""The records of a run: one for the request of each node, one line of the receipt for each step and model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from runware_flow.journal.store import Entry

__all__ = ("NodeRecord", "ReceiptLine", "follow_entry")


class NodeRecord(msgspec.Struct):
    """What is known of a node that sent a task.

    Attributes:
        path: its identity in the run, items' keys included.
        fingerprint: a hash of the resolved request, without what changes from one sending to the next.
        task_uuid, task_type, model: the request of the last attempt.
        attempts: how many there were.
        cost: USD; `None` is unknown.
        began, started, settled: seconds from the start of the run: of the first attempt, of the last, and when its
            outcome was here.
        processing: when the service last said that it still works on it; `None` if it never did.
        is_restored: the outcome is an earlier run's, from the journal; nothing was sent.
        is_cached: it is the answer to an equal request, from the cache; nothing was sent, and it costs nothing.
        given_up: the taskUUIDs of requests that lost against this one, see `hedge_after=`. They may be billed.
    """

    path: str
    fingerprint: str
    task_uuid: str
    task_type: str
    model: str | None
    attempts: int = 1
    cost: float | None = None
    started: float = 0.0
    settled: float | None = None
    is_restored: bool = False
    is_cached: bool = False
    began: float = 0.0
    processing: float | None = None
    given_up: tuple[str, ...] = ()


class ReceiptLine(msgspec.Struct, frozen=True):
    """What one step of the flow bought from one model.

    Attributes:
        stage: the node's path, the same for all items.
        count: tasks that were sent and settled.
        cost: USD, the known ones together; `None` if none is known.
        unknown_count: tasks whose cost is not known and that may have been billed.
    """

    stage: str
    task_type: str
    model: str | None
    count: int
    cost: float | None
    unknown_count: int


def follow_entry(record: NodeRecord, entry: Entry) -> None:
    """Take the taskUUID and the number of attempts from what the journal has of the request."""
    record.attempts = max(record.attempts, entry.advice.attempt)
    record.task_uuid = entry.task_uuid or record.task_uuid
