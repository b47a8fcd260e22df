"""Telling a cancel of the run from one that only looks like it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio

from runware_flow.errors import RunwareFlowError

if TYPE_CHECKING:
    from collections.abc import Generator

    from runware_flow.graph.declaration import NodeSpec

__all__ = ("own_cancels",)


@contextmanager
def own_cancels(spec: NodeSpec) -> Generator[None]:
    """Let a cancel of the scopes around through; any other is a failure of the user's code in the block.

    On asyncio, awaiting a task that somebody has cancelled raises the same exception as being cancelled. Let through,
    it would end the worker in silence.

    Raises:
        RunwareFlowError: something that the block awaited was cancelled; the `__cause__` is that cancel.
    """
    try:
        yield
    except anyio.get_cancelled_exc_class() as error:
        if anyio.current_effective_deadline() == float("-inf"):
            raise
        raise RunwareFlowError(
            f"{spec.describe()}, awaited something that was cancelled, though the run was not"
        ) from error
