"""Finds the nodes of a journal that a user wants to make again, and what they cost the last time."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from runware_flow.graph.choice_records import ChoiceRecord

__all__ = ("PaidRecord", "Selection", "has_answered", "select")

_KEYED = re.compile(r"^[^/\[]*\[([^\]]*)\]")
_SHORTEST_KEY = 6


class PaidRecord(msgspec.Struct, frozen=True):
    """A record of a journal.

    Attributes:
        path: of the node.
        is_task: it was a request.
        cost: USD; `None` is unknown.
        flow: whose it is.
        is_failed: it has an error and no result.
    """

    path: str
    is_task: bool
    cost: float | None = None
    flow: str = ""
    is_failed: bool = False


class Selection(msgspec.Struct):
    """What was chosen.

    Attributes:
        nodes: to mark, each by its flow and its path.
        missing: keys that fit nothing.
        failures: nodes that failed, each by its flow and its path; see `has_answered`.
        failed: keys of which nothing but failures is there.
        ambiguous: keys that fit several items.
        shared: keys that items of several flows have, with the names of these flows.
        tasks: how many of the nodes are requests.
        cost: USD that these cost the last time, the known ones together.
        unknown_count: of how many that is not known.
    """

    nodes: list[tuple[str, str]] = []
    failures: list[tuple[str, str]] = []
    missing: list[str] = []
    failed: list[str] = []
    ambiguous: list[str] = []
    shared: dict[str, list[str]] = {}
    tasks: int = 0
    cost: float = 0.0
    unknown_count: int = 0


def select(records: Iterable[PaidRecord], keys: Sequence[str], node: str | None = None) -> Selection:
    """Choose nodes by the keys of their items.

    Args:
        records: of a journal; of a node that is there twice, the last one counts.
        keys: of items, whole or at least their first six letters; or paths of nodes outside fan-outs.
        node: only nodes of this name. What follows them need not be marked: it is given something else by the next
            run, and so asks for something else.
    """
    last = {(record.flow, record.path): record for record in records}
    by_item: dict[str, list[PaidRecord]] = {}
    for record in last.values():
        found = _KEYED.match(record.path)
        by_item.setdefault(record.path if found is None else found[1], []).append(record)
    chosen = Selection()
    for key in dict.fromkeys(keys):
        fits = [key] if key in by_item else []
        if not fits and len(key) >= _SHORTEST_KEY:
            fits = [name for name in by_item if name.startswith(key)]
        if len(fits) > 1:
            chosen.ambiguous.append(key)
            continue
        fitting = [one for name in fits for one in by_item[name] if node is None or _name(one.path) == node]
        mine = [record for record in fitting if not record.is_failed]
        flows = list(dict.fromkeys(record.flow for record in mine))
        if len(flows) > 1:
            chosen.shared[key] = flows
            continue
        if not mine:
            (chosen.failed if fitting else chosen.missing).append(key)
        chosen.failures += [(record.flow, record.path) for record in fitting if record.is_failed]
        for record in mine:
            chosen.nodes.append((record.flow, record.path))
            if record.is_task:
                chosen.tasks += 1
                chosen.cost = round(chosen.cost + (record.cost or 0.0), 6)
                chosen.unknown_count += record.cost is None
    return chosen


def has_answered(choice: ChoiceRecord, choice_item: str, item: str, fingerprint: str) -> bool:
    """Tell whether a choice keeps a node that failed from being tried again, since a fallback has answered for it.

    A race or a `first` that has its winners needs no other contestant, so it keeps them.

    Args:
        choice_item, item: the items of the choice and of the node.
        fingerprint: of the node's request.
    """
    places = slice(1) if choice.kind in ("answered", "fallback") else slice(None)
    return (
        choice.kind not in ("race", "first")
        and choice.winners != ()
        and (f"{choice_item}[".startswith(f"{item}[") or item.startswith(f"{choice_item}["))  # around or inside it
        and any(one.fingerprint == fingerprint for one in choice.contestants[places])
    )


def _name(path: str) -> str:
    return path.rpartition("/")[2]
