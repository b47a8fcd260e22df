"""Pauses of nodes (retries, backoff): one timer and one event for all of a run, and no worker is held."""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING

import anyio

from runware_flow.client.wake_event import WakeEvent

if TYPE_CHECKING:
    from runware_flow.graph.machine import FlowMachine
    from runware_flow.graph.plan import Step
    from runware_flow.graph.scope_run import ScopeRun

__all__ = ("Pauses",)


class Pauses(WakeEvent):
    """The parked nodes of a run, by the time at which they go on, and an event for nodes that may go on earlier."""

    def __init__(self, machine: FlowMachine) -> None:
        super().__init__()
        self._machine = machine
        self._heap: list[tuple[float, int, ScopeRun, Step]] = []
        self._order = count()
        self._deadlines: dict[float, float] = {}

    def add(self, run: ScopeRun, step: Step, seconds: float) -> None:
        """Let a parked node go on in so many seconds."""
        heappush(self._heap, (anyio.current_time() + seconds, next(self._order), run, step))
        self.set()

    def wake_by_deadline(self, deadline: float, seconds: float) -> None:
        """Let all nodes with this deadline go on when it passes, in so many seconds, whatever they wait for then."""
        if deadline not in self._deadlines:
            self._deadlines[deadline] = anyio.current_time() + seconds
            self.set()

    def clear(self) -> None:
        """Forget all: the run is over for them."""
        self._heap.clear()
        self._deadlines.clear()

    async def wait_due(self) -> None:
        """Wait until the time of a node has come, or the event is set; those that are due are ready then."""
        await self.wait(min([float("inf"), *self._deadlines.values(), *(entry[0] for entry in self._heap[:1])]))
        now = anyio.current_time()
        while self._heap and self._heap[0][0] <= now:
            _, _, run, step = heappop(self._heap)
            self._machine.unpark(run, step)
        for deadline in [deadline for deadline, at in self._deadlines.items() if at <= now]:
            del self._deadlines[deadline]
            for run, step in list(self._machine.waiting):
                if step.spec.policy.deadline == deadline:
                    self._machine.unpark(run, step)
