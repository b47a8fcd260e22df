"""Decides from a journal what to do with a request: restore its outcome, collect it, or send it.

A journal knows a request by what it asks for, not by where it stands in its flow. So several records may fit a request,
and several requests a record: equal ones, as of three nodes with one prompt and no seed. The records of one request are
a *slot*: its attempts, and the second request of each if it was hedged. Each slot serves one request of a run, which
`Claims` sees to; `History` says which one a request takes. The rule behind the advice: a second taskUUID for a slot
exists only after the service itself said that the first one failed, or where a hedge asked for it.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ("Advice", "Claims", "History", "RequestRecord", "RequestState", "advise")

RequestState: TypeAlias = Literal["open", "done", "failed", "abandoned", "redo"]
"""`open`: it may have been sent, and what came of it is not known. `done`: its results are there. `failed`: the service
said so. `abandoned`: it may have been sent, but a choice was made without it, so nothing waits for it. `redo`: its
results are there and paid for, and it is marked to be bought anew."""


_OVER = ("failed", "redo")
"""States of records that answer no request any more."""


class RequestRecord(msgspec.Struct, frozen=True):
    """One request of a node, as a journal knows it.

    Attributes:
        number: its place in the journal.
        attempt: which request of its slot it was, from 1; a hedge has the number of the request it was sent beside.
        task_uuid: `None` for a function, which buys nothing by itself.
        ordinal: its slot among those of equal requests.
        path: the path of its node when it was last used.
        is_hedge: it was sent beside another one.
        is_loser: the other one of the two was the answer.
    """

    number: int
    attempt: int
    state: RequestState
    task_uuid: str | None = None
    ordinal: int = 0
    path: str = ""
    is_hedge: bool = False
    is_loser: bool = False


class Advice(msgspec.Struct, frozen=True):
    """What to do with a request.

    Attributes:
        action: `restore` its outcome from `record`; `collect` what `record` brought, under its taskUUID; `buy`.
        attempt: which request of its slot that is, from 1.
        record: the record in question.
        slot: the number of the first record of the slot; 0 if there is none yet.
        ordinal: the slot among those of equal requests.
    """

    action: Literal["restore", "collect", "buy"]
    attempt: int
    record: RequestRecord | None = None
    slot: int = 0
    ordinal: int = 0


class Claims:
    """Which slots of a journal the requests of a run have taken: a bit for each record."""

    __slots__ = ("_bits", "_given_back", "_latest")

    def __init__(self) -> None:
        self._bits = bytearray()
        self._latest: list[int] = []
        self._given_back: list[int] = []

    def begin(self) -> None:
        """Begin a transaction, which `roll_back` undoes."""
        self._latest.clear()
        self._given_back.clear()

    def roll_back(self) -> None:
        """Give back what was taken since `begin`, and take what was given back."""
        taken, given_back = self._latest[:], self._given_back[:]
        for slot in given_back:
            self.add(slot)
        for slot in taken:
            self._remove(slot)
        self.begin()

    def __contains__(self, slot: int) -> bool:
        place = slot >> 3
        return place < len(self._bits) and bool(self._bits[place] & (1 << (slot & 7)))

    def give_back(self, slot: int) -> None:
        """Let another request take a slot: the one that had it asks for nothing any more."""
        if slot in self:
            self._given_back.append(slot)
            self._remove(slot)

    def _remove(self, slot: int) -> None:
        self._bits[slot >> 3] &= ~(1 << (slot & 7))

    def add(self, slot: int) -> None:
        """Take a slot."""
        if slot not in self:
            self._latest.append(slot)
        place = slot >> 3
        if place >= len(self._bits):
            self._bits.extend(bytes(place + 1 + (place >> 3) - len(self._bits)))
        self._bits[place] |= 1 << (slot & 7)


class _Slot:
    """The records of one request, oldest first."""

    __slots__ = ("is_over", "number", "path", "records")

    def __init__(self, number: int) -> None:
        self.number = number
        self.records: list[RequestRecord] = []
        self.path = ""
        self.is_over = True

    def judge(self) -> None:
        """Bring up to date where its node stood last, and whether there is nothing to restore or to collect."""
        self.path = self.records[-1].path
        self.is_over = all(one.state in _OVER for one in self.records)


class History:
    """All records of equal requests, and which slot the next one of them takes.

    A request takes the slot that was its own path's last time, else the oldest free one that has something to restore
    or to collect, else the oldest free one, else a new one. Among n records it is found in O(log n): the free slots are
    in heaps by their number. What was taken, or has changed, stays in a heap until it would be the next one.

    Args:
        records: oldest first.
        claims: what the requests of this run have taken already.

    Attributes:
        task_uuids: of all records.
    """

    __slots__ = ("_at_path", "_claims", "_next_ordinal", "_over", "_owners", "_slots", "_useful", "task_uuids")

    def __init__(self, records: Iterable[RequestRecord], claims: Claims) -> None:
        self._claims = claims
        self._slots: dict[int, _Slot] = {}
        self._owners: dict[int, _Slot] = {}
        self._at_path: dict[str, list[int]] = {}
        self._useful: list[int] = []
        self._over: list[int] = []
        self._next_ordinal = 0
        self.task_uuids: set[str | None] = set()
        for record in records:
            self._append(record)
        for slot in self._slots.values():
            slot.judge()
            self._push(slot)

    def __len__(self) -> int:
        return len(self._owners)

    @property
    def numbers(self) -> Iterable[int]:
        """The numbers of all records."""
        return self._owners

    def choose(self, path: str, mine: int = 0, *, is_own: bool = False) -> Advice:
        """Choose a slot for a request and judge it; the slot is then taken.

        Args:
            path: where the node of the request stands.
            mine: the slot that this request has taken before, if it has.
            is_own: no slot of another path will do.
        """
        slot = self._owners.get(mine)
        if slot is None or slot.number != mine:
            slot = self._first_at(path)
        if slot is None and not is_own:
            slot = self._first(self._useful, is_over=False) or self._first(self._over, is_over=True)
        if slot is None:
            return Advice("buy", 1, ordinal=self._next_ordinal)
        self._claims.add(slot.number)
        return advise(slot.records)

    def slot(self, ordinal: int) -> list[RequestRecord]:
        """Return the records of a slot, oldest first."""
        slot = self._slots.get(ordinal)
        return [] if slot is None else slot.records[:]

    def record(self, number: int) -> RequestRecord:
        """Return a record."""
        return next(record for record in self._owners[number].records if record.number == number)

    def add(self, record: RequestRecord) -> None:
        """Add a record that is younger than all others."""
        slot = self._append(record)
        slot.judge()
        self._push(slot)

    def change(
        self, number: int, *, state: RequestState | None = None, path: str | None = None, is_loser: bool = False
    ) -> None:
        """Note what became of a record, as far as it is given."""
        slot = self._owners[number]
        for place, record in enumerate(slot.records):
            if record.number == number:
                slot.records[place] = msgspec.structs.replace(
                    record,
                    state=record.state if state is None else state,
                    path=record.path if path is None else path,
                    is_loser=record.is_loser or is_loser,
                )
        before = slot.path, slot.is_over
        slot.judge()
        if before != (slot.path, slot.is_over):
            self._push(slot)

    def give_back(self, number: int) -> None:
        """Let another request take the slot that a record belongs to."""
        slot = self._owners[number]
        self._claims.give_back(slot.number)
        self._push(slot)

    def _append(self, record: RequestRecord) -> _Slot:
        slot = self._slots.get(record.ordinal)
        if slot is None:
            slot = self._slots[record.ordinal] = _Slot(record.number)
            self._next_ordinal = max(self._next_ordinal, record.ordinal + 1)
        slot.records.append(record)
        self._owners[record.number] = slot
        self.task_uuids.add(record.task_uuid)
        return slot

    def _push(self, slot: _Slot) -> None:
        if slot.number not in self._claims:
            heappush(self._at_path.setdefault(slot.path, []), slot.number)
            heappush(self._over if slot.is_over else self._useful, slot.number)

    def _first_at(self, path: str) -> _Slot | None:
        heap = self._at_path.get(path, [])
        while heap:
            slot = self._owners[heap[0]]
            if slot.number not in self._claims and slot.path == path:
                return slot
            heappop(heap)
        self._at_path.pop(path, None)
        return None

    def _first(self, heap: list[int], *, is_over: bool) -> _Slot | None:
        while heap:
            slot = self._owners[heap[0]]
            if slot.number not in self._claims and slot.is_over is is_over:
                return slot
            heappop(heap)
        return None


def advise(slot: Sequence[RequestRecord]) -> Advice:
    """Judge a request by all that a journal has of its slot; oldest first."""
    number, ordinal = (slot[0].number, slot[0].ordinal) if slot else (0, 0)
    best: RequestRecord | None = None
    for record in slot:
        if record.state not in _OVER and (best is None or _rank(record) >= _rank(best)):
            best = record
    if best is not None:
        action: Literal["restore", "collect"] = "restore" if best.state == "done" else "collect"
        return Advice(action, best.attempt, best, number, ordinal)
    attempt = 1 + max((record.attempt for record in slot), default=0)
    return Advice("buy", attempt, None, number, ordinal)


def _rank(record: RequestRecord) -> tuple[bool, bool, bool, bool]:
    state = record.state
    return state == "done", not record.is_loser, state == "open", not record.is_hedge
