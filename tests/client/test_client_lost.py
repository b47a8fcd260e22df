"""Lost connections: sync results that only the archive has, and frames that are too large."""

from __future__ import annotations

import anyio
import pytest

from runware_flow import Client, RunwareError
from runware_flow.emulator import Emulator
from runware_flow.tasks import ImageInference


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
