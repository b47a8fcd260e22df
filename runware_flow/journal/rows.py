"""The SQL that both stores share: how a group of changes reads and writes the rows of a journal.

The SQL here is what SQLite and PostgreSQL have in common, with `?` for a value.
"""

from __future__ import annotations

import json
import uuid
from abc import ABC, abstractmethod
from math import isfinite
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import msgspec

from runware_flow.graph.choice_records import ChoiceRecord
from runware_flow.graph.prices import micro_usd
from runware_flow.graph.resume import Advice, Claims, History, RequestRecord, RequestState
from runware_flow.journal.migration import row_name
from runware_flow.journal.store import (
    Abandon,
    Begin,
    Change,
    Decide,
    EndLeases,
    Entry,
    Keep,
    NodeKey,
    ReadChoices,
    Settle,
    TakeLeases,
)
from runware_flow.wire import salvage

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from runware_flow.errors import JournalError

__all__ = (
    "FOUND",
    "INSERTED",
    "KEEPS_MARK",
    "SETTLED",
    "STATES",
    "Known",
    "RowKey",
    "RowStore",
    "choice_record",
    "items_of",
    "row_key",
)

STATES: tuple[RequestState, ...] = ("open", "done", "failed", "abandoned", "redo")
_ENCODER = msgspec.json.Encoder()
_JSON = msgspec.json.Decoder()
_OPEN, _DONE, _FAILED, _ABANDONED = range(4)
_MANY = 16
"""Equal requests of one item from which on their history is kept from one group to the next."""
_MOST_KEPT = 50_000
"""Records of all histories that are kept: they take some 20 MB."""

FOUND = """name, flow, item, fingerprint, id, attempt, state, task_uuid, ordinal, path, hedge, lost, items, error,
    micro_usd"""
INSERTED = """name, flow, item, fingerprint, path, ordinal, attempt, hedge, task_uuid, task_type, model, request, state,
    asked_at, settled_at, items, micro_usd"""
SETTLED = "state, settled_at, micro_usd, items, error"
KEEPS_MARK = f"CASE node.state WHEN {STATES.index('redo')} THEN node.state ELSE {{}} END"
"""The state after a request is settled: two processes may settle it, and it may be marked for redo between the two."""

_Found: TypeAlias = tuple[
    int,
    str,
    str | None,
    bytes,
    int,
    int,
    int,
    str | None,
    int,
    str,
    int,
    int,
    bytes | None,
    bytes | None,
    int | None,
]
"""What the columns of `_FIND` hold in a journal that is not damaged; SQLite itself holds anything."""

_ITEMS: msgspec.json.Decoder[list[msgspec.Raw]] = msgspec.json.Decoder(list[msgspec.Raw])


def items_of(blob: object) -> tuple[bytes, ...]:
    """Split a JSON array into its raw items.

    Raises:
        msgspec.MsgspecError: it is none.
    """
    if blob is None:
        return ()
    if not isinstance(blob, bytes):  # SQLite keeps any type in any column
        raise msgspec.ValidationError(f"the column items holds a value of the type {type(blob).__name__}")
    return tuple(bytes(raw) for raw in _ITEMS.decode(blob))


def _state(number: int) -> RequestState:
    if number not in range(len(STATES)):
        raise msgspec.ValidationError(f"{number!r} is not a state of a request")
    return STATES[number]


class Connection(Protocol):
    """What runs SQL."""

    def execute(self, query: str, values: Sequence[Any] = ..., /) -> Any:
        """Run a statement with `?` for its values; the rows can be iterated over."""
        ...


class Media(Protocol):
    """Where large texts of an item go."""

    def put_away(self, item: bytes, /) -> bytes: ...
    def bring_back(self, item: bytes, /) -> bytes: ...


class RowStore(ABC):
    """What the stores have in common. Each has its own way to find rows and to insert one."""

    def __init__(self, media: Media) -> None:
        self._media = media
        self._claims = Claims()
        self._histories = Histories()
        self._is_read_only = False
        self._has_unknown_items = False
        self._has_choices = False
        self._is_second_try = False
        """The group may have been carried out already: the answer to its commit was lost."""

    @abstractmethod
    def _select(self, connection: Any, names: list[int]) -> Iterable[Any]:
        """Select `FOUND` of the rows with these names, in their order."""

    @abstractmethod
    def _insert(self, connection: Any, values: tuple[Any, ...], entry: Entry) -> None:
        """Insert a row of `INSERTED` before the next statement at the latest, and call `_note_row` with its number."""

    @abstractmethod
    def _settle(self, connection: Any, number: int, values: tuple[Any, ...]) -> None:
        """Change the `SETTLED` of a row, at the latest before the next statement."""

    def _flush(self, connection: Any) -> None:  # noqa: B027 - a store that writes at once has nothing to do
        """Carry out what `_insert` and `_settle` have left for later."""

    @abstractmethod
    def _make_choices(self, connection: Any) -> None:
        """Make the table of choices, if there is none."""

    @abstractmethod
    def _not_written(self) -> JournalError:
        """Say that the journal cannot be written."""

    def _forget(self) -> None:
        """Read everything anew: a transaction has failed, or other processes may have changed the rows."""
        self._histories = Histories()

    def _apply_all(self, connection: Any, changes: Sequence[Change]) -> list[Entry | None]:
        """Carry out all changes inside a transaction."""
        self._claims.begin()
        keys = [row_key(change.key) for change in changes if isinstance(change, (Begin, Keep))]
        known = self._find(connection, [key for key in keys if self._histories.get(key) is None])
        return [self._apply(connection, change, known) for change in changes]

    def _find(self, connection: Connection, keys: list[RowKey]) -> Known:
        """Look up what is on record of all these requests at once, which takes a third of the time of one by one."""
        known = Known(keys)
        if keys:
            for found in self._select(connection, [key[0] for key in keys]):
                row = msgspec.convert(found, _Found)
                if row[2] is not None:
                    known.add((row[0], row[1], row[2], row[3]), row[4:])
        return known

    def _apply(self, connection: Connection, change: Change, known: Known) -> Entry | None:
        if isinstance(change, Begin):
            return self._begin(connection, change, known)
        if isinstance(change, ReadChoices):
            return Entry(Advice("buy", 1), choices=self._read_choices(connection, change))
        if self._is_read_only:
            raise self._not_written()
        if isinstance(change, Settle):
            items = self._items(change.items)
            cost = micro_usd(change.cost)
            state = _DONE if change.is_done else _FAILED
            self._settle(connection, change.number, (state, change.at, cost, items, change.error))
            self._note_change(known, change.number, state=STATES[state])
        elif isinstance(change, Abandon):
            self._abandon(connection, change.numbers, known, is_hedge=change.is_hedge, is_free=change.is_free)
            if change.is_over:
                for number in change.numbers:
                    history = self._histories.of(number)
                    if history is None:
                        self._claims.give_back(self._slot_of(connection, number))
                    else:
                        history.give_back(number)
        elif isinstance(change, Decide):
            self._decide(connection, change)
        else:
            assert not isinstance(change, (TakeLeases, EndLeases))  # a store that has leases does these itself
            key = row_key(change.key)
            history = self._history(connection, key, change.key.path, known)
            advice = history.choose(change.key.path, change.slot)
            attempt = 1 + max((one.attempt for one in history.slot(advice.ordinal)), default=0)
            place = (*key, change.key.path, advice.ordinal, attempt, 0)
            row = (*place, None, None, None, change.request, _DONE, change.at, change.at)
            value = b"[" + self._media.put_away(change.value) + b"]"
            self._insert(connection, (*row, value, micro_usd(change.cost)), Entry(advice))
            known.rows[key] = None
        return None

    def _begin(self, connection: Connection, change: Begin, known: Known) -> Entry:
        key, path = row_key(change.key), change.key.path
        history = self._history(connection, key, path, known)
        is_taken = False
        if not len(history) and change.may_adopt and not self._is_read_only:
            is_taken = self._adopt(connection, key, path) is False
            known.rows[key] = None
            history = self._history(connection, key, path, known)
        advice = history.choose(path, change.slot, is_own=change.is_own)
        row = None if advice.record is None else self._row(connection, key, advice.record.number, known)
        if row is not None and _record(row) != advice.record:
            self._histories.drop(key)  # another process has changed it since
            known.rows[key] = None
            return self._begin(connection, msgspec.structs.replace(change, slot=advice.slot), known)
        slot = history.slot(advice.ordinal)
        if not self._is_read_only:
            self._tidy(connection, slot, path, advice, known)
        elif change.task_uuid is not None and advice.action != "restore":
            raise self._not_written()
        if change.is_hedge and advice.action == "collect":
            hedge = next((one for one in slot if one.is_hedge and one.attempt == advice.attempt), None)
            action: Any = "buy" if hedge is None else "collect"
            advice = Advice(action, advice.attempt, hedge, advice.slot, advice.ordinal)
        if advice.record is not None:
            if row is None or row[0] != advice.record.number:
                row = self._row(connection, key, advice.record.number, known)
            return self._entry(connection, change, advice, row, slot, known)
        if change.task_uuid is None:
            error = self._row(connection, key, slot[-1].number, known)[9] if slot else None
            return Entry(advice, error=error, is_taken=is_taken)
        task_uuid = str(uuid.uuid4()) if change.task_uuid in history.task_uuids else change.task_uuid
        request = self._media.put_away(change.request)
        place = (*key, path, advice.ordinal, advice.attempt, int(change.is_hedge))
        outcome: tuple[Any, ...] = (_OPEN, change.at, None, None, None)
        if change.answer:
            outcome = (_DONE, change.at, change.at, self._items(change.answer), 0)
        values = (*place, task_uuid, change.task_type, change.model, request, *outcome)
        entry = Entry(advice, task_uuid=task_uuid)
        self._insert(connection, values, entry)
        known.rows[key] = None
        return entry

    def _entry(
        self, connection: Connection, change: Begin, advice: Advice, row: Any, slot: list[RequestRecord], known: Known
    ) -> Entry:
        """Answer with what is on record of a request."""
        number, state, task_uuid, error, paid = row[0], _state(row[2]), row[3], row[9], row[10]
        items: tuple[bytes, ...] = ()
        if state == "done":
            items = tuple(self._media.bring_back(item) for item in items_of(row[8]))
        elif state == "abandoned" and paid == 0 and change.task_uuid is not None and not self._is_read_only:
            self._open_again(connection, number, known)
        elif self._is_second_try and task_uuid == change.task_uuid and state == "open":
            again = Advice("buy", advice.attempt, None, advice.slot, advice.ordinal)
            return Entry(again, number, task_uuid)
        is_hedged = state != "done" and any(one.state == "open" and one.number != number for one in slot)
        cost = None if paid is None else paid / 1_000_000
        return Entry(advice, number, task_uuid, items, error, cost, is_hedged=is_hedged)

    def _items(self, items: Sequence[bytes]) -> bytes:
        return b"[" + b",".join(self._media.put_away(_readable(item)) for item in items) + b"]"

    def _tidy(self, connection: Connection, slot: list[RequestRecord], path: str, advice: Advice, known: Known) -> None:
        """Note the path of the node of a slot; and if it has its result, that nothing waits for the other request."""
        moved = [one.number for one in slot if one.path != path]
        if moved:
            for number in moved:
                connection.execute("UPDATE node SET path = ? WHERE id = ?", (path, number))
                self._note_change(known, number, path=path)
        if advice.action == "restore":
            self._abandon(connection, [one.number for one in slot if one.state == "open"], known, is_hedge=True)

    def _history(self, connection: Connection, key: RowKey, path: str, known: Known) -> History:
        """Return the history of a request, read anew if this very group has changed it and it is not kept."""
        if self._has_unknown_items:
            self._move_unknown(connection, key, path, known)
        if self._histories.get(key) is not None and known.rows.get(key, ()) is None:
            self._flush(connection)  # which adds to histories, so that this one may be kept no longer
        history = self._histories.get(key)
        if history is None:
            rows = known.rows.get(key)
            if rows is None:
                rows = known.take(key, self._find(connection, [key]))
            history = History(map(_record, rows.values()), self._claims)
            if len(history) >= _MANY:
                self._histories.keep(key, history)
        return history

    def _row(self, connection: Connection, key: RowKey, number: int, known: Known) -> Any:
        """Return the row of a record: one that was read with this group, or else it is read now."""
        row = (known.rows.get(key) or {}).get(number)
        if row is None:
            [found] = connection.execute(f"SELECT {FOUND} FROM node WHERE id = ?", (number,))
            row = msgspec.convert(found, _Found)[4:]
        return row

    def _note_change(self, known: Known, number: int, **changes: Any) -> None:
        """A row was changed: what was read of it before is out of date."""
        known.forget(number)
        history = self._histories.of(number)
        if history is not None:
            history.change(number, **changes)

    def _move_unknown(self, connection: Connection, key: RowKey, path: str, known: Known) -> None:
        """Find what an earlier format knew by its path alone, and give it the item."""
        _, flow, item, fingerprint = key
        [(ordinal,)] = connection.execute("SELECT coalesce(max(ordinal), -1) + 1 FROM node WHERE name = ?", key[:1])
        for is_hedge, old in enumerate((path, f"{path}#2")):
            cursor = connection.execute(
                "UPDATE node SET name = ?, item = ?, ordinal = ?, hedge = ?, path = ? WHERE name = ? AND item IS NULL",
                (key[0], item, ordinal, is_hedge, path, row_name(flow, old, fingerprint)),
            )
            if cursor.rowcount:
                known.rows[key] = None
                self._histories.drop(key)

    def _adopt(self, connection: Connection, key: RowKey, path: str) -> bool | None:
        """Let an open request for the same thing be this node's; `False` if other nodes of this run have them all."""
        is_taken = None
        query = "SELECT id FROM node WHERE fingerprint = ? AND state IN (0, 3) AND task_uuid IS NOT NULL ORDER BY id"
        for (number,) in connection.execute(query, (key[3],)).fetchall():
            slot = self._slot_of(connection, number)
            is_taken = False
            if slot not in self._claims:
                self._histories.drop_of(number)
                name, flow, item, _ = key
                connection.execute(
                    """UPDATE node SET name = ?, flow = ?, item = ?, path = ?, ordinal = 0, attempt = 1, hedge = 0,
                        lost = 0 WHERE id = ?""",
                    (name, flow, item, path, number),
                )
                return True
        return is_taken

    def _slot_of(self, connection: Connection, number: int) -> int:
        [(slot,)] = connection.execute(
            """SELECT min(o.id) FROM node n, node o WHERE n.id = ? AND o.name = n.name AND o.flow = n.flow
                AND (o.item = n.item OR o.item IS NULL AND n.item IS NULL)
                AND o.fingerprint = n.fingerprint AND o.ordinal = n.ordinal""",
            (number,),
        )
        return int(slot)

    def _abandon(
        self,
        connection: Connection,
        numbers: Sequence[int],
        known: Known,
        *,
        is_hedge: bool,
        is_free: bool = False,
    ) -> None:
        for number in numbers:
            connection.execute(
                """UPDATE node SET lost = CASE WHEN ? = 1 THEN 1 ELSE lost END,
                    micro_usd = CASE WHEN ? = 1 AND state IN (0, 3) THEN 0 ELSE micro_usd END,
                    state = CASE state WHEN 0 THEN 3 ELSE state END WHERE id = ?""",
                (int(is_hedge), int(is_free), number),
            )
            known.forget(number)
            history = self._histories.of(number)
            if history is not None:
                is_open = history.record(number).state == "open"
                history.change(number, state="abandoned" if is_open else None, is_loser=is_hedge)

    def _open_again(self, connection: Connection, number: int, known: Known) -> None:
        """A request that was given up before it was accepted is about to be sent, so that it may be billed."""
        connection.execute("UPDATE node SET state = 0, micro_usd = NULL WHERE id = ? AND state = 3", (number,))
        self._note_change(known, number, state="open")

    def _read_choices(self, connection: Connection, change: ReadChoices) -> tuple[ChoiceRecord, ...]:
        if not self._has_choices:
            return ()
        query = """SELECT id, kind, path, contestants, winners FROM choice
            WHERE name = ? AND flow = ? AND item = ? ORDER BY id"""
        rows = connection.execute(query, (row_name(change.flow, change.item, b""), change.flow, change.item))
        return tuple(choice_record(*row) for row in rows)

    def _decide(self, connection: Connection, change: Decide) -> None:
        if not self._has_choices:
            self._make_choices(connection)
            self._has_choices = True
        choice = change.choice
        made = (choice.kind, choice.path, _ENCODER.encode(choice.contestants), _ENCODER.encode(choice.winners))
        if choice.number:
            query = "UPDATE choice SET kind = ?, path = ?, contestants = ?, winners = ?, made_at = ? WHERE id = ?"
            connection.execute(query, (*made, change.at, choice.number))
            return
        query = """INSERT INTO choice (name, flow, item, kind, path, contestants, winners, made_at)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?)"""
        name = row_name(change.flow, change.item, b"")
        connection.execute(query, (name, change.flow, change.item, *made, change.at))

    def _note_row(self, number: int, values: tuple[Any, ...], entry: Entry) -> None:
        """A row was inserted: its slot is taken."""
        entry.number = number
        self._claims.add(entry.advice.slot or number)
        name, flow, item, fingerprint, path, ordinal, attempt, hedge, task_uuid, _, _, _, state, *_ = values
        key = name, flow, item, fingerprint
        if self._histories.get(key) is not None:
            record = RequestRecord(number, attempt, _state(state), task_uuid, ordinal, path, bool(hedge))
            self._histories.add(key, record)


def choice_record(number: int, kind: str, path: str, contestants: bytes, winners: bytes) -> ChoiceRecord:
    """Read a choice from its columns.

    Raises:
        msgspec.MsgspecError: it is none.
    """
    made = {"contestants": _JSON.decode(contestants), "winners": _JSON.decode(winners)}
    return msgspec.convert({"number": number, "kind": kind, "path": path, **made}, ChoiceRecord)


RowKey: TypeAlias = tuple[int, str, str, bytes]
"""What requests are looked up by: a hash of what follows, flow, item and fingerprint."""


class Known:
    """What was read of the requests of a group: rows by number, by the key of the rows; `None` for what has changed."""

    __slots__ = ("_owners", "rows")

    def __init__(self, keys: Iterable[RowKey]) -> None:
        self.rows: dict[RowKey, dict[int, Any] | None] = {key: {} for key in keys}
        self._owners: dict[int, RowKey] = {}

    def add(self, key: RowKey, row: Any) -> None:
        rows = self.rows.setdefault(key, {})  # of another key too, where two have one hash
        assert rows is not None
        rows[row[0]] = row
        self._owners[row[0]] = key

    def take(self, key: RowKey, found: Known) -> dict[int, Any]:
        """Take over what was found for a key."""
        rows = found.rows[key] or {}
        self.rows[key] = rows
        self._owners.update(dict.fromkeys(rows, key))
        return rows

    def forget(self, number: int) -> None:
        key = self._owners.get(number)
        if key is not None:
            self.rows[key] = None


class Histories:
    """Histories that are kept from one group to the next, so that a request does not read all that equal it.

    At most `_MOST_KEPT` records stay, or one history. The oldest history is dropped first; the next request of its kind
    reads it anew.
    """

    __slots__ = ("_by_key", "_keys")

    def __init__(self) -> None:
        self._by_key: dict[RowKey, History] = {}
        self._keys: dict[int, RowKey] = {}

    def get(self, key: RowKey) -> History | None:
        """Return a history that is kept."""
        return self._by_key.get(key)

    def of(self, number: int) -> History | None:
        """Return the history that a record belongs to, if it is kept."""
        key = self._keys.get(number)
        return None if key is None else self._by_key[key]

    def keep(self, key: RowKey, history: History) -> None:
        """Keep a history."""
        self._by_key[key] = history
        self._keys.update(dict.fromkeys(history.numbers, key))
        self._trim()

    def add(self, key: RowKey, record: RequestRecord) -> None:
        """Add a record that is younger than all others to a history that is kept."""
        self._by_key[key].add(record)
        self._keys[record.number] = key
        self._trim()

    def _trim(self) -> None:
        while len(self._keys) > _MOST_KEPT and len(self._by_key) > 1:
            self.drop(next(iter(self._by_key)))

    def drop(self, key: RowKey | None) -> None:
        """Keep a history no longer."""
        history = None if key is None else self._by_key.pop(key, None)
        for number in () if history is None else history.numbers:
            del self._keys[number]

    def drop_of(self, number: int) -> None:
        """Keep the history that a record belongs to no longer."""
        self.drop(self._keys.get(number))


def row_key(key: NodeKey) -> RowKey:
    fingerprint = bytes.fromhex(key.fingerprint)
    return row_name(key.flow, key.item, fingerprint), key.flow, key.item, fingerprint


def _record(row: Any) -> RequestRecord:
    number, attempt, state, task_uuid, ordinal, path, hedge, lost = row[:8]
    return RequestRecord(int(number), int(attempt), _state(state), task_uuid, ordinal, path, bool(hedge), bool(lost))


def _readable(item: bytes) -> bytes:
    """Give an item that strict JSON can read: what came may hold a broken text, or a number like 1e999."""
    try:
        msgspec.json.decode(item)
    except salvage.UNREADABLE:
        pass
    else:
        return item
    try:
        loose: Any = json.loads(item.decode("utf-8", "replace"), strict=False, parse_constant=str, parse_float=_finite)
        return salvage.to_bytes(json.dumps(loose, ensure_ascii=False))
    except (ValueError, RecursionError):  # thousands of digits, or of brackets: such members become texts
        found = salvage.mapping(item)
        return b"{}" if found is None else found[1]


def _finite(digits: str) -> float | str:
    number = float(digits)
    return number if isfinite(number) else digits
