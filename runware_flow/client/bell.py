"""A bell: what wakes a task that waits for several things at once, by an event and not by a callback."""

from __future__ import annotations

import anyio

__all__ = ("Bell",)


class Bell:
    """Wakes the one task that waits for it. A ring while nobody waits is heard by the next who does."""

    def __init__(self) -> None:
        self._event: anyio.Event | None = None
        self._has_rung = False

    def ring(self) -> None:
        """Wake whoever waits."""
        self._has_rung = True
        if self._event is not None:
            self._event.set()

    async def wait(self, until: float = float("inf")) -> None:
        """Wait for a ring, or for that time on the loop's clock."""
        if not self._has_rung:
            self._event = anyio.Event()
            try:
                with anyio.CancelScope(deadline=until):
                    await self._event.wait()
            finally:
                self._event = None
        self._has_rung = False
