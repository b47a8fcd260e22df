"""Programs that run in virtual time on both backends: a pause lasts no time, and threads' work is done in line.

So the order in which things happen is that of their times, and nothing depends on how busy the machine is. Trio
shuffles the tasks that are ready at the same time; here it does so in the same way each time, so that a failure can be
repeated.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import trio.testing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class _Jumping(selectors.SelectSelector):
    """Waits for no time, and moves the clock on instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        found = super().select(0)
        if timeout is None and not found:
            raise RuntimeError("the program waits for something that never comes")
        if not found and timeout is not None and timeout > 0:
            self.now += timeout
        return found


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop of asyncio with a clock of its own."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def run_in_virtual_time(
    backend: str, main: Callable[..., Awaitable[Any]], *args: Any, on_call: Callable[[], None] | None = None
) -> Any:
    """Run an async function in virtual time.

    Args:
        on_call: is called before and after each piece of work that a thread would do, such as a write of a journal.
    """

    async def in_line(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        await anyio.lowlevel.checkpoint()
        if on_call is None:
            return function(*args)
        on_call()
        try:
            return function(*args)
        finally:
            on_call()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(anyio.to_thread, "run_sync", in_line)
        if backend == "trio":
            patch.setattr("trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING", True)
            patch.setattr("trio._core._run._r", random.Random(0))
            options: dict[str, Any] = {"clock": trio.testing.MockClock(autojump_threshold=0)}
        else:
            options = {"loop_factory": VirtualLoop}
        return anyio.run(main, *args, backend=backend, backend_options=options)
