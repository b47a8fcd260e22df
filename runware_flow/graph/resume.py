"""What a journal says about a request: restore its outcome, collect what was sent, or buy.

A journal knows a request by what it asks for, not by where it stands in its flow. So several records may fit a request,
and several requests a record: equal ones, as of three nodes with one prompt and no seed. The records of one request are
a *slot*: its attempts, and the second request of each if it was hedged. Each slot serves one request of a run, which
`Claims` sees to. The rule behind the advice: a second taskUUID for a slot exists only after the service itself said
that the first one failed, or where a hedge asked for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ("Advice", "Claims", "RequestRecord", "RequestState", "advise", "choose")

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
        path: where its node stood when it was last asked for.
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


def choose(
    history: Sequence[RequestRecord], path: str, claims: Claims, mine: int = 0, *, is_own: bool = False
) -> Advice:
    """Choose a slot for a request and judge it; the slot is then taken.

    A request takes the slot that was its own path's last time, else the oldest free one that has something to restore
    or to collect, else the oldest free one, else a new one.

    Args:
        history: all records of equal requests, oldest first.
        path: where the node of the request stands.
        claims: what the requests of this run have taken already.
        mine: the slot that this request has taken before, if it has.
        is_own: no slot of another path will do.
    """
    slots: dict[int, list[RequestRecord]] = {}
    for record in history:
        slots.setdefault(record.ordinal, []).append(record)
    best: list[RequestRecord] | None = None
    rank = 3
    for slot in slots.values():
        number = slot[0].number
        if number == mine:
            best = slot
            break
        if number in claims or (is_own and slot[-1].path != path):
            continue
        found = 0 if slot[-1].path == path else 2 if all(one.state in _OVER for one in slot) else 1
        if found < rank:
            best, rank = slot, found
    if best is None:
        return Advice("buy", 1, ordinal=1 + max(slots, default=-1))
    claims.add(best[0].number)
    return advise(best)


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
