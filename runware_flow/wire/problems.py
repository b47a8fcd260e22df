"""Makes the error that users catch from an error of the service."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runware_flow.errors import RunwareError, stable_code
from runware_flow.wire.frames import read_member

if TYPE_CHECKING:
    from runware_flow.wire.items import ErrorItem

__all__ = ("to_error",)


def to_error(
    item: ErrorItem,
    *,
    task_type: str | None = None,
    task_uuid: str | None = None,
    retry_after: float | None = None,
) -> RunwareError:
    """Build the error that tells of `item`.

    Args:
        item: what the service said.
        task_type: the type of the task that failed, for an item that does not say.
        task_uuid: the same for its id.
        retry_after: seconds that the service asked to wait.
    """
    message = item.message
    if not message:
        kind = item.task_type or task_type
        said = "without saying why" if item.code is None else f"with code {item.code}"
        status = "" if item.status_code is None else f" (HTTP {item.status_code})"
        message = f"the service refused {'the request' if kind is None else kind} {said}{status}"
    problem_type, request_id = (None, None) if item.status_code is None else _problem(item)
    return RunwareError(
        message,
        code=stable_code(item.code, item.status_code, item.message),
        raw_code=item.code,
        parameter=item.parameter,
        task_type=item.task_type or task_type,
        task_uuid=item.task_id or task_uuid,
        documentation=item.documentation,
        status_code=item.status_code,
        retry_after=retry_after,
        problem_type=problem_type,
        request_id=request_id,
    )


def _problem(item: ErrorItem) -> tuple[str | None, str | None]:
    """What a problem document (RFC 9457) says besides; the `type` of the service's own entries is that of a value."""
    kind, request_id = read_member(item, "type"), read_member(item, "requestId")
    return (
        kind if isinstance(kind, str) and ":" in kind else None,
        request_id if isinstance(request_id, str) else None,
    )
