"""Reads journals of the first format, and rewrites their rows in the present one.

Format 1 knew a request by its path, the names of its nodes included. The keys of its items are in the path, so that its
item can be told from there; but not where names or keys have brackets, since nothing says where they end. Such rows
have no item, and are found by their path until a run has asked for them.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

__all__ = ("FIRST_SCHEMA", "FirstRow", "copy_rows", "give_ordinals", "has_unknown_items", "presented", "row_name")

FIRST_SCHEMA = (
    """CREATE TABLE node (
        id INTEGER PRIMARY KEY, name INTEGER NOT NULL, flow TEXT NOT NULL, path TEXT NOT NULL,
        fingerprint BLOB NOT NULL, attempt INTEGER NOT NULL, task_uuid TEXT, task_type TEXT, model TEXT, request BLOB,
        state INTEGER NOT NULL, asked_at REAL NOT NULL, settled_at REAL, micro_usd INTEGER, items BLOB, error BLOB)""",
    "CREATE INDEX node_name ON node (name)",
    "CREATE INDEX node_open ON node (id) WHERE state = 0",
)

_PATH = re.compile(r"((?:[^\[\]]*\[[^\[\]]*\]/)*)([^\[\]]*)")
_KEY = re.compile(r"\[[^\[\]]*\]")
_PAGE = 1000
_HEDGE = "#2"
"""What the path of a second request ended with."""


class FirstRow(NamedTuple):
    """A row of format 1."""

    id: int
    name: int
    flow: str
    path: str
    fingerprint: bytes
    attempt: int
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


def row_name(flow: str, item: str, fingerprint: bytes) -> int:
    """Hash what a row is looked up by; in format 1, and for rows without an item, the path stood for the item."""
    digest = hashlib.blake2b(f"{flow}\0{item}\0".encode() + fingerprint, digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def has_unknown_items(connection: sqlite3.Connection) -> bool:
    """Tell whether there are rows that are known by their path alone."""
    return connection.execute("SELECT 1 FROM node WHERE item IS NULL LIMIT 1").fetchone() is not None


def presented(row: FirstRow) -> tuple[Any, ...]:
    """Give a row of format 1 as one of format 2, in the order of its columns, with 0 for the ordinal."""
    is_hedge = row.task_uuid is not None and row.path.endswith(_HEDGE)
    path = row.path[: -len(_HEDGE)] if is_hedge else row.path
    item = _item_of(path, is_function=row.task_uuid is None)
    if item is None:
        is_hedge, path = False, row.path
    name = row.name if item is None else row_name(row.flow, item, row.fingerprint)
    return (row.id, name, row.flow, item, path, row.fingerprint, 0, row.attempt, int(is_hedge), 0, *row[6:])


def copy_rows(old: sqlite3.Connection, new: sqlite3.Connection) -> None:
    """Copy all rows of a journal of format 1 into an empty one of the present format."""
    insert = f"INSERT INTO node VALUES ({', '.join('?' * 20)})"
    for page in _pages(old):
        new.executemany(insert, [presented(FirstRow(*row)) for row in page])
    give_ordinals(new)


def give_ordinals(connection: sqlite3.Connection) -> None:
    """Tell equal requests apart by their paths, each of which had records of its own."""
    query = "SELECT name FROM node WHERE item IS NOT NULL GROUP BY name HAVING count(DISTINCT path) > 1"
    for (name,) in connection.execute(query).fetchall():
        paths: dict[str, int] = {}
        rows = connection.execute("SELECT id, path FROM node WHERE name = ? ORDER BY id", (name,)).fetchall()
        for number, path in rows:
            ordinal = paths.setdefault(path, len(paths))
            connection.execute("UPDATE node SET ordinal = ? WHERE id = ?", (ordinal, number))


def _pages(old: sqlite3.Connection) -> Iterator[list[tuple[Any, ...]]]:
    last = 0
    query = f"SELECT {', '.join(FirstRow._fields)} FROM node WHERE id > ? ORDER BY id LIMIT {_PAGE}"
    while rows := old.execute(query, (last,)).fetchall():
        yield rows
        last = rows[-1][0]


def _item_of(path: str, *, is_function: bool) -> str | None:
    """Return the keys in a path, or `None` if they are not clear."""
    found = _PATH.fullmatch(path)
    if found is None:
        return None
    around, name = found.groups()
    if is_function and ("/" in name or re.search(r"-\d+$", name)):  # the ordinal of a name is no part of it
        return None
    keys = "".join(_KEY.findall(around))
    return f"{keys}/{name}" if is_function else keys
