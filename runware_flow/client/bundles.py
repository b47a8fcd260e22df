"""Cuts waiting tasks into frames or POSTs: those that wait are sent together, up to a limit of tasks and bytes."""

from __future__ import annotations

from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from runware_flow.wire.frames import pack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from runware_flow.session.commands import Outgoing

__all__ = ("MAX_BYTES", "MAX_TASKS", "bundle")

MAX_TASKS = 100
"""Tasks a frame: the service publishes no limit, so this is ours."""

MAX_BYTES = 4 * 2**20
"""Bytes a frame that several tasks share. A larger task travels alone."""


_joins: Callable[[Outgoing], Any] = attrgetter("joins")
_joins_and_lane: Callable[[Outgoing], Any] = attrgetter("joins", "lane")


def bundle(entries: Iterable[Outgoing], *, by_lane: bool) -> list[list[Outgoing]]:
    """Cut `entries` into what travels as one frame each, in their order.

    An entry that does not join travels alone. With `by_lane` (REST) a bundle holds one kind of traffic, which is then
    gathered from everywhere in `entries`, because POSTs have no order among them.
    """
    waiting = list(entries)
    if len(waiting) == 1:
        return [waiting]
    if by_lane:
        waiting.sort(key=lambda entry: (entry.lane.value, entry.joins))
    bundles: list[list[Outgoing]] = []
    for key, run in groupby(waiting, key=_joins_and_lane if by_lane else _joins):
        joins = key[0] if by_lane else key
        group = list(run)
        if not joins:
            bundles.extend([entry] for entry in group)
            continue
        sizes = [len(entry.body) for entry in group]
        bundles.extend(group[cut] for cut in pack(sizes, max_tasks=MAX_TASKS, max_bytes=MAX_BYTES))
    return bundles
