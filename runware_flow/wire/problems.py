"""From what the service said went wrong to the error that users catch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runware_flow.errors import RunwareError, stable_code

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runware_flow.wire.items import ErrorItem

__all__ = ("to_error",)


def to_error(
    item: ErrorItem,
    *,
    task_type: str | None = None,
    task_uuid: str | None = None,
    retry_after: float | None = None,
    results: Sequence[Any] = (),
) -> RunwareError:
    """Build the error that tells of `item`.

    Args:
        item: what the service said.
        task_type: the type of the task that failed, for an item that does not say.
        task_uuid: the same for its id.
        retry_after: seconds that the service asked to wait.
        results: the task's finished results.
    """
    message = item.message
    if not message:
        kind = item.task_type or task_type
        said = "without saying why" if item.code is None else f"with code {item.code}"
        status = "" if item.status_code is None else f" (HTTP {item.status_code})"
        message = f"the service refused {'the request' if kind is None else kind} {said}{status}"
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
        results=results,
    )
