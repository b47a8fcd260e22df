"""`SqliteStore`: a journal in one SQLite file, with a write-ahead log and one transaction for each group of changes.

The format is described in docs/reference/journal-format.md; `FORMAT` is its version.
"""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from runware_flow.errors import JournalError
from runware_flow.files import local_path, make_private_file
from runware_flow.graph.resume import Claims
from runware_flow.journal.address import DatabaseAddress, address_of
from runware_flow.journal.media import MediaFolder, sync_folder
from runware_flow.journal.migration import FIRST_SCHEMA, copy_rows, has_unknown_items
from runware_flow.journal.place import network_file_system
from runware_flow.journal.rows import FOUND, INSERTED, KEEPS_MARK, SETTLED, STATES, RowStore, items_of
from runware_flow.journal.store import NoJournal

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence
    from contextlib import AbstractContextManager

    from runware_flow.journal.store import Change, ChangedRows, Entry

__all__ = (
    "APPLICATION_ID",
    "CHOICE_SCHEMA",
    "COLUMNS",
    "FORMAT",
    "PLACE_SCHEMA",
    "SCHEMA",
    "STATES",
    "FileRows",
    "FileWatch",
    "SqliteStore",
    "changed_file",
    "connect",
    "file_of_journal",
    "is_earlier",
    "is_writable",
    "items_of",
    "take_lock",
    "translated",
)

FORMAT = 2
READABLE = (1, 2)
"""Formats that can be read; one that is written is brought to the last."""
APPLICATION_ID = 0x52464A4C
"""What `PRAGMA application_id` says of a journal: "RFJL"."""

_CHECKED_BYTES = 64 * 1024 * 1024
"""Up to this size a journal is checked page by page when it is opened; a larger one as it is read."""

SCHEMA = (
    """CREATE TABLE node (
        id INTEGER PRIMARY KEY, name INTEGER NOT NULL, flow TEXT NOT NULL, item TEXT, path TEXT NOT NULL,
        fingerprint BLOB NOT NULL, ordinal INTEGER NOT NULL, attempt INTEGER NOT NULL, hedge INTEGER NOT NULL,
        lost INTEGER NOT NULL DEFAULT 0, task_uuid TEXT, task_type TEXT, model TEXT, request BLOB,
        state INTEGER NOT NULL, asked_at REAL NOT NULL, settled_at REAL, micro_usd INTEGER, items BLOB, error BLOB)""",
    "CREATE INDEX node_name ON node (name)",
    "CREATE INDEX node_open ON node (id) WHERE state = 0",
    "CREATE INDEX node_asked ON node (fingerprint) WHERE state IN (0, 3)",
    "CREATE INDEX node_unknown ON node (id) WHERE item IS NULL",
)
PLACE_SCHEMA = ("CREATE TABLE place (began_at REAL NOT NULL, folder TEXT NOT NULL, cache TEXT)",)
"""Where runs were: what a relative path of a saved file means, and where a cache keeps media."""
CHOICE_SCHEMA = (
    """CREATE TABLE choice (
        id INTEGER PRIMARY KEY, name INTEGER NOT NULL, flow TEXT NOT NULL, item TEXT NOT NULL, kind TEXT NOT NULL,
        path TEXT NOT NULL, contestants BLOB NOT NULL, winners BLOB NOT NULL, made_at REAL NOT NULL)""",
    "CREATE INDEX choice_name ON choice (name)",
)
"""Made with the first choice."""
COLUMNS = """id, name, flow, item, path, fingerprint, ordinal, attempt, hedge, lost, task_uuid, task_type, model,
    request, state, asked_at, settled_at, micro_usd, items, error"""
_FIND = f"SELECT {FOUND} FROM node WHERE name IN (SELECT value FROM json_each(?)) ORDER BY id"
_INSERT = f"INSERT INTO node ({INSERTED}) VALUES ({', '.join('?' * 17)})"
_SETTLE = f"UPDATE node SET ({SETTLED}) = ({KEEPS_MARK.format('?')}, ?, ?, ?, ?) WHERE id = ?"
_KNOWN = (*SCHEMA, *FIRST_SCHEMA, *PLACE_SCHEMA, *CHOICE_SCHEMA)
_KNOWN_SCHEMA = frozenset(" ".join(statement.split()) for statement in _KNOWN)
"""All that a journal may have in its schema. A journal may come from elsewhere, and a view, a trigger, a generated
column, a check or an index of an expression would run in the process that opens it."""
_OWN_TABLES = re.compile(r"sqlite_(sequence|stat[0-9])")


PAID = "CASE WHEN typeof(micro_usd) = 'integer' AND micro_usd > 0 THEN micro_usd END"
"""What a request cost, for a sum: nothing gives money back, whatever a service or a file says."""
TELLS_PRICE = """typeof(micro_usd) = 'integer' AND (micro_usd > 0 OR micro_usd = 0 AND NOT EXISTS (
    SELECT 1 FROM json_each(CAST(items AS TEXT)) WHERE json_extract(value, '$.cost') IS NOT 0))"""
"""Whether what a request cost says something about the price: what came from the cache cost nothing, though its items
have the cost of the answer that was kept, or none. Only where they say 0 themselves is the model free."""


def file_of_journal(path: str | os.PathLike[str]) -> Path:
    """Return the file that a journal's name leads to: without `~`, and without symbolic links.

    The files beside a journal (its lock, its log, its media) have this name, so that all names of it are one journal.

    Raises:
        JournalError: no file can have this name.
    """
    address = address_of(path)
    if isinstance(address, DatabaseAddress):
        raise JournalError(f"the journal {address} is in a database, and this is for journals in files")
    name = os.fspath(path)
    if name == ":memory:" or name.startswith("file:"):
        raise JournalError(f"the journal {name!r} is not a file: SQLite would not keep it after the run. Name a file")
    try:
        return local_path(name).resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise JournalError(f"the journal {name!r} cannot be used: {error}") from error


def is_writable(path: Path) -> bool:
    """Tell whether an existing journal can be written: its file and, for the files beside it, its folder."""
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)


def _is_text(path: Path) -> bool:
    """Tell whether a file is a program, say, in which there is nothing to salvage."""
    try:
        with path.open("rb") as file:
            head = file.read(4096)
        return b"\0" not in head and bool(head.decode(errors="strict" if len(head) < 4096 else "ignore"))
    except (OSError, UnicodeDecodeError):
        return False


@contextmanager
def translated(path: Path) -> Generator[None]:
    """Turn SQLite's errors about `path` into one sentence.

    Raises:
        JournalError: instead of `sqlite3.Error` and of what is no text, no JSON, or not of the type it should be.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        what = "it is a folder; name a file in it" if path.is_dir() else str(error)
        raise JournalError(f"the journal {path} cannot be used: {what}") from error
    except (sqlite3.DatabaseError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        if _is_text(path):
            raise JournalError(f"{path} is damaged, or not a journal: it is a text file") from error
        what = " ".join(str(error).split())
        raise JournalError(
            f"the journal {path} is damaged, or not a journal: {what}. `runware-flow journal salvage {path}` saves what"
            " can be read. A new journal in its place would pay again for every result that this one holds"
        ) from error


def connect(path: Path, *, is_read_only: bool = False) -> sqlite3.Connection:
    """Open a journal's file and check that it is one; an empty file becomes one.

    Raises:
        JournalError: it is none, or has a second name.
    """
    mode = "ro" if is_read_only else "rwc"
    if is_read_only and not is_writable(path) and not _has_log(path):
        mode = "ro&immutable=1"  # SQLite could not make the files beside it that it shares with writers
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False, timeout=5.0
    )
    try:
        _check_names(path)
        _check_format(connection, path, is_read_only=is_read_only)
    except BaseException:
        connection.close()
        raise
    return connection


def _has_log(path: Path) -> bool:
    try:
        return os.stat(f"{path}-wal").st_size > 0
    except OSError:
        return False


def _check_names(path: Path) -> None:
    """Refuse a file with several names: SQLite finds the log of a file by the name that it is opened by."""
    if os.stat(path).st_nlink > 1:
        raise JournalError(
            f"the journal {path} has a second name (a hard link), and SQLite keeps a log for each name: use"
            " a copy, or remove the other name"
        )


def _check_format(connection: sqlite3.Connection, path: Path, *, is_read_only: bool) -> None:
    connection.execute("PRAGMA trusted_schema = OFF")
    [application_id] = connection.execute("PRAGMA application_id").fetchone()
    [version] = connection.execute("PRAGMA user_version").fetchone()
    is_empty = connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None
    if application_id != APPLICATION_ID and not (is_empty and not is_read_only):
        raise JournalError(f"{path} is not a journal of runware_flow")
    if application_id == APPLICATION_ID and version not in READABLE:
        raise JournalError(
            f"the journal {path} has format {version}, and this version of runware_flow knows formats up to {FORMAT}"
        )
    _check_schema(connection, path)
    if path.stat().st_size <= _CHECKED_BYTES:
        [said] = connection.execute("PRAGMA quick_check(1)").fetchone()
        if said != "ok":
            raise sqlite3.DatabaseError(said)


def _check_schema(connection: sqlite3.Connection, path: Path) -> None:
    for kind, name, sql in connection.execute("SELECT type, name, sql FROM sqlite_master"):
        if kind == "table" and isinstance(name, str) and _OWN_TABLES.fullmatch(name):
            continue  # what ANALYZE leaves
        if not isinstance(sql, str) or " ".join(sql.split()) not in _KNOWN_SCHEMA:
            raise JournalError(
                f"the journal {path} has the {kind} {name!r}, which runware_flow does not make: such a file is not"
                " opened. Use a copy of the journal from before that was added"
            )


def take_lock(path: Path) -> sqlite3.Connection:
    """Keep others from writing a journal until what this returns is closed, or the process ends, however it does.

    The lock is a file of its own, so that readers can look into the journal while a run writes it. A writer takes this
    lock before any lock of SQLite on the journal, and readers never take it, so no two of them wait for each other. It
    is not waited for: its holder may be a run of hours.

    Args:
        path: what `file_of_journal` returns.

    Raises:
        JournalError: another run has it.
    """
    with translated(path):
        make_private_file(_lock_of(path))
        lock = sqlite3.connect(_lock_of(path), isolation_level=None, check_same_thread=False, timeout=0.0)
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except BaseException as error:
            lock.close()
            if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
                raise JournalError(
                    f"the journal {path} is in use by another run: a journal serves one run at a time"
                ) from None
            raise
    return lock


def _make(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    for statement in SCHEMA:
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {FORMAT}")
    connection.execute("COMMIT")


def _migrate(path: Path) -> None:
    """Bring a journal of an earlier format to the present one: whole, or not at all."""
    if not path.is_file() or not path.stat().st_size:
        return
    with closing(connect(path)) as old:
        if not is_earlier(old):
            return
        old.execute("PRAGMA journal_mode = DELETE")  # all that is in its log is in the file now, and there is no log
        made = Path(f"{path}-migrating")
        made.unlink(missing_ok=True)
        make_private_file(made)
        with closing(sqlite3.connect(made, isolation_level=None)) as new:
            _make(new)
            new.execute("BEGIN")
            copy_rows(old, new)
            if _has_table(old, "place"):
                new.execute(PLACE_SCHEMA[0])
                new.executemany("INSERT INTO place VALUES (?, ?, ?)", old.execute("SELECT * FROM place ORDER BY rowid"))
            new.execute("COMMIT")
    os.replace(made, path)
    sync_folder(path.parent)


def _present(connection: sqlite3.Connection) -> sqlite3.Connection:
    """Return a journal that can be read alone in the present format, as a copy in memory if it is of an earlier one."""
    if not (is_earlier(connection) or has_unknown_items(connection)):
        return connection
    copy = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    with closing(connection):
        if is_earlier(connection):
            _make(copy)
            copy_rows(connection, copy)
        else:
            connection.backup(copy)
    return copy


def _has_table(connection: sqlite3.Connection, name: str) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)).fetchone() is not None


def is_earlier(connection: sqlite3.Connection) -> bool:
    """Tell whether a journal is of an earlier format."""
    [version] = connection.execute("PRAGMA user_version").fetchone()
    return bool(0 < version < FORMAT)


def _lock_of(path: Path) -> Path:
    return Path(f"{path}-lock")


def _identity(path: Path | str) -> tuple[int, int] | None:
    """Which file a name leads to now; `None` if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


class FileRows:
    """The `StoredRows` and, if they are not read-only, the `ChangedRows` of a file; a run may write it meanwhile.

    Raises:
        NoJournal: there is no such file.
        JournalError: it is no journal.
    """

    paid, tells_price = PAID, TELLS_PRICE
    pairs = "SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?)"

    def __init__(self, path: Path, *, is_read_only: bool = True) -> None:
        if not path.is_file():
            raise NoJournal(f"there is no journal {path}")
        self._path = path
        self.bring_back = MediaFolder(path).bring_back
        with self.translated():
            self._connection = connect(path, is_read_only=is_read_only)
            try:
                self.is_earlier = is_earlier(self._connection)
                self.has_places = _has_table(self._connection, "place")
                self.has_choices = _has_table(self._connection, "choice")
            except BaseException:
                self._connection.close()
                raise

    def execute(self, query: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Run a statement with `?` for its values."""
        return self._connection.execute(query, values)

    def translated(self) -> AbstractContextManager[None]:
        """A block that turns errors of SQLite into one sentence."""
        return translated(self._path)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


class FileWatch:
    """The `JournalWatch` of a file: it and its log are looked at from outside."""

    def __init__(self, path: Path) -> None:
        self._paths = [str(path), f"{path}-wal"]

    def version(self) -> object:
        """Return which files these are, how long, and when they were written."""
        return tuple(_condition(path) for path in self._paths)

    def close(self) -> None:
        """Nothing is open."""


def _condition(path: str) -> tuple[int, ...]:
    try:
        state = os.stat(path)
    except OSError:
        return ()
    return state.st_dev, state.st_ino, state.st_mtime_ns, state.st_size


@contextmanager
def changed_file(path: Path) -> Generator[ChangedRows]:
    """Change the rows of a file in one transaction, while no run has it; see `open_to_change`."""
    if not path.is_file():
        raise NoJournal(f"there is no journal {path}")
    with closing(take_lock(path)), closing(FileRows(path, is_read_only=False)) as rows, rows.translated():
        rows.execute("BEGIN IMMEDIATE")
        yield rows
        rows.execute("COMMIT")


class SqliteStore(RowStore):
    """A `JournalStore` in the file `path`.

    A journal that cannot be written is opened for reading: what is finished in it is restored, and anything else is an
    error.

    Attributes:
        path: the file, without links.
        is_new: the journal was made by `open`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = file_of_journal(path)
        super().__init__(MediaFolder(self.path))
        self.is_new = False
        self._connection: sqlite3.Connection | None = None
        self._lock: sqlite3.Connection | None = None
        self._files: dict[str, tuple[int, int] | None] = {}
        """The journal, its log and its lock, as they were when it was opened."""

    def open(self) -> None:
        """Lock the journal, open it, and make it, and its folder, if there is none.

        Raises:
            JournalError: another run has it, its folder cannot be written or is on a network, or it is damaged.
        """
        path = self.path
        network = network_file_system(path)
        if network is not None:
            raise JournalError(f"the journal {path} lies on a network file system ({network}): use a local disk")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_file() and not is_writable(path):
                self._is_read_only = True
                with translated(path):
                    self._connection = _present(connect(path, is_read_only=True))
                    self._has_unknown_items = has_unknown_items(self._connection)
                    self._has_choices = _has_table(self._connection, "choice")
                return
            self._lock = take_lock(path)
            make_private_file(path)
            with translated(path):
                _migrate(path)
                self._connection = connection = connect(path)
                [mode] = connection.execute("PRAGMA journal_mode = WAL").fetchone()
                if mode != "wal":
                    raise JournalError(f"the journal {path} needs a file system with shared memory (it got {mode})")
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("PRAGMA cache_size = -16384")
                self._create(connection)
            self._files = {name: _identity(name) for name in (str(path), f"{path}-wal", f"{path}-lock")}
        except OSError as error:
            self.close()
            raise JournalError(f"the journal {path} cannot be made: {error.filename}: {error.strerror}") from error
        except BaseException:
            self.close()
            raise

    def _create(self, connection: sqlite3.Connection) -> None:
        self._claims = Claims()
        self._forget()
        if connection.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID:
            connection.execute(_FIND, ("[0]",)).fetchall()
            self._has_unknown_items = has_unknown_items(connection)
            self._has_choices = _has_table(connection, "choice")
            return
        _make(connection)
        self.is_new = True

    def note_place(self, at: float, folder: str, cache: str | None) -> None:
        """Write down where a run is, unless that is where the last one was."""
        connection = self._connection
        if connection is None:
            raise JournalError(f"the journal {self.path} is closed")
        with translated(self.path):
            connection.execute(PLACE_SCHEMA[0].replace("TABLE", "TABLE IF NOT EXISTS"))
            last = connection.execute("SELECT folder, cache FROM place ORDER BY rowid DESC LIMIT 1").fetchone()
            if last != (folder, cache):
                connection.execute("INSERT INTO place VALUES (?, ?, ?)", (at, folder, cache))

    def close(self) -> None:
        """Close the file and give the lock back. May be called twice."""
        connections, self._connection, self._lock = (self._connection, self._lock), None, None
        for connection in connections:
            if connection is not None:
                with translated(self.path):
                    connection.close()

    def _check_files(self) -> None:
        """Notice that the journal was taken away: SQLite would go on writing a file that has no name any more.

        Raises:
            JournalError: it was.
        """
        for name, identity in self._files.items():
            if _identity(name) != identity:
                raise JournalError(
                    f"{name} was removed or replaced while a run was using the journal {self.path}: nothing more can be"
                    " recorded, so nothing more is sent. Put the file back if there is a copy: the next run pays again"
                    " for what its journal does not hold"
                )

    def apply(self, changes: Sequence[Change]) -> list[Entry | None]:
        """Carry out all changes in one transaction, durable when this returns."""
        connection = self._connection
        if connection is None:
            raise JournalError(f"the journal {self.path} is closed")
        with translated(self.path):
            connection.execute("BEGIN" if self._is_read_only else "BEGIN IMMEDIATE")
            try:
                answers = self._apply_all(connection, changes)
                connection.execute("COMMIT")
            except BaseException:
                self._forget()
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        self._check_files()  # after the commit: what is called durable was in the file that the next run will open
        return answers

    def _select(self, connection: sqlite3.Connection, names: list[int]) -> Iterable[Any]:
        return connection.execute(_FIND, (msgspec.json.encode(names).decode(),))

    def _insert(self, connection: sqlite3.Connection, values: tuple[Any, ...], entry: Entry) -> None:
        self._note_row(connection.execute(_INSERT, values).lastrowid or 0, values, entry)

    def _settle(self, connection: sqlite3.Connection, number: int, values: tuple[Any, ...]) -> None:
        connection.execute(_SETTLE, (*values, number))

    def _make_choices(self, connection: sqlite3.Connection) -> None:
        for statement in CHOICE_SCHEMA:
            connection.execute(statement)

    def _not_written(self) -> JournalError:
        return JournalError(
            f"the journal {self.path} cannot be written: finished results can be restored from it, but this run has"
            " more to do. Use a copy that can be written"
        )
