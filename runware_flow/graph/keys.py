"""A set of keys for millions of items: about 20 bytes a key, however long the keys are."""

from __future__ import annotations

from array import array

__all__ = ("KeySet",)

_SHARDS = 256
_FIRST_SIZE = 16
_MASK = 0xFFFF_FFFF_FFFF_FFFF


class KeySet:
    """Remembers which keys it was given, by 64 bits of their hash.

    Two keys are taken for one with a probability of about 10^-7 among a million; the second is then a duplicate, which
    costs it nothing but an ordinal. It grows in small steps, so no call takes long.
    """

    __slots__ = ("_counts", "_tables")

    def __init__(self) -> None:
        self._tables: list[array[int] | None] = [None] * _SHARDS
        self._counts = array("L", bytes(8 * _SHARDS))

    def add(self, key: str) -> bool:
        """Remember a key; returns whether it is new."""
        mark = (hash(key) & _MASK) or 1
        shard = mark & (_SHARDS - 1)
        table = self._tables[shard]
        if table is None:
            table = self._tables[shard] = array("Q", bytes(8 * _FIRST_SIZE))
        place = _place(table, mark)
        if table[place] == mark:
            return False
        table[place] = mark
        self._counts[shard] += 1
        if 3 * self._counts[shard] > 2 * len(table):
            self._grow(shard, table)
        return True

    def _grow(self, shard: int, table: array[int]) -> None:
        larger = array("Q", bytes(16 * len(table)))
        for mark in table:
            if mark:
                larger[_place(larger, mark)] = mark
        self._tables[shard] = larger


def _place(table: array[int], mark: int) -> int:
    """Find the place of a mark, or the free one where it belongs."""
    last = len(table) - 1
    place = (mark >> 8) & last
    while table[place] not in (0, mark):
        place = (place + 1) & last
    return place
