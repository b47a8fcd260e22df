"""Costs in a journal: what requests to a model have cost, and what runs have spent, for plans and budgets."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from runware_flow.graph.budget import BudgetRequest, Past
from runware_flow.graph.prices import Price
from runware_flow.journal.opening import open_rows
from runware_flow.journal.sqlite import STATES, FileRows, file_of_journal, items_of
from runware_flow.journal.store import NoJournal
from runware_flow.wire.codec import slots_of

if TYPE_CHECKING:
    from os import PathLike

    from runware_flow.journal.address import DatabaseAddress
    from runware_flow.journal.store import StoredRows

__all__ = ("read_database_past", "read_past", "seen_prices")

_LATEST = 10_000
_WITHOUT_COST = f"state = {STATES.index('done')} AND micro_usd IS NULL AND task_uuid IS NOT NULL"
_Kind: TypeAlias = tuple[str, str | None]
"""Task type and model."""
_OpenRow: TypeAlias = tuple[str, str, str | None, bytes | None]
_CountRow: TypeAlias = tuple[str, str | None, int, int]
_PriceRow: TypeAlias = tuple[str, str | None, int, bytes | None]
"""What the columns hold in a journal that is not damaged; SQLite itself holds anything."""


def seen_prices(journal: str | PathLike[str] | DatabaseAddress) -> dict[tuple[str, str | None], Price]:
    """Return what one result cost, by task type and model, over the last 10,000 finished requests of a journal.

    Blocks, as any file does. A journal that is not there yet has seen nothing.

    Raises:
        JournalError: the file is no journal, or is damaged.
    """
    try:
        rows = open_rows(journal)
    except NoJournal:
        return {}
    with closing(rows), rows.translated():
        return _prices(rows)


def read_database_past(address: DatabaseAddress, flow: str) -> Past:
    """Return what earlier runs of a flow did on a database, but for what `PostgresStore.elsewhere` tells."""
    try:
        rows = open_rows(address)
    except NoJournal:
        return Past()
    with closing(rows), rows.translated():
        requests_cost = "CASE WHEN convert_from(request, 'UTF8')::json->>'includeCost' = 'true' THEN 1 ELSE 0 END"
        without_cost, unreported = _without_cost(rows, flow, requests_cost)
        return Past(0, {}, without_cost, _prices(rows), unreported)


def read_past(journal: str | PathLike[str], flow: str) -> Past:
    """Return what earlier runs of a flow did; see `seen_prices`."""
    try:
        rows = FileRows(file_of_journal(journal))
    except NoJournal:
        return Past()
    with closing(rows), rows.translated():
        query = (
            f"SELECT sum({rows.paid}), sum({_WITHOUT_COST}) FROM node WHERE flow = ?"  # one pass, whatever the length
        )
        [spent, count] = rows.execute(query, (flow,)).fetchone()
        without_cost: dict[_Kind, int] = {}
        unreported: frozenset[_Kind] = frozenset()
        if count:
            requests_cost = "json_extract(CAST(request AS TEXT), '$.includeCost') IS 1"
            without_cost, unreported = _without_cost(rows, flow, requests_cost)
        query = """SELECT task_uuid, task_type, model, request FROM node
            WHERE flow = ? AND state IN (0, 3) AND micro_usd IS NULL AND task_uuid IS NOT NULL"""
        found = msgspec.convert(rows.execute(query, (flow,)).fetchall(), list[_OpenRow])
        open_tasks = {
            task_uuid: BudgetRequest(task_type, model, _slots(request))
            for task_uuid, task_type, model, request in found
        }
        return Past(spent or 0, open_tasks, without_cost, _prices(rows), unreported)


def _without_cost(rows: StoredRows, flow: str, requests_cost: str) -> tuple[dict[_Kind, int], frozenset[_Kind]]:
    """Count the finished requests of a flow without a cost, by kind, and the kinds whose requests had asked for it.

    Args:
        requests_cost: SQL for whether a request asks for its cost, as 0 or 1.
    """
    query = f"""SELECT task_type, model, count(*), max({requests_cost}) FROM node WHERE flow = ? AND {_WITHOUT_COST}
        GROUP BY 1, 2"""
    counted = msgspec.convert(rows.execute(query, (flow,)).fetchall(), list[_CountRow])
    unreported = frozenset((task_type, model) for task_type, model, _, asked in counted if asked)
    return {(task_type, model): number for task_type, model, number, _ in counted}, unreported


def _slots(request: bytes | None) -> int:
    return 1 if request is None else slots_of(msgspec.json.decode(request, type=dict[str, Any]))


def _prices(opened: StoredRows) -> dict[tuple[str, str | None], Price]:
    found: dict[tuple[str, str | None], Price] = {}
    rows = opened.execute(
        f"""SELECT task_type, model, micro_usd, items FROM node WHERE state = {STATES.index("done")}
            AND task_uuid IS NOT NULL AND {opened.tells_price} ORDER BY id DESC LIMIT {_LATEST}"""
    )
    for task_type, model, micro_usd, items in msgspec.convert(rows.fetchall(), list[_PriceRow]):
        each = micro_usd / max(1, len(items_of(items))) / 1_000_000
        known = found.get((task_type, model), Price(each, each, "journal"))
        found[task_type, model] = Price(min(known.low, each), max(known.high, each), "journal")
    return found
