"""The main job, end to end: pipelines over real sockets, on every backend, transport and delivery."""

from __future__ import annotations

import gc
import io
import socket
import time

import anyio
import pytest
from PIL import Image
from waiting import cancel_when

from runware_flow import Abandoned, Client, DeclarationError, Flow, FlowFailed, Ok, RunwareError, Skipped
from runware_flow.emulator import Emulator
from runware_flow.emulator.commands import environment
from runware_flow.tasks import Caption, ImageInference, Upscale


def declare(prompts=("A lighthouse at dusk",), delivery="async", **options):
    """Generate, upscale, caption: one chain a prompt."""
    flow = Flow("lighthouse", **options)
    art = flow.map(
        prompts,
        lambda prompt: ImageInference(
            model="runware:400@1", positive_prompt=prompt, width=512, height=512, delivery_method=delivery
        ),
        label="art",
    )
    big = art.then(
        lambda image: Upscale(
            model="runware:504@1", inputs={"image": image}, upscale_factor=2, delivery_method=delivery
        ),
        label="big",
    )
    text = big.then(
        lambda image: Caption(model="runware:150@2", inputs={"image": image}, delivery_method=delivery), label="text"
    )
    return flow, art, big, text


@pytest.fixture(params=["websocket", "rest"])
def transport(request):
    return request.param


def test_pipeline_of_the_readme_runs_from_the_environment(backend, monkeypatch):
    """As users write it: `anyio.run(flow.execute)`, with nothing but RUNWARE_* set."""
    from runware_flow.emulator import run_in_thread

    flow = Flow("lighthouse", concurrency=64)
    art = flow.then(
        ImageInference(model="runware:400@1", positive_prompt="A lighthouse at dusk", width=1024, height=1024)
    )
    big = art.then(lambda image: Upscale(model="runware:504@1", inputs={"image": image}, upscale_factor=2), retry=3)
    text = big.then(lambda image: Caption(model="runware:150@2", inputs={"image": image}))

    with run_in_thread(latency=0.01) as emulator:
        for name, value in environment(emulator).items():
            monkeypatch.setenv(name, value)
        result = anyio.run(flow.execute, backend=backend)
        again = flow.run(backend=backend)
        assert "A lighthouse at dusk" in result[text].text
        assert "2048 x 2048" in result[text].text
        assert result[big].url != again[big].url
        assert result.cost == pytest.approx(sum(task.cost for task in emulator.log.tasks[:3]))
        deadline = time.monotonic() + 5
        while emulator.log.open_connections and time.monotonic() < deadline:
            time.sleep(0.01)  # the server hears of the end a moment later
        assert emulator.log.open_connections == 0


@pytest.mark.exhaustive
@pytest.mark.parametrize("delivery", ["sync", "async"])
def test_pipeline_two_hundred_chains_have_every_caption_right(run, transport, delivery):
    async def main():
        prompts = [f"picture number {number}" for number in range(200)]
        flow, _, big, text = declare(prompts, delivery, concurrency=64)
        async with Emulator(latency=0.05) as emulator:
            async with Client(**emulator.client_options, transport=transport) as client:
                result = await flow.execute(client)
                middle = await client.read(result[big][100])
        for prompt, caption in zip(prompts, result[text], strict=True):
            assert f'"{prompt}"' in caption.text
        assert Image.open(io.BytesIO(middle)).size == (1024, 1024)
        assert len(emulator.log.tasks) == 600
        assert len({task.task_uuid for task in emulator.log.tasks}) == 600
        assert result.cost == pytest.approx(emulator.log.billed_micro_usd / 1e6)

    run(main)


def test_pipeline_failure_keeps_everything_finished_and_names_the_node(run, transport):
    async def main():
        prompts = ["a kite", "a doomed boat", "a tower"]
        flow, _, _, text = declare(prompts, on_error="continue")
        async with Emulator(faults=["fail:prompt=doomed,code=inferenceError"]) as emulator:
            async with Client(**emulator.client_options, transport=transport) as client:
                result = await flow.execute(client)
                strict, *_ = declare(["a doomed boat"])
                with pytest.raises(FlowFailed, match=r"art.*test_pipeline\.py") as caught:
                    await strict.execute(client)
        outcomes = result.outcomes(text)
        assert [type(outcome) for outcome in outcomes] == [Ok, Skipped, Ok]
        assert isinstance(caught.value.__cause__, RunwareError)
        assert caught.value.__cause__.raw_code == "inferenceError"
        assert not any(
            task.task_type != "imageInference" for task in emulator.log.tasks if "doomed" in str(task.request)
        )

    run(main)


def test_pipeline_retry_buys_again_only_after_the_service_said_it_failed(run, transport):
    async def main():
        flow = Flow("retry")
        task = ImageInference(model="runware:400@1", positive_prompt="a kite", width=512, height=512)
        art = flow.then(task, retry=3)
        async with Emulator(faults=["fail:nth=1,code=providerUnavailable"]) as emulator:
            async with Client(**emulator.client_options, transport=transport) as client:
                result = await flow.execute(client)
        assert result[art].url
        assert len(emulator.log.tasks) == 2
        assert len({task.task_uuid for task in emulator.log.tasks}) == 2

    run(main)


def test_pipeline_cancelled_states_what_may_be_billed(run, transport):
    async def main():
        flow, art, big, text = declare(["a kite", "a boat"], concurrency=1)
        async with Emulator(faults=["never:task_type=upscale"]) as emulator:
            async with Client(**emulator.client_options, transport=transport) as client:
                async with cancel_when(lambda: any(task.task_type == "upscale" for task in emulator.log.tasks)):
                    async with flow.start(client) as handle:
                        await handle.wait()
        result = handle.result
        assert isinstance(result.outcomes(art)[0], Ok)
        abandoned = [outcome for outcome in result.outcomes(big) if isinstance(outcome, Abandoned)]
        assert [outcome.may_be_billed for outcome in abandoned] == [True]
        assert abandoned[0].task_uuid in {task.task_uuid for task in emulator.log.tasks}
        assert not any(isinstance(outcome, Ok) for outcome in result.outcomes(text))

    run(main)


@pytest.mark.exhaustive
@pytest.mark.parametrize("delivery", ["sync", "async"])
def test_pipeline_cancelled_at_every_turn_leaves_nothing_running_and_results_readable(run, transport, delivery):
    """A cancel after the n-th turn of the loop, for growing n, until the run is through."""

    async def attempt(emulator, turns):
        flow, art, _, text = declare(["a kite"], delivery)
        handles = []

        async def work():
            async with Client(**emulator.client_options, transport=transport) as client, flow.start(client) as handle:
                handles.append(handle)
                await handle.wait()

        async with anyio.create_task_group() as group:
            group.start_soon(work)
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        for handle in handles:
            assert handle.is_finished
            outcomes = [*handle.result.outcomes(art), *handle.result.outcomes(text)]
            for outcome in outcomes:
                assert not isinstance(outcome, Ok) or outcome.value.task_uuid
            if all(isinstance(outcome, Ok) for outcome in outcomes) and len(outcomes) == 2:
                return True
        return False

    async def main():
        async with Emulator(latency=0.0) as emulator:
            turns = 0
            while not await attempt(emulator, turns):
                turns += 1 + turns // 10
            gc.collect()
            assert turns > 20

    run(main)


def sentence_of(error):
    """What a user sees first: one line, not a traceback from inside."""
    text = error.summary if isinstance(error, FlowFailed) else str(error)
    assert text
    assert "\n" not in text
    return text


def test_pipeline_wrong_key_is_one_sentence(run, transport):
    async def main():
        flow, *_ = declare()
        async with Emulator() as emulator:
            options = {**emulator.client_options, "api_key": "rw-wrong", "transport": transport}
            async with Client(**options) as client:
                with pytest.raises(FlowFailed) as caught:
                    await flow.execute(client)
        assert caught.value.__cause__.code == "auth"
        assert sentence_of(caught.value)
        assert "rw-wrong" not in str(caught.value)

    run(main)


def test_pipeline_without_a_key_is_one_sentence(run, monkeypatch):
    monkeypatch.delenv("RUNWARE_API_KEY", raising=False)

    async def main():
        flow, *_ = declare()
        with pytest.raises((RunwareError, FlowFailed), match="RUNWARE_API_KEY") as caught:
            await flow.execute()
        sentence_of(caught.value)

    run(main)


def test_pipeline_unreachable_host_is_one_sentence(run, transport):
    async def main():
        flow, *_ = declare()
        with socket.socket() as reserved:
            reserved.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{reserved.getsockname()[1]}/v1"
            options = {"http_base_url": f"http://{address}", "ws_base_url": f"ws://{address}"}
            async with Client("rw-key", transport=transport, retry_delay=0.01, **options) as client:
                with pytest.raises(FlowFailed) as caught:
                    await flow.execute(client)
        assert caught.value.__cause__.code == "connection"
        assert "127.0.0.1" in sentence_of(caught.value)

    run(main)


def test_pipeline_unknown_model_is_one_sentence(run, transport):
    async def main():
        flow = Flow("typo")
        flow.then({"model": "bfl-flux-2-dve", "positivePrompt": "a kite"}, label="art")
        other = Flow("made-up")
        other.then(ImageInference(model="runware:999@9", positive_prompt="a kite"), label="art")
        async with Emulator() as emulator, Client(**emulator.client_options, transport=transport) as client:
            with pytest.raises(FlowFailed, match=r"art.*bfl-flux-2-dve.*did you mean"):
                await flow.execute(client)
            with pytest.raises(FlowFailed, match=r"art.*runware:999@9"):
                await other.execute(client)

    run(main)


@pytest.mark.parametrize("nonsense", [None, 42, [], "a kite", lambda: None])
def test_pipeline_builder_that_returns_nonsense_names_the_node(run, nonsense):
    async def main():
        flow = Flow("nonsense")
        flow.map(["a"], lambda prompt: nonsense, label="art")
        async with Emulator() as emulator, Client(**emulator.client_options) as client:
            with pytest.raises(FlowFailed, match=r"art.*test_pipeline\.py") as caught:
                await flow.execute(client)
        assert not emulator.log.tasks
        sentence_of(caught.value)

    run(main)


def test_pipeline_node_formatted_into_a_prompt_is_caught_at_declaration():
    flow, *_ = declare()
    node = flow.then(ImageInference(model="runware:400@1", positive_prompt="a kite"))
    with pytest.raises(DeclarationError, match=r"test_pipeline\.py.*node\.then"):
        flow.then(ImageInference(model="runware:400@1", positive_prompt=f"like {node}"))
    with pytest.raises((DeclarationError, RunwareError), match=r"node\.then"):
        flow.then(Upscale(model="runware:504@1", inputs={"image": node}))
