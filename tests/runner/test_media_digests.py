"""What a request with a local file is known by: the content, wherever the file lies and whenever it was written."""

from __future__ import annotations

import os
import threading
from functools import lru_cache
from io import BytesIO
from types import SimpleNamespace

import anyio
import pytest
from PIL import Image

from runware_flow import Batch, Client, Flow, Ok
from runware_flow.emulator import Emulator
from runware_flow.runner import media_digests as media_digests_module
from runware_flow.runner import request_runner
from runware_flow.runner.media_digests import has_local_media, media_digests, media_times, read_media
from runware_flow.wire.codec import LocalMedia


def request_of(source):
    return SimpleNamespace(local_media=(LocalMedia(("inputs", "image"), source),))


def digest(source, of=media_digests):
    ((place, found),) = of(request_of(source))
    assert place == "inputs.image"
    return found


def test_file_is_known_by_its_content_wherever_it_lies(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    first, copy, link = tmp_path / "a.png", tmp_path / "b.png", tmp_path / "c.png"
    first.write_bytes(b"a kite")
    found = digest(first)
    copy.write_bytes(b"a kite")
    link.symlink_to(first)
    os.utime(first, (1, 1))
    assert {digest(one) for one in (first, str(first), copy, link, "./a.png", "~/a.png", b"a kite")} == {found}
    copy.write_bytes(b"a boat")
    os.utime(copy, (1, 1))
    assert digest(copy) != found
    assert digest(copy, media_times) == f"{copy}:6:{10**9}"


def test_file_that_changes_keeps_nothing_of_what_it_was(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"a kite")
    before = path.stat()
    first = digest(path)
    other = tmp_path / "new.png"
    other.write_bytes(b"a boat")
    other.replace(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert digest(path) not in (first, "")
    path.unlink()
    assert digest(path) == str(path)


def test_pipe_is_not_read(tmp_path):
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    assert digest(pipe) == digest(pipe, media_times)


def test_file_is_read_once(run, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"a kite")

    async def main():
        await read_media(request_of(path))
        misses = media_digests_module._hash.cache_info().misses
        assert digest(path) == digest(b"a kite")
        assert media_digests_module._hash.cache_info().misses == misses
        assert not has_local_media(SimpleNamespace())

    run(main)


def picture(colour):
    file = BytesIO()
    Image.new("RGB", (64, 64), colour).save(file, "png")
    return file.getvalue()


def declare(path, **options):
    flow = Flow("posters", **options)
    wire = {"taskType": "caption", "model": "runware:150@2", "inputs": {"image": str(path)}}
    return flow, flow.then(wire)


@pytest.mark.parametrize("kept", ["journal", "cache"])
def test_copy_of_a_file_and_a_touched_one_buy_nothing_again(run, tmp_path, kept):
    first, copy = tmp_path / "a.png", tmp_path / "b.png"
    first.write_bytes(picture("red"))
    copy.write_bytes(picture("red"))
    options = {kept: tmp_path / "kept"}

    async def main():
        async with Emulator() as emulator, Client(**emulator.client_options) as client:
            for path in (first, copy, first):
                flow, node = declare(path, **options)
                result = await flow.execute(client)
                assert result[node].text
                os.utime(first, (1, 1))
            assert len(emulator.log.asked) == 1
            copy.write_bytes(picture("blue"))
            flow, node = declare(copy, **options)
            await flow.execute(client)
            assert len(emulator.log.asked) == 2

    run(main)


def test_journal_that_knows_files_by_their_times_buys_nothing_again(run, tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(picture("red"))

    async def main():
        async with Emulator() as emulator, Client(**emulator.client_options) as client:
            with monkeypatch.context() as earlier:
                earlier.setattr(request_runner, "media_digests", media_times)  # as versions before did
                flow, _ = declare(path, journal=tmp_path / "run.sqlite")
                await flow.execute(client)
            for _ in range(2):
                flow, node = declare(path, journal=tmp_path / "run.sqlite")
                result = await flow.execute(client)
                assert result.record(node).is_restored
            assert len(emulator.log.asked) == 1

    run(main)


@pytest.fixture
def readings(monkeypatch):
    """The threads in which files are read, one for each reading; `.forget()` is what a new process begins with."""
    read, threads = media_digests_module._hash.__wrapped__, []

    @lru_cache
    def noted(path, *state):
        threads.append(threading.get_ident())
        return read(path, *state)

    monkeypatch.setattr(media_digests_module, "_hash", noted)
    return SimpleNamespace(threads=threads, forget=noted.cache_clear)


def caption(path):
    return {"taskType": "caption", "model": "runware:150@2", "inputs": {"image": str(path)}}


def pictures(folder, *colours):
    files = [folder / f"{colour}.png" for colour in colours]
    for path, colour in zip(files, colours, strict=True):
        path.write_bytes(picture(colour))
    return files


def test_files_of_a_node_and_of_its_fallback_are_read_in_threads_as_its_record_is_looked_up(run, tmp_path, readings):
    files = pictures(tmp_path, "red", "blue")

    async def main():
        async with Emulator(faults=["fail:times=1"]) as emulator, Client(**emulator.client_options) as client:
            for _ in range(3):
                readings.forget()
                flow = Flow("posters", journal=tmp_path / "run.sqlite")
                node = flow.then(lambda: caption(files[0]), fallback=lambda: caption(files[1]))
                result = await flow.execute(client)
                assert result[node].text
            assert [entry.cost > 0 for entry in emulator.log.asked] == [False, True]
            assert len(readings.threads) == 6
            assert threading.get_ident() not in readings.threads

    run(main)


def test_files_of_races_are_read_in_threads_also_those_of_contestants_that_were_not_sent(run, tmp_path, readings):
    files = pictures(tmp_path, "red", "blue", "green", "black")

    async def main():
        async with Emulator() as emulator, Client(**emulator.client_options) as client:
            for _ in range(2):
                readings.forget()
                flow = Flow("posters", journal=tmp_path / "run.sqlite", concurrency=1)
                races = [flow.race(*(flow.then(caption(path)) for path in pair)) for pair in (files[:2], files[2:])]
                result = await flow.execute(client)
                assert all(result[race].text for race in races)
            assert len(emulator.log.asked) == 2
            assert len(readings.threads) == 8
            assert threading.get_ident() not in readings.threads

    run(main)


def test_files_of_a_batch_are_read_in_threads_as_its_items_are_restored(run, tmp_path, readings):
    files = pictures(tmp_path, "red", "blue")
    batch = Batch(lambda flow, path: flow.then(caption(path)), name="captions", journal=tmp_path / "run.sqlite")

    async def main():
        async with Emulator() as emulator, Client(**emulator.client_options) as client:
            for _ in range(2):
                readings.forget()
                async with batch.run(files, client) as outcomes:
                    assert all([isinstance(item.outcome, Ok) async for item in outcomes])
            assert len(emulator.log.asked) == 2
            assert len(readings.threads) == 4
            assert threading.get_ident() not in readings.threads

    run(main)


def test_file_of_requests_that_begin_together_is_read_once(run, tmp_path, readings):
    path = tmp_path / "a.png"
    path.write_bytes(bytes(8_000_000))

    async def main():
        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(read_media, request_of(path))
        assert len(readings.threads) == 1

    run(main)
