"""Where items come from, and what happens when a source is met twice, fails, or waits."""

from __future__ import annotations

import asyncio

import anyio
import anyio.lowlevel
import pytest

from runware_flow import Failed, Flow, FlowFailed, NodeNotAvailable, Ok, Retry


async def double(x):
    await anyio.lowlevel.checkpoint()
    return 2 * x


async def three():
    for x in range(3):
        await anyio.lowlevel.checkpoint()
        yield x


class Three:
    def __aiter__(self):
        return three()


class Old:
    def __getitem__(self, index):
        if index == 3:
            raise IndexError
        return index


@pytest.mark.parametrize(
    "items", [range(3), [0, 1, 2], lambda: iter(range(3)), lambda: range(3), three, Three(), Three, Old()]
)
def test_map_takes_iterables_async_iterables_and_their_makers_any_number_of_times(run, items):
    flow = Flow(concurrency=2)
    many = flow.map(items, double)

    async def main():
        for _ in range(2):
            assert (await flow.execute())[many] == [0, 2, 4]

    run(main)


@pytest.mark.parametrize("make", [lambda: iter([1, 2]), three])
def test_map_iterator_met_a_second_time_is_an_error(run, make):
    flow = Flow()
    many = flow.map(make(), double)

    async def main():
        result = await flow.execute()
        assert result[many][0] in (0, 2)
        with pytest.raises(FlowFailed, match="only once"):
            await flow.execute()

    run(main)


def test_map_same_iterator_in_two_maps_or_from_one_maker_is_an_error(run):
    numbers = iter([1, 2])
    twice = Flow("twice")
    twice.map(numbers, double)
    twice.map(numbers, double)
    kept = iter([1, 2])
    maker = Flow("maker")
    maker.map(lambda: kept, double)

    async def main():
        with pytest.raises(FlowFailed, match="only once"):
            await twice.execute()
        await maker.execute()
        with pytest.raises(FlowFailed, match="only once"):
            await maker.execute()

    run(main)


@pytest.mark.parametrize("is_async", [False, True])
def test_map_source_that_raises_fails_the_fan_out_and_keeps_its_items(run, is_async):
    def broken():
        yield 1
        raise OSError("disk gone")

    async def broken_later():
        yield 1
        raise OSError("disk gone")

    flow = Flow(on_error="continue")
    many = flow.map(broken_later if is_async else broken, double)
    gathered = many.gather()

    async def main():
        async with flow.start() as started:
            seen = [item async for item in started.as_completed(many)]
        result = started.result
        done, rest = result.outcomes(many)
        assert done == Ok(2)
        assert isinstance(rest.error, OSError)
        assert seen == [(0, done), (1, rest)]
        with pytest.raises(NodeNotAvailable, match="disk gone") as info:
            result[many]
        assert isinstance(info.value.__cause__, OSError)
        with pytest.raises(NodeNotAvailable, match="failed"):
            result[gathered]
        with pytest.raises(FlowFailed, match="disk gone"):
            await flow.execute(on_error="stop")

    run(main)


def test_map_async_source_holds_no_worker_while_it_waits(run):
    flow = Flow(concurrency=1)
    state = {}

    async def source():
        yield 1
        await state["go"].wait()
        yield 2

    async def work(x):
        if x == 10:
            state["go"].set()
        return x

    async def ten():
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        return 10

    many = flow.map(source, work)
    flow.then(ten).then(work)

    async def main():
        state["go"] = anyio.Event()
        assert (await flow.execute())[many] == [1, 2]

    run(main)


def test_stop_closes_an_async_source_that_waits(run):
    flow = Flow()
    closed = []

    async def source():
        try:
            yield 1
            await anyio.sleep_forever()
        finally:
            closed.append(True)

    async def boom(_):
        raise ValueError("no luck")

    flow.map(source, boom)

    async def main():
        with pytest.raises(FlowFailed, match="no luck"):
            await flow.execute()
        assert closed == [True]

    run(main)


def test_node_map_of_what_cannot_be_iterated_over_is_an_error(run):
    async def number():
        return 3

    async def text():
        return "abc"

    flow = Flow(on_error="continue")
    numbers = flow.then(number).map(double)
    letters = flow.then(text).map(double)

    async def main():
        result = await flow.execute()
        with pytest.raises(NodeNotAvailable, match="int, which cannot be iterated over"):
            result[numbers]
        with pytest.raises(NodeNotAvailable, match="over a str, not over a list"):
            result[letters]

    run(main)


def test_map_two_endless_sources_are_pulled_in_turn(run):
    flow = Flow(concurrency=2)
    counts = {"a": 0, "b": 0}

    def endless(name):
        def source():
            while True:
                yield name

        return source

    async def count(name):
        counts[name] += 1
        if sum(counts.values()) > 40:
            raise ValueError("enough")

    flow.map(endless("a"), count)
    flow.map(endless("b"), count)

    async def main():
        with pytest.raises(FlowFailed, match="enough"):
            await flow.execute()
        assert abs(counts["a"] - counts["b"]) <= 2

    run(main)


def test_items_are_known_by_what_they_are_and_equal_ones_by_ordinal(run):
    flow = Flow()
    many = flow.map(["kite", "boat", "kite", "kite"], double)
    named = flow.map([1, 2, 1], double, key=lambda x: f"n{x}", label="named")

    async def main():
        async with flow.start() as started:
            await started.wait()
            keys = [item.key for item in started.result.fan_of(many).items]
            assert len({key.partition("-")[0] for key in keys}) == 2
            assert [key.partition("-")[2] for key in keys] == ["", "", "2", "3"]
            assert [item.key for item in started.result.fan_of(named).items] == ["n1", "n2", "n1-2"]
            paths = [item.prefix() for item in started.result.fan_of(named).items]
            assert paths == ["named[n1]", "named[n2]", "named[n1-2]"]

    run(main)


def test_key_that_raises_fails_the_fan_out(run):
    flow = Flow(on_error="continue")
    many = flow.map([1], double, key=lambda x: x.name)

    async def main():
        result = await flow.execute()
        with pytest.raises(NodeNotAvailable, match="no attribute 'name'"):
            result[many]
        assert result.fan_of(many).problem() == Failed(result.fan_of(many).problem().error)

    run(main)


def test_source_that_was_not_exhausted_is_closed_with_its_run(run):
    closed = []

    def numbers():
        try:
            yield from range(100)
        finally:
            closed.append("generator")
            raise OSError("nobody is told")

    class Mine:
        def __init__(self):
            self.count = 0

        def __iter__(self):
            return self

        def __next__(self):
            self.count += 1
            return self.count

        def close(self):
            closed.append("object")

    async def boom(_):
        raise ValueError("no luck")

    async def main():
        for items, expected in ((numbers(), "generator"), (numbers, "generator"), (Mine, "object"), (Mine(), None)):
            closed.clear()
            flow = Flow()
            flow.map(items, boom)
            with pytest.raises(FlowFailed, match="no luck"):
                await flow.execute()
            assert closed == ([expected] if expected else [])

    run(main)


@pytest.mark.parametrize("where", ["key", "async key", "maker"])
def test_stop_iteration_of_other_user_code_is_a_failure_and_not_the_end(run, where):
    def key(_):
        return next(iter([]))

    items = {"key": [1, 2], "async key": three, "maker": lambda: next(iter([]))}[where]

    async def main():
        flow = Flow()
        flow.map(items, double, key=key if "key" in where else None)
        with pytest.raises(FlowFailed) as info:
            await flow.execute()
        assert isinstance(info.value.__cause__, (StopIteration, RuntimeError))

    run(main)


class Unclosable:
    """A source whose `close` or `aclose` raises."""

    def __init__(self, count):
        self.left = count

    def __iter__(self):
        return self

    def __next__(self):
        if not self.left:
            raise StopIteration
        self.left -= 1
        return self.left

    def close(self):
        raise ConnectionError("the cursor is closed already")


class UnclosableAsync(Unclosable):
    def __aiter__(self):
        return self

    async def __anext__(self):
        if not self.left:
            raise StopAsyncIteration
        return next(self)

    async def aclose(self):
        self.close()


@pytest.mark.parametrize("kind", [Unclosable, UnclosableAsync])
def test_source_that_cannot_be_closed_is_logged_and_costs_nothing(run, kind, caplog):
    flow = Flow()
    many = flow.map(lambda: kind(3), double)

    async def main():
        assert (await flow.execute())[many] == [4, 2, 0]
        [record] = caplog.records
        assert record.levelname == "WARNING"
        assert "cursor is closed" in record.getMessage()
        assert "test_sources.py" in record.getMessage()

    run(main)


def test_foreign_cancel_of_an_asyncio_task_is_a_failure_of_who_awaited_it():
    async def cancelled():
        task = asyncio.ensure_future(asyncio.sleep(3600))
        asyncio.get_running_loop().call_soon(task.cancel)
        await task

    async def source():
        yield 1
        await cancelled()

    flow = Flow(concurrency=1, on_error="continue")
    node = flow.then(cancelled, retry=Retry(2, backoff=0.0))
    many = flow.map(source, double)

    async def main():
        with anyio.fail_after(20):
            result = await flow.execute()
        done, rest = result.outcomes(many)
        assert done == Ok(2)
        for failed in (result.outcome(node), rest):
            assert "awaited something that was cancelled" in str(failed.error)
            assert isinstance(failed.error.__cause__, asyncio.CancelledError)

    anyio.run(main)
