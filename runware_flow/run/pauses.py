"""Nodes that wait, all on one timer and one bell for each run: none of them holds a worker."""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from runware_flow.graph.machine import FlowMachine
    from runware_flow.graph.plan import Step
    from runware_flow.graph.scope_run import ScopeRun

__all__ = ("Bell", "Pauses")


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


class Pauses(Bell):
    """Parked nodes of a run, by when they are to go on, and the bell of those who may go before."""

    def __init__(self, machine: FlowMachine) -> None:
        super().__init__()
        self._machine = machine
        self._heap: list[tuple[float, int, ScopeRun, Step]] = []
        self._order = count()
        self._deadlines: dict[float, float] = {}

    def add(self, run: ScopeRun, step: Step, seconds: float) -> None:
        """Let a parked node go on in so many seconds."""
        heappush(self._heap, (anyio.current_time() + seconds, next(self._order), run, step))
        self.ring()

    def wake_by_deadline(self, deadline: float, seconds: float) -> None:
        """Let all nodes with this deadline go on when it passes, in so many seconds, whatever they wait for then."""
        if deadline not in self._deadlines:
            self._deadlines[deadline] = anyio.current_time() + seconds
            self.ring()

    def clear(self) -> None:
        """Forget all: the run is over for them."""
        self._heap.clear()
        self._deadlines.clear()

    async def wait_due(self) -> None:
        """Wait until the time of at least one node has come, or the bell rings; those that are due are ready then."""
        await self.wait(min([*self._deadlines.values(), *(entry[0] for entry in self._heap[:1])], default=float("inf")))
        now = anyio.current_time()
        while self._heap and self._heap[0][0] <= now:
            _, _, run, step = heappop(self._heap)
            self._machine.unpark(run, step)
        for deadline in [deadline for deadline, at in self._deadlines.items() if at <= now]:
            del self._deadlines[deadline]
            for run, step in list(self._machine.waiting):
                if step.spec.policy.deadline == deadline:
                    self._machine.unpark(run, step)
