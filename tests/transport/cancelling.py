"""Cancels a coroutine at a chosen await, and tells what it left behind."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator

    from peers import Traffic


class _Stepped:
    """Runs a coroutine and cancels a scope at its n-th suspension, before the event loop sees it."""

    def __init__(self, coroutine: Coroutine[Any, Any, object], scope: anyio.CancelScope, at: int) -> None:
        self._coroutine = coroutine
        self._scope = scope
        self._at = at
        self.suspensions = 0

    def __await__(self) -> Generator[Any, Any, object]:
        value: Any = None
        error: BaseException | None = None
        while True:
            try:
                waits_for = self._coroutine.send(value) if error is None else self._coroutine.throw(error)
            except StopIteration as stop:
                return stop.value
            self.suspensions += 1
            if self.suspensions == self._at:
                self._scope.cancel()
            value, error = None, None
            try:
                value = yield waits_for
            except BaseException as thrown:  # noqa: BLE001 - handed on to the coroutine
                error = thrown


async def cancel_at_each_await(
    main: Callable[[], Coroutine[Any, Any, object]], after: Callable[[], Awaitable[None]]
) -> int:
    """Run `main` again and again, cancelled at its first await, its second, and so on; return how many there are."""
    at = 0
    while True:
        at += 1
        with anyio.CancelScope() as scope:
            stepped = _Stepped(main(), scope, at)
            await stepped
        await after()
        if stepped.suspensions < at:
            assert not scope.cancelled_caught
            return at - 1


async def assert_nothing_left(traffic: Traffic, tasks: int) -> None:
    """Check that all connections are closed, as the server sees it, and that no more tasks run than did before."""
    running = anyio.get_running_tasks()
    assert len(running) == tasks, running
    assert await anyio.to_thread.run_sync(traffic.wait_idle)
    gc.collect()
