"""Races, branches, `first` and tolerance in a run: what is sent, what is given up, and what the errors say."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest
from service import Service, art, caption, upscale

from runware_flow import (
    Abandoned,
    DeclarationError,
    Failed,
    Flow,
    FlowFailed,
    NodeNotAvailable,
    Ok,
    Retry,
    RunwareError,
    Skipped,
    TooFewSucceeded,
)


def sent(service):
    return [request.wire.get("positivePrompt", request.task_type) for request in service.sent]


class SlowFor:
    """Never answers the prompts that it is told, and fails others."""

    def __init__(self, *slow, fails=()):
        self.slow = slow
        self.fails = fails

    def __call__(self, request, count):
        prompt = request.wire.get("positivePrompt")
        if prompt in self.fails:
            return RunwareError("no", code="provider", raw_code="providerError", retryable=False)
        return anyio.sleep_forever() if prompt in self.slow else None


# Races


def test_race_takes_the_first_and_abandons_what_is_in_flight(run):
    service = Service(SlowFor("slow"))
    flow = Flow()
    slow, fast = flow.then(art("slow"), label="slow"), flow.then(art("fast"), label="fast")
    winner = flow.race(slow, fast)
    text = winner.then(caption)

    async def main():
        result = await flow.execute(service)
        assert result[winner] is result[fast]
        assert result[text].text == "caption of imageInference(fast)"
        assert isinstance(result.outcome(slow), Abandoned)
        assert result.outcome(slow).may_be_billed
        assert result.outcome(slow).task_uuid == service.sent[0].task_id
        assert result.cost is None  # what was abandoned may be billed
        assert service.in_flight == 0

    run(main)


def test_race_loser_that_has_not_begun_costs_nothing(run):
    service = Service()
    flow = Flow(concurrency=1)
    first = flow.then(art("a"))
    second = flow.then(art("b")).then(upscale)
    winner = flow.race(first, second)

    async def main():
        result = await flow.execute(service)
        assert sent(service) == ["a"]
        assert isinstance(result.outcome(second), Skipped)
        assert result.cost == 0.0012
        with pytest.raises(NodeNotAvailable, match="race was decided without it"):
            result[second]
        assert result[winner] is result[first]

    run(main)


def test_race_of_which_all_fail_names_each(run):
    service = Service(SlowFor(fails=("a", "b")))
    flow = Flow()
    race = flow.race(flow.then(art("a"), label="a"), flow.then(art("b"), label="b"), label="either")

    async def main():
        with pytest.raises(FlowFailed, match="all nodes of 'either' failed: a: no; b: no") as caught:
            await flow.execute(service)
        assert caught.value.node == race
        assert isinstance(caught.value.__cause__, TooFewSucceeded)

    run(main)


def test_race_of_functions_cancels_the_loser_in_its_await(run):
    flow = Flow()
    cancelled = []

    async def slow():
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.append(True)

    async def fast():
        return 1

    winner = flow.race(flow.then(slow), flow.then(fast))

    async def main():
        result = await flow.execute()
        assert result[winner] == 1
        assert cancelled == [True]

    run(main)


def test_race_against_a_fan_out_over_an_async_source_closes_it(run):
    flow = Flow()
    closed, begun = [], []

    async def source():
        try:
            begun[-1].set()
            yield 1
            await anyio.sleep_forever()
        finally:
            closed.append(True)

    async def same(x):
        return x

    async def fast():
        await begun[-1].wait()
        return "fast"

    everything = flow.map(source, same).gather()
    winner = flow.race(everything, flow.then(fast))

    async def main():
        begun.append(anyio.Event())
        result = await flow.execute()
        assert result[winner] == "fast"
        assert closed == [True]
        assert isinstance(result.outcome(everything), Skipped)

    run(main)


def test_race_inside_of_a_pipe_is_decided_for_each_item(run):
    service = Service(SlowFor("slow 1", "other 0"))
    flow = Flow()

    def either(prompt):
        a = prompt.then(lambda number: art(f"slow {number}"))
        b = prompt.then(lambda number: art(f"other {number}"))
        return flow.race(a, b)

    async def number(x):
        return x

    many = flow.map([0, 1], number).pipe(either)

    async def main():
        result = await flow.execute(service)
        assert [image.image_url for image in result[many]] == ["imageInference(slow 0)", "imageInference(other 1)"]

    run(main)


# Branches


@pytest.mark.parametrize("is_long", [True, False])
def test_branch_sends_only_the_path_that_is_taken(run, is_long):
    service = Service()
    flow = Flow()
    image = flow.then(art("long" if is_long else "shor"))
    fixed = []

    def redo(_):
        fixed.append(flow.then(art("fixed")))
        return fixed[-1]

    best = image.branch(lambda result: "long" in result.image_url, lambda node: node.then(upscale), redo, label="best")
    text = flow.then(image, best, lambda _, result: caption(result))

    async def main():
        result = await flow.execute(service)
        assert sent(service) == (["long", "upscale", "caption"] if is_long else ["shor", "fixed", "caption"])
        assert isinstance(result.outcome(text), Ok)
        if is_long:
            with pytest.raises(NodeNotAvailable, match=r"best\.when took the other path"):
                result[fixed[0]]

    run(main)


def test_branch_of_many_decides_for_each_item_and_gathers(run):
    flow = Flow()

    async def same(x):
        return x

    async def negative(x):
        return -x

    many = flow.map(range(4), same).branch(lambda x: x % 2 == 0, lambda n: n, lambda n: n.then(negative))
    everything = many.gather()

    async def main():
        result = await flow.execute()
        assert result[many] == result[everything] == [0, -1, 2, -3]

    run(main)


def test_branch_whose_condition_raises_is_a_failed_node(run):
    flow = Flow()

    async def zero():
        return 0

    flow.then(zero).branch(lambda x: 1 / x > 1, lambda n: n, lambda n: n, label="inverse")

    async def main():
        with pytest.raises(FlowFailed, match=r"inverse\.when.*division by zero"):
            await flow.execute()

    run(main)


def test_branch_whose_condition_gives_a_coroutine_is_a_mistake_and_takes_no_path(run):
    async def is_good(x):
        return True

    service = Service()
    flow = Flow()
    flow.then(art()).branch(lambda x: is_good(x), lambda n: n.then(upscale), lambda n: n.then(caption))

    async def main():
        with pytest.raises(FlowFailed, match="got a coroutine from its function"):
            await flow.execute(service)
        assert len(service.sent) == 1

    run(main)


def test_branch_refuses_functions_that_are_not_sub_pipelines():
    flow = Flow()
    node = flow.then(art())
    with pytest.raises(
        DeclarationError, match=r"branch, declared at .*test_choosing.py:\d+, got NoneType from its path"
    ):
        node.branch(lambda _: True, lambda n: None, lambda n: n)
    with pytest.raises(DeclarationError, match=r"got <Many .*many.gather\(\)"):
        node.branch(lambda _: True, lambda n: n.pick(lambda _: [1]).map(caption), lambda n: n)
    with pytest.raises(DeclarationError, match=r"branch\(when\), declared at"):
        node.branch(1, lambda n: n, lambda n: n)


# The first few


def test_first_collects_what_is_in_flight_without_holding_up_what_follows(run):
    gate = []
    service = Service(lambda request, count: gate[0].wait() if request.wire.get("positivePrompt") == "2" else None)
    flow = Flow(concurrency=3)
    pulled = []

    def prompts():
        for number in range(100):
            pulled.append(number)
            yield str(number)

    images = flow.map(prompts, art)
    two = images.first(2)

    async def open_gate(_):
        gate[0].set()

    flow.then(two, open_gate)

    async def main():
        gate[:] = [anyio.Event()]
        pulled.clear()
        service.sent.clear()
        result = await flow.execute(service)
        assert len(result[two]) == 2
        assert len(pulled) < 8
        outcomes = result.outcomes(images)
        assert all(isinstance(outcome, (Ok, Skipped)) for outcome in outcomes)
        assert len([outcome for outcome in outcomes if isinstance(outcome, Ok)]) == len(service.sent)

    run(main)


@pytest.mark.parametrize("policy", ["retry", "fallback"])
def test_what_fails_after_a_first_was_decided_is_not_bought_again(run, policy):
    gate = []

    async def answer(request, count):
        if request.wire["positivePrompt"] == "0":
            while len(service.sent) < 3:
                await anyio.lowlevel.checkpoint()
            return None
        await gate[0].wait()
        return RunwareError("no", code="provider", raw_code="providerError", retryable=True)

    service = Service(answer)
    options = {"retry": Retry(3, backoff=0.0)} if policy == "retry" else {"fallback": lambda number: art("instead")}
    flow = Flow(concurrency=3)
    images = flow.map(list("0123"), art, **options)

    async def open_gate(_):
        gate[0].set()

    flow.then(images.first(1), open_gate)

    async def main():
        gate[:] = [anyio.Event()]
        result = await flow.execute(service)
        assert result.end == "done"
        assert sorted(sent(service)) == ["0", "1", "2"]

    run(main)


def test_first_of_too_few_fails_with_their_errors(run):
    service = Service(SlowFor(fails=("b",)))
    flow = Flow()
    flow.map(["a", "b"], art).first(2, label="two")

    async def main():
        with pytest.raises(FlowFailed, match="two wants the first 2, but only 1 of 2 succeeded; the last error: no"):
            await flow.execute(service)

    run(main)


@pytest.mark.parametrize("on_error", ["stop", "cancel", "continue"])
def test_first_of_a_fan_out_that_never_began_fails_with_what_was_before_it(run, on_error):
    service = Service(SlowFor(fails=("plot",)))
    flow = Flow(on_error=on_error)
    plot = flow.then(art("plot"), label="plot")
    best = plot.pick(lambda image: [image.image_url]).map(art, label="scenes").first(1, label="best")
    after = best.then(lambda pictures: art("after"))

    async def main():
        if on_error == "continue":
            result = await flow.execute(service)
        else:
            with pytest.raises(FlowFailed) as caught:
                await flow.execute(service)
            result = caught.value.result
        error = result.outcome(best).error
        assert isinstance(error, TooFewSucceeded)
        assert "best wants the first 1, but there are no items: plot failed" in str(error)
        assert [str(one) for one in error.errors] == ["no"]
        assert isinstance(result.outcome(after), Skipped)

    run(main)


@pytest.mark.parametrize("count", [0, -1, True, 2.0])
def test_first_refuses_a_count_that_is_not_a_whole_number_from_1(count):
    with pytest.raises(DeclarationError, match="takes a whole number from 1"):
        Flow().map(["a"], art).first(count)


# Tolerance


def test_tolerate_lets_a_share_of_a_map_fail(run):
    service = Service(SlowFor(fails=("3",)))
    flow = Flow(concurrency=2)
    images = flow.map([str(x) for x in range(4)], art, tolerate=0.25)
    ends = images.then(upscale).settled()

    async def main():
        result = await flow.execute(service)
        assert [type(outcome) for outcome in result[ends]] == [Ok, Ok, Ok, Skipped]
        with pytest.raises(FlowFailed, match="no"):
            service.answer = SlowFor(fails=("3", "2"))
            await flow.execute(service)

    run(main)


def test_tolerate_of_each_is_a_share_of_its_results(run):
    error = RunwareError("half", code="provider", raw_code="providerError")

    def answer(request, count):
        error.results = [service.result(request, slot) for slot in range(3)]
        return error

    service = Service(answer)

    async def main():
        for share, is_past in ((0.25, False), (0.2, True)):
            flow = Flow()
            images = flow.each(art(number_results=4), tolerate=share)
            async with flow.start(service) as running:
                if is_past:
                    with pytest.raises(FlowFailed):
                        await running.wait()
            assert [type(outcome) for outcome in running.result.outcomes(images)] == [Ok, Ok, Ok, Failed]

    run(main)


@pytest.mark.parametrize("share", [-0.1, 1.5, "a tenth", True])
def test_tolerate_refuses_values_that_are_not_a_share(share):
    with pytest.raises(DeclarationError, match="tolerate= is a share from 0 to 1"):
        Flow().map(["a"], art, tolerate=share)
