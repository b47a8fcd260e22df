"""The store of a journal, by itself: what is durable, what damage does, and that one run has it at a time."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from contextlib import closing

import pytest

from runware_flow import JournalError
from runware_flow.journal import Journal, salvage
from runware_flow.journal.media import LARGE_BYTES
from runware_flow.journal.place import network_file_system
from runware_flow.journal.sqlite import SqliteStore
from runware_flow.journal.store import Begin, Keep, NodeKey, Settle


def key(number=0, fingerprint="ab" * 32):
    return NodeKey("flow", f"item[{number}]/node", fingerprint, f"[{number}]")


def begin(number=0, task_uuid="uuid-1", *, slot=0, **more):
    return Begin(key(number, **more), 1.0, task_uuid, "imageInference", "runware:400@1", b'{"seed":1}', slot)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.sqlite"


@pytest.fixture
def store(path):
    store = SqliteStore(path)
    store.open()
    yield store
    store.close()


def ask(store, *args, **more):
    [entry] = store.apply([begin(*args, **more)])
    return entry


def test_store_reopened_restores_what_was_settled_and_collects_what_was_not(store, path):
    first, second = store.apply([begin(0, "uuid-a"), begin(1, "uuid-b")])
    assert [first.advice.action, second.advice.action] == ["buy", "buy"]
    store.apply([Settle(first.number, 2.0, is_done=True, items=(b'{"cost":0.5}',), cost=0.5)])
    store.close()
    again = SqliteStore(path)
    again.open()
    done, still_open = again.apply([begin(0, "new"), begin(1, "new")])
    again.close()
    assert (done.advice.action, done.items, done.cost, done.task_uuid) == ("restore", (b'{"cost":0.5}',), 0.5, "uuid-a")
    assert (still_open.advice.action, still_open.task_uuid) == ("collect", "uuid-b")


def test_store_other_fingerprint_or_flow_is_another_node(store):
    assert ask(store, 0, "uuid-a").advice.action == "buy"
    assert ask(store, 0, "uuid-b", fingerprint="cd" * 32).advice.action == "buy"
    [other] = store.apply([Begin(NodeKey("other", "item[0]/node", "ab" * 32, "[0]"), 1.0, "uuid-c")])
    assert other.advice.action == "buy"


def test_store_after_a_failure_gives_an_id_that_was_not_used(store):
    first = ask(store, 0, "chosen")
    store.apply([Settle(first.number, 2.0, is_done=False, error=b"{}")])
    second = ask(store, 0, "chosen", slot=first.slot)
    assert (second.advice.action, second.advice.attempt) == ("buy", 2)
    assert second.task_uuid not in (None, "chosen")


def test_store_functions_are_known_by_their_values_only(store):
    [unknown] = store.apply([Begin(key(), 1.0)])
    assert unknown.advice.action == "buy"
    store.apply([Keep(key(), 1.0, b'{"value":3}')])
    store.close()
    store.open()
    [known] = store.apply([Begin(key(), 1.0)])
    assert (known.advice.action, known.items) == ("restore", (b'{"value":3}',))


def test_store_large_media_are_files_beside_it(store, path):
    item = json.dumps({"imageBase64Data": "x" * (LARGE_BYTES + 1), "list": [{"a": "y" * (LARGE_BYTES + 1)}]}).encode()
    entry = ask(store)
    store.apply([Settle(entry.number, 2.0, is_done=True, items=(item,))])
    assert path.stat().st_size < LARGE_BYTES
    assert len(list((path.parent / "run.sqlite.media").iterdir())) == 2
    [restored] = ask(store, slot=entry.slot).items
    assert json.loads(restored) == json.loads(item)
    shutil.rmtree(path.parent / "run.sqlite.media")
    with pytest.raises(JournalError, match=r"media.*cannot be read"):
        ask(store, slot=entry.slot)


def test_store_keeps_items_that_strict_json_cannot_read(store):
    entry = ask(store)
    store.apply([Settle(entry.number, 2.0, is_done=True, items=(b'{"a":1e999,"b":"\xff"}', b'{"c":1}'))])
    assert [json.loads(item) for item in ask(store, slot=entry.slot).items] == [{"a": "1e999", "b": "\ufffd"}, {"c": 1}]


def test_store_opened_twice_second_gets_one_clear_error(store, path):
    with pytest.raises(JournalError, match="in use by another run"):
        SqliteStore(path).open()
    store.close()
    again = SqliteStore(path)
    again.open()
    again.close()


def test_store_group_that_fails_is_undone_as_a_whole(store):
    with pytest.raises(AttributeError):
        store.apply([begin(0), None])
    assert ask(store, 0, "later").task_uuid == "later"


def test_store_in_a_folder_that_is_not_there_makes_it(tmp_path):
    store = SqliteStore(tmp_path / "new" / "folder" / "run.sqlite")
    store.open()
    store.close()
    assert (tmp_path / "new" / "folder" / "run.sqlite").is_file()


def test_store_in_a_folder_that_cannot_be_made_says_so(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(JournalError, match=r"cannot be made: .*file"):
        SqliteStore(tmp_path / "file" / "run.sqlite").open()


def test_store_a_folder_in_the_place_of_a_file_says_so(tmp_path):
    with pytest.raises(JournalError, match="it is a folder; name a file in it"):
        SqliteStore(tmp_path).open()


def test_store_other_files_are_refused_untouched(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("not a database, but long enough to be one " * 100)
    with pytest.raises(JournalError, match="not a journal: it is a text file") as caught:
        SqliteStore(text).open()
    assert "salvage" not in str(caught.value)
    assert text.read_text().startswith("not a database")
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE mine (a)")
    connection.close()
    with pytest.raises(JournalError, match="not a journal of runware_flow"):
        SqliteStore(other).open()


def test_store_of_a_newer_format_is_refused(store, path):
    store.close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(JournalError, match="format 99"):
        SqliteStore(path).open()


def crashed_copy(store, path, target):
    """What a crash leaves: the files as they are, the log not merged."""
    shutil.copy(path, target)
    shutil.copy(f"{path}-wal", f"{target}-wal")


def test_store_log_cut_at_any_byte_opens_with_a_prefix_of_what_was_durable(store, path, tmp_path):
    for number in range(12):
        ask(store, number, f"uuid-{number}")
    copy = tmp_path / "copy.sqlite"
    crashed_copy(store, path, copy)
    whole = (tmp_path / "copy.sqlite-wal").read_bytes()
    main = copy.read_bytes()
    seen = set()
    for size in [*range(0, len(whole), 997), len(whole) - 1, len(whole)]:
        copy.write_bytes(main)
        (tmp_path / "copy.sqlite-wal").write_bytes(whole[:size])
        (tmp_path / "copy.sqlite-shm").unlink(missing_ok=True)
        opened = SqliteStore(copy)
        opened.open()
        known = [entry.advice.action for entry in opened.apply([begin(n, f"new-{n}") for n in range(12)])]
        opened.close()
        count = known.count("collect")
        assert known == ["collect"] * count + ["buy"] * (12 - count)
        seen.add(count)
    assert {0, 12} <= seen


@pytest.mark.exhaustive
def test_store_log_cut_at_every_byte_has_what_was_durable_and_nothing_else(path, tmp_path):
    """The first group is in the main file, the second in the log, which is then cut by one byte after the other."""
    small = sqlite3.connect(path)  # in small pages, so that there are few bytes
    small.execute("PRAGMA page_size = 512")
    small.execute("PRAGMA journal_mode = WAL")
    small.close()
    store = SqliteStore(path)
    store.open()
    ask(store, 0, "uuid-0")
    store.close()
    store.open()
    ask(store, 1, "uuid-1")
    copy = tmp_path / "copy.sqlite"
    crashed_copy(store, path, copy)
    store.close()
    log = tmp_path / "copy.sqlite-wal"
    seen = []
    for size in reversed(range(log.stat().st_size + 1)):
        os.truncate(log, size)
        (tmp_path / "copy.sqlite-shm").unlink(missing_ok=True)
        reader = sqlite3.connect(f"file:{copy}?mode=ro", uri=True)  # so that closing it does not tidy up the log
        rows = reader.execute("SELECT task_uuid, state FROM node ORDER BY id").fetchall()
        reader.close()
        seen.append(len(rows))
        assert rows == [("uuid-0", 0), ("uuid-1", 0)][: len(rows)]
    assert seen == [2] * seen.count(2) + [1] * seen.count(1)
    assert seen.count(2) == 1
    opened = SqliteStore(copy)
    opened.open()
    entries = opened.apply([begin(0, "new-0"), begin(1, "new-1")])
    opened.close()
    assert [entry.advice.action for entry in entries] == ["collect", "buy"]


@pytest.mark.parametrize("page", range(8))
def test_store_damaged_main_file_is_one_clear_error(store, path, page):
    for number in range(200):
        ask(store, number, f"uuid-{number}")
    store.close()
    content = bytearray(path.read_bytes())
    content[page * 4096 : (page + 1) * 4096] = b"\xa5" * 4096
    path.write_bytes(content)
    with pytest.raises(JournalError) as caught:
        opened = SqliteStore(path)
        opened.open()
        try:
            opened.apply([begin(n, "new") for n in range(200)])
        finally:
            opened.close()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "damage",
    [
        "state = 7",
        "state = 'q'",
        "fingerprint = 5",
        "asked_at = 'x'",
        "request = x'5b315d'",
        "error = x'7b7d'",
        "error = x'5b5d'",
        "items = 5",
        "path = x'ff'",
    ],
)
def test_what_sqlite_holds_and_no_journal_has_is_one_clear_error(store, path, damage):
    ask(store, 0, "uuid-0")
    store.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"UPDATE node SET {damage}")
        connection.commit()
    with Journal(path) as journal:
        with pytest.raises(JournalError, match="is damaged"):
            list(journal.entries())
        journal.summary()
    if "request" in damage or "error" in damage:  # what is left is a journal again
        with Journal(salvage(path, path.with_name("new.sqlite")).path) as journal:
            assert [entry.state for entry in journal.entries()] == ["open"]


@pytest.mark.parametrize("cost", [1e300, 1e13, float("inf"), float("nan")])
def test_cost_that_no_column_holds_is_unknown(store, path, cost):
    entry = ask(store, 0, "uuid-0")
    store.apply([Settle(entry.number, 2.0, is_done=True, items=(b"{}",), cost=cost)])
    with Journal(path) as journal:
        assert (journal.summary().done_count, journal.summary().cost) == (1, None)


@pytest.mark.parametrize("odd", [b"1" * 5000, b"[" * 3000 + b"]" * 3000])
def test_item_with_a_member_that_json_libraries_refuse_is_kept(store, path, odd):
    entry = ask(store, 0, "uuid-0")
    item = b'{"taskType":"imageInference","imageURL":"https://im.example/1","x":' + odd + b"}"
    store.apply([Settle(entry.number, 2.0, is_done=True, items=(item,), cost=0.1)])
    with Journal(path) as journal:
        [kept] = journal.entries()
        assert kept.results[0].url == "https://im.example/1"


def test_name_in_the_schema_that_is_no_text_is_one_clear_error(store, path):
    store.close()
    content = path.read_bytes()
    path.write_bytes(content.replace(b"CREATE TABLE node", b"CREATE T\xf3\xffLE node"))
    with pytest.raises(JournalError, match="journal salvage"), Journal(path):
        pass


def test_place_network_mounts_are_told_from_local_ones(tmp_path):
    mounts = tmp_path / "mounts"
    mounts.write_text("/dev/sda / ext4 rw 0 0\nserver:/home /home nfs4 rw 0 0\n/dev/sdb /home/local ext4 rw 0 0\n")
    assert network_file_system(tmp_path.__class__("/home/me/run.sqlite"), mounts) == "nfs4"
    assert network_file_system(tmp_path.__class__("/home/local/run.sqlite"), mounts) is None
    assert network_file_system(tmp_path.__class__("/var/run.sqlite"), mounts) is None
    assert network_file_system(tmp_path, tmp_path / "none") is None
