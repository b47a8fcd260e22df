"""Retries, fallbacks and time limits in a run: what is sent when, what errors say, what a journal restores."""

from __future__ import annotations

import anyio
import pytest
import trio.testing
from service import Service, art, caption, failed, fails, sent, upscale

from runware_flow import (
    DeclarationError,
    Failed,
    Flow,
    FlowFailed,
    Ok,
    Retry,
    RunwareTimeoutError,
)

# Retries


def test_retry_on_codes_tries_only_after_those(run):
    service = Service(lambda request, count: failed("safety", "contentModeration") if count < 3 else None)
    flow = Flow(on_error="continue")
    stubborn = flow.then(art(), retry=Retry(3, on=("safety",), backoff=0.0))

    async def main():
        result = await flow.execute(service)
        assert isinstance(result.outcome(stubborn), Ok)
        assert len(service.sent) == 3

    run(main)


def test_retry_on_exception_classes_of_a_function(run):
    calls = []

    async def work():
        calls.append(1)
        raise OSError if len(calls) == 1 else ValueError

    flow = Flow(on_error="continue")
    node = flow.then(work, retry=Retry(5, on=(OSError,)))

    async def main():
        result = await flow.execute()
        assert isinstance(result.outcome(node).error, ValueError)
        assert len(calls) == 2

    run(main)


def test_retries_of_a_run_are_used_up_by_an_outage(run):
    service = Service(fails("a", error=failed()))
    flow = Flow(on_error="continue")
    many = flow.map(["a"] * 300, art, retry=Retry(4, backoff=0.0), key=lambda _: "a")

    async def main():
        result = await flow.execute(service)
        assert all(isinstance(outcome, Failed) for outcome in result.outcomes(many))
        assert 300 < len(service.sent) <= 300 + 50 + 60
        [note] = result.outcomes(many)[-1].error.__notes__
        assert "its retries are used up" in note

    run(main)


# Fallbacks


def test_fallback_has_its_turn_when_the_work_has_failed_for_good(run):
    service = Service(fails("a"))
    flow = Flow()
    node = flow.then(art("a"), fallback=lambda: art("b"), retry=Retry(2, backoff=0.0))
    text = node.then(caption)

    async def main():
        result = await flow.execute(service)
        assert sent(service) == ["a", "a", "b", "caption"]
        assert result[text].text == "caption of imageInference(b)"
        assert result.record(node).attempts == 3
        assert result.cost == pytest.approx(0.0024)  # what the service says has failed is free
        assert len({request.task_id for request in service.sent}) == 4

    run(main)


def test_fallback_that_fails_too_is_a_failure_with_both_errors(run):
    service = Service(lambda request, count: failed(raw_code=f"providerError{count}"))
    flow = Flow()
    node = flow.then(art("a")).fallback(art("b"))

    async def main():
        with pytest.raises(FlowFailed, match="providerError2 it is") as caught:
            await flow.execute(service)
        assert caught.value.node == node
        assert "before it: providerError1 it is" in caught.value.__cause__.__notes__[0]

    run(main)


@pytest.mark.parametrize("kind", ["then", "join", "many", "many join", "map", "each", "flow.then"])
def test_fallback_is_called_with_the_same_arguments(run, kind):
    service = Service(lambda request, count: failed() if request.task_type == "upscale" else None)
    flow = Flow()
    image = flow.then(art("x"))
    many = flow.map(["1", "2"], art)

    def first(*_):
        return upscale(service.result(service.prepare(art("never"))))

    def instead(*args):
        return art("+".join(str(getattr(arg, "image_url", arg)) for arg in args))

    node = {
        "then": lambda: image.then(first, fallback=instead),
        "join": lambda: flow.join(image, image).then(first, fallback=instead),
        "many": lambda: many.then(first, fallback=instead).gather().pick(lambda all_: all_[1]),
        "many join": lambda: many.join(image).then(first, fallback=instead).gather().pick(lambda all_: all_[1]),
        "map": lambda: flow.map(["1", "2"], first, fallback=instead).gather().pick(lambda all_: all_[1]),
        "each": lambda: flow.each(first(), fallback=lambda: art("each", number_results=2)).gather().pick(len),
        "flow.then": lambda: flow.then(image, image, first, fallback=instead),
    }[kind]()
    x = "imageInference(x)"
    expected = {
        "then": f"imageInference({x})",
        "join": f"imageInference({x}+{x})",
        "many": "imageInference(imageInference(2))",
        "many join": f"imageInference(imageInference(2)+{x})",
        "map": "imageInference(2)",
        "each": 2,
        "flow.then": f"imageInference({x}+{x})",
    }[kind]

    async def main():
        result = await flow.execute(service)
        assert getattr(result[node], "image_url", result[node]) == expected

    run(main)


def test_fallback_of_a_function_and_by_a_function(run):
    async def broken(x):
        raise OSError(x)

    async def whole(x):
        return x + 1

    async def one():
        return 1

    flow = Flow()
    node = flow.then(one).then(broken, fallback=whole)

    async def main():
        result = await flow.execute()
        assert result[node] == 2

    run(main)


def test_fallback_after_a_timeout_is_a_second_purchase(run):
    async def never(request, count):
        await anyio.sleep_forever()

    service = Service(lambda request, count: never(request, count) if count == 1 else None)
    flow = Flow()
    node = flow.then(art("slow"), timeout=0.01).fallback(art("quick"))

    async def main():
        result = await flow.execute(service)
        assert isinstance(result.outcome(node), Ok)
        assert sent(service) == ["slow", "quick"]
        assert result.cost is None  # the first may be billed

    run(main)


def test_fallback_answers_a_race_that_all_have_lost(run):
    service = Service(fails("a", "b"))
    flow = Flow()
    raced = flow.race(flow.then(art("a")), flow.then(art("b")))
    node = raced.fallback(art("c"))

    async def main():
        result = await flow.execute(service)
        assert result[node].image_url == "imageInference(c)"
        assert isinstance(result.outcome(raced), Failed)

    run(main)


def test_fallback_hides_no_mistake(run):
    service = Service()
    flow = Flow(on_error="continue")

    def broken(_):
        raise KeyError("oops")

    node = flow.then(art("x")).then(broken, fallback=caption)

    async def main():
        result = await flow.execute(service)
        assert isinstance(result.outcome(node).error, KeyError)
        assert sent(service) == ["x"]

    run(main)


def test_fallback_is_not_begun_after_a_stop(run):
    service = Service(fails("a", "b"))
    flow = Flow(concurrency=1)
    flow.then(art("b"))
    flow.then(art("a")).fallback(art("c"))

    async def main():
        with pytest.raises(FlowFailed):
            await flow.execute(service)
        assert "c" not in sent(service)

    run(main)


def test_resume_after_a_fallback_does_not_buy_the_first_choice_again(run, tmp_path):
    def declare():
        flow = Flow("f", journal=tmp_path / "j.sqlite")
        node = flow.then(art("a")).fallback(art("b"))
        return flow, node, node.then(caption)

    async def main():
        flow, node, _ = declare()
        service = Service(lambda request, count: failed() if count in (1, 3) else None)
        with pytest.raises(FlowFailed):
            await flow.execute(service)
        assert sent(service) == ["a", "b", "caption"]
        again = Service()
        flow, node, text = declare()
        result = await flow.execute(again)
        assert sent(again) == ["caption"]
        assert result[node].image_url == "imageInference(b)"
        assert isinstance(result.outcome(text), Ok)
        last = Service()
        assert (await declare()[0].execute(last)).cost == result.cost
        assert sent(last) == []

    run(main)


def test_resume_after_both_failed_begins_with_the_first_choice(run, tmp_path):
    def declare():
        flow = Flow("f", journal=tmp_path / "j.sqlite")
        return flow, flow.then(art("a")).fallback(art("b"))

    async def main():
        flow, _ = declare()
        with pytest.raises(FlowFailed):
            await flow.execute(Service(fails("a", "b")))
        again = Service()
        flow, node = declare()
        result = await flow.execute(again)
        assert sent(again) == ["a"]
        assert isinstance(result.outcome(node), Ok)

    run(main)


def test_fallback_refuses_values_that_cannot_be_one():
    flow = Flow()
    node = flow.then(art())
    with pytest.raises(DeclarationError, match=r"fallback, declared at .* takes a task, not function"):
        node.fallback(caption)
    with pytest.raises(DeclarationError, match=r"asks for 2 results"):
        node.fallback(art(number_results=2))
    with pytest.raises(DeclarationError, match=r"fallback=, declared at .*use node.fallback\(task\)"):
        node.then(caption, fallback=art())
    with pytest.raises(DeclarationError, match=r"fallback=, declared at .*its parameters are"):
        flow.then(node, node, lambda a, b: art(), fallback=lambda a: art())
    many = flow.each(art(number_results=2))
    with pytest.raises(DeclarationError, match="is for a node that does some work"):
        many.fallback(art())


# Patience


def test_idle_is_reset_by_progress_and_by_results():
    class Slow(Service):
        async def perform(self, request, /, *, on_progress=None, on_result=None, **more):
            for step in range(6):
                await anyio.sleep(0.9)
                if step < self.steps:
                    on_progress(step * 10.0)
                elif on_result is not None:
                    on_result(Ok(self.result(request)))
            return [self.result(request, slot) for slot in range(request.slots)]

    service = Slow()
    flow = Flow(on_error="continue")
    one = flow.then(art(), idle=1)
    many = flow.each(art(number_results=2), idle=1)

    async def main():
        service.steps = 6
        result = await flow.execute(service)
        assert isinstance(result.outcome(one), Ok)
        service.steps = 1
        result = await flow.execute(service)
        error = result.outcome(one).error
        assert isinstance(error, RunwareTimeoutError)
        assert "was given up after 1 s without progress" in str(error)
        assert error.task_uuid == result.record(one).task_uuid
        assert len(result[many]) == 2

    clock = trio.testing.MockClock(autojump_threshold=0)
    anyio.run(main, backend="trio", backend_options={"clock": clock})


def test_idle_and_timeout_are_told_apart(run):
    service = Service(lambda request, count: anyio.sleep_forever())
    flow = Flow(on_error="continue")
    idle = flow.then(art(), idle=0.01, timeout=60)
    late = flow.then(art(), idle=60, timeout=0.01)

    async def main():
        result = await flow.execute(service)
        assert "was given up after 0.01 s" in str(result.outcome(idle).error)
        assert "took longer than its timeout of 0.01 s" in str(result.outcome(late).error)
        assert result.cost is None

    run(main)


def test_idle_of_a_function_is_refused():
    async def work():
        return 1

    with pytest.raises(DeclarationError, match="an async function reports no progress"):
        Flow().then(work, idle=3)
