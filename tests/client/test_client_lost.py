"""Lost connections: sync results that only the archive has, and frames that are too large."""

from __future__ import annotations

import anyio
import pytest

from runware_flow import Client, RunwareError
from runware_flow.emulator import Emulator
from runware_flow.graph.policies import is_verdict
from runware_flow.tasks import ImageInference
from runware_flow.transport.rest import RestTransport


def picture(prompt="a kite", **more):
    return ImageInference(model="runware:400@1", positive_prompt=prompt, width=512, height=512, **more)


def test_sync_results_are_fetched_from_a_service_that_answers_polls_of_closed_tasks_with_silence(run):
    async def main():
        faults = ["kill:nth=3"]
        async with Emulator(latency=0.1, closed_task="silent", replay_window=0.0, faults=faults) as emulator:
            async with Client(**emulator.client_options) as client:
                async with anyio.create_task_group() as calls:
                    for number in range(60):
                        calls.start_soon(lambda number=number: client.run(picture(f"kite {number}"), delivery="sync"))
                assert len(emulator.log.tasks) == 60
                assert client.statistics().reconnects >= 1

    run(main)


def test_frame_that_is_too_large_is_a_validation_error_at_once_and_others_go_on(run, transport):
    async def main():
        async with Emulator(latency=0.3, max_frame_bytes=2**20) as emulator:
            async with Client(**emulator.client_options, transport=transport) as client:
                async with anyio.create_task_group() as calls:
                    for delivery in ("sync", "async"):
                        calls.start_soon(lambda delivery=delivery: client.run(picture(), delivery=delivery))
                    await client.run(picture("before"))
                    with pytest.raises(RunwareError) as raised:
                        await client.run(picture("x" * 2 * 2**20))
                    assert (raised.value.code, raised.value.raw_code) == ("validation", "valueTooLarge")
                assert len(emulator.log.tasks) == 3
                assert client.statistics().reconnects <= 2

    run(main)


@pytest.mark.parametrize("delivery", ["sync", "async"])
def test_result_that_is_too_large_to_read_is_an_error_of_its_task_and_others_go_on(
    run, transport, delivery, monkeypatch
):
    """The limit is 64 MiB; here it is small, so that a picture in base64 is above it."""
    monkeypatch.setattr("runware_flow.client.link.MAX_FRAME_BYTES", 8_000)
    monkeypatch.setitem(RestTransport.__init__.__kwdefaults__, "max_reply_bytes", 8_000)

    async def main():
        async with (
            Emulator(latency=0.1) as emulator,
            Client(**emulator.client_options, transport=transport, retry_delay=0.01) as client,
        ):
            await client.run(picture("before"))
            async with anyio.create_task_group() as calls:
                for number in range(4):
                    calls.start_soon(lambda number=number: client.run(picture(f"kite {number}"), delivery=delivery))
                with pytest.raises(
                    RunwareError, match="imageInference with runware:400@1: its answer is too"
                ) as raised:
                    await client.run(picture("large", output_type="base64Data"), delivery=delivery)
            assert (raised.value.code, raised.value.raw_code) == ("connection", "replyTooLarge")
            assert not is_verdict(raised.value)  # it was bought, so that no other is bought in its place
            assert len(emulator.log.tasks) == 6
            assert client.statistics().reconnects <= 2

    run(main)
