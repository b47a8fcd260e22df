"""Marks finished nodes of a journal to be made again by the next run, and removes the marks. Blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from runware_flow.graph.redo import PaidRecord, Selection, select
from runware_flow.journal.opening import open_to_change
from runware_flow.journal.reader import Journal
from runware_flow.journal.rows import STATES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from runware_flow.journal.address import DatabaseAddress

__all__ = ("find_nodes", "mark_nodes")


def find_nodes(
    journal: str | PathLike[str] | DatabaseAddress,
    keys: Sequence[str],
    *,
    node: str | None = None,
    flow: str | None = None,
) -> Selection:
    """Choose finished nodes of a journal by the keys of their items, see `graph.redo.select`.

    Args:
        flow: only of this flow or batch.

    Raises:
        JournalError: it cannot be read.
    """
    with Journal(journal) as reader:
        records = [
            PaidRecord(entry.path, entry.task_uuid is not None, entry.cost, entry.flow, entry.state == "failed")
            for entry in reader.entries(flow=flow)
            if entry.state in ("done", "redo", "failed")
        ]
    return select(records, keys, node)


def mark_nodes(
    journal: str | PathLike[str] | DatabaseAddress, nodes: Sequence[tuple[str, str]], *, is_marked: bool
) -> int:
    """Mark nodes, by flow and path, to be bought anew, or take their marks back; returns how many records that changed.

    The records stay, with their results and costs. A mark can be taken back until the next run has bought anew. Runs
    may use a database meanwhile: one that has restored a node already does not see its mark, and the next one does.

    Raises:
        JournalError: there is no journal, a run has its file, or it cannot be written.
    """
    now, then = (STATES.index(state) for state in (("redo", "done") if is_marked else ("done", "redo")))
    # A mark whose node has a newer record has done its work, and is not taken back.
    same = "n.flow = node.flow AND n.path = node.path"
    newer = "" if is_marked else f" AND NOT EXISTS (SELECT 1 FROM node n WHERE {same} AND n.id > node.id)"
    with open_to_change(journal) as rows:
        query = f"UPDATE node SET state = {now} WHERE state = {then} AND (flow, path) IN ({rows.pairs}){newer}"
        return int(rows.execute(query, (msgspec.json.encode(nodes).decode(),)).rowcount)
