"""What is due when: one time a key, the earliest first."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from math import inf
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ("TimerQueue",)

K = TypeVar("K")


class TimerQueue(Generic[K]):
    """Times by key. Setting a key again replaces its time; all operations are O(log n), amortised.

    A replaced or dropped time stays in the heap until it comes up, or until such leftovers are the greater part.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, K]] = []
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
        if key in self._due:
            self._left_over += 1
        self._due[key] = self._count
        heappush(self._heap, (at, self._count, key))
        if self._left_over > 64 and self._left_over > len(self._due):
            due = self._due
            self._heap = [entry for entry in self._heap if entry[2] in due and due[entry[2]] == entry[1]]
            self._left_over = 0
            heapify(self._heap)

    def drop(self, key: K) -> None:
        """Forget `key`; unknown keys are no error."""
        if key in self._due:
            del self._due[key]
            self._left_over += 1

    def clear(self) -> None:
        """Forget everything."""
        self._left_over = 0
        self._heap.clear()
        self._due.clear()

    @property
    def next_at(self) -> float:
        """The earliest time; infinity if nothing is due ever."""
        heap, due = self._heap, self._due
        while heap:
            at, count, key = heap[0]
            if key in due and due[key] == count:
                return at
            heappop(heap)
            self._left_over -= 1
        return inf

    @property
    def first(self) -> K | None:
        """The key that is due first; `None` if there is none."""
        return self._heap[0][2] if self.next_at < inf else None

    def pop(self) -> K | None:
        """Remove and return the key that is due first; `None` if there is none."""
        key = self.first
        if key is not None:
            self.drop(key)
        return key

    def pop_due(self, now: float) -> list[K]:
        """Remove and return the keys due at `now` or before, earliest first."""
        due: list[K] = []
        while self._heap and self._heap[0][0] <= now:
            _, count, key = heappop(self._heap)
            if key in self._due and self._due[key] == count:
                del self._due[key]
                due.append(key)
            else:
                self._left_over -= 1
        return due
