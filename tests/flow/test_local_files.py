"""Where journals and caches lie, under which names, and who may read them."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading

import anyio
import pytest
from service import Service, art

from runware_flow import Cache, Flow, FlowFailed, JournalError, Ok
from runware_flow.files import local_path
from runware_flow.journal import Journal, collect, salvage
from runware_flow.journal.media import LARGE_BYTES
from runware_flow.journal.sqlite import SqliteStore
from runware_flow.journal.store import Begin, NodeKey, Settle

BEGIN = Begin(NodeKey("flow", "picture", "ab" * 32), 1.0, "uuid-a", "imageInference", "runware:400@1", b'{"seed":1}')


@pytest.fixture
def umask():
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def make_read_only(tmp_path):
    """Make a folder read-only for every user: only a mount stops root."""
    mounted = []

    def make(folder):
        if os.geteuid():
            os.chmod(folder, 0o555)
            mounted.append(lambda: os.chmod(folder, 0o755))
            return
        for command in (["--bind", folder, folder], ["-o", "remount,bind,ro", folder]):
            if subprocess.run(["mount", *map(str, command)], capture_output=True, check=False).returncode:
                pytest.skip("root may not mount here")
        mounted.append(lambda: subprocess.run(["umount", str(folder)], check=True))

    yield make
    for undo in mounted:
        undo()


def declare(journal, *prompts, **options):
    flow = Flow("local", journal=journal, **options)
    for prompt in prompts or ("a kite",):
        flow.then(art(prompt, seed=1))
    return flow


def permissions(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_journal_and_all_that_lies_beside_it_is_for_its_owner_alone(umask, tmp_path):
    path = tmp_path / "new" / "run.sqlite"
    store = SqliteStore(path)
    store.open()
    [entry] = store.apply([BEGIN])
    item = b'{"imageBase64Data":"%s"}' % (b"x" * (LARGE_BYTES + 1))
    store.apply([Settle(entry.number, 2.0, is_done=True, items=(item,))])
    found = {file.name: permissions(file) for file in path.parent.rglob("*")}
    store.close()
    assert found.keys() >= {f"run.sqlite{ending}" for ending in ("", "-wal", "-shm", "-lock", ".media")}
    assert found.pop("run.sqlite.media") == 0o700
    assert set(found.values()) == {0o600}
    made = salvage(path, path.with_name("salvaged.sqlite")).path
    assert permissions(made) == 0o600
    assert permissions(made.with_name("salvaged.sqlite.media")) == 0o700


def test_journal_keeps_the_permissions_that_its_owner_gave_it(umask, tmp_path):
    store = SqliteStore(tmp_path / "run.sqlite")
    store.open()
    store.close()
    store.path.chmod(0o640)
    store.open()
    store.close()
    assert permissions(store.path) == 0o640


def test_cache_is_for_its_owner_alone(umask, run, tmp_path):
    async def main():
        await declare(None, cache=Cache(tmp_path / "cache")).execute(Service())
        found = list((tmp_path / "cache").rglob("*"))
        assert found
        assert permissions(tmp_path / "cache") == 0o700
        assert {permissions(path) for path in found if path.is_dir()} == {0o700}
        assert {permissions(path) for path in found if path.is_file()} == {0o600}
        Cache(tmp_path / "cache", keep_media=True).open()
        assert permissions(tmp_path / "cache" / "media") == 0o700

    run(main)


def test_home_folder_in_paths_of_journals_and_caches(run, home):
    async def main():
        service = Service()
        await declare("~/runs/run.sqlite", cache="~/cache").execute(service)
        assert (home / "runs" / "run.sqlite").is_file()
        assert (home / "cache").is_dir()
        assert not (home.parent / "~").exists()
        await declare("~/runs/run.sqlite").execute(service)
        assert len(service.sent) == 1
        with Journal("~/runs/run.sqlite") as journal:
            assert journal.summary().done_count == 1
        assert salvage("~/runs/run.sqlite", "~/runs/new.sqlite").path == home / "runs" / "new.sqlite"

    run(main)


def test_home_folder_of_an_unknown_user_is_a_plain_name():
    assert str(local_path("~nobody-of-that-name/x")) == os.path.join("~nobody-of-that-name", "x")


def test_second_run_that_reaches_a_journal_through_a_link_is_refused(run, tmp_path):
    async def main():
        (tmp_path / "real").mkdir()
        path = tmp_path / "real" / "run.sqlite"
        (tmp_path / "link.sqlite").symlink_to(path)
        (tmp_path / "folder").symlink_to(tmp_path / "real")
        names = (tmp_path / "link.sqlite", tmp_path / "folder" / "run.sqlite", path)
        for first in names:
            store = SqliteStore(first)
            store.open()
            for second in names:
                with pytest.raises(JournalError, match="in use by another run"):
                    SqliteStore(second).open()
            store.close()
        service = Service()
        await declare(tmp_path / "link.sqlite").execute(service)
        await declare(path).execute(service)
        assert len(service.sent) == 1

    run(main)


def test_journal_with_a_second_name_is_one_clear_sentence(tmp_path):
    store = SqliteStore(tmp_path / "run.sqlite")
    store.open()
    os.link(tmp_path / "run.sqlite", tmp_path / "other.sqlite")
    for use in (lambda path: SqliteStore(path).open(), lambda path: Journal(path).__enter__()):
        with pytest.raises(JournalError, match="second name"):
            use(tmp_path / "other.sqlite")
    store.close()


@pytest.mark.parametrize("name", [":memory:", "file:run.sqlite?mode=memory"])
def test_name_that_sqlite_takes_for_no_file_is_refused(run, home, name):
    async def main():
        with pytest.raises(JournalError, match="Name a file"):
            await declare(name).execute(Service())
        with pytest.raises(JournalError, match="Name a file"):
            Journal(name)
        assert not list(home.parent.glob("*"))

    run(main)


def test_finished_journal_on_a_read_only_disk_is_restored_and_read(run, tmp_path, make_read_only):
    async def main():
        folder = tmp_path / "disk"
        folder.mkdir()
        path = folder / "run.sqlite"
        service = Service()

        async def later():
            return "later"

        def flow(*prompts):
            declared = declare(path, *prompts)
            declared.then(later)
            return declared

        await flow("a kite", "a boat").execute(service)
        make_read_only(folder)
        await flow("a kite", "a boat").execute(service)
        assert len(service.sent) == 2
        with Journal(path) as journal:
            assert journal.summary().done_count == 3
        assert await collect(path, service) == []
        assert salvage(path, tmp_path / "new.sqlite").counts["done"] == 3
        with pytest.raises(FlowFailed, match="cannot be written"):
            await flow("a kite", "a tower").execute(service)
        assert len(service.sent) == 2
        with pytest.raises(JournalError, match="cannot be made"):
            await declare(folder / "other.sqlite").execute(service)

    run(main)


@pytest.mark.parametrize("ending", ["", "-wal", "-lock"])
@pytest.mark.parametrize("change", ["removed", "replaced"])
def test_journal_that_is_taken_away_during_a_run_stops_it(run, tmp_path, ending, change):
    async def main():
        path = tmp_path / "run.sqlite"

        def take_away(request, count):
            file = tmp_path / f"run.sqlite{ending}"
            if count == 1:
                content = file.read_bytes()
                file.unlink()
                if change == "replaced":
                    file.with_name("new").write_bytes(content)
                    file.with_name("new").replace(file)

        service = Service(take_away)
        flow = Flow("local", journal=path, concurrency=1)
        flow.then(art("a kite")).then(lambda image: art(f"after {image.url}"))
        with pytest.raises(FlowFailed, match="removed or replaced") as caught:
            await flow.execute(service)
        assert len(service.sent) == 1
        assert isinstance(caught.value.__cause__, JournalError)

    run(main)


def test_command_line_takes_the_home_folder_too(home):
    done = subprocess.run(
        [sys.executable, "-m", "runware_flow", "journal", "salvage", "~/none.sqlite"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ},
    )
    assert f"there is no journal {home / 'none.sqlite'}" in done.stderr


class SlowStore(SqliteStore):
    """Holds each group until it is released."""

    def __init__(self, path):
        super().__init__(path)
        self.arrived = threading.Event()
        self.released = threading.Event()
        self.groups = []

    def apply(self, changes):
        self.arrived.set()
        assert self.released.wait(20)
        self.groups.append(len(changes))
        return super().apply(changes)


def test_cancel_while_a_value_is_being_written_loses_neither_the_value_nor_the_record(run, tmp_path):
    async def main():
        store = SlowStore(tmp_path / "run.sqlite")

        async def later():
            return "later"

        flow = Flow("cancelled", journal=store)
        node = flow.then(later)
        with anyio.CancelScope() as scope:
            async with flow.start(Service()) as started:
                await anyio.to_thread.run_sync(store.arrived.wait, 20)
                scope.cancel()
                store.released.set()
        assert started.result.outcome(node) == Ok("later")
        with Journal(store.path) as journal:
            assert [entry.results for entry in journal.entries()] == [["later"]]

    run(main)


def test_functions_of_a_new_journal_are_written_in_whole_groups_and_not_looked_up(run, tmp_path):
    async def main():
        async def double(number: int) -> int:
            return 2 * number

        store = SlowStore(tmp_path / "run.sqlite")
        store.released.set()
        flow = Flow("many", journal=store, concurrency=16)
        many = flow.map(range(160), double)
        result = await flow.execute()
        assert result[many] == [2 * number for number in range(160)]
        assert sum(store.groups) == 160
        assert len(store.groups) <= 60

    run(main)
