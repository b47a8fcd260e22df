"""Interrupts (Ctrl-C) as events of an event loop.

Python raises KeyboardInterrupt between any two instructions. Inside an event loop that is also between the start of a
worker thread and its registration, or in the middle of closing a journal: the process then waits for ever, at its end,
for a thread that is never stopped. So while an event loop of ours runs, an interrupt is a call on that loop.
"""

from __future__ import annotations

import signal
import threading
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

import anyio

from runware_flow.lifetime import thread_safe_call_soon

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator
    from types import FrameType
    from typing import Self

__all__ = ("Interrupts", "run_interruptible")

T = TypeVar("T")

_IMPATIENT_SECONDS = 1.0
"""Presses that follow each other faster are of one hand, or of a terminal and a shell that both send the signal."""
_MOST_PRESSES = 2
"""So many are events; one more that comes later is a KeyboardInterrupt at once, for code that blocks the event loop."""


def run_interruptible(function: Callable[[], Awaitable[T]], *, backend: str = "asyncio") -> T:
    """Run an async function in an event loop of its own, as `anyio.run` does; an interrupt cancels it.

    Raises:
        KeyboardInterrupt: after an interrupt, once everything has been left.
    """

    async def main() -> T | None:
        with anyio.CancelScope() as scope, interrupts.on_press(scope.cancel):
            return await function()
        return None

    with Interrupts() as interrupts:
        value = anyio.run(main, backend=backend)
    if interrupts.presses:
        raise KeyboardInterrupt
    return cast("T", value)


class Interrupts:
    """Takes the interrupts of a process for the time of a `with` block, which runs an event loop.

    Where Python's own handling is not in place (another thread, a program with handlers of its own) it changes nothing.

    Attributes:
        presses: how many came.
    """

    def __init__(self, *signals: int) -> None:
        """Args: signals: which ones; SIGINT by default."""
        self.presses = 0
        self._signals = signals or (signal.SIGINT,)
        self._before: dict[int, Any] = {}
        self._call: Callable[[], object] | None = None
        self._last = 0.0

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in self._signals:
                if signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL):
                    self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def is_taken(self) -> bool:
        """Whether interrupts come here."""
        return bool(self._before)

    @contextmanager
    def on_press(self, callback: Callable[[], object]) -> Generator[None]:
        """Call `callback` on the running event loop at each press, also at one that came before; for a `with` block."""
        self._call = partial(thread_safe_call_soon(), callback)
        if self.presses:
            self._call()
        try:
            yield
        finally:
            self._call = None

    def _take(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        is_impatient = self.presses >= _MOST_PRESSES and now - self._last > _IMPATIENT_SECONDS
        self.presses, self._last = self.presses + 1, now
        if is_impatient:
            raise KeyboardInterrupt
        if self._call is not None:
            self._call()
