"""Damaged journals: what salvage finds, what it says of the rest, and what the next run makes of it."""

from __future__ import annotations

import random
import shutil
import sqlite3

import anyio
import pytest
from service import Service, art

from runware_flow import Batch, Flow, JournalError
from runware_flow.journal import Journal, salvage
from runware_flow.journal.media import LARGE_BYTES
from runware_flow.journal.sqlite import SqliteStore
from runware_flow.journal.store import Begin, Keep, NodeKey, Settle

PAGE = 4096
COUNT = 400


def key(number):
    return NodeKey("flow", f"item[{number}]/imageInference", f"{number:064x}", f"[{number}]")


def fill(path, count=COUNT):
    """Nine of ten are finished, every tenth is open; and one has large media."""
    store = SqliteStore(path)
    store.open()
    begins = [
        Begin(key(n), 1.0, f"uuid-{n}", "imageInference", "runware:400@1", b'{"positivePrompt":"%d"}' % n)
        for n in range(count)
    ]
    entries = store.apply(begins)
    store.apply(
        [
            Settle(entry.number, 2.0, is_done=True, items=(item(number),), cost=0.25)
            for number, entry in enumerate(entries)
            if number % 10
        ]
    )
    store.apply([Keep(NodeKey("flow", "count", "ff" * 32), 3.0, b'{"value":3}')])
    store.close()


def item(number):
    data = "x" * (2 * LARGE_BYTES if number == 1 else 9000 if number == 2 else 30)
    return b'{"taskType":"imageInference","taskUUID":"uuid-%d","imageBase64Data":"%s"}' % (number, data.encode())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "run.sqlite"
    fill(path)
    return path


@pytest.fixture
def damaged(whole, tmp_path):
    path = tmp_path / "run.sqlite"
    shutil.copy(whole, path)
    shutil.copytree(f"{whole}.media", f"{path}.media")
    return path


def overwrite(path, page, content=b"\xa5" * PAGE):
    with path.open("r+b") as file:
        file.seek((page - 1) * PAGE)
        file.write(content)


def entries(path):
    with Journal(path) as journal:
        return {entry.path: entry for entry in journal.entries()}


def test_salvage_of_a_whole_journal_is_the_same_journal(damaged, tmp_path):
    found = salvage(damaged, tmp_path / "new.sqlite")
    assert (found.counts, found.reopened, found.lost) == (
        {"open": 40, "done": 361, "failed": 0, "abandoned": 0, "redo": 0},
        0,
        0,
    )
    assert entries(found.path) == entries(damaged)
    assert len(entries(found.path)["item[1]/imageInference"].results[0].image_base64_data) == 2 * LARGE_BYTES


@pytest.mark.exhaustive
def test_salvage_any_page_damaged_keeps_what_is_on_the_others(whole, tmp_path):
    """The header, the schema, the way to the rows, an index: of these nothing is lost; of a page of rows, its rows."""
    expected = entries(whole)
    kinds = {number: whole.read_bytes()[(number - 1) * PAGE] for number in range(1, whole.stat().st_size // PAGE + 1)}
    for number, kind in kinds.items():
        path = tmp_path / f"{number}.sqlite"
        shutil.copy(whole, path)
        shutil.copytree(f"{whole}.media", f"{path}.media")
        overwrite(path, number)
        found = salvage(path, tmp_path / f"{number}.new.sqlite")
        kept = entries(found.path)
        if number != 1 and kind == 0x0D:
            assert 0 < COUNT + 1 - len(kept) < 60
            assert found.lost in (COUNT + 1 - len(kept), 0)  # 0 if it was the last page
        elif kind == 0 or number == 1:  # an overflow page, or the first
            assert len(kept) == COUNT + 1
        else:
            assert kept == expected
        assert all(expected[path] == entry or entry.state == "open" for path, entry in kept.items())


def test_salvage_lost_outcome_is_open_again_and_is_asked_for(damaged, tmp_path):
    media = next(iter(damaged.with_name("run.sqlite.media").iterdir()))
    media.unlink()
    found = salvage(damaged, tmp_path / "new.sqlite")
    assert (found.reopened, found.lost) == (1, 0)
    entry = entries(found.path)["item[1]/imageInference"]
    assert (entry.state, entry.task_uuid, entry.cost) == ("open", "uuid-1", None)
    store = SqliteStore(found.path)
    store.open()
    [asked] = store.apply([Begin(key(1), 4.0, "another", "imageInference", "runware:400@1", b"{}")])
    store.close()
    assert (asked.advice.action, asked.task_uuid) == ("collect", "uuid-1")


def chosen(path):
    """Flows whose races and fallbacks have answered, so that they buy nothing when they run again."""
    for number in range(40):
        flow = Flow(f"flow {number}", journal=path)
        yield flow, flow.race(flow.then(art("slow")), flow.then(art("quick")).fallback(art("other")))


async def run_all(path):
    service = Service(lambda request, count: anyio.sleep_forever() if "slow" in str(request.wire) else None)
    for flow, won in chosen(path):
        assert (await flow.execute(service))[won].image_url == "imageInference(quick)"
    return [request.wire["positivePrompt"] for request in service.sent]


def test_salvage_keeps_the_choices_and_a_finished_program_buys_nothing(run, tmp_path):
    path = tmp_path / "run.sqlite"

    async def main():
        assert sorted(await run_all(path)) == ["quick"] * 40 + ["slow"] * 40
        for damage in (None, 1):
            if damage is not None:
                overwrite(path, damage)
            found = salvage(path, tmp_path / f"new-{damage}.sqlite")
            assert found.choices == 40
            assert await run_all(found.path) == []

    run(main)


@pytest.mark.exhaustive
def test_salvage_any_page_damaged_keeps_the_choices_and_places_of_the_others(run, tmp_path):
    path = tmp_path / "run.sqlite"
    run(run_all, path)
    content = path.read_bytes()
    with sqlite3.connect(path) as connection:
        choices, places = [connection.execute(f"SELECT * FROM {name}").fetchall() for name in ("choice", "place")]
    for page in range(1, len(content) // PAGE + 1):
        target = tmp_path / f"{page}.sqlite"
        target.write_bytes(content)
        overwrite(target, page)
        found = salvage(target, tmp_path / f"{page}.new.sqlite")
        with sqlite3.connect(found.path) as connection:
            names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
            kept = connection.execute("SELECT * FROM choice").fetchall()
            assert set(kept) <= set(choices)
            assert found.choices == len(kept) >= 20
            assert "place" not in names or connection.execute("SELECT * FROM place").fetchall() == places
            if content[(page - 1) * PAGE] != 0x0D or page == 1:
                assert (kept, "place" in names) == (choices, True)
        with Journal(found.path) as journal:
            assert journal.summary()


def test_salvage_reads_what_is_only_in_the_log(tmp_path):
    path = tmp_path / "run.sqlite"
    store = SqliteStore(path)
    store.open()
    store.apply([Begin(key(0), 1.0, "uuid-0", "imageInference", "runware:400@1", b"{}")])
    copy = tmp_path / "copy.sqlite"
    for end in ("", "-wal"):
        shutil.copy(f"{path}{end}", f"{copy}{end}")
    store.close()
    with pytest.raises(JournalError, match="in use"), open_store(path):
        salvage(path, tmp_path / "no.sqlite")
    overwrite(copy, 1)
    found = salvage(copy, tmp_path / "new.sqlite")
    assert found.counts["open"] == 1


class open_store:  # noqa: N801 - a block
    def __init__(self, path):
        self.store = SqliteStore(path)

    def __enter__(self):
        self.store.open()

    def __exit__(self, *_):
        self.store.close()


def test_salvage_of_garbage_finds_nothing_invented(whole, tmp_path):
    chance = random.Random(5)
    known = {entry.fingerprint for entry in entries(whole).values()}
    for number in range(20):
        path = tmp_path / f"{number}.sqlite"
        content = bytearray(whole.read_bytes())
        for _ in range(40):
            place = chance.randrange(len(content))
            content[place] = chance.randrange(256)
        path.write_bytes(content)
        shutil.copytree(f"{whole}.media", f"{path}.media")
        kept = entries(salvage(path, tmp_path / f"{number}.new.sqlite").path)
        assert {entry.fingerprint for entry in kept.values()} <= known
        assert len(kept) > COUNT // 3


@pytest.mark.parametrize("content", [b"", b"not a journal", b"\xa5" * 3 * PAGE])
def test_salvage_where_there_is_nothing_says_so_and_makes_nothing(tmp_path, content):
    path = tmp_path / "run.sqlite"
    path.write_bytes(content)
    with pytest.raises(JournalError, match="nothing can be read"):
        salvage(path, tmp_path / "new.sqlite")
    with pytest.raises(JournalError, match="exists already"):
        salvage(path, path)
    with pytest.raises(JournalError, match="there is no journal"):
        salvage(tmp_path / "none.sqlite", tmp_path / "new.sqlite")
    assert not (tmp_path / "new.sqlite").exists()


def test_batch_after_a_salvage_buys_again_only_what_is_lost(run, tmp_path):
    path, new = tmp_path / "run.sqlite", tmp_path / "new.sqlite"
    prompts = [f"picture {number}" for number in range(300)]

    def poster(flow, prompt):
        return flow.then(art(prompt))

    async def main():
        await Batch(poster, journal=path).collect(prompts, Service())
        content = path.read_bytes()
        rows = [n for n in range(2, len(content) // PAGE + 1) if content[(n - 1) * PAGE] == 0x0D]
        overwrite(path, rows[3])
        with pytest.raises(JournalError, match=rf"is damaged.*runware-flow journal salvage {path}"):
            await Batch(poster, journal=path).collect(prompts, Service())
        found = salvage(path, new)
        assert found.lost > 0
        service = Service()
        await Batch(poster, journal=new).collect(prompts, service)
        assert len(service.sent) == found.lost

    run(main)
