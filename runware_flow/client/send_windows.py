"""The send windows of a client, as runs, batches and streams use them to hold back their own tasks.

The rule is the session machine's (`session.window`), and it queues direct calls by itself. A run asks before it sends,
because a node that waits should hold no worker and no permits: as long as a window is open it just sends; while it is
closed it takes a `Slot`, or waits for one as a `SlotWaiter`, and a task that the service refuses comes back to it as
`TaskRefused`.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import anyio
from msgspec.structs import replace

from runware_flow.client.request import UTILITIES
from runware_flow.client.wake_event import WakeEvent
from runware_flow.session import events
from runware_flow.session.window import window_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from runware_flow.client.session_driver import SessionDriver
    from runware_flow.errors import RunwareError
    from runware_flow.session.window import WindowState, WindowStatistics

__all__ = ("SendWindows", "Slot", "SlotWaiter", "window_of")


class Slot:
    """Room for one task in the send window of its model. It is given back once, or handed on with the task."""

    __slots__ = ("_driver", "is_open", "model")

    def __init__(self, driver: SessionDriver, model: str) -> None:
        self._driver = driver
        self.model = model
        self.is_open = True

    def hand_on(self) -> bool:
        """Hand the slot to the session, with a task; `False` if it was given back before."""
        was_open, self.is_open = self.is_open, False
        return was_open

    def close(self, error: RunwareError | None = None, *, has_ended: bool = False) -> None:
        """Give the slot back, if it is still here.

        Args:
            error: why the service has refused the request that had it.
            has_ended: the service has ended that request.
        """
        if self.hand_on():
            now = anyio.current_time()
            self._driver.handle(events.SlotReturned(now, self.model, has_ended=has_ended, error=error))


class SlotWaiter:
    """Tasks that wait together: those of a run, of all items of a batch, or of one stream.

    Attributes:
        event: set when there is a slot in `offered`.
        offered: the slots that came, by model; they are the waiter's own.
        wanted: the models for which it waits, and its turn with each.
    """

    __slots__ = ("count", "event", "number", "offered", "wanted")

    def __init__(self, event: WakeEvent, count: Callable[[str], int] = lambda model: 1) -> None:
        """Args: count: tells how many tasks of a model wait here."""
        self.event = event
        self.count = count
        self.number = 0
        self.offered: dict[str, Slot] = {}
        self.wanted: dict[str, float] = {}


class SendWindows:
    """The windows of one client; the session that has them may change until the transport is chosen."""

    def __init__(self) -> None:
        self._driver: SessionDriver | None = None
        self.closed: Mapping[str, object] = {}
        """The windows of models whose tasks the service has lately refused, as the session keeps them."""
        self._waiters: dict[int, SlotWaiter] = {}
        self._count = 0

    def use(self, driver: SessionDriver) -> None:
        """Take the windows of this session from now on."""
        self._driver = driver
        self.closed = driver.closed_windows
        driver.on_slot = self._offered

    def states(self) -> dict[str, WindowState]:
        """The state of the windows that had a refusal, for other clients; may be called from any thread."""
        return {} if self._driver is None else self._driver.window_states()

    def hold(self, peaks: Mapping[str, int]) -> None:
        """Hold the windows of these models because other clients share the work; see `session.window`."""
        if self._driver is not None:
            self._driver.handle(events.WindowsHeld(anyio.current_time(), peaks))

    def has_room(self, model: str) -> bool:
        """Tell whether a task may be sent now and no other waits before it."""
        return self._driver is None or model not in self.closed or self._driver.has_room(model)

    def take(self, model: str) -> Slot | None:
        """Take a slot; none is needed while nothing is refused. The caller has checked `has_room`."""
        return self.enter(model) if model in self.closed else None

    def enter(self, model: str) -> Slot | None:
        """Take a slot, also while nothing is refused: for a request that the session does not carry."""
        if self._driver is None:
            return None
        self._driver.handle(events.SlotTaken(anyio.current_time(), model))
        return Slot(self._driver, model)

    def want(self, model: str, waiter: SlotWaiter, number: int | None = None) -> None:
        """Wait for one slot; it comes into `waiter.offered`.

        Args:
            model: whose window it is.
            waiter: who waits.
            number: the turn of a task that was refused; by default the last.
        """
        turn = inf if number is None else number
        is_asked = model in waiter.offered or (model in waiter.wanted and waiter.wanted[model] <= turn)
        if self._driver is None or is_asked:
            return
        if not waiter.number:
            self._count += 1
            waiter.number = self._count
        self._waiters[waiter.number] = waiter
        waiter.wanted[model] = turn
        self._driver.handle(events.SlotWanted(anyio.current_time(), model, waiter.number, number))

    def leave(self, waiter: SlotWaiter) -> None:
        """Wait for nothing any more, and give back what was offered."""
        self._waiters.pop(waiter.number, None)
        wanted, waiter.wanted = waiter.wanted, {}
        if self._driver is not None:
            for model in wanted:
                self._driver.handle(events.SlotUnwanted(anyio.current_time(), model, waiter.number))
        offered, waiter.offered = waiter.offered, {}
        for slot in offered.values():
            slot.close()

    async def wait(self, model: str) -> Slot | None:
        """Wait until a request that the session does not carry may be sent, and take its slot."""
        waiter = SlotWaiter(WakeEvent())
        try:
            if not self.has_room(model):
                self.want(model, waiter)
                await waiter.event.wait()
            return waiter.offered.pop(model, None) or self.enter(model)
        finally:
            self.leave(waiter)

    def with_waiters(self, models: Mapping[str, WindowStatistics]) -> dict[str, WindowStatistics]:
        """Add to what the session knows of the models' windows the tasks that runs hold back."""
        told = {name: found for name, found in models.items() if name not in UTILITIES}
        for waiter in self._waiters.values():
            for model in waiter.wanted.keys() & told.keys():
                told[model] = replace(told[model], waiting=told[model].waiting + waiter.count(model))
        return told

    def _offered(self, model: str, number: int) -> None:
        driver, waiter = self._driver, self._waiters.get(number)
        assert driver is not None
        slot = Slot(driver, model)
        if waiter is None:
            slot.close()
            return
        waiter.wanted.pop(model, None)
        waiter.offered[model] = slot
        waiter.event.set()
