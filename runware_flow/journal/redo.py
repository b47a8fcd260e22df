"""Marking finished nodes of a journal to be bought anew by the next run, and taking the marks back. Blocks."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import msgspec

from runware_flow.graph.redo import PaidRecord, Selection, select
from runware_flow.journal.reader import Journal
from runware_flow.journal.sqlite import STATES, connect, file_of_journal, take_lock, translated

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

__all__ = ("find_nodes", "mark_nodes")


def find_nodes(journal: str | PathLike[str], keys: Sequence[str], *, node: str | None = None) -> Selection:
    """Choose finished nodes of a journal by the keys of their items, see `graph.redo.select`.

    Raises:
        JournalError: it cannot be read.
    """
    with Journal(journal) as reader:
        records = [
            PaidRecord(entry.path, entry.task_uuid is not None, entry.cost)
            for entry in reader.entries()
            if entry.state in ("done", "redo")
        ]
    return select(records, keys, node)


def mark_nodes(journal: str | PathLike[str], paths: Sequence[str], *, is_marked: bool) -> int:
    """Mark the nodes at `paths` to be bought anew, or take their marks back; returns how many records that changed.

    The records stay, with their results and costs. A mark can be taken back until the next run has bought anew.

    Raises:
        JournalError: a run has the journal, or it cannot be written.
    """
    path = file_of_journal(journal)
    now, then = (STATES.index(state) for state in (("redo", "done") if is_marked else ("done", "redo")))
    # A mark whose node has a newer record has done its work, and is not taken back.
    newer = "" if is_marked else " AND NOT EXISTS (SELECT 1 FROM node n WHERE n.path = node.path AND n.id > node.id)"
    with closing(take_lock(path)), translated(path), closing(connect(path)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        changed = connection.execute(
            f"UPDATE node SET state = {now} WHERE state = {then} AND path IN (SELECT value FROM json_each(?)){newer}",
            (msgspec.json.encode(list(paths)).decode(),),
        ).rowcount
        connection.execute("COMMIT")
    return changed
