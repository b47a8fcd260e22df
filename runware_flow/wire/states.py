"""`TaskState`: the answer of `getResponse` for a task, as one object."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from runware_flow.errors import RunwareError  # noqa: TC001  # of a field
from runware_flow.results import RESULT_TYPES
from runware_flow.types import Result
from runware_flow.wire.problems import to_error
from runware_flow.wire.results import decode_result

if TYPE_CHECKING:
    from runware_flow.wire.items import Frame, Item

__all__ = ("TaskState", "read_state")

Status: TypeAlias = Literal["processing", "success", "error", "unknown"]


class TaskState(msgspec.Struct, frozen=True, kw_only=True):
    """How a task stands: everything that is known of all its results."""

    task_uuid: str
    task_type: str | None = None
    """None where the service did not say."""
    status: Status
    """`processing` while anything is; then `error` if anything failed, else `success`. `unknown`: the service knows no
    such task, or has forgotten it, or was asked for one that was answered at once (sync): those are in the archive,
    see `get_task_details`."""
    progress: float | None = None
    """0 to 100, for the few long tasks that say so."""
    results: tuple[Any, ...] = ()
    """The finished results, typed by their task type, in the server's order."""
    errors: tuple[RunwareError, ...] = ()
    """The failures, in the same order."""

    @property
    def is_done(self) -> bool:
        """Whether nothing more will come."""
        return self.status in ("success", "error")


_OF_THE_CONNECTION = frozenset({"authentication", "ping"})


def _is_of_a_task(item: Item) -> bool:
    return item.task_type not in _OF_THE_CONNECTION


def read_state(task_id: str, frame: Frame) -> TaskState:
    """Read the reply to a `getResponse` for one task.

    Raises:
        RunwareError: the reply is not about the task: a rejected key, a service that is busy.
    """
    items = [item for item in frame.items if item.task_id == task_id or (item.task_id is None and _is_of_a_task(item))]
    failures = [item.error for item in items if item.error is not None]
    failures += [error for error in frame.errors if error.task_id in (task_id, None)]
    errors = tuple(to_error(error, task_uuid=task_id) for error in failures)
    for error, said in zip(errors, failures, strict=True):
        if said.task_id is None and error.code != "notFound":
            raise error
    types = [item.task_type for item in items if item.task_type not in (None, "getResponse")]
    results = [decode_result(item, RESULT_TYPES.get(item.task_type or "", Result)) for item in items if item.is_result]
    progress = [item.progress for item in items if item.progress is not None]
    unfinished = [item for item in items if item.error is None and not item.is_result]
    status: Status
    if any(item.task_type != "getResponse" for item in unfinished):
        status = "processing"
    elif any(error.code != "notFound" for error in errors):
        status = "error"
    else:
        status = "success" if results else "unknown"
    return TaskState(
        task_uuid=task_id,
        task_type=types[0] if types else None,
        status=status,
        progress=min(progress) if progress else None,
        results=tuple(results),
        errors=errors,
    )
