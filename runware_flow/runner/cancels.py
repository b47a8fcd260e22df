"""Tells a cancel of the run from a cancellation that user code raised."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from runware_flow.errors import RunwareFlowError

if TYPE_CHECKING:
    from runware_flow.graph.declaration import NodeSpec

__all__ = ("check_cancel",)


def check_cancel(error: BaseException, spec: NodeSpec) -> None:
    """Check what the user's code of a node raised: a cancel must be one of the scopes around.

    On asyncio, awaiting a task that was cancelled elsewhere raises the same exception as being cancelled. Let through,
    it would end the worker in silence.

    Raises:
        RunwareFlowError: something that the code awaited was cancelled; the `__cause__` is that cancel.
    """
    if isinstance(error, Exception) or not isinstance(error, anyio.get_cancelled_exc_class()):
        return
    if anyio.current_effective_deadline() == float("-inf"):
        return
    raise RunwareFlowError(
        f"{spec.describe()}, awaited something that was cancelled, though the run was not"
    ) from error
