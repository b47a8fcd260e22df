"""Journals that come from elsewhere: whatever is in the file, reading it ends, and follows nothing out of it."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from service import Service, art

from runware_flow import Flow, FlowFailed, JournalError
from runware_flow.journal import Journal, salvage
from runware_flow.journal.costs import read_past, seen_prices
from runware_flow.journal.media import LARGE_BYTES, MediaFolder
from runware_flow.journal.migration import row_name
from runware_flow.journal.sqlite import COLUMNS, SqliteStore
from runware_flow.journal.store import Begin, Keep, NodeKey, Settle

HERE = Path(__file__).parent
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
KEY = NodeKey("flow", "picture", "ab" * 32)
BEGIN = Begin(KEY, 1.0, "uuid-a", "imageInference", "runware:400@1", b'{"seed":1}')


@pytest.fixture
def path(tmp_path):
    store = SqliteStore(tmp_path / "run.sqlite")
    store.open()
    [entry] = store.apply([BEGIN])
    store.apply([Settle(entry.number, 2.0, is_done=True, items=(b'{"cost":0.5}',), cost=0.5)])
    store.apply([Keep(NodeKey("flow", "later", "cd" * 32), 3.0, b'{"value":"x"}')])
    store.close()
    return store.path


def change(path, *statements):
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def read_entries(path):
    with Journal(path) as journal:
        return list(journal.entries())


def read_summary(path):
    with Journal(path) as journal:
        journal.summary()


def read_models(path):
    with Journal(path) as journal:
        journal.models()


def begin_again(path):
    store = SqliteStore(path)
    store.open()
    try:
        store.apply([BEGIN])
    finally:
        store.close()


READERS = (read_entries, read_summary, read_models, lambda path: read_past(path, "flow"), seen_prices, begin_again)


def read_all(path):
    """All that reads a journal; returns its entries."""
    entries, *_ = [read(path) for read in READERS]
    return entries


@pytest.mark.parametrize(
    "statements",
    [
        ("ALTER TABLE node RENAME TO hidden", f"CREATE VIEW node AS SELECT *, ({ENDLESS}) AS more FROM hidden"),
        (f"CREATE TRIGGER slow AFTER UPDATE ON node BEGIN {ENDLESS}; END",),
        (f"CREATE TRIGGER slow BEFORE INSERT ON node BEGIN {ENDLESS}; END",),
        (f"CREATE VIEW other AS {ENDLESS}",),
        ("ALTER TABLE node ADD COLUMN more AS (length(zeroblob(id * 100000000)))",),
        ("CREATE INDEX other ON node (length(zeroblob(900000000)))",),
        ("CREATE TABLE other (a CHECK (length(zeroblob(900000000)) > 0))",),
        ("CREATE VIRTUAL TABLE other USING fts5(a)",),
    ],
)
def test_what_would_run_when_a_journal_is_read_is_refused_before_it_is_read(path, statements):
    change(path, *statements)
    script = f"""
import sys
sys.path[:0] = {[str(HERE), str(HERE.parent)]!r}
from test_journal_foreign import read_all, JournalError
try:
    read_all({str(path)!r})
except JournalError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert "which runware_flow does not make" in done.stdout
    assert done.stdout.count("\n") == 1


def test_tables_that_sqlite_makes_itself_are_no_hindrance(path):
    change(path, "ANALYZE")
    assert [entry.path for entry in read_all(path)] == ["picture", "later"]


columns = st.sampled_from([name.strip() for name in COLUMNS.split(",") if name.strip() not in ("id", "name")])
values = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(max_size=20),
    st.binary(max_size=20),
    st.sampled_from(
        [
            b"{}",
            b"[]",
            b"[{}]",
            b'[{"value":1,"path":2}]',
            b'[{"path":3}]',
            b'[{"results":{}}]',
            b'{"message":1}',
            b'{"message":"m","retry_after":"soon"}',
            b"[" * 5000 + b"]" * 5000,
            b'[{"__journal_file__":"../../../etc/passwd"}]',
            b'[{"__journal_file__":"' + b"0" * 64 + b'"}]',
            10**12,
        ]
    ),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(damage={"state": 99}, row=1)
@example(damage={"state": -6}, row=1)
@given(damage=st.dictionaries(columns, values, min_size=1, max_size=3), row=st.integers(1, 2))
def test_whatever_stands_in_a_row_is_read_or_is_one_clear_error(path, damage, row):
    kept = path.read_bytes()
    try:
        with closing(sqlite3.connect(path)) as connection:
            sets = ", ".join(f"{name} = ?" for name in damage)
            try:
                connection.execute(f"UPDATE node SET {sets} WHERE id = {row}", list(damage.values()))
            except sqlite3.IntegrityError:
                return  # NOT NULL
            [flow, place, mark] = connection.execute(
                f"SELECT flow, item, fingerprint FROM node WHERE id = {row}"
            ).fetchone()
            if isinstance(flow, str) and isinstance(place, str) and isinstance(mark, bytes):  # so that it is found
                connection.execute(f"UPDATE node SET name = ? WHERE id = {row}", (row_name(flow, place, mark),))
            connection.commit()
        for read in (*READERS, lambda journal: salvage(journal, journal.with_name("new.sqlite"))):
            with suppress(JournalError):  # nothing else, and each by itself: the first to find it would hide the others
                read(path)
        path.with_name("new.sqlite").unlink(missing_ok=True)
    finally:
        path.write_bytes(kept)


@pytest.mark.parametrize("value", ['[{"value":1,"path":2}]', "[]", '[{"path":3}]', '[{"value":1},{"value":2}]'])
def test_value_of_a_function_that_no_run_wrote_is_a_journal_error(run, tmp_path, value):
    async def later():
        return "later"

    async def main():
        flow = Flow("functions", journal=tmp_path / "run.sqlite")
        flow.then(later)
        await flow.execute(Service())
        change(tmp_path / "run.sqlite", f"UPDATE node SET items = CAST('{value}' AS BLOB)")
        with pytest.raises(FlowFailed, match="that cannot be read"):
            await flow.execute(Service())

    run(main)


# Media beside a journal


def large_item(path):
    """Settle the request of `path` anew with a medium that goes to a file; returns that file."""
    store = SqliteStore(path)
    store.open()
    [entry] = store.apply([BEGIN])
    item = json.dumps({"imageBase64Data": "x" * (LARGE_BYTES + 1)}).encode()
    store.apply([Settle(entry.number, 2.0, is_done=True, items=(item,))])
    store.close()
    [file] = MediaFolder(path).path.iterdir()
    return file


def test_medium_whose_content_was_changed_is_not_taken_for_what_was_paid_for(path):
    large_item(path).write_text("y" * (LARGE_BYTES + 1))
    with pytest.raises(JournalError, match="no longer has the hash in its name"):
        read_all(path)


@pytest.mark.parametrize("kind", ["link", "link to the same", "pipe", "folder"])
def test_medium_that_is_no_regular_file_is_not_followed(path, tmp_path, kind):
    file = large_item(path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(file.read_bytes() if kind == "link to the same" else b"a secret")
    file.unlink()
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    else:
        file.symlink_to(elsewhere)
    with pytest.raises(JournalError, match="cannot be read"):
        read_all(path)
    made = salvage(path, tmp_path / "new.sqlite")
    assert made.reopened == 1
    assert not any(MediaFolder(made.path).path.glob("*"))


def test_folder_of_media_that_is_a_link_is_not_followed(path, tmp_path):
    folder = large_item(path).parent
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(JournalError, match="is a link"):
        read_all(path)


def test_medium_is_written_through_no_link_that_stands_in_its_place(path, tmp_path):
    file = large_item(path)
    target = tmp_path / "target"
    target.write_text("mine")
    file.unlink()
    file.symlink_to(target)
    MediaFolder(path).put_away(json.dumps({"imageBase64Data": "x" * (LARGE_BYTES + 1)}).encode())
    assert target.read_text() == "mine"
    assert file.is_file()
    assert not file.is_symlink()
    read_all(path)


marked = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.text(max_size=5), st.just("x" * LARGE_BYTES + "yz")
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["__journal_file__", "a", "imageURL"]), inner, max_size=2),
    ),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@example({"__journal_file__": ["alone"]})
@example({"__journal_file__": "0" * 64})
@given(value=marked)
def test_what_is_put_away_comes_back_as_it_was_marks_included(path, value):
    folder = MediaFolder(path)
    item = json.dumps({"value": value}).encode()
    assert json.loads(folder.bring_back(folder.put_away(item))) == {"value": value}


def test_result_that_holds_the_mark_of_a_file_is_restored_as_it_came(run, tmp_path):
    async def main():
        async def tricky():
            return {"__journal_file__": "foo", "list": [{"__journal_file__": "0" * 64}]}

        async def alone():
            return {"__journal_file__": "0" * 64}

        flow = Flow("marks", journal=tmp_path / "run.sqlite")
        nodes = [flow.then(tricky), flow.then(alone)]
        first = await flow.execute(Service())
        again = await flow.execute(Service())
        assert [again[node] for node in nodes] == [first[node] for node in nodes]
        with Journal(tmp_path / "run.sqlite") as journal:
            assert len(list(journal.entries())) == 2

    run(main)


def test_item_with_a_mark_of_an_earlier_version_is_read_as_it_came(path):
    change(path, """UPDATE node SET items = CAST('[{"text":{"__journal_file__":"foo"}}]' AS BLOB) WHERE id = 1""")
    assert read_all(path)[0].results[0].raw == {"text": {"__journal_file__": "foo"}}


def test_names_of_media_are_their_hashes(path):
    file = large_item(path)
    assert hashlib.sha256(file.read_bytes()).hexdigest() == file.name


def test_negative_costs_in_a_journal_refill_no_budget(path):
    change(path, "UPDATE node SET micro_usd = -5000000 WHERE id = 1")
    assert read_past(path, "flow").spent == 0
    with Journal(path) as journal:
        assert journal.summary().cost == 0.0


def test_run_stops_at_a_foreign_schema_before_anything_is_sent(run, tmp_path, path):
    async def main():
        change(path, f"CREATE TRIGGER slow AFTER INSERT ON node BEGIN {ENDLESS}; END")
        service = Service()
        flow = Flow("flow", journal=path)
        flow.then(art("a kite"))
        with pytest.raises(JournalError, match="trigger 'slow'"):
            await flow.execute(service)
        assert service.sent == []

    run(main)
