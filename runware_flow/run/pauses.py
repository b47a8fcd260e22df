"""Nodes that wait for a time, all on one timer: none of them holds a worker."""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from runware_flow.graph.machine import FlowMachine
    from runware_flow.graph.plan import Step
    from runware_flow.graph.scope_run import ScopeRun

__all__ = ("Pauses",)


class Pauses:
    """Parked nodes of a run, by when they are to go on. Somebody waits in `wait_due` as long as there are any."""

    def __init__(self, machine: FlowMachine) -> None:
        self._machine = machine
        self._heap: list[tuple[float, int, ScopeRun, Step]] = []
        self._order = count()
        self._changed = anyio.Event()

    def __bool__(self) -> bool:
        return bool(self._heap)

    def add(self, run: ScopeRun, step: Step, seconds: float) -> None:
        """Let a parked node go on in so many seconds."""
        heappush(self._heap, (anyio.current_time() + seconds, next(self._order), run, step))
        self._changed.set()

    def clear(self) -> None:
        """Forget all: the run is over for them."""
        self._heap.clear()
        self._changed.set()

    async def wait_due(self) -> None:
        """Wait until the time of at least one node has come, or none is left; those that are due are ready then."""
        while self._heap:
            self._changed = anyio.Event()
            with anyio.CancelScope(deadline=self._heap[0][0]):
                await self._changed.wait()
                continue
            now = anyio.current_time()
            while self._heap and self._heap[0][0] <= now:
                _, _, run, step = heappop(self._heap)
                self._machine.unpark(run, step)
            return
