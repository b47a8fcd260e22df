"""An event for a task that waits for several things at once, up to a deadline."""

from __future__ import annotations

import anyio

__all__ = ("WakeEvent",)


class WakeEvent:
    """Wakes the one task that waits for it. Set while no task waits, it wakes the next wait at once."""

    def __init__(self) -> None:
        self._event: anyio.Event | None = None
        self._is_set = False

    def set(self) -> None:
        """Wake the task that waits."""
        self._is_set = True
        if self._event is not None:
            self._event.set()

    async def wait(self, until: float = float("inf")) -> None:
        """Wait until the event is set, or for that time on the loop's clock; afterwards it is not set."""
        if not self._is_set:
            self._event = anyio.Event()
            try:
                with anyio.CancelScope(deadline=until):
                    await self._event.wait()
            finally:
                self._event = None
        self._is_set = False
