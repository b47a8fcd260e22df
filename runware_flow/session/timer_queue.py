"""What is due when: one time a key, the earliest first."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from math import inf
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ("TimerQueue",)

K = TypeVar("K")

_FEW = 64
"""Leftovers that are not worth a pass through the heap."""


class TimerQueue(Generic[K]):
    """Times by key. Setting a key again replaces its time; all operations are O(log n), amortised.

    A replaced or dropped time stays in the heap until it comes up, or until such leftovers are the greater part.

    Attributes:
        next_at: the earliest time; infinity if nothing is due ever. Read-only for callers.
    """

    __slots__ = ("_count", "_due", "_heap", "_left_over", "next_at")

    def __init__(self) -> None:
        self.next_at = inf
        self._heap: list[tuple[float, int, K]] = []
        """The first one is never a leftover."""
        self._due: dict[K, int] = {}
        self._count = 0
        self._left_over = 0
        """Times in the heap that were replaced or dropped."""

    def __len__(self) -> int:
        return len(self._due)

    def __iter__(self) -> Iterator[K]:
        return iter(self._due)

    def __contains__(self, key: K) -> bool:
        return key in self._due

    def set(self, key: K, at: float) -> None:
        """Make `key` due at `at`, and at no other time."""
        self._count += 1
        is_replaced = key in self._due
        self._due[key] = self._count
        heappush(self._heap, (at, self._count, key))
        if at < self.next_at:
            self.next_at = at
        if is_replaced:
            self._left_over += 1
        if is_replaced or self._left_over > _FEW:
            self._clean()

    def drop(self, key: K) -> None:
        """Forget `key`; unknown keys are no error."""
        if key in self._due:
            del self._due[key]
            self._left_over += 1
            if self._heap[0][2] == key or self._left_over > _FEW:
                self._clean()

    def clear(self) -> None:
        """Forget everything."""
        self.next_at = inf
        self._left_over = 0
        self._heap.clear()
        self._due.clear()

    @property
    def first(self) -> K | None:
        """The key that is due first; `None` if there is none."""
        return self._heap[0][2] if self._heap else None

    def pop(self) -> K | None:
        """Remove and return the key that is due first; `None` if there is none."""
        key = self.first
        if key is not None:
            self.drop(key)
        return key

    def pop_due(self, now: float) -> list[K]:
        """Remove and return the keys due at `now` or before, earliest first."""
        popped: list[K] = []
        due = self._due
        while self._heap and self._heap[0][0] <= now:
            _, count, key = heappop(self._heap)
            if key in due and due[key] == count:
                del due[key]
                popped.append(key)
            else:
                self._left_over -= 1
        self._clean()
        return popped

    def _clean(self) -> None:
        """Remove the leftovers before the first time, and all where they are too many."""
        due = self._due
        if self._left_over > _FEW and self._left_over > len(due):
            self._heap = [entry for entry in self._heap if entry[2] in due and due[entry[2]] == entry[1]]
            self._left_over = 0
            heapify(self._heap)
        heap = self._heap
        while heap and (heap[0][2] not in due or due[heap[0][2]] != heap[0][1]):
            heappop(heap)
            self._left_over -= 1
        self.next_at = heap[0][0] if heap else inf
