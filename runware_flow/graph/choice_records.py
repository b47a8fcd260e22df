"""The records of choices in a journal (which contestant won), and which record belongs to a choice of this run.

A choice is known by its item, its kind and the fingerprints of its contestants' first requests, else by its path. If no
record fits, it is decided anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping, Sequence

__all__ = ("ChoiceKind", "ChoiceRecord", "Contestant", "Likeness", "find_record", "is_equal", "winner_of")

_FALLBACK_PLACES = 2

ChoiceKind: TypeAlias = Literal["race", "first", "fallback", "node_fallback", "answered"]
"""`fallback`: of the keyword `fallback=`, inside of one node; `node_fallback`: of a node that has one; `answered`: a
node failed, and all that waited for it did without it, in items of a fan-out say. So it stays failed."""


class Contestant(NamedTuple):
    """One of those that a choice is made among.

    Attributes:
        key: of the item, for a `first`.
        fingerprint: of its first request; `None` if it sends none that is its own.
    """

    key: str | None
    fingerprint: str | None


class ChoiceRecord(msgspec.Struct, frozen=True):
    """A choice that was made.

    Attributes:
        number: its place in the journal.
        path: where the node that chose stood.
        contestants: for a race and a fallback all of them, in order; for a `first` those that had begun. After the two
            of a `node_fallback` come the requests before its first node that had failed, or had no result yet.
        winners: their places among the contestants, in the order in which they won.
    """

    number: int
    kind: ChoiceKind
    path: str
    contestants: tuple[Contestant, ...]
    winners: tuple[int, ...]

    @property
    def answered(self) -> frozenset[str] | None:
        """The requests that a `node_fallback` has answered; `None` if the record does not tell."""
        if self.kind != "node_fallback" or len(self.contestants) == _FALLBACK_PLACES:
            return None
        found = {one.fingerprint for one in self.contestants[_FALLBACK_PLACES:]}
        return frozenset(one for one in found if one is not None)

    def is_void_fallback_of(self, fingerprint: str | None) -> bool:
        """Tell whether it says that the `fallback=` of a node with this request had its turn, but does not count."""
        return self.kind == "fallback" and not self.winners and self.contestants[0].fingerprint == fingerprint

    def winning_keys(self, count: int) -> tuple[str, ...]:
        """The keys of the first so many winners; fewer if there are not so many."""
        keys = [self.contestants[place].key for place in self.winners[:count]]
        return tuple(key for key in keys if key is not None)


class Likeness(NamedTuple):
    """What tells a choice from others among the same contestants.

    Attributes:
        winner_count: how many winners there are to be.
        place: that of the contestant in question; -1 if that does not matter.
        lead_places: which contestants have a first request that is their own; `None` if that does not matter.
        names: the first requests of contestants that can be made by now, by place; of a `first`, whose contestants have
            no places, with -1.
        requests: what is sent for the first node of a fallback, as far as it can be made by now.
    """

    winner_count: int = 1
    place: int = -1
    lead_places: tuple[int, ...] | None = None
    names: tuple[tuple[int, str], ...] = ()
    requests: frozenset[str] = frozenset()


def find_record(
    records: Sequence[ChoiceRecord],
    kind: ChoiceKind,
    path: str,
    fingerprint: str | None,
    taken: Container[int],
    likeness: Likeness,
    rivals: Callable[[], Sequence[tuple[str, Likeness]]] = tuple,
) -> ChoiceRecord | None:
    """Find the record of a choice, as one of its contestants is about to be sent.

    Args:
        records: all of the choice's item, oldest first.
        path: where the node that chooses stands.
        fingerprint: of the contestant's first request; for a fallback, of any request before its first node.
        taken: the numbers of records that other choices of this run have taken.
        likeness: distinguishes several choices among the same contestants, wherever they are declared now.
        rivals: gives the paths of other choices that have not been made, and their likeness: what fits one of them
            better is left to it.
    """
    free = [one for one in records if one.kind == kind and one.number not in taken and one.winners]
    if fingerprint is not None:
        same = [one for one in free if _fits(one, fingerprint, likeness)]
        if same:
            return _best(same, path, fingerprint, likeness, rivals)
    # By its path alone only what no fingerprint tells: else a choice declared above others would take theirs.
    own = [one for one in free if (fingerprint is None or _has(one, None)) and one.answered is None]
    if likeness.lead_places == ():
        own = [one for one in own if all(contestant.fingerprint is None for contestant in one.contestants)]
    there = [one for one in own if one.path == path] or [one for one in own if _has(one, None) and _is_moved(one, path)]
    return there[-1] if there else None


def is_equal(record: ChoiceRecord, made: ChoiceRecord) -> bool:
    """Tell whether a record says what would be written down for a choice that has been made again."""
    return (record.kind, record.path, record.contestants, record.winners) == (
        made.kind,
        made.path,
        made.contestants,
        made.winners,
    )


def _best(
    same: list[ChoiceRecord],
    path: str,
    fingerprint: str,
    likeness: Likeness,
    rivals: Callable[[], Sequence[tuple[str, Likeness]]],
) -> ChoiceRecord | None:
    def fit(record: ChoiceRecord) -> tuple[tuple[int, int], tuple[bool, ...], int, bool]:
        misfit, unknown = _misfit(record, fingerprint, likeness), _count_unknown(record, likeness)
        return _distance(record, likeness), misfit, unknown, record.path != path

    for one in sorted(same, key=fit):
        mine = _rank(one, path, likeness)
        if mine == (0, -len(one.answered or ()), False, False, 0, False):
            return one
        others = [_rank(one, where, rival) for where, rival in rivals() if _is_alike(one, rival)]
        if all(other >= mine for other in others):
            return one
    return None


def _rank(record: ChoiceRecord, path: str, likeness: Likeness) -> tuple[int, int, bool, bool, int, bool]:
    """Say how badly a record fits a choice; the least is best."""
    unknown = _count_unknown(record, likeness)
    return *_distance(record, likeness), *_miscount(record, likeness), unknown, record.path != path


def _fits(record: ChoiceRecord, fingerprint: str, likeness: Likeness) -> bool:
    # Several fallbacks may follow one request, and each answer what followed it for its own node.
    answered = record.answered
    if answered is None:
        return _has(record, fingerprint)
    return fingerprint in answered or not answered.isdisjoint(likeness.requests)


def _is_alike(record: ChoiceRecord, rival: Likeness) -> bool:
    answered = record.answered
    if answered is None:
        return any(_has(record, name) for _, name in rival.names)
    return not answered.isdisjoint(rival.requests)


def _distance(record: ChoiceRecord, likeness: Likeness) -> tuple[int, int]:
    """Count the contestants that ask for something else, and, below zero, the requests that the fallback answered."""
    names = [contestant.fingerprint for contestant in record.contestants]
    placed = [(place, name) for place, name in likeness.names if place >= 0]
    misses = sum(names[place : place + 1] not in ([name], [None]) for place, name in placed)
    return misses, -len(likeness.requests & (record.answered or frozenset()))


def _count_unknown(record: ChoiceRecord, likeness: Likeness) -> int:
    """Count the contestants whose first request is known by now, but not to the record.

    It may be the record of that choice, but one that names these requests is before it, wherever it was made.
    """
    names = [contestant.fingerprint for contestant in record.contestants]
    return sum(names[place : place + 1] == [None] for place, _ in likeness.names if place >= 0)


def _is_moved(record: ChoiceRecord, path: str) -> bool:
    """Tell whether a choice of an item may be another one only in how the fan-outs around it are called by now."""
    return "/" in path and record.path.rpartition("/")[2] == path.rpartition("/")[2]


def _misfit(record: ChoiceRecord, fingerprint: str, likeness: Likeness) -> tuple[bool, ...]:
    names = [contestant.fingerprint for contestant in record.contestants]
    places = likeness.lead_places
    has_places = places is None or places == tuple(place for place, name in enumerate(names) if name is not None)
    has_place = likeness.place < 0 or names[likeness.place : likeness.place + 1] == [fingerprint]
    return *_miscount(record, likeness), not has_places, not has_place


def _miscount(record: ChoiceRecord, likeness: Likeness) -> tuple[bool, bool]:
    more = len(record.winners) - likeness.winner_count
    return more < 0, more > 0


def _has(record: ChoiceRecord, fingerprint: str | None) -> bool:
    return any(contestant.fingerprint == fingerprint for contestant in record.contestants)


def winner_of(record: ChoiceRecord, known: Mapping[int, str | None], count: int) -> int | None:
    """Tell which of the contestants of this run won by a record.

    Args:
        known: the fingerprints of their first requests, as far as these have been made, by place.
        count: how many there are.

    Returns:
        Its place; `None` while that depends on requests that have not been made yet.
    """
    place = record.winners[0]
    wanted = record.contestants[place].fingerprint
    same = [one for one, fingerprint in known.items() if wanted is not None and fingerprint == wanted]
    if same:
        return place if place in same else min(same)
    if place < count and (place not in known or wanted is None):
        return place
    unknown = [one for one in range(count) if one not in known]
    if not unknown:
        return place if place < count else None
    return unknown[0] if len(unknown) == 1 else None
