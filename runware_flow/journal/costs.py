"""What a journal has seen models cost, and what its runs have spent, for plans and budgets."""

from __future__ import annotations

from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from runware_flow.graph.budget import BudgetRequest, Past
from runware_flow.graph.prices import Price
from runware_flow.journal.address import DatabaseAddress
from runware_flow.journal.postgres import TELLS_PRICE_THERE, DatabaseReader, NoJournal
from runware_flow.journal.sqlite import STATES, connect, file_of_journal, items_of, translated
from runware_flow.wire.codec import slots_of

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Generator
    from os import PathLike
    from pathlib import Path

__all__ = ("PAID", "TELLS_PRICE", "read_database_past", "read_past", "seen_prices")

_LATEST = 10_000
PAID = "CASE WHEN typeof(micro_usd) = 'integer' AND micro_usd > 0 THEN micro_usd END"
"""What a request cost, for a sum: nothing gives money back, whatever a service or a file says."""
TELLS_PRICE = """typeof(micro_usd) = 'integer' AND (micro_usd > 0 OR micro_usd = 0 AND NOT EXISTS (
    SELECT 1 FROM json_each(CAST(items AS TEXT)) WHERE json_extract(value, '$.cost') IS NOT 0))"""
"""Whether what a request cost says something about the price: what came from the cache cost nothing, though its items
have the cost of the answer that was kept, or none. Only where they say 0 themselves is the model free."""

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
    if isinstance(journal, DatabaseAddress):
        with _database(journal) as reader:
            return {} if reader is None else _prices(reader, TELLS_PRICE_THERE)
    path = file_of_journal(journal)
    if not path.is_file():
        return {}
    with _opened(path) as connection:
        return _prices(connection, TELLS_PRICE)


def read_database_past(address: DatabaseAddress, flow: str) -> Past:
    """Return what earlier runs of a flow did on a database, but for what `PostgresStore.elsewhere` tells."""
    with _database(address) as reader:
        if reader is None:
            return Past()
        query = """SELECT task_type, model, count(*),
                max(CASE WHEN convert_from(request, 'UTF8')::json->>'includeCost' = 'true' THEN 1 ELSE 0 END)
            FROM node WHERE flow = ? AND state = 1 AND micro_usd IS NULL AND task_uuid IS NOT NULL GROUP BY 1, 2"""
        counted = msgspec.convert(reader.execute(query, (flow,)).fetchall(), list[_CountRow])
        without_cost = {(task_type, model): number for task_type, model, number, _ in counted}
        unreported = frozenset((task_type, model) for task_type, model, _, was_asked in counted if was_asked)
        return Past(0, {}, without_cost, _prices(reader, TELLS_PRICE_THERE), unreported)


@contextmanager
def _database(address: DatabaseAddress) -> Generator[DatabaseReader | None]:
    """Read a database; `None` if there is no journal in it yet."""
    try:
        reader = DatabaseReader(address)
    except NoJournal:
        yield None
        return
    with closing(reader), reader.translated():
        yield reader


def read_past(journal: str | PathLike[str], flow: str) -> Past:
    """Return what earlier runs of a flow did; see `seen_prices`."""
    path = file_of_journal(journal)
    if not path.is_file():
        return Past()
    with _opened(path) as connection:
        without = f"state = {STATES.index('done')} AND micro_usd IS NULL AND task_uuid IS NOT NULL"
        query = f"SELECT sum({PAID}), sum({without}) FROM node WHERE flow = ?"  # one pass, whatever the length
        [spent, count] = connection.execute(query, (flow,)).fetchone()
        without_cost: dict[tuple[str, str | None], int] = {}
        unreported: frozenset[tuple[str, str | None]] = frozenset()
        if count:
            asked = "max(json_extract(CAST(request AS TEXT), '$.includeCost') IS 1)"
            query = f"SELECT task_type, model, count(*), {asked} FROM node WHERE flow = ? AND {without} GROUP BY 1, 2"
            counted = msgspec.convert(connection.execute(query, (flow,)).fetchall(), list[_CountRow])
            without_cost = {(task_type, model): number for task_type, model, number, _ in counted}
            unreported = frozenset((task_type, model) for task_type, model, _, was_asked in counted if was_asked)
        query = """SELECT task_uuid, task_type, model, request FROM node
            WHERE flow = ? AND state IN (0, 3) AND micro_usd IS NULL AND task_uuid IS NOT NULL"""
        rows = msgspec.convert(connection.execute(query, (flow,)).fetchall(), list[_OpenRow])
        open_tasks = {
            task_uuid: BudgetRequest(task_type, model, _slots(request)) for task_uuid, task_type, model, request in rows
        }
        return Past(spent or 0, open_tasks, without_cost, _prices(connection, TELLS_PRICE), unreported)


@contextmanager
def _opened(path: Path) -> Generator[sqlite3.Connection]:
    with translated(path):
        connection = connect(path, is_read_only=True)
        try:
            yield connection
        finally:
            connection.close()


def _slots(request: bytes | None) -> int:
    return 1 if request is None else slots_of(msgspec.json.decode(request, type=dict[str, Any]))


def _prices(connection: sqlite3.Connection | DatabaseReader, tells_price: str) -> dict[tuple[str, str | None], Price]:
    found: dict[tuple[str, str | None], Price] = {}
    rows = connection.execute(
        f"""SELECT task_type, model, micro_usd, items FROM node WHERE state = {STATES.index("done")}
            AND task_uuid IS NOT NULL AND {tells_price} ORDER BY id DESC LIMIT {_LATEST}"""
    )
    for task_type, model, micro_usd, items in msgspec.convert(rows.fetchall(), list[_PriceRow]):
        each = micro_usd / max(1, len(items_of(items))) / 1_000_000
        known = found.get((task_type, model), Price(each, each, "journal"))
        found[task_type, model] = Price(min(known.low, each), max(known.high, each), "journal")
    return found
