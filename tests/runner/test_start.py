"""`flow.start`: events, outcomes as they come, stop, and whose exception leaves the block."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest
from service import Service, art, upscale

from runware_flow import Failed, Flow, FlowFailed, NodeNotAvailable, Ok, Retry, Skipped
from runware_flow.graph.events import NodeProgress, NodeSettled, NodeStarted, RunFinished, RunStarted


async def one():
    return 1


async def double(x):
    await anyio.lowlevel.checkpoint()
    return 2 * x


async def boom(*_):
    raise ValueError("no luck")


async def forever(*_):
    await anyio.sleep_forever()


def test_start_body_that_ends_waits_for_the_run(run):
    flow = Flow()
    node = flow.then(one).then(double)

    async def main():
        async with flow.start() as started:
            assert not started.is_finished
            with pytest.raises(NodeNotAvailable, match="has not finished yet"):
                started.result[node]
        assert started.is_finished
        assert started.result[node] == 2

    run(main)


def test_start_body_that_raises_cancels_the_run_and_leaves_as_itself(run):
    flow = Flow()
    done = flow.then(one)
    waiting = done.then(forever)

    async def main():
        with pytest.raises(KeyError, match="mine") as info:
            async with flow.start() as started:
                async for event in started.events():
                    if isinstance(event, NodeStarted) and event.label == "forever":
                        raise KeyError("mine")
        assert info.value.__context__ is None
        assert started.is_finished
        assert started.result[done] == 1
        assert "abandoned" in str(started.result)
        with pytest.raises(NodeNotAvailable, match="abandoned in flight"):
            started.result[waiting]

    run(main)


def test_start_failure_is_raised_by_wait_and_only_once(run):
    flow = Flow()
    flow.then(boom)

    async def main():
        async with flow.start() as started:
            for _ in range(2):
                with pytest.raises(FlowFailed):
                    await started.wait()
        with pytest.raises(FlowFailed):
            async with flow.start():
                pass
        with pytest.raises(FlowFailed):
            async with flow.start() as started:
                await started.wait()

    run(main)


def test_stop_drains_and_ends_without_an_error(run):
    flow = Flow(concurrency=2)
    seen = []

    async def work(x):
        seen.append(x)
        await anyio.lowlevel.checkpoint()
        return x

    many = flow.map(range(1000), work)
    after = many.then(double)
    total = many.gather()

    async def main():
        async with flow.start() as started:
            while len(seen) < 5:
                await anyio.lowlevel.checkpoint()
            started.stop()
            started.stop()
            result = await started.wait()
        outcomes = result.outcomes(many)
        assert 5 <= len(outcomes) <= 8
        assert {type(outcome) for outcome in outcomes} <= {Ok, Skipped}
        assert all(isinstance(outcome, (Ok, Skipped)) for outcome in result.outcomes(after))
        for key in (many, total):
            with pytest.raises(NodeNotAvailable, match="the run was stopped"):
                result[key]

    run(main)


def test_cancel_of_wait_alone_leaves_the_run_as_it_is(run):
    flow = Flow()
    state = {}

    async def wait():
        await state["go"].wait()
        return "went"

    node = flow.then(wait)

    async def main():
        state["go"] = anyio.Event()
        async with flow.start() as started:
            with anyio.move_on_after(0.01) as scope:
                await started.wait()
            assert scope.cancelled_caught
            state["go"].set()
        assert started.result[node] == "went"

    run(main)


def test_events_tell_the_whole_run_in_order(run):
    flow = Flow("told", concurrency=1)
    image = flow.then(art(), label="art")
    image.then(upscale, label="big")
    flow.map(["x"], double, label="items")

    async def main():
        service = Service()
        async with flow.start(service) as started:
            events = [event async for event in started.events()]
        match events[0], events[-1]:
            case RunStarted(flow="told", concurrency=1), RunFinished(end="done", ok_count=3, cost=0.0024):
                pass
            case other:
                pytest.fail(str(other))
        told = [(type(event).__name__, event.label) for event in events[1:-1]]
        for label in ("art", "big"):
            mine = [kind for kind, name in told if name == label]
            assert mine == ["NodeStarted", "NodeProgress", "NodeSettled"]
        settled = {event.label: event for event in events if isinstance(event, NodeSettled)}
        begun = {event.label: event for event in events if isinstance(event, NodeStarted)}
        assert settled["big"].cost == 0.0012
        assert settled["big"].task_uuid == begun["big"].task_uuid == service.sent[-1].task_id
        assert begun["big"].model == "runware:504@1"
        assert begun["items"].index == 0
        assert begun["items"].path == f"items[{begun['items'].key}]/items"
        assert [event.time for event in events] == sorted(event.time for event in events)

    run(main)


def test_events_count_attempts_and_tell_failures_and_skips(run):
    flow = Flow(on_error="continue")
    bad = flow.then(boom, retry=Retry(2, backoff=0.0))
    bad.then(double)

    async def main():
        async with flow.start() as started:
            events = [event async for event in started.events()]
        assert [event.attempt for event in events if isinstance(event, NodeStarted)] == [1, 2]
        failed, skipped = (event for event in events if isinstance(event, NodeSettled))
        assert isinstance(failed.outcome, Failed)
        assert failed.attempts == 2
        assert isinstance(skipped.outcome, Skipped)
        assert skipped.attempts == 0
        assert events[-1].failed_count == events[-1].skipped_count == 1

    run(main)


def test_events_of_a_slow_reader_are_complete_and_hold_back_new_nodes(run, monkeypatch):
    monkeypatch.setattr("runware_flow.runner.event_stream.EVENT_BOUND", 10)
    flow = Flow(concurrency=2)
    begun = []

    async def work(x):
        begun.append(x)
        await anyio.lowlevel.checkpoint()
        return x

    flow.map(range(100), work)

    async def main():
        async with flow.start() as started:
            reader = started.events()
            for _ in range(300):
                await anyio.lowlevel.checkpoint()
            assert 5 <= len(begun) <= 10
            settled = [event.index async for event in reader if isinstance(event, NodeSettled)]
        assert sorted(settled) == list(range(100))

    run(main)


@pytest.mark.parametrize("leave", ["forget", "close", "wait"])
def test_events_reader_that_stops_reading_does_not_hold_up_the_run(run, monkeypatch, leave):
    monkeypatch.setattr("runware_flow.runner.event_stream.EVENT_BOUND", 10)
    flow = Flow(concurrency=2)
    many = flow.map(range(100), double)

    async def main():
        async with flow.start() as started:
            reader = started.events()
            async for _ in reader:
                break
            if leave == "forget":
                del reader
            elif leave == "close":
                reader.close()
            result = await started.wait()
            assert len(result[many]) == 100

    run(main)


@pytest.mark.parametrize("of", ["events", "as_completed"])
@pytest.mark.parametrize("body", ["waits", "ends", "reads another"])
def test_reader_that_its_task_has_left_does_not_hold_up_the_run(run, monkeypatch, of, body):
    monkeypatch.setattr("runware_flow.runner.event_stream.EVENT_BOUND", 10)
    flow = Flow(concurrency=2)
    many = flow.map(range(100), double)

    async def main():
        async def begin_to_read(reader):
            for _ in range(20):
                await anext(reader)

        async with anyio.create_task_group() as others, flow.start() as started:
            reader = started.events() if of == "events" else started.as_completed(many)
            others.start_soon(begin_to_read, reader)
            if body == "waits":
                await started.wait()
            elif body == "reads another":
                assert len([item async for item in started.as_completed(many)]) == 100
        assert len(started.result[many]) == 100
        assert len([thing async for thing in reader]) >= 80

    run(main)


def test_progress_that_is_slow_holds_back_new_nodes_while_the_run_is_waited_for(run, monkeypatch):
    monkeypatch.setattr("runware_flow.runner.event_stream.EVENT_BOUND", 10)
    flow = Flow(concurrency=2)
    begun, told, most = [], [], 0

    async def work(x):
        nonlocal most
        begun.append(x)
        most = max(most, 2 * len(begun) - len(told))
        await anyio.lowlevel.checkpoint()

    async def slow(event):
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        told.append(event)

    flow.map(range(50), work)

    async def main():
        nonlocal most
        begun.clear()
        told.clear()
        most = 0
        await flow.execute(progress=slow)
        assert most < 25
        assert len(told) == 2 + 2 * 50

    run(main)


def test_events_reader_progress_is_only_the_newest(run):
    flow = Flow()
    flow.then(art(), label="art")

    async def main():
        service = Service()

        async def perform(request, /, *, on_progress):
            for share in range(50):
                on_progress(share)
            return [service.result(request)]

        service.perform = perform
        async with flow.start(service) as started:
            reader = started.events()
            await started.wait()
            progress = [event.progress async for event in reader if isinstance(event, NodeProgress)]
        assert progress == [49.0]

    run(main)


def test_as_completed_yields_each_item_once_as_it_settles(run):
    flow = Flow(concurrency=2, on_error="continue")

    async def odd_only(x):
        for _ in range(10 - x):
            await anyio.lowlevel.checkpoint()
        if x % 2 == 0:
            raise ValueError(x)
        return x

    many = flow.map(range(10), odd_only)
    after = many.then(double)

    async def main():
        async with flow.start() as started:
            seen = [item async for item in started.as_completed(many)]
        assert sorted(index for index, _ in seen) == list(range(10))
        assert all(item.outcome == started.result.outcomes(many)[item.index] for item in seen)
        async with flow.start() as started:
            await started.wait()
            late = [item.index async for item in started.as_completed(after)]
        assert sorted(late) == list(range(10))

    run(main)


def test_as_completed_holds_back_new_nodes_while_outcomes_are_unread(run):
    flow = Flow(concurrency=3)
    many = flow.map(range(100), double)

    async def main():
        async with flow.start() as started:
            reader = started.as_completed(many)
            for _ in range(500):
                await anyio.lowlevel.checkpoint()
            assert len(started.result.fan_of(many).items) <= 9
            assert len([item async for item in reader]) == 100

    run(main)


def test_as_completed_two_readers_in_one_task_do_not_deadlock(run):
    flow = Flow(concurrency=2)
    first = flow.map(range(30), double)
    second = first.then(double)

    async def main():
        async with flow.start() as started:
            readers = started.as_completed(first), started.as_completed(second)
            for reader in reversed(readers):
                assert len([item async for item in reader]) == 30

    run(main)


def test_as_completed_of_a_fan_out_that_never_began_ends(run):
    flow = Flow(on_error="continue")
    skipped = flow.then(boom).map(double)
    empty = flow.map([], double)

    async def main():
        async with flow.start() as started:
            assert [item async for item in started.as_completed(skipped)] == []
            assert [item async for item in started.as_completed(empty)] == []

    run(main)


def test_progress_callable_sees_every_event_and_its_exception_leaves_as_itself(run, capsys):
    flow = Flow(progress=lambda event: seen.append(event))
    flow.then(one)
    seen = []

    async def async_progress(event):
        await anyio.lowlevel.checkpoint()
        seen.append(event)

    def broken(event):
        raise KeyError("broken bar")

    async def main():
        await flow.execute()
        assert [type(event) for event in seen] == [RunStarted, NodeStarted, NodeSettled, RunFinished]
        seen.clear()
        await flow.execute(progress=async_progress)
        assert len(seen) == 4
        with pytest.raises(KeyError, match="broken bar"):
            await flow.execute(progress=broken)
        await flow.execute(progress=True)
        assert capsys.readouterr().err.startswith("flow: ")

    run(main)
