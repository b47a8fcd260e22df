"""The load of the service: the queue of each model, and the number of tasks that it takes on at all."""

from __future__ import annotations

import heapq

__all__ = ("Queues",)


class Queues:
    """One queue a model, first come first served; latency grows before anything is refused [doc]."""

    def __init__(self, parallel: int | None) -> None:
        self._parallel = parallel
        self._free_at: dict[str, list[float]] = {}

    def enter(self, model: str, now: float, seconds: float) -> float:
        """Queue one result that takes `seconds`; returns when it is ready."""
        if self._parallel is None:
            return now + seconds
        lanes = self._free_at.setdefault(model, [])
        if len(lanes) < self._parallel:
            ready_at = now + seconds
            heapq.heappush(lanes, ready_at)
        else:
            ready_at = max(now, lanes[0]) + seconds
            heapq.heapreplace(lanes, ready_at)
        return ready_at
