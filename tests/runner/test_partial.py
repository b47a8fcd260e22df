"""A task of several results that is cut short: what arrived was billed, so it is kept; what is unknown is reported."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest
from service import Service, art, upscale

from runware_flow import Abandoned, Failed, Flow, FlowFailed, Ok, RunwareError, RunwareTimeoutError, Skipped


class HalfDone(Service):
    """Gives two of three images, then waits for ever, or for `self.go`."""

    def __init__(self):
        super().__init__()
        self.go = anyio.Event()
        self.has_two = anyio.Event()
        self.answer = self.give_two

    async def give_two(self, request, _):
        if request.slots == 1:
            return
        for slot in range(2):
            self.on_result(Ok(self.result(request, slot)))
        self.has_two.set()
        await self.go.wait()


def urls(outcomes):
    return [outcome.value.url for outcome in outcomes if isinstance(outcome, Ok)]


TWO = ["imageInference(a kite)", "imageInference(a kite)1"]


@pytest.mark.parametrize("limit", ["timeout", "deadline"])
def test_each_past_its_time_keeps_what_arrived(run, limit):
    flow = Flow(on_error="continue")
    images = flow.each(art(number_results=3), **{limit: 0.02})
    after = images.then(upscale)

    async def main():
        service = HalfDone()
        result = await flow.execute(service)
        outcomes = result.outcomes(images)
        assert urls(outcomes) == TWO
        [failed] = [outcome for outcome in outcomes if isinstance(outcome, Failed)]
        assert isinstance(failed.error, RunwareTimeoutError)
        assert [image.url for image in failed.error.results] == TWO
        assert len(urls(result.outcomes(after))) == 2
        assert service.timeouts[0] == (0.02 if limit == "timeout" else None)

    run(main)


def test_each_of_a_cancelled_run_keeps_what_arrived_and_says_where_the_rest_is(run):
    flow = Flow()
    images = flow.each(art(number_results=3))
    after = images.then(upscale)

    async def main():
        service = HalfDone()
        with anyio.CancelScope() as scope:
            async with flow.start(service) as started:
                await service.has_two.wait()
                scope.cancel()
        *kept, rest = started.result.outcomes(images)
        assert urls(kept) == TWO
        assert rest == Abandoned(service.sent[0].task_id, may_be_billed=True)
        assert {type(outcome) for outcome in started.result.outcomes(after)} == {Skipped}
        assert started.result.cost is None
        assert "1 abandoned" in str(started.result)

    run(main)


@pytest.mark.parametrize("on_error", ["stop", "cancel"])
def test_each_in_flight_when_its_run_fails_keeps_what_was_paid_for(run, on_error):
    flow = Flow(on_error=on_error)
    images = flow.each(art(number_results=3))
    after = images.then(upscale)
    total = images.gather().pick(len)
    current = []

    async def boom():
        await current[-1].has_two.wait()
        current[-1].go.set()
        raise ValueError("no luck")

    flow.then(boom)

    async def main():
        current.append(HalfDone())
        with pytest.raises(FlowFailed, match="no luck") as info:
            await flow.execute(current[-1])
        result = info.value.result
        assert urls(result.outcomes(images))[:2] == TWO
        assert {type(outcome) for outcome in result.outcomes(after)} == {Skipped}
        if on_error == "stop":
            assert len(result[images]) == result[total] == 3
            assert result.cost == pytest.approx(3 * 0.0012)

    run(main)


@pytest.mark.parametrize(("code", "is_known"), [("provider", True), ("timeout", False), ("connection", False)])
def test_cost_of_a_task_that_failed_in_part_is_known_only_by_a_verdict(run, code, is_known):
    flow = Flow(on_error="continue")
    images = flow.each(art(number_results=3))

    def answer(request, _):
        results = [service.result(request, slot) for slot in range(2)]
        return RunwareError("no third one", code=code, raw_code=f"{code}Lost", results=results)

    service = Service(answer)

    async def main():
        result = await flow.execute(service)
        assert len(urls(result.outcomes(images))) == 2
        assert result.cost == (pytest.approx(2 * 0.0012) if is_known else None)
        assert result.receipt()[0].unknown_count == (0 if is_known else 1)

    run(main)


def test_task_that_never_left_is_free(run):
    refused = RunwareError("refused", code="connection", raw_code="connectionFailed")
    flow = Flow(on_error="continue")
    queued = flow.then(art("late"), deadline=1e-9)
    image = flow.then(art("refused"))

    async def main():
        service = Service(lambda request, _: refused)
        result = await flow.execute(service)
        assert isinstance(result.outcome(queued).error, RunwareTimeoutError)
        assert result.outcome(image) == Failed(refused)
        assert [request.wire["positivePrompt"] for request in service.sent] == ["refused"]
        assert result.cost == 0

    run(main)


def failing(**more):
    return RunwareError("busy", code="provider", raw_code="taskFailed", **more)


def test_retry_pause_ends_with_the_run_and_buys_nothing_more(run):
    flow = Flow(on_error="continue")
    image = flow.then(art(), retry=5)

    async def main():
        service = Service(lambda request, _: failing(retry_after=3600))
        async with flow.start(service) as started:
            while started.result.receipt() == []:
                await anyio.lowlevel.checkpoint()
            started.stop()
        assert isinstance(started.result.outcome(image), Failed)
        assert len(service.sent) == 1

    run(main)


def test_retry_pause_that_would_pass_the_deadline_is_not_begun(run):
    flow = Flow(on_error="continue")
    image = flow.then(art(), retry=5, deadline=20)
    quick = flow.then(art("quick"), retry=2, deadline=20)

    def answer(request, _):
        is_quick = request.wire["positivePrompt"] == "quick"
        return failing(retry_after=0 if is_quick else 3600)

    async def main():
        service = Service(answer)
        result = await flow.execute(service)
        assert result.outcome(image).error.message == result.outcome(quick).error.message == "busy"
        assert len(service.sent) == 3

    run(main)


@pytest.mark.parametrize("has_journal", [True, False])
def test_failed_result_among_others_is_kept_as_it_is_and_the_error_says_what_helps(run, tmp_path, has_journal):
    one = RunwareError("one failed", code="provider", raw_code="providerError", retryable=True)

    class OneFailed(Service):
        async def perform(self, request, **options):
            two = [self.result(request, 0), self.result(request, 1)]
            self.sent.append(request)
            raise RunwareError(one.message, code=one.code, raw_code=one.raw_code, retryable=True, results=two)

    async def main():
        service = OneFailed()
        for _ in range(2):
            flow = Flow("part", journal=tmp_path / "run.sqlite" if has_journal else None)
            images = flow.each(art(number_results=3), retry=3)
            with pytest.raises(FlowFailed) as caught:
                await flow.execute(service)
            assert urls(caught.value.result.outcomes(images)) == TWO
            said = str(caught.value).splitlines()[-1]
            assert "give the node a fallback=" in said
            assert "retry=" not in said
            assert ("runware-flow redo" in said) is has_journal
        assert len(service.sent) == (1 if has_journal else 2)

    run(main)
