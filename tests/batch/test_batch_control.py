"""How a batch is steered: shared nodes, leaving early, deadlines, tolerance, numbers."""

from __future__ import annotations

import json
import threading

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from service import Service, art, caption, upscale

from runware_flow import Abandoned, Batch, DeclarationError, Failed, Flow, FlowFailed, Node, Ok, RunwareError
from runware_flow.graph.events import NodeSettled, RunFinished
from runware_flow.journal import Journal
from runware_flow.journal.sqlite import SqliteStore
from runware_flow.tasks import ImageInference
from runware_flow.view.progress import ProgressBoard


def poster(flow: Flow, prompt: str) -> Node:
    return flow.then(art(prompt)).then(upscale).then(caption)


def style(flow: Flow) -> Node:
    return flow.then(art("the style"), label="style")


def styled(flow: Flow, prompt: str, image) -> Node:
    return flow.then(ImageInference(model="runware:400@1", positive_prompt=prompt, inputs={"referenceImages": [image]}))


def prompts(count):
    return [f"picture {number}" for number in range(count)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "batch.sqlite"


def fails_at(*numbers):
    def answer(request, count):
        asked = [f"picture {number}" for number in numbers]
        is_bad = request.wire.get("positivePrompt") in asked
        return RunwareError("no", code="validation", raw_code="invalidSeed") if is_bad else None

    return answer


async def drain(batch, items, client, **more):
    async with batch.run(items, client, **more) as outcomes:
        found = [item async for item in outcomes]
    return sorted(found, key=lambda item: item.index), outcomes


def test_shared_node_is_made_once_for_all_items_and_all_runs(run, path):
    async def main():
        service = Service()
        batch = Batch(styled, journal=path, concurrency=8)
        found, outcomes = await drain(batch, prompts(20), service, shared=style)
        assert [request.wire["positivePrompt"] for request in service.sent].count("the style") == 1
        assert service.sent[0].wire["positivePrompt"] == "the style"
        made = {request.wire["inputs"]["referenceImages"][0] for request in service.sent[1:]}
        assert made == {"imageInference(the style)"}
        assert len(found) == 20
        assert outcomes.report.cost == pytest.approx(21 * 0.0012)
        again = Service()
        report = await batch.collect(prompts(21), again, shared=style)
        assert len(again.sent) == 1
        assert (report.restored_count, report.cost) == (20, pytest.approx(22 * 0.0012))
        with Journal(path) as journal:
            assert next(journal.entries()).path == "shared/style"

    run(main)


def test_shared_node_that_fails_fails_the_batch_before_the_first_item(run):
    def answer(request, count):
        return RunwareError("no style", code="validation", raw_code="invalidSeed")

    async def main():
        pulled = []

        def source():
            pulled.append(1)
            yield "a kite"

        with pytest.raises(FlowFailed, match=r"batch 'styled': what its items share failed: no style"):
            await Batch(styled, on_error="continue").collect(source, Service(answer), shared=style)
        assert not pulled

    run(main)


def test_shared_node_on_the_path_that_is_not_taken_is_one_clear_error(run):
    def untaken(flow):
        ends = []
        flow.then(art()).branch(lambda _: False, lambda n: ends.append(n.then(caption)) or ends[0], lambda n: n)
        return ends[0]

    async def main():
        with pytest.raises(FlowFailed, match=r"which shared= returned, has no result: .* took the other path"):
            await Batch(styled, on_error="continue").collect(prompts(2), Service(), shared=untaken)

    run(main)


def test_shared_needs_a_builder_with_a_third_argument():
    with pytest.raises(DeclarationError, match="has no shared=, but its builder takes a third argument"):
        Batch(styled).run(prompts(1))
    with pytest.raises(DeclarationError, match="its builder must take a third argument, the shared result"):
        Batch(poster).run(prompts(1), shared=style)


def test_leaving_the_loop_stops_the_batch_and_settles_what_is_in_flight(run, path):
    """Nothing is pulled after the break; each item that had begun is finished, counted and in the journal."""

    async def main():
        pulled = []

        def source():
            for prompt in prompts(1000):
                pulled.append(prompt)
                yield prompt

        service = Service()
        async with Batch(poster, concurrency=6, journal=path).run(source, service) as outcomes:
            async for _ in outcomes:
                pulled_by_then = len(pulled)
                break
        assert len(pulled) == pulled_by_then
        report, now = outcomes.report, outcomes.statistics()
        assert (now.begun, now.in_flight, report.abandoned_count) == (report.ok_count, 0, 0)
        assert len(service.sent) == 3 * report.ok_count >= 3
        assert report.cost == pytest.approx(3 * report.ok_count * 0.0012)
        with Journal(path) as journal:
            summary = journal.summary()
            assert (summary.done_count, summary.open_count) == (3 * report.ok_count, 0)

    run(main)


def test_leaving_the_loop_does_not_wait_for_an_item_of_a_slow_source(run):
    async def source():
        yield "a kite"
        await anyio.sleep_forever()

    async def main():
        with anyio.fail_after(5):
            async with Batch(poster, concurrency=4).run(source, Service()) as outcomes:
                async for item in outcomes:
                    assert isinstance(item.outcome, Ok)
                    break

    run(main)


def test_exception_in_the_block_abandons_what_is_in_flight_and_the_report_names_it(run, path):
    async def main():
        asked = anyio.Event()

        async def never(request, count):
            asked.set()
            await anyio.sleep_forever()

        service = Service(lambda request, count: None if count == 1 else never(request, count))
        with pytest.raises(ZeroDivisionError):
            async with Batch(poster, concurrency=2, journal=path).run(prompts(2), service) as outcomes:
                await asked.wait()
                raise ZeroDivisionError
        report = outcomes.report
        assert report.abandoned_count == 2
        with Journal(path) as journal:
            states = {entry.task_uuid: entry.state for entry in journal.entries()}
        for item in report.abandoned:
            assert isinstance(item.outcome, Abandoned)
            assert not item.outcome.may_be_billed or states[item.outcome.task_uuid] == "open"
        assert any(item.outcome.may_be_billed for item in report.abandoned)
        assert outcomes.statistics().in_flight == 0

    run(main)


def test_deadline_of_an_item_fails_it_alone_and_says_what_may_be_billed(run):
    async def main():
        async def never(request, count):
            await anyio.sleep_forever()

        def answer(request, count):
            return never(request, count) if "picture 1" in str(request.wire.get("positivePrompt")) else None

        service = Service(answer)
        batch = Batch(poster, on_error="continue", deadline=0.5)
        found, _ = await drain(batch, prompts(3), service)
        assert [isinstance(item.outcome, Ok) for item in found] == [True, False, True]
        error = found[1].error
        assert isinstance(error, TimeoutError)
        assert isinstance(error, RunwareError)
        assert "item 1 passed its deadline, 0.5 s after its start; its task" in str(error)
        [stuck] = [sent for sent in service.sent if sent.wire.get("positivePrompt") == "picture 1"]
        assert error.task_uuid == stuck.task_id

    run(main)


def test_tolerate_stops_past_the_share_and_not_before(run):
    async def main():
        batch = Batch(poster, tolerate=0.2, concurrency=1)
        found, outcomes = await drain(batch, prompts(10), Service(fails_at(2, 5)))
        assert [item.index for item in found if isinstance(item.outcome, Failed)] == [2, 5]
        assert outcomes.report.ok_count == 8
        with pytest.raises(FlowFailed, match=r"3 items failed, more than tolerate=0\.2 allows; item 6 failed: no"):
            await batch.collect(prompts(10), Service(fails_at(2, 5, 6)))
        # The length of a generator is not known: the share is that of the items so far, as in a map.
        with pytest.raises(FlowFailed) as caught:
            await batch.collect(iter(prompts(10)), Service(fails_at(2, 5, 6)))
        assert (caught.value.result.ok_count, caught.value.result.failed_count) == (4, 2)

    run(main)


def test_statistics_and_progress_start_where_the_journal_left_off(run, path, capsys):
    async def main():
        await Batch(poster, journal=path).collect(prompts(7), Service())
        batch = Batch(poster, journal=path, concurrency=3)
        found, outcomes = await drain(batch, prompts(10), Service())
        now = outcomes.statistics()
        assert (now.total, now.begun, now.ok, now.restored, now.in_flight) == (10, 10, 10, 7, 0)
        assert [item.is_restored for item in found] == [True] * 7 + [False] * 3
        assert now.cost == pytest.approx(30 * 0.0012)
        assert now.rate is not None
        await Batch(poster, journal=path, progress="json").collect(prompts(10), Service())
        last = json.loads(capsys.readouterr().err.splitlines()[-1])
        assert {stage["label"]: stage["ok"] for stage in last["stages"]} == dict.fromkeys(
            ("imageInference", "upscale", "caption"), 10
        )

    run(main)


def test_progress_counts_the_start_of_each_node(run, monkeypatch):
    started = []
    start = ProgressBoard.start

    def note_start(board, label):
        started.append(label)
        start(board, label)

    async def shorten(caption):
        return caption.text[:5]

    async def main():
        batch = Batch(lambda flow, prompt: poster(flow, prompt).then(shorten), progress="json")
        await batch.collect(prompts(3), Service())
        assert sorted(started) == sorted(["imageInference", "upscale", "caption", "shorten"] * 3)

    monkeypatch.setattr(ProgressBoard, "start", note_start)
    run(main)


def test_events_include_restored_items(run, path):
    async def main():
        events = []
        for _ in range(2):
            events.clear()
            await Batch(poster, journal=path, progress=events.append).collect(prompts(2), Service())
        assert [event.is_restored for event in events if isinstance(event, NodeSettled)] == [True] * 6
        assert isinstance(events[-1], RunFinished)

    run(main)


def test_progress_callback_that_raises_ends_the_batch(run):
    async def broken(event):
        raise LookupError("no bar")

    async def never():
        await anyio.sleep_forever()

    async def main():
        with pytest.raises(LookupError, match="no bar"):
            await Batch(poster, progress=broken).collect(prompts(3), Service(lambda request, count: never()))

    run(main)


def test_edited_pipeline_reruns_what_changed_and_restores_the_rest(run, path):
    """The short way of restoring looks at the requests, not at the builder."""

    async def main():
        await Batch(poster, journal=path).collect(prompts(5), Service())

        def edited(flow: Flow, prompt: str) -> Node:
            picture = flow.then(art(prompt)).then(upscale)
            return picture.then(
                lambda image: caption(image) if prompt != "picture 3" else art("another"), label="caption"
            )

        again = Service()
        found, outcomes = await drain(Batch(edited, journal=path, name="poster"), prompts(5), again)
        assert [request.wire["positivePrompt"] for request in again.sent] == ["another"]
        assert [item.is_restored for item in found] == [True, True, True, False, True]
        assert outcomes.report.cost == pytest.approx(15 * 0.0012)

    run(main)


def test_functions_and_picks_are_restored_too(run, path):
    calls = []

    def pipeline(flow: Flow, prompt: str) -> Node:
        async def measure(image) -> int:
            calls.append(image.image_url)
            return len(image.image_url)

        return flow.then(art(prompt)).then(measure).pick(lambda length: length + 1)

    async def main():
        first, _ = await drain(Batch(pipeline, journal=path), prompts(4), Service())
        again, _ = await drain(Batch(pipeline, journal=path), prompts(4), Service())
        assert [item.outcome for item in again] == [item.outcome for item in first]
        assert all(item.is_restored for item in again)
        assert len(calls) == 4

    run(main)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"deadline": 0}, "deadline= is in seconds"),
        ({"tolerate": 2}, "tolerate= is a share"),
        ({"tolerate": 0.1, "on_error": "continue"}, "never does"),
        ({"progress": "yes"}, "progress= is"),
        ({"what": 1}, "what= is not a keyword of Batch"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, told):
    with pytest.raises(DeclarationError, match=told):
        Batch(poster, **options)


@pytest.mark.parametrize("is_async", [False, True])
def test_restored_and_new_items_mixed_are_each_run_once_in_a_bounded_window(run, path, is_async):
    """With a journal items are looked up many at once; still no more are unfinished than `concurrency`."""

    async def main():
        await Batch(poster, journal=path).collect(prompts(200)[::3], Service())
        finished = []
        pulled = []

        def plain():
            for number, prompt in enumerate(prompts(200)):
                pulled.append(number)
                assert len(pulled) - len(finished) <= 2 * 10 + 10
                yield prompt

        async def slow():
            for prompt in plain():
                await anyio.lowlevel.checkpoint()
                yield prompt

        service = Service()
        batch = Batch(poster, journal=path, concurrency=10)
        async with batch.run(slow if is_async else plain, service) as outcomes:
            async for item in outcomes:
                finished.append(item.index)
                assert item.is_restored == (item.index % 3 == 0)
        assert sorted(finished) == list(range(200))
        assert len(service.sent) == 3 * (200 - 67)
        assert service.most_in_flight <= 10

    run(main)


def test_items_that_were_only_looked_up_when_the_loop_was_left_are_not_begun(run, path):
    """They were pulled, but nothing of them was sent: they are the next run's."""

    class Slow(SqliteStore):
        def __init__(self, path):
            super().__init__(path)
            self.groups = 0
            self.gate, self.is_asked = threading.Event(), threading.Event()

        def apply(self, changes):
            self.groups += 1
            if self.groups == 2:
                self.is_asked.set()
                self.gate.wait(10)
            return super().apply(changes)

    def short(flow: Flow, prompt: str) -> Node:
        return flow.then(art(prompt))

    async def main():
        await Batch(short, journal=path).collect(prompts(4), Service())
        store, service = Slow(path), Service()
        async with Batch(short, journal=store, concurrency=4).run(prompts(8), service) as outcomes:
            for _ in range(3):  # then there is room for more, which are looked up
                assert (await anext(outcomes)).is_restored
            await anyio.to_thread.run_sync(store.is_asked.wait, 10)
            store.gate.set()
        assert not service.sent
        now = outcomes.statistics()
        assert (now.begun, now.ok, now.in_flight, now.abandoned) == (4, 4, 0, 0)

    run(main)


def test_items_that_wait_for_a_worker_when_the_batch_stops_are_not_begun(run, path):
    def picky(flow: Flow, prompt: str) -> Node:
        if prompt == "bad":
            raise ValueError("no such prompt")
        return flow.then(art(prompt))

    async def main():
        await Batch(picky, journal=path).collect(["a kite"], Service())
        service = Service()
        with pytest.raises(FlowFailed, match="item 0 failed: no such prompt"):
            await Batch(picky, journal=path, concurrency=8).collect(["bad", *prompts(20)], service)
        assert not service.sent

    run(main)
