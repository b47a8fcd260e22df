"""Which results of a task are new: slots are counted, not ids.

A task is to fill a number of slots, each with a result or with a failure. The service repeats itself: a poll is
answered with everything so far, frames come twice, a replay follows a resume, and what was pushed before a loss is
found again by a lookup. So each terminal item is recognised when it comes again:

- one that carries an id of its own (`resultIndex`, `imageUUID`, ...) by that id;
- one that carries none (text, captions, 3D, prompt versions, errors) by its content, without what differs between a
  push, a poll and an archived copy. Equal content twice in one frame is two results; equal content in two frames is one
  result that came twice.

The one case this cannot tell is two results of equal content in two frames. It errs on the side of counting one: then
the slot stays open and the next poll, which has both in one frame, fills it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from runware_flow.wire.frames import ErrorItem, Item
from runware_flow.wire.salvage import is_object

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ("Arrival", "ResultSlots", "content")

Part: TypeAlias = Item | ErrorItem
Arrival: TypeAlias = tuple[int, Part]
"""A terminal part that is new, and its position among the task's results."""

_VARIABLE = ("taskType", "status", "progress", "cost")


class ResultSlots:
    """The slots of one task."""

    __slots__ = ("_loose", "_named", "failed", "filled", "slots")

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.filled = 0
        self.failed = 0
        self._named: set[str] = set()
        self._loose: dict[int, int] = {}

    @property
    def is_full(self) -> bool:
        """Whether every slot has its result or its failure."""
        return self.filled >= self.slots

    def take(self, parts: Sequence[Part]) -> list[Arrival]:
        """Count what one frame says of the task; return the terminal parts that are new, in their order."""
        arrivals: list[Arrival] = []
        seen: dict[int, int] = {}
        is_cumulative = self.slots > 1 and any(isinstance(part, Item) and part.status is not None for part in parts)
        for index, part in enumerate(parts):
            if isinstance(part, ErrorItem):
                is_failure, slot = True, None
            else:
                is_failure, slot = part.error is not None, part.slot
                if not is_failure and not part.is_result:
                    continue
            if not (self._is_new_loose(part, seen) if slot is None else self._is_new_named(slot)):
                continue
            position = index if is_cumulative else self.filled
            if slot is not None and self.slots > 1 and slot.isdecimal() and len(slot) < 6:
                position = int(slot)
            self.filled += 1
            self.failed += is_failure
            arrivals.append((position, part))
        return arrivals

    def _is_new_named(self, slot: str) -> bool:
        if slot in self._named:
            return False
        self._named.add(slot)
        return True

    def _is_new_loose(self, part: Part, seen: dict[int, int]) -> bool:
        # The whole content of a text may be long: its hash is enough to tell copies from results.
        key = hash(content(part))
        count = seen[key] = seen.get(key, 0) + 1
        if count <= self._loose.get(key, 0) or count > self.slots:
            return False
        self._loose[key] = count
        return True


def content(part: Part) -> bytes:
    """The content of a part, in one canonical form and without what differs between copies of the same result."""
    try:
        members: Any = msgspec.json.decode(part.raw)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return part.raw
    if not is_object(members):
        return part.raw
    kept = {name: value for name, value in members.items() if name not in _VARIABLE}
    return msgspec.json.encode(kept, order="sorted")
