"""What every store of a journal does, whatever it is kept in."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from random import Random

import msgspec
import psycopg
import pytest

from runware_flow import JournalError
from runware_flow.graph.choice_records import ChoiceRecord, Contestant
from runware_flow.journal.media import LARGE_BYTES
from runware_flow.journal.postgres import DatabaseRows, PostgresStore
from runware_flow.journal.reader import read_unfinished
from runware_flow.journal.sqlite import FileRows, SqliteStore
from runware_flow.journal.store import Abandon, Begin, Decide, Keep, NodeKey, ReadChoices, Settle, is_store


def key(number=0, fingerprint="ab" * 32, flow="flow"):
    return NodeKey(flow, f"item[{number}]/node", fingerprint, f"[{number}]")


def begin(number=0, task_uuid="uuid-1", *, slot=0, is_hedge=False, **more):
    wire = b'{"seed":1}'
    return Begin(key(number, **more), 1.0, task_uuid, "imageInference", "runware:400@1", wire, slot, is_hedge=is_hedge)


@pytest.fixture
def store(make_store):
    store = make_store()
    assert is_store(store)
    store.open()
    yield store
    store.close()


@pytest.fixture
def reopen(store, make_store):
    """Close the store and open another one on the same journal."""
    opened = []

    def again():
        store.close()
        opened.append(make_store())
        opened[-1].open()
        return opened[-1]

    yield again
    for one in opened:
        one.close()


def ask(store, *args, **more):
    [entry] = store.apply([begin(*args, **more)])
    return entry


def test_what_was_settled_is_restored_and_what_was_not_is_collected(store, reopen):
    first, second = store.apply([begin(0, "uuid-a"), begin(1, "uuid-b")])
    assert [first.advice.action, second.advice.action] == ["buy", "buy"]
    assert store.apply([Settle(first.number, 2.0, is_done=True, items=(b'{"cost":0.5}',), cost=0.5)]) == [None]
    again = reopen()
    done, still_open = again.apply([begin(0, "new"), begin(1, "new")])
    assert (done.advice.action, done.items, done.cost, done.task_uuid) == ("restore", (b'{"cost":0.5}',), 0.5, "uuid-a")
    assert (still_open.advice.action, still_open.task_uuid) == ("collect", "uuid-b")


def test_other_fingerprint_or_flow_is_another_request(store):
    assert ask(store, 0, "uuid-a").advice.action == "buy"
    assert ask(store, 0, "uuid-b", fingerprint="cd" * 32).advice.action == "buy"
    assert ask(store, 0, "uuid-c", flow="other").advice.action == "buy"


def test_after_a_failure_the_next_attempt_has_an_id_that_was_not_used(store):
    first = ask(store, 0, "chosen")
    store.apply([Settle(first.number, 2.0, is_done=False, error=b"{}")])
    second = ask(store, 0, "chosen", slot=first.slot)
    assert (second.advice.action, second.advice.attempt) == ("buy", 2)
    assert second.task_uuid not in (None, "chosen")


def test_equal_requests_have_slots_of_their_own_which_the_next_run_takes_in_order(store, reopen):
    entries = store.apply([begin(0, "uuid-a"), begin(0, "uuid-b"), begin(0, "uuid-c")])
    assert [entry.advice.ordinal for entry in entries] == [0, 1, 2]
    again = reopen().apply([begin(0, "new-a"), begin(0, "new-b"), begin(0, "new-c"), begin(0, "new-d")])
    assert [entry.task_uuid for entry in again] == ["uuid-a", "uuid-b", "uuid-c", "new-d"]


def test_hedge_is_a_request_of_the_same_attempt_and_the_loser_is_abandoned(store, reopen):
    first = ask(store, 0, "uuid-a")
    hedge = ask(store, 0, "uuid-b", slot=first.slot, is_hedge=True)
    assert (hedge.advice.action, hedge.advice.attempt, hedge.advice.ordinal) == ("buy", 1, 0)
    store.apply([Settle(hedge.number, 2.0, is_done=True, items=(b"{}",)), Abandon((first.number,), 2.0, is_hedge=True)])
    restored = ask(reopen(), 0, "new")
    assert (restored.advice.action, restored.task_uuid) == ("restore", "uuid-b")


def test_function_is_known_by_its_value(store, reopen):
    [unknown] = store.apply([Begin(key(), 1.0)])
    assert unknown.advice.action == "buy"
    store.apply([Keep(key(), 1.0, b'{"value":3}')])
    [known] = reopen().apply([Begin(key(), 1.0)])
    assert (known.advice.action, known.items) == ("restore", (b'{"value":3}',))


def test_choices_are_read_in_order_and_replaced_in_place(store, reopen):
    contestants = (Contestant(None, "ab"), Contestant("k", None))
    store.apply([Decide("flow", "[1]", 1.0, ChoiceRecord(0, "race", "r", contestants, (1,)))])
    [entry] = store.apply([ReadChoices("flow", "[1]")])
    [choice] = entry.choices
    store.apply([Decide("flow", "[1]", 2.0, ChoiceRecord(choice.number, "race", "r", contestants, (1, 0)))])
    mine, other = reopen().apply([ReadChoices("flow", "[1]"), ReadChoices("flow", "[2]")])
    assert [(one.contestants, one.winners) for one in mine.choices] == [(contestants, (1, 0))]
    assert other.choices == ()


def test_large_items_and_odd_ones_come_back(store):
    large = json.dumps({"imageBase64Data": "x" * (LARGE_BYTES + 1)}).encode()
    entry = ask(store)
    store.apply([Settle(entry.number, 2.0, is_done=True, items=(large, b'{"a":1e999,"b":"\xff"}'))])
    items = [json.loads(item) for item in ask(store, slot=entry.slot).items]
    assert items == [json.loads(large), {"a": "1e999", "b": "\ufffd"}]


def test_group_that_fails_is_undone_as_a_whole(store):
    with pytest.raises(AttributeError):
        store.apply([begin(0), None])
    assert ask(store, 0, "later").task_uuid == "later"


def test_store_that_is_closed_says_so(store):
    store.close()
    store.close()
    with pytest.raises(JournalError, match="is closed"):
        ask(store)


def test_later_of_two_outcomes_in_a_group_counts(store, reopen):
    entry = ask(store, 0, "uuid-a")
    done = Settle(entry.number, 3.0, is_done=True, items=(b"{}",), cost=0.5)
    store.apply([Settle(entry.number, 2.0, is_done=False, error=b"{}", cost=0.25), done])
    again = ask(reopen(), 0, "new")
    assert (again.advice.action, again.cost) == ("restore", 0.5)


def changes_of(random, entries):
    """Some changes, in any order, of few requests, so that many of a group are of one."""
    for _ in range(random.randint(1, 12)):
        kind, number = random.choice("bbbbkflsssaa"), random.randint(0, 4)
        old = random.choice(entries) if entries else None
        cost = random.choice([None, 0.0, 0.25, 1.5])
        if kind == "b":
            yield begin(number, f"uuid-{random.randint(0, 10**9)}", is_hedge=random.random() < 0.2)
        elif kind == "f":
            yield Begin(key(number), 1.0, is_own=random.random() < 0.5)
        elif kind == "k":
            yield Keep(key(number, "cd" * 32), 1.0, b'{"value":%d}' % number, cost=cost)
        elif kind == "l":
            yield Begin(key(number, "cd" * 32), 1.0)
        elif old is not None and kind == "s":
            is_done = random.random() < 0.7
            error = None if is_done else b"{}"
            yield Settle(old, 2.0, is_done=is_done, items=(b'{"a":%d}' % number,) * is_done, error=error, cost=cost)
        elif old is not None:
            is_free = random.random() < 0.5
            yield Abandon((old,), 2.0, is_hedge=random.random() < 0.3, is_free=is_free, is_over=random.random() < 0.5)


@pytest.mark.cluster
@pytest.mark.parametrize("seed", range(8))
def test_groups_of_changes_have_the_same_answers_and_rows_in_a_database_as_in_a_file(seed, database, tmp_path):
    """A file's rows are written one by one, those of a database together."""
    random = Random(seed)
    file, shared = SqliteStore(tmp_path / "run.sqlite"), PostgresStore(database)
    stores = (file, shared)
    numbers = ([], [])
    for store in stores:
        store.open()
    for _ in range(40):
        state = random.getstate()
        told = []
        for store, known in zip(stores, numbers, strict=True):
            random.setstate(state)
            answers = store.apply([*changes_of(random, known)])
            found = [0 if entry is None else entry.number for entry in answers]
            known += [number for number in found if number and number not in known]
            told.append([as_told(entry, known) for entry in answers])
        assert told[0] == told[1]
    with psycopg.connect(database) as connection:
        query = "SELECT item, path, ordinal, attempt, hedge, lost, state, micro_usd, items, error FROM node ORDER BY id"
        rows = connection.execute(query.replace("FROM ", "FROM runware_flow.").encode()).fetchall()
        [[spent]] = connection.execute("SELECT coalesce(sum(micro_usd), 0) FROM runware_flow.spending").fetchall()
    for store in stores:
        store.close()
    with closing(sqlite3.connect(tmp_path / "run.sqlite")) as connection:
        assert [*connection.execute(query)] == rows
    assert spent >= sum(row[7] or 0 for row in rows)  # what a later outcome corrects was spent all the same


def as_told(entry, known):
    """An answer without what differs between two stores: numbers, and ids that were made."""
    if entry is None:
        return None
    advice, number = entry.advice, known.index(entry.number) if entry.number else None
    is_given = (entry.task_uuid or "").startswith("uuid-")
    shown = (advice.action, advice.attempt, advice.ordinal, number, entry.items, entry.error, entry.cost)
    return (*shown, entry.task_uuid if is_given else None, entry.is_hedged)


class Numbers(dict):
    """Numbers of rows in the order in which they were met, so that those of two flows can be compared."""

    def of(self, entry):
        advice = entry.advice
        record = None if advice.record is None else msgspec.structs.replace(advice.record, number=0)
        found = (entry.number, advice.slot, 0 if advice.record is None else advice.record.number)
        places = [self.setdefault(number, len(self)) if number else 0 for number in found]
        advice = msgspec.structs.replace(advice, record=record, slot=0)
        return places, msgspec.structs.replace(entry, advice=advice, number=0, task_uuid=None)


def random_story(chance, store, flow):
    """Equal requests of three nodes, what became of them, and what the store answered to each."""
    numbers, answers, entries = Numbers(), [], []
    for turn in range(25):
        group = []
        for place in range(chance.randint(1, 4)):
            known = NodeKey(flow, chance.choice("abc"), "ab" * 32)
            kind = chance.choice(("begin", "begin", "find", "settle", "abandon", "keep"))
            entry = chance.choice(entries) if entries else None
            if kind in ("begin", "find") or entry is None:
                slot = entry.slot if entry is not None and chance.random() < 0.3 else 0
                task_uuid = f"uuid-{turn}-{place}" if kind == "begin" else None
                more = {"is_hedge": kind == "begin" and chance.random() < 0.2, "is_own": chance.random() < 0.2}
                group.append(Begin(known, 1.0, task_uuid, slot=slot, **more))
            elif kind == "settle":
                group.append(Settle(entry.number, 2.0, is_done=chance.random() < 0.6, items=(b"{}",), cost=0.5))
            elif kind == "abandon":
                is_hedge, is_free, is_over = (chance.random() < 0.5 for _ in range(3))
                group.append(Abandon((entry.number,), 2.0, is_hedge, is_free, is_over))
            else:
                group.append(Keep(known, 1.0, b"1", slot=entry.slot))
        for answer in store.apply(group):
            answers.append(None if answer is None else numbers.of(answer))
            entries += [answer] if answer is not None and answer.number else []
    return answers


def test_histories_that_are_kept_answer_as_those_that_are_read_anew(store, monkeypatch):
    for seed in range(12):
        told = []
        for many in (1, 5, 1_000_000):
            monkeypatch.setattr("runware_flow.journal.rows._MANY", many)
            told.append(random_story(Random(seed), store, f"flow {seed}.{many}"))
        assert told[0] == told[2]
        assert told[1] == told[2]


def test_equal_requests_are_not_read_again_for_each_of_them(store, monkeypatch):
    """What n of them read grows with n: 100 read the rows of the first few, and then none."""
    count = []
    select = store._select

    def counted(connection, names):
        rows = list(select(connection, names))
        count.append(len(rows))
        return rows

    monkeypatch.setattr(store, "_select", counted)
    for number in range(100):
        [entry] = store.apply([Begin(NodeKey("flow", f"node {number}", "ab" * 32), 1.0, f"uuid-{number}")])
        store.apply([Settle(entry.number, 2.0, is_done=True, items=(b"{}",))])
        assert entry.advice.action == "buy"
    assert sum(count) < 150


def test_history_that_another_process_has_changed_is_read_again(store):
    """As by `redo` on a database while a run has it, or by a run of the same flow beside this one."""
    paths = [f"node {number}" for number in range(20)]
    asked = [Begin(NodeKey("flow", path, "ab" * 32), 1.0, f"uuid-{path}") for path in paths]
    entries = store.apply(asked)
    slots = [msgspec.structs.replace(one, slot=entry.slot) for one, entry in zip(asked, entries, strict=True)]
    assert store.apply([slots[7]])[0].advice.action == "collect"
    rows = (
        FileRows(store.path, is_read_only=False)
        if isinstance(store, SqliteStore)
        else DatabaseRows(store.address, is_read_only=False)
    )
    with closing(rows):
        rows.execute("UPDATE node SET state = 2 WHERE id = ?", (entries[7].number,))
    [again] = store.apply([slots[7]])
    assert (again.advice.action, again.advice.attempt, again.slot) == ("buy", 2, entries[7].slot)


def test_mark_for_redo_stays_if_another_process_settles_the_request_after_it(store):
    """As `collect` does that asked for it before a run had settled it."""
    [entry] = store.apply([begin(0, "uuid")])
    settle = Settle(entry.number, 2.0, is_done=True, items=(b"{}",), cost=0.1)
    store.apply([settle])
    rows = (
        FileRows(store.path, is_read_only=False)
        if isinstance(store, SqliteStore)
        else DatabaseRows(store.address, is_read_only=False)
    )
    with closing(rows):
        rows.execute("UPDATE node SET state = 4 WHERE id = ?", (entry.number,))
        store.apply([settle])
        [row] = rows.execute("SELECT state, micro_usd FROM node").fetchall()
    assert tuple(row) == (4, 100_000)


def test_of_what_is_unfinished_only_what_is_asked_for_is_read(store):
    entries = store.apply([begin(number, f"uuid-{number}") for number in range(6)])
    store.apply([Abandon((entries[1].number, entries[2].number), 2.0)])
    place = store.path if isinstance(store, SqliteStore) else store.address
    wanted = {"uuid-2", "uuid-4", "uuid-9"}
    assert [entry.task_uuid for entry in read_unfinished(place, "flow", wanted)] == ["uuid-2", "uuid-4"]
    assert len(read_unfinished(place, "flow")) == 6


def test_histories_that_grow_stay_within_the_bound_and_no_slot_is_given_twice(store, monkeypatch):
    monkeypatch.setattr("runware_flow.journal.rows._MOST_KEPT", 80)
    ordinals = {0: [], 1: []}
    groups = [[0] * 20, [1] * 20, [0], [1], [0] * 19, [1] * 19]  # both are kept, with all that the bound allows
    for turn, numbers in enumerate([*groups, [1, 0, 0], [0, 1, 1]]):
        entries = store.apply([begin(number, f"uuid-{turn}-{place}") for place, number in enumerate(numbers)])
        for number, entry in zip(numbers, entries, strict=True):
            assert entry.advice.action == "buy"
            ordinals[number].append(entry.advice.ordinal)
        assert len(store._histories._keys) <= 80
    assert all(given == list(range(len(given))) for given in ordinals.values())
