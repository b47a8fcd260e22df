"""Batches: any source, outcomes as they come, bounded windows, failures, resuming, memory."""

from __future__ import annotations

import gc
import tracemalloc

import anyio
import anyio.lowlevel
import pytest
from service import Service, art, caption, upscale

from runware_flow import Batch, Client, DeclarationError, Failed, Flow, FlowFailed, Node, Ok, RunwareError
from runware_flow.emulator import Emulator
from runware_flow.journal import Journal


def poster(flow: Flow, prompt: str) -> Node:
    return flow.then(art(prompt)).then(upscale).then(caption)


def variants(flow: Flow, prompt: str) -> Node:
    """Not a chain: two pictures beside each other, and a fan-out."""
    pictures = flow.map([f"{prompt}, one", f"{prompt}, two"], art)
    return pictures.then(caption).gather()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "batch.sqlite"


async def drain(batch, items, client):
    async with batch.run(items, client) as outcomes:
        found = [item async for item in outcomes]
    return sorted(found, key=lambda item: item.index), outcomes.report


def prompts(count):
    return [f"picture {number}" for number in range(count)]


async def many(count):
    for number in range(count):
        yield f"picture {number}"


@pytest.mark.parametrize(
    "source", [prompts(20), (p for p in prompts(20)), lambda: prompts(20), lambda: many(20), lambda: iter(prompts(20))]
)
def test_batch_takes_any_source_and_says_of_which_item_each_outcome_is(backend, source):
    async def main():
        service = Service()
        found, report = await drain(Batch(poster, concurrency=4), source, service)
        assert [(item.index, item.input) for item in found] == list(enumerate(prompts(20)))
        assert all(item.input in item.outcome.value.text for item in found)
        assert (report.ok_count, report.failed_count, len(service.sent)) == (20, 0, 60)
        assert report.cost == pytest.approx(60 * 0.0012)
        assert [line.count for line in report.receipt()] == [20, 20, 20]
        assert service.most_in_flight <= 4

    if not callable(source) and not isinstance(source, list) and backend == "trio":
        pytest.skip("the iterator was read by the first backend")
    anyio.run(main, backend=backend)


def test_batch_items_of_any_shape_run_in_full(run):
    async def main():
        service = Service()
        found, report = await drain(Batch(variants, concurrency=3), prompts(6), service)
        assert all(["one" in text.text, "two" in text.text] for item in found for text in [item.outcome.value[0]])
        assert len(service.sent) == 24
        assert report.cost == pytest.approx(24 * 0.0012)

    run(main)


def test_batch_pulls_no_further_than_its_window_while_outcomes_are_unread(run):
    pulled = []

    def source():
        for number in range(1000):
            pulled.append(number)
            yield f"picture {number}"

    async def main():
        async with Batch(poster, concurrency=5).run(source, Service()) as outcomes:
            for _ in range(200):
                await anyio.lowlevel.checkpoint()
            assert len(pulled) <= 15
            count = 0
            async for _ in outcomes:
                count += 1
                assert len(pulled) <= count + 15
            assert count == 1000

    run(main)


def test_batch_continue_gives_failures_as_outcomes(run):
    async def main():
        service = Service(broken)
        found, report = await drain(Batch(poster, on_error="continue"), prompts(10), service)
        assert [isinstance(item.outcome, Failed) for item in found] == [number == 3 for number in range(10)]
        assert found[3].error.raw_code == "invalidSeed"
        assert (report.ok_count, report.failed_count) == (9, 1)
        assert report.failures == [found[3]]

    run(main)


def broken(request, count):
    is_third = "picture 3" in str(request.wire)
    return RunwareError("no", code="validation", raw_code="invalidSeed") if is_third else None


@pytest.mark.parametrize("on_error", ["stop", "cancel"])
def test_batch_stop_pulls_nothing_more_and_names_the_item(run, on_error):
    pulled = []

    def source():
        for number in range(100):
            pulled.append(number)
            yield f"picture {number}"

    async def main():
        batch = Batch(poster, concurrency=4, on_error=on_error)
        seen = []
        with pytest.raises(FlowFailed, match=r"batch 'poster': item 3 failed: no") as caught:
            async with batch.run(source, Service(broken)) as outcomes:
                async for item in outcomes:
                    seen.append(item.index)
        assert 3 in seen
        assert len(pulled) < 20
        assert caught.value.__cause__.raw_code == "invalidSeed"
        assert caught.value.result.failed_count == 1
        with pytest.raises(FlowFailed):
            await batch.collect(source, Service(broken))

    run(main)


def test_batch_resumes_a_generator_where_it_left_off_with_another_concurrency(run, path):
    async def main():
        async with Emulator(latency=0.02) as emulator, Client(**emulator.client_options) as client:
            first = []
            async with Batch(poster, concurrency=8, journal=path).run(iter(prompts(40)), client) as outcomes:
                async for item in outcomes:
                    first.append(item)
                    if len(first) == 10:
                        break
            found, report = await drain(Batch(poster, concurrency=3, journal=path), iter(prompts(40)), client)
            assert all(f'"{item.input}"' in item.outcome.value.text for item in found)
            assert [item.index for item in found] == list(range(40))
            for item in first:
                assert found[item.index].outcome == item.outcome
            assert len(emulator.log.tasks) == 120
            assert report.cost == pytest.approx(emulator.log.billed)

    run(main)


def test_one_slow_item_among_finished_ones_holds_up_no_other_of_a_resumed_batch(run, path):
    def one(flow, prompt):
        return flow.then(art(prompt))

    async def main():
        first = prompts(8)
        await drain(Batch(one, journal=path, concurrency=4), [*first[:1], *first[2:]], Service())
        gate = anyio.Event()
        service = Service(lambda request, count: gate.wait() if request.wire["positivePrompt"] == first[1] else None)
        found = []
        async with Batch(one, journal=path, concurrency=4).run(prompts(20), service) as outcomes:
            async for item in outcomes:
                found.append(item.index)
                if len(found) == 19:
                    gate.set()
        assert sorted(found) == list(range(20))
        assert found[-1] == 1

    run(main)


def test_batch_items_are_identified_by_content_also_below_a_new_one_and_among_equals(run, path):
    async def main():
        service = Service()
        await drain(Batch(poster, journal=path), ["a kite", "a kite", "a boat"], service)
        assert len(service.sent) == 9
        again = Service()
        found, _ = await drain(Batch(poster, journal=path), ["a tower", "a boat", "a kite", "a kite", "a kite"], again)
        assert len(again.sent) == 6
        assert len({item.key for item in found}) == 5
        assert all(isinstance(item.outcome, Ok) for item in found)

    run(main)


def test_batch_key_names_the_items_in_the_journal(run, path):
    async def main():
        batch = Batch(
            lambda flow, row: poster(flow, row["prompt"]), key=lambda row: row["id"], journal=path, name="rows"
        )
        await drain(batch, [{"id": "r1", "prompt": "a kite"}], Service())
        with Journal(path) as journal:
            paths = {entry.path for entry in journal.entries(flow="rows")}
        assert paths == {f"item[r1]/{name}" for name in ("imageInference", "upscale", "caption")}

    run(main)


def test_batch_builder_that_returns_no_node_is_a_clear_error(run):
    async def main():
        for builder in (lambda flow, item: None, lambda flow, item: Flow().then(art()), lambda flow, item: art()):
            with pytest.raises(DeclarationError, match="return a node of the flow"):
                await Batch(builder, name="odd").collect(["a kite"], Service())

        def fails(flow, item):
            raise ValueError("no such row")

        found, _ = await drain(Batch(fails, on_error="continue"), ["a kite"], Service())
        assert isinstance(found[0].error, ValueError)

    run(main)
    with pytest.raises(DeclarationError, match=r"Batch, declared at .*test_batch\.py"):
        Batch(lambda flow: None)
    with pytest.raises(DeclarationError, match="concurrency="):
        Batch(poster, concurrency=0)


def test_batch_source_that_raises_raises_as_itself(run):
    def source():
        yield "a kite"
        raise LookupError("the table is gone")

    async def main():
        with pytest.raises(LookupError, match="the table is gone"):
            await Batch(poster).collect(source, Service())

    run(main)


@pytest.mark.exhaustive
def test_batch_memory_does_not_grow_with_its_length(run):
    async def plain(item):
        return item + 1

    def builder(flow, item):
        async def work():
            return await plain(item)

        return flow.then(work)

    async def main():
        sizes = []

        def source():
            for number in range(6000):
                if number in (1000, 5900):
                    gc.collect()
                    sizes.append(tracemalloc.get_traced_memory()[0])
                yield number

        tracemalloc.start()
        try:
            report = await Batch(builder, concurrency=8).collect(source)
        finally:
            tracemalloc.stop()
        assert report.ok_count == 6000
        assert sizes[1] - sizes[0] < 60 * 4900

    run(main)


def test_batch_goes_on_with_other_models_while_items_wait_for_one_that_refuses(run):
    """Items that wait for a send window keep no place; four times `concurrency` are unfinished at most."""

    async def main():
        refused = "reject:task_type=upscale,code=rateLimitExceeded,status=429"
        async with Emulator(latency=0.01, faults=[refused]) as emulator:
            async with Client(**emulator.client_options, retry_delay=5.0, max_retries=0) as client:
                pulled: list[str] = []

                def source():
                    for number in range(60):
                        pulled.append(f"{'slow' if number < 15 else 'quick'} {number}")
                        yield pulled[-1]

                def builder(flow: Flow, name: str) -> Node:
                    picture = flow.then(art(name))
                    return picture.then(upscale) if name.startswith("slow") else picture

                found = []
                with anyio.move_on_after(20) as scope:  # the slow ones would be refused for ever
                    async with Batch(builder, concurrency=4).run(source(), client) as outcomes:
                        async for item in outcomes:
                            found.append(item.input)
                            assert len(pulled) - len(found) <= 16
                            if len(found) == 45:
                                scope.cancel()
                assert sorted(found) == sorted(name for name in pulled if name.startswith("quick"))
                assert len(emulator.log.rejected) >= 4, "too few were refused for a test"

    run(main)
