"""Nodes that send tasks, over an in-memory service: what is sent, what comes back, and what is never bought twice."""

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
    RunwareTimeoutError,
    Skipped,
    current_run,
)
from runware_flow.graph.events import NodeSettled
from runware_flow.results import ImageResult


def provider_error(**more):
    more = {"code": "provider", "raw_code": "taskFailed", "message": "the model fell over", **more}
    return RunwareError(more.pop("message"), **more)


def lighthouse(**options):
    flow = Flow("lighthouse", **options)
    image = flow.then(art())
    big = image.then(upscale, retry=3)
    return flow, image, big, big.then(caption)


def test_execute_pipeline_hands_results_on_as_media_and_adds_up_the_cost(run):
    flow, image, big, text = lighthouse()

    async def main():
        service = Service()
        result = await flow.execute(service)
        assert isinstance(result[image], ImageResult)
        assert result[text].text == "caption of upscale(imageInference(a kite))"
        assert all(request.wire["includeCost"] for request in service.sent)
        assert result.cost == 0.0036
        assert [(line.stage, line.model, line.count, line.cost) for line in result.receipt()] == [
            ("imageInference", "runware:400@1", 1, 0.0012),
            ("upscale", "runware:504@1", 1, 0.0012),
            ("caption", "runware:150@2", 1, 0.0012),
        ]
        record = result.record(big)
        assert (record.path, record.task_uuid, record.attempts) == ("upscale", service.sent[1].task_id, 1)
        assert record.cost == 0.0012

    run(main)


def test_execute_without_cost_is_unknown_never_zero(run):
    flow = Flow()
    flow.then(art(include_cost=False))
    flow.then(art())

    async def main():
        service = Service()
        result = await flow.execute(service)
        assert sorted(request.wire["includeCost"] for request in service.sent) == [False, True]
        assert result.cost is None
        assert [(line.cost, line.unknown_count) for line in result.receipt()].count((None, 1)) == 1

    run(main)


def test_wire_dicts_work_as_tasks_and_from_builders(run):
    flow = Flow()
    image = flow.then({"model": "runware:400@1", "positivePrompt": "a kite"})
    text = image.then(lambda made: {"model": "runware:150@2", "inputs": {"image": made}, "taskType": "caption"})

    async def main():
        result = await flow.execute(Service())
        assert result[text].text == "caption of imageInference(a kite)"

    run(main)


def test_map_sends_a_task_an_item_within_the_bound(run):
    flow = Flow(concurrency=4)
    many = flow.map([f"kite {n}" for n in range(20)], art).then(upscale).then(caption)

    async def main():
        service = Service()
        result = await flow.execute(service)
        assert [made.text for made in result[many]] == [
            f"caption of upscale(imageInference(kite {n}))" for n in range(20)
        ]
        assert service.most_in_flight == 4
        assert len(service.sent) == 60
        assert result.cost == 0.072
        assert all(record.path.startswith("art[") for record in result.records(many))

    run(main)


def test_each_fans_out_over_the_results_of_one_task(run):
    flow = Flow()
    variants = flow.each(art(number_results=3))
    texts = variants.then(caption)
    chosen = variants.gather().pick(len)

    async def main():
        service = Service()
        result = await flow.execute(service)
        assert [made.text for made in result[texts]] == [
            f"caption of imageInference(a kite){slot or ''}" for slot in range(3)
        ]
        assert result[chosen] == 3
        assert len(result[variants]) == 3
        assert len(service.sent) == 4

    run(main)


def test_each_that_fails_in_part_keeps_what_was_paid_for(run):
    flow = Flow(on_error="continue")
    variants = flow.each(art(number_results=3), retry=5)
    texts = variants.then(caption)

    def answer(request, count):
        if request.task_type != "imageInference":
            return None
        return provider_error(results=[service.result(request, slot) for slot in (0, 1)])

    service = Service(answer)

    async def main():
        service.sent.clear()
        result = await flow.execute(service)
        match result.outcomes(texts):
            case [Ok(), Ok(), Skipped()]:
                pass
            case other:
                pytest.fail(str(other))
        assert isinstance(result.outcomes(variants)[2], Failed)
        assert [request.task_type for request in service.sent] == ["imageInference", "caption", "caption"]
        assert result.cost == 0.0048
        with pytest.raises(FlowFailed, match="fell over"):
            await flow.execute(service, on_error="stop")

    run(main)


@pytest.mark.parametrize(
    ("error", "sent"),
    [
        (provider_error(), 3),
        (provider_error(code="rateLimit", raw_code="rateLimitExceeded", retry_after=0.0), 3),
        (provider_error(code="timeout", raw_code="timeoutProvider"), 3),
        (RunwareError("busy", code="serverError", status_code=503), 3),
        (RunwareError("bad gateway", code="serverError", status_code=502), 1),
        (provider_error(code="safety", raw_code="nsfwContentDetected"), 1),
        (provider_error(code="connection", raw_code="connectionLost"), 1),
        (RunwareTimeoutError("too slow", code="timeout"), 1),
        (ValueError("a bug"), 1),
    ],
)
def test_retry_buys_again_only_after_the_service_said_that_it_failed(run, error, sent):
    flow = Flow(on_error="continue")
    node = flow.then(art(), retry=Retry(3, backoff=0.0))

    async def main():
        service = Service(lambda request, count: error)
        result = await flow.execute(service)
        assert result.outcome(node) == Failed(error)
        assert len(service.sent) == sent
        assert len({request.task_id for request in service.sent}) == sent
        assert result.record(node).attempts == sent

    run(main)


def test_retry_gives_a_task_with_an_id_of_its_own_a_new_one(run):
    uuid = "4b2b1e7e-1111-4222-8333-0123456789ab"
    flow = Flow()
    fixed = flow.then(art(task_uuid=uuid), retry=Retry(2, backoff=0.0))
    wired = flow.then(
        {"taskUUID": uuid, "model": "runware:400@1", "positivePrompt": "a kite"}, retry=Retry(2, backoff=0.0)
    )

    async def main():
        failed = set()

        def once(request, count):
            if request.task_id == uuid:
                failed.add(count)
                return provider_error()
            return None

        service = Service(once)
        result = await flow.execute(service)
        assert len(failed) == 2
        assert uuid not in (result[fixed].task_uuid, result[wired].task_uuid)
        assert result.cost == 0.0024  # what the service says has failed is free

    run(main)


def test_retry_stops_when_the_run_has_stopped(run):
    flow = Flow(concurrency=2)
    state = {}

    async def boom():
        await state["sent"].wait()
        raise ValueError("no luck")

    flow.then(boom, label="boom")
    node = flow.then(art(), retry=100)

    async def main():
        state["sent"] = anyio.Event()

        async def fail_later():
            state["sent"].set()
            for _ in range(10):
                await anyio.lowlevel.checkpoint()
            return provider_error()

        service = Service(lambda request, count: fail_later())
        with pytest.raises(FlowFailed, match="'boom'") as info:
            await flow.execute(service)
        assert len(service.sent) == 1
        assert isinstance(info.value.result.outcome(node), Failed)

    run(main)


NONSENSE = {
    "None: is a `return` missing": lambda image: None,
    "a list: return one task": lambda image: [art()],
    "str: return a task or a dict": lambda image: "a kite",
    "a coroutine: give the async function itself": lambda image: anyio.lowlevel.checkpoint(),
}


@pytest.mark.parametrize("says", list(NONSENSE))
def test_builder_that_returns_nonsense_fails_its_node_by_name(run, says):
    flow = Flow(on_error="continue")
    node = flow.then(art()).then(NONSENSE[says], label="nonsense")

    async def main():
        error = (await flow.execute(Service())).outcome(node).error
        assert isinstance(error, DeclarationError)
        assert says in str(error)
        assert "node 'nonsense', declared at" in str(error)
        assert "test_tasks.py:" in str(error)

    run(main)


def test_builder_that_returns_a_node_or_many_results_or_holds_a_node_is_an_error(run):
    flow = Flow(on_error="continue")
    image = flow.then(art())
    a_node = image.then(lambda made: image)
    several = image.then(lambda made: art(number_results=2))
    held = image.then(lambda made: art(prompt=image))

    async def main():
        service = Service()
        result = await flow.execute(service)
        assert "use pipe or join" in str(result.outcome(a_node).error)
        assert "asks for 2 results" in str(result.outcome(several).error)
        assert "node.then" in str(result.outcome(held).error)
        assert len(service.sent) == 1

    run(main)


def test_builder_that_raises_fails_the_node_with_its_own_error(run):
    flow = Flow()
    flow.then(art()).then(lambda image: image.nope, label="broken")

    async def main():
        with pytest.raises(FlowFailed, match="'broken'") as info:
            await flow.execute(Service())
        assert isinstance(info.value.__cause__, AttributeError)
        assert "in the builder of node 'broken'" in info.value.__cause__.__notes__[0]

    run(main)


def test_async_function_that_returns_a_task_is_an_error(run):
    flow = Flow(on_error="continue")

    async def build():
        return art()

    node = flow.then(build)

    async def main():
        assert "make it a plain `def`" in str((await flow.execute()).outcome(node).error)

    run(main)


def test_function_node_finds_the_client_of_the_run(run):
    flow = Flow()

    async def buy():
        client = current_run().client
        [image] = await client.perform(client.prepare(art()))
        return image.url

    node = flow.then(buy)

    async def main():
        assert (await flow.execute(Service()))[node] == "imageInference(a kite)"

    run(main)


def test_timeout_of_a_task_leaves_the_cost_unknown(run):
    flow = Flow(on_error="continue")
    node = flow.then(art(), timeout=0.01, retry=3)

    async def main():
        service = Service(lambda request, count: anyio.sleep_forever())
        result = await flow.execute(service)
        error = result.outcome(node).error
        assert isinstance(error, RunwareTimeoutError)
        assert (error.task_uuid, error.may_be_billed) == (service.sent[0].task_id, True)
        assert len(service.sent) == 1
        assert result.cost is None

    run(main)


def test_cancel_names_what_is_in_flight_and_may_be_billed(run):
    flow = Flow()
    done = flow.then(art("done"))
    stuck = done.then(lambda image: art("stuck"), label="stuck")
    never = stuck.then(caption)

    async def bought():
        _ = current_run().client
        await anyio.sleep_forever()

    function = flow.then(bought)

    async def main():
        service = Service(lambda request, count: anyio.sleep_forever() if count == 2 else None)
        with anyio.CancelScope() as scope:
            async with flow.start(service) as started:
                while len(service.sent) < 2:
                    await anyio.lowlevel.checkpoint()
                scope.cancel()
        result = started.result
        assert result[done].url == "imageInference(done)"
        assert result.outcome(stuck) == Abandoned(service.sent[1].task_id, may_be_billed=True)
        assert result.outcome(function) == Abandoned(None, may_be_billed=True)
        assert result.outcome(never) == Skipped("stuck was abandoned")
        assert service.in_flight == 0
        assert result.cost is None
        with pytest.raises(NodeNotAvailable, match=service.sent[1].task_id):
            result[stuck]

    run(main)


def test_execute_without_a_key_fails_at_once_in_one_sentence(run, monkeypatch):
    monkeypatch.delenv("RUNWARE_API_KEY", raising=False)
    flow, *_ = lighthouse()

    async def main():
        with pytest.raises(RunwareError, match="RUNWARE_API_KEY") as info:
            await flow.execute()
        assert info.value.code == "auth"

    run(main)


def test_fingerprint_is_that_of_the_request_and_not_of_its_sending(run, tmp_path):
    flow = Flow()
    first, same = flow.then(art()), flow.then(art(include_cost=False))
    other = flow.then(art("a boat"))
    file = tmp_path / "seed.png"
    file.write_bytes(b"pixels")
    media = [flow.then(art(inputs={"seedImage": source})) for source in (b"one", b"two", b"two", file)]

    async def main():
        result = await flow.execute(Service())
        prints = [result.record(node).fingerprint for node in (first, same, other, *media)]
        assert prints[0] == prints[1] != prints[2]
        assert prints[4] == prints[5]
        assert len(set(prints)) == 5

    run(main)


def test_retry_pause_holds_no_worker(run):
    flow = Flow(concurrency=1, on_error="continue")
    limited = provider_error(code="rateLimit", raw_code="rateLimitExceeded", retry_after=3600.0)
    waiting = flow.then(art("busy"), retry=2)
    other = flow.then(art("free"))

    async def main():
        service = Service(lambda request, count: limited if request.wire["positivePrompt"] == "busy" else None)
        async with flow.start(service) as going:
            async for event in going.events():
                if isinstance(event, NodeSettled):
                    going.stop()
        assert isinstance(going.result.outcome(other), Ok)
        assert going.result.outcome(waiting) == Failed(limited)

    run(main)
