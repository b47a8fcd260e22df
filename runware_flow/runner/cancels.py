"""Telling a cancel of the run from one that only looks like it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from runware_flow.errors import RunwareFlowError

if TYPE_CHECKING:
    from runware_flow.graph.declaration import NodeSpec

__all__ = ("own_cancels",)


class own_cancels:  # noqa: N801 - used as a function; a class, since each function node enters one
    """Let a cancel of the scopes around through; any other is a failure of the user's code in the block.

    On asyncio, awaiting a task that was cancelled elsewhere raises the same exception as being cancelled. Let through,
    it would end the worker in silence.

    Raises:
        RunwareFlowError: something that the block awaited was cancelled; the `__cause__` is that cancel.
    """

    __slots__ = ("_spec",)

    def __init__(self, spec: NodeSpec) -> None:
        self._spec = spec

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if error is None or isinstance(error, Exception) or not isinstance(error, anyio.get_cancelled_exc_class()):
            return
        if anyio.current_effective_deadline() == float("-inf"):
            return
        raise RunwareFlowError(
            f"{self._spec.describe()}, awaited something that was cancelled, though the run was not"
        ) from error
