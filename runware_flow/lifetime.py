"""A lifetime is a block: a task group whose body's exception leaves as itself.

AnyIO wraps whatever leaves a task group in an ExceptionGroup, also when nothing but the body failed. Users of an
`async with` of ours did not ask for concurrency of their own, so for them one failure is one exception. The rule, in
`open_task_group`: a group that holds exactly one exception is replaced by it; real groups stay groups.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

import anyio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from anyio.abc import TaskGroup

__all__ = ("open_task_group",)


@asynccontextmanager
async def open_task_group() -> AsyncGenerator[TaskGroup]:
    """Open a task group from which a single exception leaves unwrapped, traceback and cause kept.

    Cancellation is not touched. The group is left only when all its tasks have ended; cancel `task_group.cancel_scope`
    in a `finally` of the body to end workers that run for ever.
    """
    try:
        async with anyio.create_task_group() as task_group:
            yield task_group
    except BaseExceptionGroup as group:
        single = _single(group)
        if single is None:
            raise
        cause, context, suppress = single.__cause__, single.__context__, single.__suppress_context__
        try:
            raise single
        finally:
            single.__cause__, single.__context__, single.__suppress_context__ = cause, context, suppress


def _single(error: BaseException) -> BaseException | None:
    """The one exception at the bottom of nested groups of one; None if a group holds several."""
    while isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        if len(group.exceptions) != 1:
            return None
        error = group.exceptions[0]
    return error
