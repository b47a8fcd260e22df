"""Marks nodes of a journal to be made again by the next run, and removes the marks. Blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from runware_flow.graph.redo import PaidRecord, Selection, has_answered, select
from runware_flow.journal.opening import open_to_change
from runware_flow.journal.reader import Journal
from runware_flow.journal.rows import STATES, choice_record

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from runware_flow.journal.address import DatabaseAddress

__all__ = ("find_nodes", "mark_nodes", "void_answers")


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


def void_answers(journal: str | PathLike[str] | DatabaseAddress, nodes: Sequence[tuple[str, str]]) -> int:
    """Void what keeps nodes that failed, by flow and path, from being tried again; returns how many choices that is.

    The next run tries these nodes again, and decides anew what waited for them. What their fallbacks have made is on
    record, and is not bought again if the nodes fail again. The choices cannot be restored.

    Raises:
        JournalError: there is no journal, a run has its file, or it cannot be written.
    """
    with open_to_change(journal) as rows:
        if not nodes or not rows.has_choices:
            return 0
        query = f"""SELECT DISTINCT flow, item, fingerprint FROM node
            WHERE state = {STATES.index("failed")} AND (flow, path) IN ({rows.pairs})"""
        failed = rows.execute(query, (msgspec.json.encode(nodes).decode(),)).fetchall()
        numbers: list[int] = []
        for name in sorted({flow for flow, _, _ in failed}):
            query = "SELECT item, id, kind, path, contestants, winners FROM choice WHERE flow = ? ORDER BY id"
            for item, *columns in rows.execute(query, (name,)).fetchall():
                choice = choice_record(*columns)
                if any(
                    flow == name and has_answered(choice, item, of or "", bytes(fingerprint).hex())
                    for flow, of, fingerprint in failed
                ):
                    numbers.append(choice.number)
        for number in numbers:
            rows.execute("UPDATE choice SET winners = ? WHERE id = ?", (b"[]", number))
        return len(numbers)
