"""Flows against the emulator, over real sockets."""

from __future__ import annotations

import anyio
import pytest
from service import art, caption, upscale

from runware_flow import Abandoned, Client, Flow, FlowFailed, Ok, RunwareError, current_run
from runware_flow.emulator import Emulator

NAMES = {
    "api_key": "RUNWARE_API_KEY",
    "http_base_url": "RUNWARE_HTTP_BASE_URL",
    "ws_base_url": "RUNWARE_WS_BASE_URL",
}


@pytest.fixture(params=["websocket", "rest"])
def transport(request):
    return request.param


def test_pipeline_over_both_transports_describes_what_was_made(run, transport):
    flow = Flow("lighthouse", concurrency=16)
    prompts = [f"A lighthouse, number {n}" for n in range(30)]
    many = flow.map(prompts, art).then(upscale).then(caption)
    variants = flow.each(art(number_results=3))
    total = variants.gather().pick(len)

    async def main():
        async with Emulator(latency=0.01) as emulator:
            async with Client(**emulator.client_options, transport=transport) as client:
                result = await flow.execute(client)
        for prompt, made in zip(prompts, result[many], strict=True):
            assert prompt in made.text
            assert "1024 x 1024" in made.text
        assert result[total] == 3
        assert result.cost == pytest.approx(sum(task.cost for task in emulator.log.tasks))

    run(main)


def test_execute_without_a_client_opens_one_from_the_environment(run, monkeypatch):
    flow = Flow()
    image = flow.then(art())

    async def ask():
        return await current_run().client.run(art())

    function_only = Flow()
    asked = function_only.then(ask)

    async def main():
        async with Emulator(latency=0.01) as emulator:
            for option, name in NAMES.items():
                monkeypatch.setenv(name, emulator.client_options[option])
            idle = len(anyio.get_running_tasks())
            assert (await flow.execute())[image].url
            assert (await function_only.execute())[asked][0].url
            assert len(anyio.get_running_tasks()) == idle

    run(main)


def test_wrong_key_fails_the_first_node_by_name(run):
    flow = Flow()
    image = flow.then(art(), retry=3)
    image.then(upscale)

    async def main():
        async with Emulator() as emulator:
            async with Client(**{**emulator.client_options, "api_key": "wrong" * 8}) as client:
                with pytest.raises(FlowFailed, match="'imageInference'") as info:
                    await flow.execute(client)
        assert isinstance(info.value.__cause__, RunwareError)
        assert info.value.__cause__.code == "auth"

    run(main)


def test_cancel_over_real_sockets_keeps_what_finished_and_names_the_rest(run, transport):
    flow = Flow(concurrency=4)
    quick = flow.then(art("quick"))
    slow = flow.map([f"slow {n}" for n in range(20)], art)

    async def main():
        async with Emulator(latency=0.05) as emulator:
            async with Client(**emulator.client_options, transport=transport) as client:
                with anyio.CancelScope() as scope:
                    async with flow.start(client) as started:
                        async for _ in started.as_completed(slow):
                            scope.cancel()
                result = started.result
                assert isinstance(result.outcome(quick), (Ok, Abandoned))
                abandoned = [outcome for outcome in result.outcomes(slow) if isinstance(outcome, Abandoned)]
                assert abandoned
                assert all(outcome.may_be_billed and outcome.task_uuid for outcome in abandoned)
                assert (await client.run(art("after")))[0].url

    run(main)
