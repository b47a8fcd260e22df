"""Waiting for what another task, thread or process is about to do, where there is nothing else to wait on."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

from runware_flow.lifetime import open_task_group

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable


async def wait_until(condition: Callable[[], object]) -> None:
    """Return as soon as the condition holds; the time limit of the test ends the waiting."""
    while not condition():  # noqa: ASYNC110 - it may become true in another thread
        await anyio.sleep(0.005)


@asynccontextmanager
async def cancel_when(condition: Callable[[], object]) -> AsyncGenerator[anyio.CancelScope]:
    """Cancel the block as soon as the condition holds, however busy the machine is."""
    with anyio.CancelScope() as scope:
        async with open_task_group() as watchers:

            async def watch() -> None:
                await wait_until(condition)
                scope.cancel()

            watchers.start_soon(watch)
            yield scope
            watchers.cancel_scope.cancel()
