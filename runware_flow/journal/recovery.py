"""Salvage: reads what can be read of a damaged journal, and writes it into a new one.

A page of a table's rows is whole by itself, so each is shown to SQLite as if it were the whole table: a scratch copy
gets the first page of a healthy journal (the schema is always the same) and, as the root of its table, one page of rows
after the other. Nothing above the rows is needed: neither the header, nor the pages that lead to them, nor an index.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from contextlib import closing, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from runware_flow.errors import JournalError
from runware_flow.graph.resume import RequestState  # noqa: TC001  # help() reads the annotations of a struct
from runware_flow.journal.media import MediaFolder
from runware_flow.journal.migration import FIRST_SCHEMA, FirstRow, give_ordinals, presented, row_name
from runware_flow.journal.rows import choice_record
from runware_flow.journal.sqlite import (
    CHOICE_SCHEMA,
    COLUMNS,
    PLACE_SCHEMA,
    SCHEMA,
    STATES,
    SqliteStore,
    is_writable,
    items_of,
    take_lock,
)
from runware_flow.journal.values import decode_error

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ("Salvaged", "salvage_journal")

_PAGE = 4096
"""SQLite's page size; nothing here chooses another."""
_ROOT = 2
"""The number of the page that the table `node` begins with: it is the first one made."""
_SHORTEST_ROW = 64
"""Bytes that a row takes at least, with its fingerprint and its place in the index; so no `id` is larger than this
allows, other than by damage."""
_ROWS = b"\x0d"
"""What a page of rows begins with."""


class Salvaged(msgspec.Struct, frozen=True):
    """What came of a salvage.

    Attributes:
        path: the new journal.
        counts: how many requests it has, by state; functions' values count as done.
        choices: how many choices it has (who won a race, which fallback answered); one that is lost is made anew.
        reopened: of the open ones, those whose outcome was lost; the next run asks the service for it.
        lost: how many are missing between the first and the last one that were found; what stood behind the last one
            is not known. They would be bought again.
    """

    path: Path
    counts: dict[RequestState, int]
    reopened: int
    lost: int
    choices: int = 0


class _Row(NamedTuple):
    """A row of `node`, in the order of `COLUMNS`."""

    id: int
    name: int
    flow: str
    item: str | None
    path: str
    fingerprint: bytes
    ordinal: int
    attempt: int
    hedge: int
    lost: int
    task_uuid: str | None
    task_type: str | None
    model: str | None
    request: bytes | None
    state: int
    asked_at: float
    settled_at: float | None
    micro_usd: int | None
    items: bytes | None
    error: bytes | None


class _ChoiceRow(NamedTuple):
    """A row of `choice`."""

    id: int
    name: int
    flow: str
    item: str
    kind: str
    path: str
    contestants: bytes
    winners: bytes
    made_at: float


class _PlaceRow(NamedTuple):
    """A row of `place`."""

    began_at: float
    folder: str
    cache: str | None


_TEXTS = frozenset({"flow", "item", "path", "task_uuid", "task_type", "model", "kind", "folder", "cache"})
_TABLES: dict[type, tuple[str, tuple[str, ...]]] = {
    _Row: ("node", SCHEMA),
    FirstRow: ("node", FIRST_SCHEMA),
    _ChoiceRow: ("choice", CHOICE_SCHEMA),
    _PlaceRow: ("place", PLACE_SCHEMA),
}
"""The table of each kind of row, and a schema in which that table is the first."""


def salvage_journal(damaged: Path, target: Path) -> Salvaged:
    """Write what can be read of a journal into a new one. The damaged one is not changed.

    Raises:
        JournalError: nothing can be read, a run uses the journal, or the target exists.
    """
    if not damaged.is_file():
        raise JournalError(f"there is no journal {damaged}")
    if target.exists():
        raise JournalError(f"{target} exists already: name another file for what is salvaged")
    lock = closing(take_lock(damaged)) if is_writable(damaged) else nullcontext()  # else no run can have it
    with lock, tempfile.TemporaryDirectory(dir=target.absolute().parent) as folder:
        scratch = Path(folder) / "scratch.sqlite"
        made = Path(folder) / "salvaged.sqlite"
        _copy(damaged, scratch)
        media = MediaFolder(damaged)
        counts, reopened, last, choices = _rewrite(scratch, made, media)
        if not last:
            raise JournalError(f"nothing can be read of {damaged}: it holds no rows of a journal")
        media.copy_to(MediaFolder(target))
        os.replace(made, target)
    return Salvaged(target, counts, reopened, last - sum(counts.values()), choices)


def _copy(damaged: Path, scratch: Path) -> None:
    """Copy a journal with what is in its log, under a first page that is whole."""
    shutil.copyfile(damaged, scratch)
    log = Path(f"{damaged}-wal")
    if log.is_file():
        shutil.copyfile(log, f"{scratch}-wal")
    head = _head(scratch.parent)
    _write_head(scratch, head, has_log=True)
    try:
        with closing(_open(scratch)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.DatabaseError:
        Path(f"{scratch}-wal").unlink(missing_ok=True)
    _write_head(scratch, head, has_log=False)


def _head(folder: Path, kind: type = _Row) -> bytes:
    """Return the first page of a healthy journal, or of a database whose first table has rows of another kind."""
    healthy = folder / f"healthy{kind.__name__}.sqlite"
    if not healthy.exists():
        with closing(sqlite3.connect(healthy, isolation_level=None)) as connection:
            for statement in _TABLES[kind][1]:
                connection.execute(statement)
    return healthy.read_bytes()[:_PAGE]


def _write_head(path: Path, head: bytes, *, has_log: bool) -> None:
    count = -(-path.stat().st_size // _PAGE)
    mode = b"\2\2" if has_log else b"\1\1"
    counter = head[24:28]
    with path.open("r+b") as file:
        # At 28 the number of pages, which counts if 92 says the same as the counter of changes at 24.
        file.write(head[:18] + mode + head[20:28] + count.to_bytes(4, "big") + head[32:92] + counter + head[96:])
        file.truncate(count * _PAGE)


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.text_factory = bytes
    return connection


def _rewrite(scratch: Path, made: Path, media: MediaFolder) -> tuple[dict[RequestState, int], int, int, int]:
    store = SqliteStore(made)
    store.open()
    store.close()
    with closing(sqlite3.connect(made, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("BEGIN")
        marks = ", ".join("?" * len(_Row._fields))
        # The same row may stand in a page that is not used any more; what is settled is the newer one. Where a row does
        # not fit the format that it is read in, its name does not fit either.
        keep = f"INSERT INTO node ({COLUMNS}) VALUES ({marks}) ON CONFLICT (id) DO UPDATE SET "
        keep += ", ".join(f"{name} = excluded.{name}" for name in _Row._fields)
        keep += " WHERE state IN (0, 3) AND excluded.state <> 0"
        reopened: set[int] = set()
        most = scratch.stat().st_size // _SHORTEST_ROW
        kinds: set[type] = set()
        for kind in (_Row, FirstRow):
            for found in () if _Row in kinds else _rows(scratch, kind):  # decided once, before the pass
                row = _checked(found, media)
                if row is None or not 0 < row.id <= most:
                    continue
                if row.state != found.state:
                    reopened.add(row.id)
                connection.execute(keep, row)
                kinds.add(kind)
        if FirstRow in kinds:
            give_ordinals(connection)
        choices = _rewrite_choices(scratch, connection)
        _rewrite_places(scratch, connection)
        connection.execute("COMMIT")
        counts: dict[RequestState, int] = dict.fromkeys(STATES, 0)
        for state, count in connection.execute("SELECT state, count(*) FROM node GROUP BY state"):
            counts[STATES[state]] = count
        [last] = connection.execute("SELECT coalesce(max(id), 0) FROM node").fetchone()
        still_open = {row[0] for row in connection.execute("SELECT id FROM node WHERE state = 0")}
    return counts, len(reopened & still_open), int(last), choices


def _rewrite_choices(scratch: Path, made: sqlite3.Connection) -> int:
    """Keep the choices, each as it was made last; returns how many there are."""
    latest: dict[int, _ChoiceRow] = {}
    for found in _rows(scratch, _ChoiceRow):
        row: _ChoiceRow | None = _converted(found, _ChoiceRow)
        if row is None or row.name != row_name(row.flow, row.item, b""):
            continue
        if (row.id not in latest or row.made_at >= latest[row.id].made_at) and _is_choice(row):
            latest[row.id] = row
    if latest:
        for statement in CHOICE_SCHEMA:
            made.execute(statement)
        made.executemany(f"INSERT INTO choice VALUES ({', '.join('?' * len(_ChoiceRow._fields))})", latest.values())
    return len(latest)


def _is_choice(row: _ChoiceRow) -> bool:
    try:
        choice_record(row.id, row.kind, row.path, row.contestants, row.winners)
    except (msgspec.MsgspecError, ValueError):
        return False
    return True


def _rewrite_places(scratch: Path, made: sqlite3.Connection) -> None:
    """Keep where the runs were, in their order."""
    found: set[_PlaceRow | None] = {_converted(row, _PlaceRow) for row in _rows(scratch, _PlaceRow)}
    places = [row for row in found if row is not None]
    if places:
        for statement in PLACE_SCHEMA:
            made.execute(statement)
        places.sort(key=lambda row: row.began_at)
        made.executemany("INSERT INTO place VALUES (?, ?, ?)", places)


def _rows(scratch: Path, kind: Any) -> Iterator[Any]:
    """Read each page of rows by itself."""
    head = _head(scratch.parent, kind)
    _write_head(scratch, head, has_log=False)
    with scratch.open("r+b") as file:
        count = scratch.stat().st_size // _PAGE
        file.seek((_ROOT - 1) * _PAGE)
        root = file.read(_PAGE)
        for number in range(_ROOT, count + 1):
            file.seek((number - 1) * _PAGE)
            page = root if number == _ROOT else file.read(_PAGE)
            if page[:1] != _ROWS:
                continue
            file.seek((_ROOT - 1) * _PAGE)
            file.write(page)
            file.flush()
            for row in _read(scratch, _TABLES[kind][0], ", ".join(kind._fields)):
                yield kind(*row)
        file.seek((_ROOT - 1) * _PAGE)
        file.write(root)


def _read(scratch: Path, table: str, columns: str) -> list[tuple[Any, ...]]:
    with closing(_open(scratch)) as connection:
        try:
            return connection.execute(f"SELECT {columns} FROM {table} NOT INDEXED").fetchall()
        except sqlite3.DatabaseError:
            return list(_read_singly(connection, table, columns))


def _read_singly(connection: sqlite3.Connection, table: str, columns: str) -> Iterator[tuple[Any, ...]]:
    numbers: list[int] = []
    with suppress(sqlite3.DatabaseError):
        for [number] in connection.execute(f"SELECT rowid FROM {table} NOT INDEXED"):
            numbers.append(number)
    for number in numbers:
        # A long row goes on elsewhere, with what came of the request at its end.
        for what in (columns, columns.replace("items, error", "NULL, NULL")):
            try:
                rows = connection.execute(f"SELECT {what} FROM {table} WHERE rowid = ?", (number,)).fetchall()
            except sqlite3.DatabaseError:
                continue
            yield from rows
            break


def _checked(row: _Row | FirstRow, media: MediaFolder) -> _Row | None:
    """Give a row as a journal has it; without its outcome if that cannot be read; `None` if it is no such row."""
    converted: _Row | FirstRow | None = _converted(row, type(row))
    kept = None if converted is None else _in_present(converted)
    if kept is None:
        return None
    known_by = kept.path if kept.item is None else kept.item
    if kept.name != row_name(kept.flow, known_by, kept.fingerprint) or not 0 <= kept.state < len(STATES):
        return None
    if _is_whole(kept, media):
        return kept
    if kept.task_uuid is None:
        return None
    request = kept.request if _reads(kept.request, media, dict[str, Any]) else b"{}"
    return kept._replace(state=0, settled_at=None, micro_usd=None, items=None, error=None, request=request)


def _converted(row: Any, kind: Any) -> Any:
    """Give a row with the types of its columns; `None` if it has others."""
    told = [
        value.decode(errors="replace") if name in _TEXTS and isinstance(value, bytes) else value
        for name, value in zip(row._fields, row, strict=True)
    ]
    try:
        return msgspec.convert(told, kind)
    except msgspec.ValidationError:
        return None


def _in_present(row: _Row | FirstRow) -> _Row | None:
    if isinstance(row, _Row):
        return row
    return _Row(*presented(row)) if row.name == row_name(row.flow, row.path, row.fingerprint) else None


def _is_whole(row: _Row, media: MediaFolder) -> bool:
    if not (_reads(row.request, media, dict[str, Any]) and _is_error(row.error)):
        return False
    if STATES[row.state] == "done" and row.items is None:
        return False
    try:
        return all(_reads(item, media) for item in items_of(row.items))
    except (msgspec.MsgspecError, ValueError):
        return False


def _is_error(content: bytes | None) -> bool:
    try:
        if content is not None:
            decode_error(content)
    except (msgspec.MsgspecError, ValueError):
        return False
    return True


def _reads(content: bytes | None, media: MediaFolder, kind: Any = Any) -> bool:
    if content is None:
        return True
    try:
        msgspec.json.decode(media.bring_back(content), type=kind)
    except (msgspec.MsgspecError, ValueError, JournalError):
        return False
    return True
