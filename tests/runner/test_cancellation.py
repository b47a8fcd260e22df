"""A run that is cancelled at each of its checkpoints in turn leaves nothing running and loses nothing that finished."""

from __future__ import annotations

import gc

import anyio
import anyio.lowlevel
import pytest
from service import Service, art, caption, upscale

from runware_flow import Abandoned, Failed, Flow, Ok, Retry, RunwareError, Skipped


class Steps:
    """Counts checkpoints, and cancels a scope at a chosen one."""

    def __init__(self, scope, at):
        self.scope = scope
        self.at = at
        self.count = 0
        self.open = 0

    async def step(self):
        self.count += 1
        if self.count == self.at:
            self.scope.cancel()
        await anyio.lowlevel.checkpoint()


class SteppedService(Service):
    """A service whose requests pass through three checkpoints each."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps

    async def perform(self, request, /, *, on_progress=None):
        self.in_flight += 1
        try:
            for _ in range(3):
                await self.steps.step()
            return [self.result(request)]
        finally:
            self.in_flight -= 1


def stepping(steps_of, count):
    """A source of so many numbers, and a function of one, which step through `steps_of()`."""

    async def source():
        try:
            for x in range(count):
                await steps_of().step()
                yield x
        finally:
            steps_of().open -= 1

    def opened():
        steps_of().open += 1
        return source()

    async def work(x):
        steps_of().open += 1
        try:
            await steps_of().step()
            return x
        finally:
            steps_of().open -= 1

    return opened, work


def declare(steps_of):
    """A flow with a node of every kind; its functions and its source step through `steps_of()`."""
    flow = Flow("everything", concurrency=3)

    opened, work = stepping(steps_of, 4)
    image = flow.then(art())
    text = image.then(upscale).then(caption)
    items = flow.map(opened, work)
    piped = items.pipe(lambda node: node.pick(lambda x: [x, x]).map(work).gather())
    joined = piped.join(text).then(lambda pair, made: art(made.text))
    everything = joined.gather()
    return flow, [image, text, everything], [items, piped, joined]


@pytest.mark.exhaustive
@pytest.mark.parametrize("ends_by", ["cancel", "exception"])
def test_run_cancelled_at_each_checkpoint_leaves_nothing_and_keeps_what_finished(run, ends_by):
    current = []
    flow, nodes, manys = declare(lambda: current[-1])

    async def once(at):
        idle = len(anyio.get_running_tasks())
        with anyio.CancelScope() as scope:
            steps = Steps(scope, at)
            current.append(steps)
            service = SteppedService(steps)
            async with flow.start(service) as started:
                await started.wait()
        assert started.is_finished
        assert len(anyio.get_running_tasks()) == idle
        assert (steps.open, service.in_flight) == (0, 0)
        result = started.result
        outcomes = [result.outcome(node) for node in nodes]
        for many in manys:
            fan = result.fan_of(many)
            outcomes += result.outcomes(many) if fan.items or fan.problem() is None else []
        assert {type(outcome) for outcome in outcomes} <= {Ok, Skipped, Abandoned}
        if isinstance(result.outcome(nodes[0]), Ok):
            assert result[nodes[0]].url == "imageInference(a kite)"
        return scope.cancelled_caught

    async def main():
        at = 0
        while True:
            at += 1
            was_cancelled = await once(at)
            if current[-1].count < at:
                break
        assert not was_cancelled
        assert at > 30

    async def raising():
        for at in range(1, 30, 3):
            steps = Steps(anyio.CancelScope(), -1)
            current.append(steps)
            service = SteppedService(steps)
            idle = len(anyio.get_running_tasks())
            with pytest.raises(KeyError):
                async with flow.start(service) as started:
                    while steps.count < at:
                        await anyio.lowlevel.checkpoint()
                    raise KeyError(at)
            assert len(anyio.get_running_tasks()) == idle
            assert (steps.open, service.in_flight) == (0, 0)
            assert not any(isinstance(started.result.outcome(node), Failed) for node in nodes)

    run(main if ends_by == "cancel" else raising)
    gc.collect()  # an async generator or a coroutine left behind becomes a warning, and a warning is an error


def test_execute_cancelled_leaves_no_worker(run):
    flow = Flow(concurrency=8)

    async def forever(x):
        await anyio.sleep_forever()

    flow.map(range(100), forever)

    async def main():
        idle = len(anyio.get_running_tasks())
        with anyio.move_on_after(0.02) as scope:
            await flow.execute()
        assert scope.cancelled_caught
        assert len(anyio.get_running_tasks()) == idle

    run(main)


def test_source_that_will_not_close_delays_a_cancel_for_a_bounded_time(run, monkeypatch):
    monkeypatch.setattr("runware_flow.runner.sources._CLOSING_SECONDS", 0.01)

    async def stubborn():
        try:
            yield 1
        finally:
            await anyio.sleep_forever()

    async def forever(x):
        await anyio.sleep_forever()

    flow = Flow(concurrency=1)
    flow.map(stubborn, forever)

    async def main():
        with anyio.move_on_after(0.02) as scope:
            await flow.execute()
        assert scope.cancelled_caught

    run(main)


class FlakyService(SteppedService):
    """Fails what is named so; the rest passes through its checkpoints."""

    async def perform(self, request, /, *, on_progress=None, on_result=None, timeout=None, **more):
        results = await super().perform(request)
        if "doomed" in request.wire.get("positivePrompt", ""):
            raise RunwareError("no", code="provider", raw_code="providerError")
        return results


def declare_choices(steps_of):
    """A flow in which nodes are chosen, retried, replaced, asked for twice, limited and given up."""
    flow = Flow("choices", concurrency=3, on_error="continue", limits={"upscale": 1, "image": 2})

    opened, work = stepping(steps_of, 9)
    image = flow.then(art("doomed"), retry=Retry(2, backoff=0.0), fallback=lambda: art("whole"))
    hedged = flow.then(art("slow"), hedge_after=1e-9)
    race = flow.race(image.then(upscale, limit="upscale"), hedged, flow.map(opened, work).gather())
    way = image.branch(lambda _: True, lambda n: n.then(caption, idle=60), lambda n: n)
    few = flow.map(opened, work).then(work).first(2)
    borne = flow.map(["a", "doomed", "b"], art, tolerate=0.5).settled()
    return flow, [image, hedged, race, way, few, borne]


@pytest.mark.exhaustive
def test_run_of_choices_and_policies_cancelled_at_each_checkpoint_leaves_nothing(run):
    current = []
    flow, nodes = declare_choices(lambda: current[-1])

    async def once(at):
        idle = len(anyio.get_running_tasks())
        with anyio.CancelScope() as scope:
            steps = Steps(scope, at)
            current.append(steps)
            service = FlakyService(steps)
            async with flow.start(service) as started:
                await started.wait()
        assert started.is_finished
        assert len(anyio.get_running_tasks()) == idle
        assert (steps.open, service.in_flight) == (0, 0)
        machine = started._runner.machine
        assert (machine.in_flight, machine.waiting, machine.active) == (0, {}, {})
        assert not started._runner.run_admission._granted
        return scope.cancelled_caught, [started.result.outcome(node) for node in nodes]

    async def main():
        at, was_cancelled = 0, True
        while was_cancelled or current[-1].count >= at:
            at += 1
            was_cancelled, outcomes = await once(at)
        hedged = outcomes.pop(1)
        assert isinstance(hedged, (Ok, Abandoned))  # it may have lost the race
        assert {type(outcome) for outcome in outcomes} == {Ok}, outcomes
        assert at > 30

    run(main)
    gc.collect()
