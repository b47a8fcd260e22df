"""The governors of one client, one for each model, and who waits for them: runs and batches, each in its turn.

A place is a task in flight. Runs `take` one where there is room, else they wait; direct calls `begin` one whether there
is room or not, because whoever calls the client has decided how many calls there are. Both feed the same governor.

A run or batch waits as a `Party`. When there is room, the first party in the row is called: its bell rings, and the
turn is its own until it says `done`, so nobody comes in between. A turn is one place if others wait too.
"""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio

from runware_flow.client.request import UTILITIES
from runware_flow.errors import RunwareError
from runware_flow.session.governor import Governor, is_strain

if TYPE_CHECKING:
    from collections.abc import Generator

    from runware_flow.client.bell import Bell
    from runware_flow.session.governor import GovernorStatistics, Sample

__all__ = ("Governing", "Party", "Place", "governed_as")

_KEPT = 256
"""Governors that are kept; of more, the oldest without a task are forgotten."""


def governed_as(task_type: str, model: str | None) -> str | None:
    """Name the governor of a task: its model, or its type if it has none; utilities have no governor."""
    return None if task_type in UTILITIES else model or task_type


class Party:
    """Those who wait together: a run, or all items of a batch.

    Attributes:
        bell: rings when it is their turn somewhere.
        called: the models at which it is.
        waits: the models for which they wait.
    """

    __slots__ = ("bell", "called", "waits")

    def __init__(self, bell: Bell) -> None:
        self.bell = bell
        self.called: dict[str, None] = {}
        self.waits: dict[str, None] = {}


class _Model:
    __slots__ = ("called", "governor", "row", "taken")

    def __init__(self) -> None:
        self.governor = Governor()
        self.row: deque[Party] = deque()
        self.called: Party | None = None
        self.taken = 0

    def has_room(self, now: float) -> bool:
        # Direct calls may fill all places; one task of a run goes beside them, or it might never end.
        governor = self.governor
        return governor.has_room(now) or (self.taken == 0 and now >= governor.opens_at)


class Place:
    """A task's place, from before it is sent until it is closed; what becomes of the task is told to its governor."""

    __slots__ = ("_governing", "_is_open", "_is_taken", "_model", "_sample", "_sent_at")

    def __init__(self, governing: Governing, model: str, sample: Sample, *, is_taken: bool) -> None:
        self._governing = governing
        self._model = model
        self._sample = sample
        self._is_taken = is_taken
        self._is_open = True
        self._sent_at: float | None = None

    def sent(self) -> None:
        """The task leaves now, for the first time."""
        self._sent_at = anyio.current_time()

    def refused(self, retry_after: float | None) -> None:
        """The service has not taken the task, since it has too much to do; it is sent again later."""
        self._sent_at = None
        self._governing.strained(self._model, self._sample, retry_after)

    def settled(self, error: RunwareError | None) -> None:
        """The task has its outcome."""
        sent_at, self._sent_at = self._sent_at, None
        if error is not None:
            if is_strain(error):
                self._governing.strained(self._model, self._sample, error.retry_after)
        elif sent_at is not None:
            self._governing.succeeded(self._model, self._sample, anyio.current_time() - sent_at)

    def close(self, by: Party | None = None) -> None:
        """Give the place back; a second time does nothing.

        Args:
            by: who looks by itself whether it is its turn then, and needs no bell.
        """
        if self._is_open:
            self._is_open = False
            self._governing.closed(self._model, by, is_taken=self._is_taken)


class Governing:
    """All governors of a client."""

    def __init__(self) -> None:
        self._models: dict[str, _Model] = {}

    def statistics(self) -> dict[str, GovernorStatistics]:
        """Describe each governor, by model."""
        return {name: model.governor.statistics(len(model.row)) for name, model in self._models.items()}

    # Places

    def begin(self, name: str | None) -> Place | None:
        """Count a task that is sent in any case; utilities are not counted."""
        if name is None:
            return None
        return Place(self, name, self._find(name).governor.begin(), is_taken=False)

    @contextmanager
    def streaming(self, name: str | None, taken: Place | None = None) -> Generator[None]:
        """Count a task that is read in the block while it is written. How long that takes tells nothing of queues.

        Args:
            taken: the place that a run has for it, and gives back.
        """
        place = taken or self.begin(name)
        try:
            yield
        except RunwareError as error:
            if place is not None:
                place.settled(error)
            raise
        finally:
            if taken is None and place is not None:
                place.close()

    def has_room(self, name: str, party: Party) -> bool:
        """Tell whether a task of this party may go now: there is room, and nobody else's turn."""
        model = self._find(name)
        if model.row and model.called is not party:
            return False
        return model.has_room(anyio.current_time())

    def take(self, name: str) -> Place:
        """Take a place for a task of a run; the caller has asked `has_room`."""
        model = self._find(name)
        model.taken += 1
        return Place(self, name, model.governor.begin(), is_taken=True)

    # Waiting

    def wait(self, name: str, party: Party) -> None:
        """Let a party wait at the end of the row, if it does not yet."""
        if name in party.waits:
            return
        party.waits[name] = None
        model = self._find(name)
        model.row.append(party)
        self._call(name)
        if model.governor.opens_at > anyio.current_time():
            party.bell.ring()  # there is a pause to be waited for

    def done(self, name: str, party: Party, *, wants_more: bool) -> None:
        """A turn is over."""
        model = self._models[name]
        assert model.called is party
        model.called = None
        del party.called[name]
        model.row.popleft()
        if wants_more:
            model.row.append(party)
        else:
            del party.waits[name]
        self._call(name)

    def leave(self, party: Party) -> None:
        """A party waits for nothing any more."""
        waits, party.waits = party.waits, {}
        party.called.clear()
        for name in waits:
            model = self._models[name]
            model.row.remove(party)
            if model.called is party:
                model.called = None
            self._call(name)

    def opens_at(self, party: Party) -> float:
        """Call whoever is next where a pause has ended; tell when the first one ends that has not.

        Pauses are those that the service asked for; who waits for one asks this after each wait, and waits no longer
        than it says.
        """
        first, now = float("inf"), anyio.current_time()
        for name in party.waits:
            at = self._models[name].governor.opens_at
            if at > now:
                first = min(first, at)
            else:
                self._call(name, party)
        return now if party.called else first

    # What places tell

    def succeeded(self, name: str, sample: Sample, seconds: float) -> None:
        """A task came back."""
        self._models[name].governor.succeeded(sample, seconds)
        self._call(name)

    def strained(self, name: str, sample: Sample, retry_after: float | None) -> None:
        """The service has too much to do."""
        model = self._models[name]
        model.governor.strained(sample, anyio.current_time(), retry_after)
        for party in model.row:
            party.bell.ring()  # a pause may have to be waited for

    def closed(self, name: str, by: Party | None, *, is_taken: bool) -> None:
        """A place is free."""
        model = self._models[name]
        model.governor.end()
        model.taken -= is_taken
        self._call(name, by)

    def _call(self, name: str, by: Party | None = None) -> None:
        model = self._models[name]
        if model.called is None and model.row and model.has_room(anyio.current_time()):
            model.called = party = model.row[0]
            party.called[name] = None
            if party is not by:
                party.bell.ring()

    def _find(self, name: str) -> _Model:
        model = self._models.get(name)
        if model is None:
            if len(self._models) >= _KEPT:
                self._forget()
            model = self._models[name] = _Model()
        return model

    def _forget(self) -> None:
        for name, model in list(self._models.items()):
            if not model.governor.in_flight and not model.row:
                del self._models[name]
                return
