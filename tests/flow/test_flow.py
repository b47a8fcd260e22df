"""What flows of functions compute: chains, joins, fan-outs, on both backends, with neither key nor network."""

from __future__ import annotations

import functools
import gc
import weakref

import anyio.lowlevel
import pytest

from runware_flow import ClientStateError, Flow, NodeNotAvailable, Ok, current_run


async def one():
    return 1


async def double(x):
    await anyio.lowlevel.checkpoint()
    return 2 * x


async def add(a, b):
    return a + b


def test_execute_chain_and_joins_call_functions_with_results_in_order(run):
    flow = Flow("sums")
    a = flow.then(one)
    b = a.then(double)
    c = flow.then(a, b, add)
    d = flow.join(b, c).then(add)

    async def main():
        result = await flow.execute()
        assert [result[node] for node in (a, b, c, d)] == [1, 2, 3, 5]
        assert result.outcome(d) == Ok(5)
        assert result.cost == 0.0
        assert result.receipt() == []

    run(main)


def test_execute_six_nodes_joined_arrive_in_order(run):
    flow = Flow()

    async def letter(which):
        return which

    async def spell(a, b, c, d, e, f):
        return a + b + c + d + e + f

    nodes = [flow.then(functools.partial(letter, which)) for which in "flying"]
    word = flow.join(*nodes).then(spell)
    same = flow.then(*nodes, spell)

    async def main():
        result = await flow.execute()
        assert result[word] == result[same] == "flying"

    run(main)


def test_execute_twice_and_at_once_gives_independent_runs(run):
    flow = Flow()
    calls = []

    async def count():
        calls.append(1)
        await anyio.lowlevel.checkpoint()
        return len(calls)

    node = flow.then(count)
    many = flow.map([1, 2], double)

    async def main():
        first = await flow.execute()
        results = []

        async def execute():
            results.append(await flow.execute(concurrency=1))

        async with anyio.create_task_group() as task_group:
            task_group.start_soon(execute)
            task_group.start_soon(execute)
        assert first[node] == 1
        assert len(calls) == 3
        assert all(result[many] == [2, 4] for result in (first, *results))

    run(main)


def test_map_results_stay_in_input_order_whatever_finishes_first(run):
    flow = Flow(concurrency=5)
    gates = {}

    async def wait_for_the_next(x):
        gates[x] = anyio.Event()
        if x < 4:
            while x + 1 not in gates:
                await anyio.lowlevel.checkpoint()
            await gates[x + 1].wait()
        gates[x].set()
        return x

    many = flow.map(range(5), wait_for_the_next)

    async def main():
        result = await flow.execute()
        assert result[many] == [0, 1, 2, 3, 4]
        assert result.outcomes(many) == [Ok(x) for x in range(5)]

    run(main)


def test_map_steps_have_no_barrier_between_them(run):
    flow = Flow(concurrency=2)
    order = []

    async def first(x):
        order.append(("first", x))
        await anyio.lowlevel.checkpoint()
        return x

    async def second(x):
        order.append(("second", x))
        return x

    many = flow.map(range(6), first).then(second)

    async def main():
        result = await flow.execute()
        assert result[many] == list(range(6))
        assert order.index(("second", 0)) < order.index(("first", 4))

    run(main)


def test_map_empty_source_gives_empty_lists(run):
    flow = Flow()
    many = flow.map([], double)
    gathered = many.gather()
    settled = many.then(double).settled()

    async def main():
        result = await flow.execute()
        assert result[many] == result[gathered] == result[settled] == []

    run(main)


def test_fan_outs_of_every_kind_nest(run):
    flow = Flow(concurrency=3)
    outer = flow.map([1, 2, 3], double)

    def grow(node):
        copies = node.pick(lambda x: [x] * x)
        return copies.map(double).then(double).gather().pick(sum)

    piped = outer.pipe(grow)
    total = piped.gather().pick(sum)
    again = piped.gather().map(double)

    async def main():
        result = await flow.execute()
        assert result[piped] == [2 * 8, 4 * 16, 6 * 24]
        assert result[total] == 16 + 64 + 144
        assert result[again] == [32, 128, 288]

    run(main)


def test_many_join_broadcasts_a_node_that_comes_later_than_the_items(run):
    flow = Flow(concurrency=2)

    async def slow():
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        return 100

    many = flow.map(range(5), double)
    late = flow.then(slow)
    joined = many.join(late).then(add)
    zipped = many.join(joined).then(add)

    async def main():
        result = await flow.execute()
        assert result[joined] == [100, 102, 104, 106, 108]
        assert result[zipped] == [100, 104, 108, 112, 116]

    run(main)


def test_many_join_of_a_gather_of_the_same_items_does_not_deadlock(run):
    flow = Flow(concurrency=2)
    many = flow.map(range(10), double)
    total = many.gather().pick(sum)
    shares = many.join(total).then(add)

    async def main():
        result = await flow.execute()
        assert result[shares] == [90 + 2 * x for x in range(10)]

    run(main)


def test_pipe_uses_nodes_of_the_scopes_around_it(run):
    flow = Flow()
    base = flow.then(one)
    many = flow.map([1, 2], double).pipe(lambda node: flow.then(node, base, add))

    async def main():
        assert (await flow.execute())[many] == [3, 5]

    run(main)


def test_execute_concurrency_bounds_what_is_in_flight(run):
    flow = Flow(concurrency=3)
    running = []
    most = []

    async def work(x):
        running.append(x)
        most.append(len(running))
        await anyio.lowlevel.checkpoint()
        running.remove(x)
        return x

    flow.map(range(20), work).then(work)

    async def main():
        await flow.execute()
        assert max(most) == 3
        most.clear()
        await flow.execute(concurrency=7)
        assert max(most) == 7

    run(main)


def test_map_source_is_pulled_as_a_window(run):
    flow = Flow(concurrency=4)
    pulled = []
    done = []

    def source():
        for x in range(50):
            pulled.append(x)
            assert len(pulled) - len(done) <= 5
            yield x

    async def work(x):
        await anyio.lowlevel.checkpoint()
        done.append(x)
        return x

    flow.map(source, work)

    async def main():
        await flow.execute()
        assert len(done) == 50

    run(main)


def test_functions_that_never_wait_let_others_run(run):
    flow = Flow(concurrency=1)

    async def busy(x):
        return x

    flow.map(range(500), busy)
    ticks = []

    async def tick():
        while True:
            ticks.append(1)
            await anyio.lowlevel.checkpoint()

    async def main():
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(tick)
            await flow.execute()
            task_group.cancel_scope.cancel()
        assert len(ticks) >= 10

    run(main)


def test_run_blocks_and_names_the_backend(backend, monkeypatch):
    monkeypatch.delenv("RUNWARE_API_KEY", raising=False)
    flow = Flow()
    node = flow.then(one)
    assert flow.run(backend=backend)[node] == 1
    assert flow.run(backend=backend, concurrency=1, on_error="continue")[node] == 1


def test_current_run_tells_label_and_attempt_and_that_there_is_no_client(run, monkeypatch):
    monkeypatch.delenv("RUNWARE_API_KEY", raising=False)
    flow = Flow("named")
    seen = []

    async def look():
        context = current_run()
        seen.append((context.flow, context.label, context.attempt))
        if len(seen) == 1:
            raise OSError("once")
        with pytest.raises(ClientStateError, match="RUNWARE_API_KEY"):
            _ = context.client

    flow.then(look, label="looker", retry=2)

    async def main():
        await flow.execute()
        assert seen == [("named", "looker", 1), ("named", "looker", 2)]

    run(main)
    with pytest.raises(ClientStateError, match="inside an async function"):
        current_run()


def test_result_of_an_items_node_or_a_nested_many_says_to_gather(run):
    flow = Flow()
    kept = []

    def sub(node):
        inner = node.pick(lambda x: [x]).map(double)
        kept.extend([node, inner])
        return inner.gather()

    flow.map([1], double).pipe(sub)
    other = Flow("other").then(one)

    async def main():
        result = await flow.execute()
        for key in kept:
            with pytest.raises(NodeNotAvailable, match="gather"):
                result[key]
        with pytest.raises(NodeNotAvailable, match="does not belong to this run"):
            result[other]

    run(main)


def test_result_of_a_node_declared_after_the_run_began_is_not_available(run):
    flow = Flow()
    flow.then(one)

    async def main():
        result = await flow.execute()
        late = flow.then(one)
        late_many = flow.map([1], double)
        for key in (late, late_many):
            with pytest.raises(NodeNotAvailable):
                result[key]
        assert (await flow.execute())[late_many] == [2]

    run(main)


def test_execute_long_chain_needs_no_recursion(run):
    flow = Flow()
    node = flow.then(one)
    for _ in range(3000):
        node = node.pick(lambda x: x + 1)

    async def main():
        assert (await flow.execute())[node] == 3001

    run(main)


def test_declaration_is_freed_at_once_when_nothing_uses_it():
    """A batch declares a flow for each item: as cyclic garbage these would keep the collector busy."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        flow = Flow()
        a = flow.then(one)
        flow.join(a, a.then(double)).then(add)
        left = weakref.ref(flow.declaration.root)
        node = a
        del flow, a
        assert left() is node.spec.scope
        del node
        assert left() is None
    finally:
        if was_enabled:
            gc.enable()
