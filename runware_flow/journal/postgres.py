"""`PostgresStore`: a journal in a PostgreSQL database, which many processes may use at once (extra `postgres`).

The tables are those of a journal's file, in a schema named `runware_flow`, with a lease for each item that a process
works on. psycopg is used in its synchronous form, in the writer's thread, so that asyncio and trio are alike; asyncpg
knows asyncio alone.
"""

from __future__ import annotations

import os
import time
import uuid
from contextlib import closing, contextmanager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from runware_flow.errors import JournalError
from runware_flow.graph.budget import Elsewhere
from runware_flow.graph.resume import Advice, Claims
from runware_flow.journal.address import DatabaseAddress, load_psycopg
from runware_flow.journal.rows import FOUND, INSERTED, KEEPS_MARK, SETTLED, RowStore
from runware_flow.journal.store import (
    Abandon,
    Begin,
    EndLeases,
    Entry,
    Lease,
    LeaseLost,
    NoJournal,
    Settle,
    StoreAway,
    TakeLeases,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence
    from contextlib import AbstractContextManager

    from runware_flow.journal.rows import RowKey
    from runware_flow.journal.store import Change, ChangedRows

__all__ = (
    "DATABASE_FORMAT",
    "DatabaseRows",
    "DatabaseWatch",
    "InRow",
    "PostgresStore",
    "changed_database",
)

R = TypeVar("R")

DATABASE_FORMAT = 2
"""The version of the tables; a database of an earlier one is brought to it when it is opened."""
_LOCK = 0x52464A4C
"""The advisory lock under which the tables are made and changed: "RFJL"."""
_MOST_CONFLICTS = 20

_VERSIONS: Final = (
    (
        """CREATE TABLE node (
            id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name BIGINT NOT NULL, flow TEXT NOT NULL, item TEXT,
            path TEXT NOT NULL, fingerprint BYTEA NOT NULL, ordinal INTEGER NOT NULL, attempt INTEGER NOT NULL,
            hedge INTEGER NOT NULL, lost INTEGER NOT NULL DEFAULT 0, task_uuid TEXT, task_type TEXT, model TEXT,
            request BYTEA, state INTEGER NOT NULL, asked_at DOUBLE PRECISION NOT NULL, settled_at DOUBLE PRECISION,
            micro_usd BIGINT, items BYTEA, error BYTEA)""",
        # The first process that inserts an attempt makes it; any other one fails and finds it.
        "CREATE UNIQUE INDEX node_attempt ON node (name, ordinal, attempt, hedge)",
        "CREATE INDEX node_open ON node (id) WHERE state = 0",
        """CREATE TABLE choice (
            id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name BIGINT NOT NULL, flow TEXT NOT NULL,
            item TEXT NOT NULL, kind TEXT NOT NULL, path TEXT NOT NULL, contestants BYTEA NOT NULL,
            winners BYTEA NOT NULL, made_at DOUBLE PRECISION NOT NULL)""",
        "CREATE INDEX choice_name ON choice (name)",
        """CREATE TABLE place (
            id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, began_at DOUBLE PRECISION NOT NULL,
            folder TEXT NOT NULL, cache TEXT)""",
        "CREATE SEQUENCE lease_number",
        """CREATE TABLE lease (
            flow TEXT NOT NULL, item TEXT NOT NULL, owner TEXT NOT NULL, number BIGINT NOT NULL UNIQUE,
            expires_at TIMESTAMPTZ NOT NULL, ended_at TIMESTAMPTZ, error BYTEA, PRIMARY KEY (flow, item))""",
    ),
    (
        # Each process adds to a row of its own, so that they do not wait for each other; '' is what is over.
        """CREATE TABLE spending (
            flow TEXT NOT NULL, owner TEXT NOT NULL, micro_usd BIGINT NOT NULL, PRIMARY KEY (flow, owner))""",
        """INSERT INTO spending (flow, owner, micro_usd) SELECT flow, '', sum(micro_usd) FROM node
            WHERE micro_usd > 0 GROUP BY flow""",
        """CREATE INDEX node_without_cost ON node (flow)
            WHERE state = 1 AND micro_usd IS NULL AND task_uuid IS NOT NULL""",
    ),
)
"""The statements that make each version of the tables out of the one before."""

_FIND = f"SELECT {FOUND} FROM node WHERE name = ANY(?::bigint[]) ORDER BY id"
_ADD_SPENT = """INSERT INTO spending (flow, owner, micro_usd) {spent}
    ON CONFLICT (flow, owner) DO UPDATE SET micro_usd = spending.micro_usd + excluded.micro_usd"""
_SPENT_BY_ROWS = "SELECT flow, ?, sum(micro_usd) FROM given WHERE micro_usd > 0 GROUP BY flow"
_SPENT_BY_OUTCOMES = "SELECT flow, ?, sum(cost) FROM added GROUP BY flow HAVING sum(cost) > 0"
_INSERT = f"""WITH given AS (SELECT * FROM unnest(?::bigint[], ?::text[], ?::text[], ?::bytea[], ?::text[], ?::int[],
        ?::int[], ?::int[], ?::text[], ?::text[], ?::text[], ?::bytea[], ?::int[], ?::float8[], ?::float8[], ?::bytea[],
        ?::bigint[]) WITH ORDINALITY AS given ({INSERTED}, place)),
    spent AS ({_ADD_SPENT.format(spent=_SPENT_BY_ROWS)})
    INSERT INTO node ({INSERTED}) SELECT {INSERTED} FROM given ORDER BY place
    RETURNING id, name, ordinal, attempt, hedge"""
_SPEND = f"""WITH added AS (SELECT flow, given.micro_usd - coalesce(greatest(node.micro_usd, 0), 0) AS cost
        FROM unnest(?::bigint[], ?::bigint[]) AS given (id, micro_usd) JOIN node USING (id) ORDER BY id
        FOR UPDATE OF node)
    {_ADD_SPENT.format(spent=_SPENT_BY_OUTCOMES)}"""
_SETTLE = f"""UPDATE node SET ({SETTLED}) = (SELECT {KEEPS_MARK.format("given.state")},
        given.settled_at, given.micro_usd, given.items, given.error)
    FROM unnest(?::bigint[], ?::int[], ?::float8[], ?::bigint[], ?::bytea[], ?::bytea[]) AS given (id, {SETTLED})
    WHERE node.id = given.id"""
_TAKE = """INSERT INTO lease (owner, expires_at, flow, item, number)
    SELECT ?, clock_timestamp() + make_interval(secs => ?), wanted.*, nextval('lease_number')
        FROM unnest(?::text[], ?::text[]) AS wanted
    ON CONFLICT (flow, item) DO NOTHING RETURNING flow, item, number"""
_TAKE_OVER = """WITH free AS (SELECT flow, item FROM lease JOIN unnest(?::text[], ?::text[]) AS wanted (flow, item)
        USING (flow, item) WHERE ended_at < ? OR ended_at IS NULL AND expires_at < clock_timestamp()
        FOR UPDATE OF lease SKIP LOCKED)
    UPDATE lease SET owner = ?, expires_at = clock_timestamp() + make_interval(secs => ?), ended_at = NULL,
        error = NULL, number = nextval('lease_number')
    FROM free WHERE lease.flow = free.flow AND lease.item = free.item RETURNING lease.flow, lease.item, number"""
_TAKEN = """SELECT flow, item, number, owner, ended_at, error
    FROM lease JOIN unnest(?::text[], ?::text[]) AS wanted (flow, item) USING (flow, item)"""
_FAIL = """UPDATE lease SET ended_at = clock_timestamp(), error = failed.error
    FROM unnest(?::bigint[], ?::bytea[]) AS failed (number, error) WHERE lease.number = failed.number"""
_RENEW = """UPDATE lease SET expires_at = clock_timestamp() + make_interval(secs => ?)
    WHERE number = ANY(?) AND ended_at IS NULL RETURNING number"""
_OPEN_ELSEWHERE = """SELECT task_type, model,
        sum(coalesce((convert_from(request, 'UTF8')::json->>'numberResults')::bigint, 1))::bigint
    FROM node WHERE state = 0 AND flow = ? AND task_uuid IS NOT NULL AND NOT id = ANY(?) GROUP BY 1, 2"""
_OTHERS = """SELECT coalesce((SELECT sum(micro_usd) FROM spending WHERE flow = ? AND owner <> ?), 0)::bigint,
    EXISTS (SELECT FROM lease WHERE flow = ? AND owner <> ? AND ended_at IS NULL AND expires_at > clock_timestamp())"""


@lru_cache(maxsize=256)
def _statement(query: str) -> bytes:
    return query.replace("?", "%s").encode()


@lru_cache(maxsize=256)
def _binary_statement(query: str) -> bytes:
    """A statement whose values are sent in binary: psycopg writes a list of bytes as text fifteen times as slowly."""
    return query.replace("?", "%b").encode()


class _Group:
    """The statements of a group of changes, with `?` for values.

    Rows that are inserted or settled wait until another statement needs them, or the group ends: then one statement
    inserts them all, and one settles them all.
    """

    def __init__(self, connection: Any, owner: str, note_row: Callable[[int, tuple[Any, ...], Entry], None]) -> None:
        self._connection = connection
        self._owner = owner
        self._note_row = note_row
        self._rows: list[tuple[Any, ...]] = []
        self._entries: dict[tuple[int, int, int, int], tuple[tuple[Any, ...], Entry]] = {}
        self._outcomes: dict[int, tuple[Any, ...]] = {}

    def insert(self, values: tuple[Any, ...], entry: Entry) -> None:
        """Insert a row of `INSERTED`."""
        name, _, _, _, _, ordinal, attempt, hedge, *_ = values
        self._rows.append(values)
        self._entries[name, ordinal, attempt, hedge] = values, entry

    def settle(self, number: int, values: tuple[Any, ...]) -> None:
        """Change the `SETTLED` of a row."""
        if number in self._outcomes:
            self.flush()
        self._outcomes[number] = values

    def execute(self, query: str, values: Sequence[Any] = ()) -> Any:
        """Run another statement."""
        self.flush()
        return self._connection.execute(_statement(query), values or None)

    def flush(self) -> None:
        """Carry out what waits, with what it costs added to what this process has spent."""
        outcomes, self._outcomes = self._outcomes, {}
        if outcomes:
            costs = {number: values[2] for number, values in outcomes.items() if (values[2] or 0) > 0}
            if costs:  # before they are settled, and locked, since another process may settle them at the same moment
                self._run(_SPEND, list(costs), list(costs.values()), self._owner)
            columns = zip(*outcomes.values(), strict=True)
            self._run(_SETTLE, list(outcomes), *map(list, columns))
        rows, self._rows = self._rows, []
        entries, self._entries = self._entries, {}
        if rows:
            columns = zip(*rows, strict=True)
            for number, *key in self._run(_INSERT, *map(list, columns), self._owner):
                self._note_row(number, *entries[tuple(key)])

    def _run(self, query: str, *values: Any) -> Any:
        return self._connection.execute(_binary_statement(query), values)


class InRow:
    """Large texts stay in the row: PostgreSQL moves them out of the way itself."""

    def put_away(self, item: bytes) -> bytes:
        return item

    def bring_back(self, item: bytes) -> bytes:
        return item


PAID_THERE = "CASE WHEN micro_usd > 0 THEN micro_usd END"
TELLS_PRICE_THERE = """(micro_usd > 0 OR micro_usd = 0 AND NOT EXISTS (
    SELECT 1 FROM json_array_elements(convert_from(items, 'UTF8')::json) AS one
        WHERE coalesce(one->>'cost', '') NOT IN ('0', '0.0')))"""
"""What `PAID` and `TELLS_PRICE` are for a file."""


class DatabaseRows:
    """The `StoredRows` of a database; any number of runs may write it meanwhile.

    Raises:
        NoJournal: there is none in it.
        JournalError: it cannot be reached or read, or its tables are of a newer version.
    """

    paid, tells_price = PAID_THERE, TELLS_PRICE_THERE
    pairs = "SELECT pair->>0, pair->>1 FROM json_array_elements(?::json) AS pair"
    is_earlier = False
    has_places = has_choices = True

    def __init__(self, address: DatabaseAddress, *, is_read_only: bool = True) -> None:
        self._address = address
        self.bring_back = InRow().bring_back
        with self.translated():
            self._connection = address.connect()
            try:
                if is_read_only:
                    self._connection.execute(b"SET default_transaction_read_only = on")
                self._connection.execute(b"SET search_path = runware_flow")
                [there] = self._connection.execute(b"SELECT to_regclass('runware_flow.format')").fetchone()
                if there is None:
                    raise NoJournal(f"there is no journal in {address}")
                [version] = self._connection.execute(b"SELECT version FROM format").fetchone()
                if version > DATABASE_FORMAT:
                    raise _newer(address, version)
            except BaseException:
                self._connection.close()
                raise

    def execute(self, query: str, values: Sequence[Any] = ()) -> Any:
        """Run a statement with `?` for its values."""
        return self._connection.execute(_statement(query), values or None)

    def transaction(self) -> AbstractContextManager[Any]:
        """A block whose statements are carried out together or not at all."""
        block: AbstractContextManager[Any] = self._connection.transaction()
        return block

    def close(self) -> None:
        """Disconnect."""
        self._connection.close()

    @contextmanager
    def translated(self) -> Generator[None]:
        """Turn errors of the database into one sentence.

        Raises:
            JournalError: instead of what psycopg raises, and of what no run wrote.
        """
        try:
            yield
        except (load_psycopg().Error, msgspec.MsgspecError) as error:
            raise JournalError(f"the journal {self._address} cannot be used: {self._address.text_of(error)}") from None


class DatabaseWatch:
    """The `JournalWatch` of a database, on a connection that is kept between two looks."""

    def __init__(self, address: DatabaseAddress) -> None:
        self._address = address
        self._rows: DatabaseRows | None = None
        self._snapshot: object = None
        self._version: object = None

    def version(self) -> object:
        """Return the sum of the transactions that last wrote the rows, which grows with each.

        It is computed only if any transaction has ended since the last look.
        """
        try:
            rows = self._rows = self._rows or DatabaseRows(self._address)
            with rows.translated():
                snapshot = rows.execute("SELECT pg_current_snapshot()::text").fetchone()
                if snapshot != self._snapshot:
                    self._version = rows.execute("SELECT count(*), sum(xmin::text::bigint) FROM node").fetchone()
                    self._snapshot = snapshot
        except JournalError:
            self.close()
            raise
        return self._version

    def close(self) -> None:
        """Disconnect."""
        rows, self._rows, self._snapshot = self._rows, None, None
        if rows is not None:
            rows.close()


@contextmanager
def changed_database(address: DatabaseAddress) -> Generator[ChangedRows]:
    """Change the rows of a database in one transaction; see `open_to_change`. Nothing is made or brought up to date."""
    with closing(DatabaseRows(address, is_read_only=False)) as rows, rows.translated(), rows.transaction():
        yield rows


class PostgresStore(RowStore):
    """A `JournalStore` in a PostgreSQL database, for any number of processes.

    While the database does not answer nothing new is sent; for `patience` seconds it is tried again. What was sent
    meanwhile is recorded once it is back, or collected by the next run.

    A group of changes locks the leases of its items first (shared, by number), then rows of `node` and `spending`, and
    takes new leases last, by flow and item. Batches contend for leases alone: the rows of an item belong to the holder
    of its lease, and each process has a row of `spending` of its own. A lease that has expired is not waited for while
    another transaction has its row: its owner is writing under it, or another process takes it. So no two processes
    wait for each other. Should they do so for a reason that is not known here, PostgreSQL ends one of the transactions
    (`deadlock_detected`), and `_transact` does that one again.

    Args:
        address: a `postgresql://` URL. The password is better in `PGPASSWORD` or a service file; it is never shown.
        lease: seconds after which the items of a process that has died or hangs are taken by others. It is renewed
            three times as often.
        patience: seconds for which a database that is lost, or that does not answer at the start, is tried again.
    """

    is_new = False

    def __init__(self, address: str | DatabaseAddress, *, lease: float = 30.0, patience: float = 60.0) -> None:
        super().__init__(InRow())
        self.address = address if isinstance(address, DatabaseAddress) else DatabaseAddress(address)
        self.lease_seconds = lease
        self.patience = patience
        self._owner = f"{os.uname().nodename if hasattr(os, 'uname') else ''}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._connection: Any = None
        self._opened_at: Any = None
        self._is_open = False
        self._followed: str | None = None
        self._own_open: set[int] = set()
        """The requests that are in flight for this process, as far as it has written them down."""
        self.elsewhere = Elsewhere()
        """What other processes have spent and have in flight, of the flow that `follow_spending` names."""

    def __repr__(self) -> str:
        return f"<PostgresStore {self.address}>"

    def open(self) -> None:
        """Connect, and make the tables if there are none.

        Raises:
            StoreAway: the database does not answer, or has too many connections.
            JournalError: it refuses the connection, cannot be used, or its tables are of a newer version.
        """
        self._claims = Claims()
        self._forget()
        self._has_choices = True
        psycopg = load_psycopg()
        is_refused = False
        while not self._is_open:
            try:
                self._connect()
                self._migrate()
                [self._opened_at] = self._execute("SELECT clock_timestamp()").fetchone()
                self._is_open = True
            except psycopg.OperationalError as error:
                self._drop()
                is_full = self.address.is_full(error)
                if is_full or not self.address.answers():
                    what = "has no connection left" if is_full else "does not answer"
                    raise StoreAway(
                        f"the journal's database {self.address} {what} ({self.address.text_of(error)})"
                    ) from None
                if is_refused:
                    raise self._failed(error) from None
                is_refused = True  # or it has come back between these two, so it is tried once more
            except psycopg.Error as error:
                self._drop()
                raise self._failed(error) from None
            except BaseException:
                self._drop()
                raise

    def close(self) -> None:
        """Give the leases back that are left, and disconnect. May be called twice."""
        if self._connection is not None and self._is_open:
            with suppress(load_psycopg().Error):  # they expire
                self._execute("DELETE FROM lease WHERE owner = ? AND ended_at IS NULL", (self._owner,))
                self._close_spending()
        self._is_open = False
        self._drop()

    def apply(self, changes: Sequence[Change]) -> list[Entry | LeaseLost | None]:
        """Carry out all changes in one transaction, but for those whose lease is lost; durable when this returns."""
        leases = sorted({number for change in changes if (number := getattr(change, "lease", 0))})
        ended = [one for change in changes if isinstance(change, EndLeases) for one in change.ended]
        takes = [change for change in changes if isinstance(change, TakeLeases)]
        others = [change for change in changes if not isinstance(change, (EndLeases, TakeLeases))]

        def work() -> list[Entry | LeaseLost | None]:
            lost = self._lost(leases)
            held = [change for change in others if getattr(change, "lease", 0) not in lost] if lost else others
            group = _Group(self._connection, self._owner, self._note_row)
            answers = self._apply_all(group, held)
            group.flush()
            if self._followed is not None:
                self._note_open(held, answers)
                self.elsewhere = self._look_elsewhere(self._followed)
            self._end_leases(ended)
            taken, told = iter(self._take_leases(takes)), iter(answers)

            def answer(change: Change) -> Entry | LeaseLost | None:
                if isinstance(change, TakeLeases):
                    return next(taken)
                if isinstance(change, EndLeases):
                    return None
                return _lease_lost() if getattr(change, "lease", 0) in lost else next(told)

            return [answer(change) for change in changes]

        return self._transact(work)

    def follow_spending(self, flow: str) -> None:
        """Keep `elsewhere` up to date for a flow, from here on with each group; called again, do so now."""

        def work() -> None:
            self.elsewhere = self._look_elsewhere(flow)

        self._followed = flow
        self._transact(work)

    def _look_elsewhere(self, flow: str) -> Elsewhere:
        rows = self._execute(_OPEN_ELSEWHERE, (flow, list(self._own_open))).fetchall()
        spent, is_live = self._execute(_OTHERS, (flow, self._owner, flow, self._owner)).fetchone()
        return Elsewhere(spent, {(task_type, model): count for task_type, model, count in rows}, is_live)

    def _note_open(self, changes: Sequence[Change], answers: Sequence[Entry | None]) -> None:
        for change, answer in zip(changes, answers, strict=True):
            if isinstance(change, Begin) and change.task_uuid is not None:
                if answer is not None and answer.number and answer.advice.action != "restore":
                    self._own_open.add(answer.number)
            elif isinstance(change, Settle):
                self._own_open.discard(change.number)
            elif isinstance(change, Abandon):
                self._own_open.difference_update(change.numbers)

    def _close_spending(self) -> None:
        """Add what this process has spent to what is over."""
        with self._connection.transaction():
            query = "DELETE FROM spending WHERE owner = ? RETURNING flow, micro_usd"
            for spent in self._execute(query, (self._owner,)).fetchall():
                self._execute(_ADD_SPENT.format(spent="VALUES (?, '', ?)"), spent)

    def note_place(self, at: float, folder: str, cache: str | None) -> None:
        """Write down where a run is, unless that is where the last one was."""

        def work() -> None:
            last = self._execute("SELECT folder, cache FROM place ORDER BY id DESC LIMIT 1").fetchone()
            if last != (folder, cache):
                self._execute("INSERT INTO place (began_at, folder, cache) VALUES (?, ?, ?)", (at, folder, cache))

        self._transact(work)

    def _take_leases(self, takes: Sequence[TakeLeases]) -> list[Entry]:
        """Take what no other process has, in one order: two processes that take the same items do not deadlock."""
        wanted = sorted({(take.flow, item) for take in takes for item in take.items})
        if not wanted:
            return []
        self._forget()  # other processes may have had these items meanwhile
        columns = [list(column) for column in zip(*wanted, strict=True)]
        rows = self._execute(_TAKE, (self._owner, self.lease_seconds, *columns))
        found = {(flow, item): Lease(number) for flow, item, number in rows}
        if len(found) < len(wanted):
            columns = [list(column) for column in zip(*(one for one in wanted if one not in found), strict=True)]
            rows = self._execute(_TAKE_OVER, (*columns, self._opened_at, self._owner, self.lease_seconds))
            found |= {(flow, item): Lease(number) for flow, item, number in rows}
        left = [one for one in wanted if one not in found]
        if left:
            columns = [list(column) for column in zip(*left, strict=True)]
            for flow, item, number, owner, ended_at, error in self._execute(_TAKEN, columns):
                if owner == self._owner and ended_at is None:
                    found[flow, item] = Lease(number)  # by this very group, before its answer was lost
                elif ended_at is not None:
                    found[flow, item] = Lease(0, has_ended=True, error=error)
        free = Lease()
        told = [tuple(found.get((take.flow, item), free) for item in take.items) for take in takes]
        return [Entry(Advice("buy", 1), leases=leases) for leases in told]

    def renew_leases(self, numbers: Sequence[int]) -> list[int]:
        """Renew leases; returns the numbers of those that are lost."""

        def work() -> list[int]:
            kept = {number for (number,) in self._execute(_RENEW, (self.lease_seconds, list(numbers)))}
            return [number for number in numbers if number not in kept]

        return self._transact(work)

    def _end_leases(self, ended: Sequence[tuple[int, bytes | None]]) -> None:
        done = [number for number, error in ended if error is None]
        if done:
            self._execute("DELETE FROM lease WHERE number = ANY(?)", (done,))
        failed = [(number, error) for number, error in ended if error is not None]
        if failed:
            self._execute(_FAIL, [*map(list, zip(*failed, strict=True))])

    # The rows.

    def _select(self, connection: Any, names: list[int]) -> Iterable[Any]:
        found: Iterable[Any] = connection.execute(_FIND, (names,))
        return found

    def _insert(self, connection: Any, values: tuple[Any, ...], entry: Entry) -> None:
        connection.insert(values, entry)

    def _settle(self, connection: Any, number: int, values: tuple[Any, ...]) -> None:
        connection.settle(number, values)

    def _flush(self, connection: _Group) -> None:
        connection.flush()

    def _make_choices(self, connection: Any) -> None:
        """The table is there from the beginning."""

    def _adopt(self, connection: Any, key: RowKey, path: str) -> bool | None:
        """Adopt nothing: an open request may be another process's, which waits for it."""
        return None

    def _not_written(self) -> JournalError:
        return JournalError(f"the journal {self.address} cannot be written")

    def _lost(self, leases: list[int]) -> set[int]:
        """Find which leases are not held any more; the others cannot be taken before the transaction ends.

        The lock is a shared one (FOR SHARE) because it only has to keep an owner from changing, and all locks are taken
        in the order of the numbers.
        """
        if not leases:
            return set()
        query = "SELECT number FROM lease WHERE number = ANY(?) AND ended_at IS NULL ORDER BY number FOR SHARE"
        return set(leases) - {number for (number,) in self._execute(query, (leases,))}

    # The connection.

    def _execute(self, query: str, values: Sequence[Any] = ()) -> Any:
        return self._connection.execute(_statement(query), values or None)

    def _connect(self) -> Any:
        self._connection = connection = self.address.connect()
        # A process that freezes inside a transaction holds no other up for longer than this.
        self._execute("SET idle_in_transaction_session_timeout = '10s'")
        self._execute(f"SET statement_timeout = {int(self.patience * 1000)}")
        self._execute("SET search_path = runware_flow")
        # All that a run reads has an index. A plan that is made while the tables are small is kept when they are large.
        for kind in ("seqscan", "hashjoin", "mergejoin"):
            self._execute(f"SET enable_{kind} = off")
        self._execute("SET jit = off")
        return connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                connection.close()

    def _migrate(self) -> None:
        with self._connection.transaction():
            # First of all locks: of processes that start together one makes the tables, and the others find them made.
            self._execute("SELECT pg_advisory_xact_lock(?)", (_LOCK,))
            [there] = self._execute("SELECT to_regclass('runware_flow.format')").fetchone()
            version = 0
            if there is not None:
                [version] = self._execute("SELECT version FROM format").fetchone()
            if version > DATABASE_FORMAT:
                raise _newer(self.address, version)
            if version == DATABASE_FORMAT:
                return
            if there is None:
                self._execute("CREATE SCHEMA IF NOT EXISTS runware_flow")
                self._execute("CREATE TABLE format (version INTEGER NOT NULL)")
                self._execute("INSERT INTO format VALUES (0)")
            for statements in _VERSIONS[version:]:
                for statement in statements:
                    self._execute(statement)
            self._execute("UPDATE format SET version = ?", (DATABASE_FORMAT,))

    def _transact(self, work: Callable[[], R]) -> R:
        """Do work in a transaction, again if another process was faster or the database was lost.

        Raises:
            JournalError: it is closed, or the database refuses the work, or is not back within the patience.
        """
        if not self._is_open:
            raise JournalError(f"the journal {self.address} is closed")
        psycopg = load_psycopg()
        conflicts = 0
        until: float | None = None
        self._is_second_try = False
        while True:
            self._claims.begin()
            try:
                connection: Any = self._connection or self._connect()
                with connection.transaction():
                    return work()
            except (psycopg.errors.UniqueViolation, psycopg.errors.DeadlockDetected) as error:
                conflicts += 1
                if conflicts > _MOST_CONFLICTS:
                    raise self._failed(error) from None
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                self._drop()
                self._is_second_try = True
                until = time.monotonic() + self.patience if until is None else until
                if time.monotonic() > until:
                    raise self._lost_database(error) from None
                time.sleep(0.2)
            except (psycopg.Error, UnicodeEncodeError) as error:
                raise self._failed(error) from None
            self._claims.roll_back()
            self._forget()

    def _failed(self, error: Exception) -> JournalError:
        return JournalError(f"the journal {self.address} cannot be used: {self.address.text_of(error)}")

    def _lost_database(self, error: Exception) -> JournalError:
        return JournalError(
            f"the journal's database {self.address} has not answered for {self.patience:g} s"
            f" ({self.address.text_of(error)}): nothing more is sent, and the next run collects what is in flight"
        )


def _newer(address: DatabaseAddress, version: int) -> JournalError:
    return JournalError(
        f"the journal {address} has format {version}, and this version of runware_flow knows formats up to"
        f" {DATABASE_FORMAT}"
    )


def _lease_lost() -> LeaseLost:
    return LeaseLost(
        "another process took this item over, because this process did not renew its lease in time; this process"
        " sends nothing more for it and reads its outcome from the journal"
    )
