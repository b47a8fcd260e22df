"""Divides limits among the workers of a cluster, so that the shares together never exceed a limit.

A part is made smaller before another one is made larger: what a worker gives up counts as its own until it has said
that no more than the smaller part is in use. The part of a worker that is lost is kept for as long as what it sent may
be in flight.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ("ShareMachine", "WindowTurns")

TURN = 10.0
"""Seconds after which the turn of a worker ends that has found out nothing."""


class _Turn:
    """Whose turn it is with one model."""

    __slots__ = ("peaks", "refusals", "since", "worker")

    def __init__(self, now: float) -> None:
        self.worker: str | None = None
        """Who has the turn; `None`: all do."""
        self.since = now
        self.refusals: dict[str, int] = {}
        self.peaks: dict[str, int] = {}


class WindowTurns:
    """Which worker finds out whether the service, which has refused tasks of a model, takes more of them.

    Each worker has a send window of its own for each model (see `session.window`). Left alone, each would try one more
    task in every round, and each new one would begin with as many as it may. So once a worker has met a refusal, one of
    them at a time has the turn, and the others hold their windows. A refusal passes the turn on. When the window of who
    has it is open again, the service takes more than before, and all windows take steps again.
    """

    def __init__(self) -> None:
        self._turns: dict[str, _Turn] = {}
        self._workers: dict[str, None] = {}

    def join(self, worker: str) -> None:
        """A worker has come."""
        self._workers[worker] = None

    def leave(self, worker: str, now: float) -> None:
        """A worker is gone."""
        self._workers.pop(worker, None)
        for turn in self._turns.values():
            turn.refusals.pop(worker, None)
            turn.peaks.pop(worker, None)
            if turn.worker == worker:
                self._pass_on(turn, worker, now)

    def note(self, worker: str, states: Mapping[str, tuple[int, bool, int]], now: float) -> None:
        """A worker says how its windows stand that had a refusal: refusals, whether it is open, and its peak."""
        for model, (refusals, is_open, peak) in states.items():
            turn = self._turns.get(model)
            if turn is None:
                turn = self._turns[model] = _Turn(now)
            turn.peaks[worker] = peak
            if refusals > turn.refusals.get(worker, 0):
                turn.refusals[worker] = refusals
                if turn.worker in (None, worker):
                    self._pass_on(turn, worker, now)
            elif turn.worker == worker and is_open:
                turn.worker = None
        for turn in self._turns.values():
            if turn.worker is not None and now - turn.since > TURN:
                self._pass_on(turn, turn.worker, now)

    def held(self, worker: str) -> dict[str, int]:
        """The models whose windows a worker has to hold, each with the largest peak that a worker has met."""
        return {
            model: max(turn.peaks.values(), default=0)
            for model, turn in self._turns.items()
            if turn.worker is not None and turn.worker != worker
        }

    @property
    def is_refusing(self) -> bool:
        """Whether one worker has the turn with a model."""
        return any(turn.worker is not None for turn in self._turns.values())

    def _pass_on(self, turn: _Turn, worker: str, now: float) -> None:
        """Give the turn to the worker after this one."""
        names = list(self._workers)
        after = names.index(worker) + 1 if worker in self._workers else 0
        turn.worker = names[after % len(names)] if names else None
        turn.since = now


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
