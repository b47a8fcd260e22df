"""The cache: which requests it may answer, equal requests in flight, missing files, use by several processes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import anyio
import anyio.lowlevel
import msgspec
import pytest
from service import Service, art, caption, upscale

from runware_flow import (
    Batch,
    Cache,
    Client,
    DeclarationError,
    Flow,
    FlowFailed,
    MediaResult,
    RunwareError,
)
from runware_flow.cache import single_flight
from runware_flow.cache.store import Cached
from runware_flow.emulator import Emulator
from runware_flow.graph.caching import may_be_cached
from runware_flow.graph.events import NodeSettled
from runware_flow.journal import Journal
from runware_flow.journal.sqlite import SqliteStore

NO = RunwareError("no", code="provider", raw_code="providerError")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


def chain(folder, seed=7, **options):
    flow = Flow("cached", cache=folder, **options)
    picture = flow.then(art("a kite", **({} if seed is None else {"seed": seed})))
    text = picture.then(upscale).then(caption)
    return flow, picture, text


@pytest.mark.parametrize(
    ("wire", "policy", "may"),
    [
        ({"taskType": "imageInference", "seed": 7}, None, True),
        ({"taskType": "imageInference"}, None, False),
        ({"taskType": "imageInference", "seed": None}, None, False),
        ({"taskType": "imageInference"}, True, True),
        ({"taskType": "imageInference", "seed": 7}, False, False),
        ({"taskType": "textInference"}, None, False),
        ({"taskType": "caption"}, None, True),
        ({"taskType": "upscale"}, None, True),
        ({"taskType": "removeBackground"}, None, True),
        ({"taskType": "promptEnhance"}, None, False),
        ({"taskType": "training", "seed": 7}, None, False),
        ({"taskType": "caption", "webhookURL": "https://x"}, None, False),
        ({"taskType": "caption", "uploadEndpoint": "https://x"}, None, False),
    ],
)
def test_rule_of_what_may_be_cached(wire, policy, may):
    assert may_be_cached(wire, policy) is may


def test_second_run_sends_nothing_costs_nothing_and_says_so(run, folder):
    async def main():
        flow, picture, text = chain(folder)
        first = await flow.execute(Service())
        assert first.cost == pytest.approx(0.0036)
        events, service = [], Service()
        other, picture, text = chain(str(folder), progress=events.append)
        second = await other.execute(service)
        assert not service.sent
        assert second.cost == 0
        assert second.receipt() == []
        assert second[text].text == "caption of upscale(imageInference(a kite))"
        assert isinstance(second[picture], MediaResult)
        assert second.record(text).is_cached
        assert second.record(text).cost == 0
        settled = [event for event in events if isinstance(event, NodeSettled)]
        assert [(event.is_cached, event.is_restored, event.cost) for event in settled] == [(True, False, 0)] * 3

    run(main)


def test_without_a_seed_ten_equal_pictures_stay_ten_and_what_follows_is_not_shared(run, folder):
    async def main():
        service = Service()
        flow = Flow("ten", cache=folder)
        flow.map(["a kite"] * 10, art)
        await flow.execute(service)
        assert len(service.sent) == 10

    run(main)


def test_policy_of_the_node_decides(run, folder):
    async def main():
        for _ in range(2):
            service = Service()
            flow = Flow("policy", cache=folder)
            flow.then(art("kept"), cache=True)
            flow.then(art("never", seed=7), cache=False)
            await flow.execute(service)
        assert [request.wire["positivePrompt"] for request in service.sent] == ["never"]

    run(main)
    with pytest.raises(DeclarationError, match="cache= of a node is True, False or None"):
        Flow().then(art(), cache="dir")


def test_execute_overrides_and_a_changed_request_is_another(run, folder):
    async def main():
        flow, _, _ = chain(None)
        await flow.execute(Service(), cache=folder)
        again = Service()
        await flow.execute(again)
        assert len(again.sent) == 3
        other, _, _ = chain(folder, seed=8)
        changed = Service()
        await other.execute(changed)
        # The emulated picture does not show its seed, so what follows asks for the same.
        assert [request.task_type for request in changed.sent] == ["imageInference"]

    run(main)


def test_equal_requests_in_flight_are_sent_once_and_hold_no_worker(run, folder):
    async def main():
        release, asked = anyio.Event(), anyio.Event()

        async def slow():
            asked.set()
            await release.wait()

        service = Service(lambda request, count: slow() if request.wire.get("seed") else None)
        flow = Flow("twins", cache=folder, concurrency=2)
        twins = flow.map(range(20), lambda _: art("the same", seed=7))
        other = flow.then(art("another"))
        async with flow.start(service) as handle:
            await asked.wait()
            with anyio.fail_after(5):
                while handle.result._machine.ok_count < 1:  # with two workers: one waits, the other is free
                    await anyio.lowlevel.checkpoint()
            assert len(service.sent) == 2
            release.set()
        assert len(service.sent) == 2
        assert len({image.image_uuid for image in handle.result[twins]}) == 1
        assert handle.result[other].image_url
        assert handle.result.cost == pytest.approx(2 * 0.0012)

    run(main)


def test_request_equal_to_one_that_fails_is_sent_next(run, folder):
    async def main():
        service = Service(lambda request, count: NO if count == 1 else None)
        flow = Flow("twins", cache=folder, on_error="continue")
        twins = flow.map(range(5), lambda _: art("the same", seed=7))
        result = await flow.execute(service)
        assert len(service.sent) == 2
        assert sum(type(outcome).__name__ == "Ok" for outcome in result.outcomes(twins)) == 4

    run(main)


@pytest.mark.parametrize("on_error", ["stop", "cancel"])
def test_run_that_stops_leaves_no_equal_request_waiting(run, folder, on_error):
    async def main():
        service = Service(lambda request, count: NO)
        flow = Flow("twins", cache=folder, on_error=on_error, concurrency=4)
        flow.map(range(50), lambda _: art("the same", seed=7))
        with pytest.raises(FlowFailed), anyio.fail_after(10):
            await flow.execute(service)

    run(main)


def test_batch_items_share_a_cache_and_send_equal_requests_once(run, folder):
    def poster(flow, prompt):
        return flow.then(art(prompt, seed=7)).then(upscale)

    async def main():
        service = Service()
        report = await Batch(poster, cache=folder, concurrency=8).collect(["a", "b"] * 10, service)
        assert report.ok_count == 20
        assert len(service.sent) == 4

    run(main)


def test_batch_item_past_its_deadline_lets_equal_requests_go_on(run, folder):
    async def main():
        async def never():
            await anyio.sleep_forever()

        def poster(flow, prompt):
            return flow.then(art("the same", seed=7))

        service = Service(lambda request, count: never() if count == 1 else None)
        batch = Batch(poster, cache=folder, deadline=0.3, on_error="continue", concurrency=3)

        def late():
            yield 0
            yield 1

        found = []
        with anyio.fail_after(10):
            async with batch.run(late, service) as outcomes:
                async for item in outcomes:
                    found.append(item.is_failed)
        assert found.count(True) >= 1
        assert len(service.sent) <= 2

    run(main)


def test_journal_and_cache_a_cached_result_is_journalled_at_no_cost(run, folder, tmp_path):
    async def main():
        path = tmp_path / "run.sqlite"
        await chain(folder)[0].execute(Service())
        flow, _, text = chain(folder, journal=path)
        await flow.execute(Service())
        with Journal(path) as journal:
            assert journal.summary().cost == 0
            assert journal.summary().done_count == 3
        service = Service()
        alone, _, text = chain(None, journal=path)
        result = await alone.execute(service)
        assert not service.sent
        assert result.record(text).is_restored
        assert result.cost == 0

    run(main)


def test_request_that_is_open_in_the_journal_is_collected_though_the_cache_has_it(run, folder, tmp_path):
    async def main():
        path = tmp_path / "run.sqlite"
        flow, _, _ = chain(None, journal=path)
        with pytest.raises(FlowFailed):
            lost = RunwareError("lost", code="connection", raw_code="connectionLost")
            await flow.execute(Service(lambda request, count: lost))
        await chain(folder)[0].execute(Service())
        service = Service()
        await chain(folder, journal=path)[0].execute(service)
        assert [request.task_type for request in service.sent] == ["imageInference"]
        assert service.sent_before == ["yes"]

    run(main)


def test_damaged_file_counts_as_missing_and_is_replaced(run, folder):
    async def main():
        await chain(folder)[0].execute(Service())
        files = sorted(folder.glob("*/*.json"))
        assert len(files) == 3
        files[0].write_bytes(files[0].read_bytes()[:-20])
        files[1].write_bytes(b"")
        files[2].write_bytes(os.urandom(100))
        service = Service()
        await chain(folder)[0].execute(service)
        assert len(service.sent) == 3
        again = Service()
        await chain(folder)[0].execute(again)
        assert not again.sent
        assert not list(folder.glob("**/*.part"))

    run(main)


def test_folder_that_cannot_be_used_is_one_clear_error(run, tmp_path):
    (tmp_path / "file").write_text("x")

    async def main():
        with pytest.raises(DeclarationError, match=r"cache= names .*file.*, which cannot be used"):
            await Flow(cache=tmp_path / "file").execute(Service())

    run(main)
    with pytest.raises(DeclarationError, match="cache= is the path of a folder"):
        Flow(cache=3)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), LookupError("of a store of the user's")])
def test_result_is_returned_though_the_cache_cannot_keep_it(run, caplog, error):
    class Full:
        def get(self, key):
            return None

        def put(self, answer):
            raise error

        def drop(self, key): ...

    async def main():
        flow, _, text = chain(Full())
        assert (await flow.execute(Service()))[text].text

    run(main)
    assert [record.message for record in caplog.records if "could not be kept" in record.message]


def test_key_and_webhook_are_not_in_the_cache(run, folder):
    async def main():
        async with Emulator(latency=0.0) as emulator, Client(**emulator.client_options) as client:
            flow, _, text = chain(folder)
            result = await flow.execute(client)
            again = await flow.execute(client)
            assert again[text].text == result[text].text
            assert len(emulator.log.tasks) == 3
            key = emulator.client_options["api_key"]
        content = b"".join(path.read_bytes() for path in folder.glob("*/*.json"))
        assert content
        assert key.encode() not in content

    run(main)


def age(folder, seconds):
    """Make all answers older."""
    cache = Cache(folder)
    for path in folder.glob("[0-9a-f][0-9a-f]/*.json"):
        answer = cache.get(path.stem)
        cache.put(msgspec.structs.replace(answer, made_at=time.time() - seconds))


def test_missing_files_are_noticed_and_made_again(run, folder):
    """Older answers are asked for; a `ttl` is believed without asking."""

    async def main():
        async with Emulator(latency=0.0) as emulator, Client(**emulator.client_options) as client:
            flow = Flow("gone", cache=folder)
            picture = flow.then(art("a kite", seed=7))
            await flow.execute(client)
            age(folder, 2 * single_flight._FRESH_SECONDS)
            assert (await flow.execute(client)).record(picture).is_cached  # still there
            [path] = folder.glob("*/*.json")
            cache = Cache(folder)
            answer = cache.get(path.stem)
            dead = bytes(answer.items[0]).replace(b".jpg", b"-gone.jpg")
            cache.put(msgspec.structs.replace(answer, items=(msgspec.Raw(dead),)))
            assert not (await flow.execute(client)).record(picture).is_cached
            assert (await flow.execute(client)).record(picture).is_cached
            cache.put(msgspec.structs.replace(cache.get(path.stem), expires_at=time.time() + 5))
            assert not (await flow.execute(client)).record(picture).is_cached

    run(main)


def test_kept_media_are_read_from_the_folder_and_given_to_tasks(run, folder, tmp_path):
    async def main():
        async with Emulator(latency=0.0) as emulator, Client(**emulator.client_options) as client:
            cache = Cache(folder, keep_media=True)
            flow = Flow("kept", cache=cache)
            picture = flow.then(art("a kite", seed=7))
            content = await client.read((await flow.execute(client))[picture])
            [kept] = (folder / "media").iterdir()
            assert kept.suffix == ".jpg"
            assert kept.read_bytes() == content
            [path] = folder.glob("[0-9a-f][0-9a-f]/*.json")
            answer = cache.get(path.stem)
            dead = bytes(answer.items[0]).replace(b".jpg", b"-gone.jpg")
            cache.put(msgspec.structs.replace(answer, items=(msgspec.Raw(dead),), made_at=0.0))
            result = await flow.execute(client)
            assert result.record(picture).is_cached
            assert await client.read(result[picture]) == content
            saved = await client.save(result[picture], tmp_path / "again")
            assert saved.read_bytes() == content
            follow = Flow("follow", cache=cache)
            text = follow.then(art("a kite", seed=7)).then(caption)
            assert "a kite" not in emulator.log.tasks[-1].task_type
            done = await follow.execute(client)
            assert done[text].text

    run(main)


def test_prune_forgets_what_is_old_with_its_media(folder):
    cache = Cache(folder)
    cache.open()
    media = cache.media_path("x.jpg")
    media.parent.mkdir()
    media.write_bytes(b"x")
    for number in range(3):
        key = f"{number:064x}"
        cache.put(Cached(key, 1.0, (msgspec.Raw(b"{}"),), files=("x.jpg",) if number == 0 else ()))
        os.utime(folder / key[:2] / f"{key}.json", (100.0 * number, 100.0 * number))
    assert cache.prune(older_than=time.time() - 150) == 2
    assert [cache.get(f"{number:064x}") is None for number in range(3)] == [True, True, False]
    assert not media.exists()


def test_prune_takes_what_a_crash_left_and_nothing_of_others(folder):
    cache = Cache(folder)
    cache.put(Cached("ab" * 32, 1.0, (msgspec.Raw(b"{}"),)))
    media = cache.media_path("x").parent
    media.mkdir()
    theirs = [folder / "ab" / "abstract.json", folder / "ab" / f"{'cd' * 32}.json", folder / "ab" / "notes.part"]
    left = [folder / "ab" / ".abab.json.01.part", media / ".cd-0.02.part"]
    for path in (*theirs, *left):
        path.write_text("{}")
        os.utime(path, (0, 0))
    being_written = folder / "ab" / ".abab.json.03.part"
    being_written.write_text("{}")
    assert cache.prune(older_than=30) == 0
    assert all(path.exists() for path in (*theirs, being_written))
    assert not any(path.exists() for path in left)


def test_two_processes_write_the_same_answer_at_once(tmp_path):
    """Every read sees one whole answer."""
    cache = Cache(tmp_path)
    key = "ab" * 32
    answers = [Cached(key, float(n), (msgspec.Raw(b'{"a":"%s"}' % (b"x" * 50_000 * n)),)) for n in (1, 2)]

    async def main():
        async def write(answer):
            for _ in range(50):
                await anyio.to_thread.run_sync(cache.put, answer)

        async with anyio.create_task_group() as group:
            for answer in answers:
                group.start_soon(write, answer)
            for _ in range(100):
                found = await anyio.to_thread.run_sync(Cache(Path(tmp_path)).get, key)
                assert found is None or found.made_at in (1.0, 2.0)
        assert cache.get(key) in answers

    anyio.run(main)


def test_answer_of_the_cache_is_never_on_record_as_open(run, folder, tmp_path):
    """A run that is stopped between two writes would leave a request that the next one sends."""
    states = []

    class Watched(SqliteStore):
        def apply(self, changes):
            answers = super().apply(changes)
            with Journal(tmp_path / "run.sqlite") as journal:
                states.append([entry.state for entry in journal.entries()])
            return answers

    async def main():
        flow = Flow("warm", cache=folder)
        flow.then(art("equal", seed=1))
        await flow.execute(Service())
        flow = Flow("again", cache=folder, journal=Watched(tmp_path / "run.sqlite"))
        flow.then(art("equal", seed=1))
        service = Service()
        await flow.execute(service)
        assert service.sent == []
        assert states[-1] == ["done"]
        assert not any("open" in one for one in states)

    run(main)
