"""Limits of a flow and of a batch: what is in flight at most, and that no other node waits for it."""

from __future__ import annotations

import anyio
import pytest
from service import Service, art, caption, upscale

from runware_flow import Batch, DeclarationError, Failed, Flow, FlowFailed, Ok, RunwareTimeoutError, Skipped
from runware_flow.tasks import VideoInference


class Counting(Service):
    """Holds every request for a few turns of the loop, and knows how many of each kind were in flight at most."""

    def __init__(self, answer=None):
        super().__init__(answer or self.hold)
        self.now: dict[str, int] = {}
        self.most: dict[str, int] = {}

    async def perform(self, request, /, **more):
        kinds = ["all", f"type:{request.task_type}", f"model:{request.model}"]
        for kind in kinds:
            self.now[kind] = self.now.get(kind, 0) + 1
            self.most[kind] = max(self.most.get(kind, 0), self.now[kind])
        try:
            return await super().perform(request, **more)
        finally:
            for kind in kinds:
                self.now[kind] -= 1

    async def hold(self, request, count):
        for _ in range(3):
            await anyio.lowlevel.checkpoint()


def film(prompt):
    return VideoInference(model="google:3@2", positive_prompt=prompt, duration=5)


def test_limits_of_every_kind_hold_and_all_is_done(run):
    service = Counting()
    limits = {"image": 5, "type:upscale": 2, "model:runware:150@2": 3, "slow": 1}
    flow = Flow(concurrency=32, limits=limits)
    many = flow.map([f"kite {n}" for n in range(40)], art).then(upscale).then(caption)
    flow.map([f"film {n}" for n in range(6)], film, limit="slow")
    result = run(flow.execute, service)
    assert len(result[many]) == 40
    assert service.most["type:upscale"] == 2
    assert 1 < service.most["model:runware:150@2"] <= 3
    assert service.most["type:videoInference"] == 1
    assert 1 < service.most["type:imageInference"] <= 5
    assert service.most["all"] > 5


def test_limit_of_a_model_may_name_its_slug(run):
    service = Counting()
    flow = Flow(limits={"model:bfl-flux-2-dev": 2})
    flow.map([f"kite {n}" for n in range(10)], art)
    run(flow.execute, service)
    assert service.most["model:runware:400@1"] == 2


def test_limit_a_waiting_node_holds_no_worker(run):
    """With two places in all, twenty waiting films leave one of them to the pictures."""
    freed = None

    async def answer(request, count):
        if request.task_type == "videoInference":
            await freed.wait()
        elif count > 20:
            freed.set()

    async def main():
        nonlocal freed
        freed = anyio.Event()
        flow = Flow(concurrency=2, limits={"video": 1})
        for n in range(20):
            flow.then(film(f"film {n}"))
        pictures = flow.map([f"kite {n}" for n in range(20)], art)
        result = await flow.execute(Service(answer))
        assert len(result[pictures]) == 20

    run(main)


def test_limit_of_async_functions(run):
    most = now = 0

    async def work(number):
        nonlocal most, now
        now += 1
        most = max(most, now)
        await anyio.lowlevel.checkpoint()
        now -= 1
        return number

    flow = Flow(limits={"gpu": 3})
    many = flow.map(range(50), work, limit="gpu")
    assert run(flow.execute)[many] == list(range(50))
    assert most == 3


def test_limit_permit_is_given_back_after_failure_and_retry(run):
    def answer(request, count):
        from runware_flow import RunwareError

        if "bad" in request.wire["positivePrompt"]:
            return RunwareError("no", code="provider", raw_code="providerError", retry_after=0.0)
        return None

    flow = Flow(limits={"image": 1}, on_error="continue")
    many = flow.map(["bad", "good", "bad too", "also good"], art, retry=2)
    result = run(flow.execute, Service(answer))
    assert [type(outcome) for outcome in result.outcomes(many)] == [Failed, Ok, Failed, Ok]


def test_limit_nodes_that_wait_are_skipped_by_a_stop(run):
    def answer(request, count):
        return ValueError("broken") if count == 3 else None

    flow = Flow(limits={"image": 1})
    many = flow.map([f"kite {n}" for n in range(8)], art)
    service = Service(answer)
    with pytest.raises(FlowFailed) as caught:
        run(flow.execute, service)
    outcomes = caught.value.result.outcomes(many)
    assert len(service.sent) == 3
    assert sum(isinstance(outcome, Skipped) for outcome in outcomes) == len(outcomes) - 3


def test_limit_deadline_counts_the_time_in_the_queue(run):
    async def answer(request, count):
        await anyio.sleep(0.2 if count == 1 else 0)

    flow = Flow(limits={"image": 1}, on_error="continue")
    first = flow.then(art("one"))
    late = flow.then(art("two"), deadline=0.05)
    then = flow.then(art("three"))
    service = Service(answer)
    result = run(flow.execute, service)
    assert isinstance(result.outcome(first), Ok)
    assert isinstance(result.outcome(late).error, RunwareTimeoutError)
    assert isinstance(result.outcome(then), Ok)
    assert len(service.sent) == 2


def test_limit_cancelled_run_can_be_run_again(run):
    async def main():
        service = Counting()
        flow = Flow(limits={"image": 2})
        many = flow.map([f"kite {n}" for n in range(12)], art)
        with anyio.CancelScope() as scope:
            async with flow.start(service):
                scope.cancel()
                await anyio.sleep_forever()
        assert len((await flow.execute(service))[many]) == 12
        assert service.most["all"] == 2

    run(main)


def test_batch_items_share_limits(run):
    service = Counting()

    def poster(flow, prompt):
        return flow.then(art(prompt)).then(upscale).then(caption, limit="words")

    def wide(flow, prompt):
        return flow.join(flow.then(art(prompt)), flow.then(art(prompt + "!"))).then(lambda a, b: caption(a))

    async def main():
        batch = Batch(poster, concurrency=16, limits={"image": 3, "words": 1})
        report = await batch.collect([f"kite {n}" for n in range(40)], service)
        assert report.ok_count == 40
        assert service.most["type:caption"] == 1
        assert service.most["type:imageInference"] + service.most["type:upscale"] <= 6
        assert service.most["all"] == 4
        report = await Batch(wide, limits={"image": 3}).collect([f"kite {n}" for n in range(20)], service)
        assert report.ok_count == 20
        assert service.most["type:imageInference"] == 3

    run(main)


def test_batch_left_early_leaves_nothing_running(run):
    async def main():
        service = Counting(lambda request, count: None)
        batch = Batch(lambda flow, prompt: flow.then(art(prompt)), limits={"image": 1})
        async with batch.run([f"kite {n}" for n in range(40)], service) as outcomes:
            async for item in outcomes:
                if item.index == 3:
                    break
        assert service.now["all"] == 0
        assert (await batch.collect(["one", "two"], service)).ok_count == 2

    run(main)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"vidoe": 4}, "'vidoe' is not a key of limits="),
        ({"task:caption": 4}, "'task:caption' is not a key of limits="),
        ({"type:imageinference": 4}, "'type:imageinference' is not a key of limits=; there is 'type:imageInference'"),
        ({"model:no-such-model": 4}, "no model is called 'no-such-model'"),
        ({"model:bfl-flux-2-dev": 4, "model:runware:400@1": 5}, "two limits for the model runware:400@1"),
        ({"video": 0}, "whole numbers from 1, not 0 for 'video'"),
        ({"video": True}, "whole numbers from 1, not True"),
        (["video"], "limits= is a dict"),
    ],
)
def test_limits_that_make_no_sense_are_one_clear_sentence(run, limits, said):
    with pytest.raises(DeclarationError) as caught:
        flow = Flow(limits=limits)
        flow.then(art())
        run(flow.execute, Service())
    assert said in str(caught.value)


def test_limit_that_no_key_has_names_the_node(run):
    flow = Flow(limits={"gpu": 1})
    flow.map(["a"], art, limit="gqu", label="big")
    with pytest.raises(DeclarationError, match=r"'big/big', declared at .*test_limits.py:\d+, has limit='gqu'.*'gpu'"):
        run(flow.execute, Service())
    with pytest.raises(DeclarationError, match="is a text"):
        flow.then(art(), limit=3)

    batch = Batch(lambda flow, prompt: flow.then(art(prompt), limit="gpu"))
    with pytest.raises(DeclarationError, match="limit='gpu', which is not a key of limits=: the flow has none"):
        run(batch.collect, ["a"], Service())
