"""Shares of limits that hold for a whole cluster: each worker has a part, and all parts together are never too much.

A part is made smaller before another one is made larger: what a worker gives up counts as its own until it has said
that no more than the smaller part is in use. The part of a worker that is lost is kept for as long as what it sent may
be in flight.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ("ShareMachine",)


class ShareMachine:
    """The parts of all workers.

    If a limit is smaller than the number of workers, as many as the smallest limit get work, in the order in which
    they came; the others stand by.

    Args:
        totals: how many places there are, by limit.
    """

    def __init__(self, totals: Mapping[str, int]) -> None:
        self.totals = dict(totals)
        self._bounds: dict[str, dict[str, int]] = {}
        """What each worker may have in use at most, as far as is known here; in order of arrival."""
        self._kept: list[tuple[float, dict[str, int]]] = []

    def __repr__(self) -> str:
        return f"<ShareMachine {self.totals}: {self._bounds}, kept {self._kept}>"

    @property
    def workers(self) -> list[str]:
        """Those that are to have work."""
        return list(self._bounds)[: min(self.totals.values())]

    def join(self, worker: str) -> None:
        """A worker has come."""
        self._bounds.setdefault(worker, dict.fromkeys(self.totals, 0))

    def leave(self, worker: str, until: float) -> None:
        """A worker is lost; its part is kept until then."""
        bound = self._bounds.pop(worker, None)
        if bound is not None:
            self.keep(bound, until)

    def keep(self, places: Mapping[str, int], until: float) -> None:
        """Keep places for what may be in flight of a worker that is not among these."""
        kept = {limit: min(places.get(limit, 0), total) for limit, total in self.totals.items()}
        if any(kept.values()):
            self._kept.append((until, kept))

    def offer(self, worker: str, now: float) -> dict[str, int]:
        """Say how much a worker may use from now on; from here on it may do so."""
        self._kept = [(until, kept) for until, kept in self._kept if until > now]
        bound = self._bounds[worker]
        offered: dict[str, int] = {}
        for limit in self.totals:
            spare = max(0, self._free(limit) - sum(other[limit] for other in self._bounds.values()))
            offered[limit] = min(self._part(worker, limit), bound[limit] + spare)
            bound[limit] = max(bound[limit], offered[limit])
        return offered

    @property
    def is_settled(self) -> bool:
        """Whether each worker has its part."""
        return all(
            bound[limit] == self._part(worker, limit) for worker, bound in self._bounds.items() for limit in bound
        )

    def _free(self, limit: str) -> int:
        return max(0, self.totals[limit] - sum(kept[limit] for _, kept in self._kept))

    def _part(self, worker: str, limit: str) -> int:
        """How much a worker is to have in the end."""
        active = self.workers
        if worker not in active:
            return 0
        part, rest = divmod(self._free(limit), len(active))
        return part + (active.index(worker) < rest)

    def note(self, worker: str, offered: Mapping[str, int], in_use: Mapping[str, int]) -> None:
        """A worker has what it was offered, and says what is in use there."""
        if worker in self._bounds:
            self._bounds[worker] = {limit: max(offered[limit], in_use.get(limit, 0)) for limit in self.totals}
