"""A service that refuses what is too much: direct calls and streams wait, and nothing is lost."""

from __future__ import annotations

import anyio
import pytest
from anyio.lowlevel import checkpoint

from runware_flow import Client, RunwareError, RunwareTimeoutError
from runware_flow.client.refusal import TaskRefused
from runware_flow.client.send_windows import SendWindows, SlotWaiter
from runware_flow.client.wake_event import WakeEvent
from runware_flow.emulator import Emulator
from runware_flow.tasks import ImageInference, TextInference

MODEL = "runware:400@1"
FAST = {"retry_delay": 0.01, "max_retries": 0}


def picture(prompt="a kite", **more):
    return ImageInference(model=MODEL, positive_prompt=prompt, width=512, height=512, **more)


def words(prompt="hello", **more):
    return TextInference(model="google:gemma@4-31b", messages=[{"role": "user", "content": prompt}], **more)


async def run_all(client, count, **more):
    async with anyio.create_task_group() as calls:
        for number in range(count):
            calls.start_soon(lambda number=number: client.run(picture(f"kite {number}"), **more))


def test_calls_beyond_the_capacity_wait_and_raise_nothing(run, open_pair, delivery):
    async def main():
        async with open_pair({**FAST}, capacity=3, latency=0.05) as (emulator, client):
            await run_all(client, 30, delivery=delivery)
            assert len(emulator.log.tasks) == 30
            assert emulator.log.conflicts == 0
            assert emulator.log.rejected, "nothing was refused, so nothing was tested"
            model = client.statistics().models[MODEL]
            assert (model.in_flight, model.waiting) == (0, 0)
            assert model.refusals == len(emulator.log.rejected) <= 3 * 30

    run(main)


def test_statistics_tell_of_each_model(run):
    async def main():
        async with Emulator(latency=0.4, capacity=2) as emulator, Client(**emulator.client_options, **FAST) as client:
            assert client.statistics().models == {}
            async with anyio.create_task_group() as calls:
                for _ in range(6):
                    calls.start_soon(client.run, picture())
                while not client.statistics().models or not client.statistics().models[MODEL].refusals:
                    await checkpoint()
                while (during := client.statistics().models[MODEL]).window is None or during.in_flight > 2:
                    await checkpoint()
                assert (during.window, during.in_flight, during.waiting) == (2, 2, 4)
            await client.account_management()
            with pytest.raises(RunwareError):
                await client.run({"taskType": "imageInference", "model": MODEL, "width": -1})
            assert list(client.statistics().models) == [MODEL]
            assert client.statistics().models[MODEL].in_flight == 0

    run(main)


def test_time_that_the_service_asks_for_is_waited(run):
    async def main():
        faults = ["http:status=429,times=1,retry_after=0.3"]
        async with Emulator(latency=0.01, faults=faults) as emulator:
            async with Client(**emulator.client_options, transport="rest", **FAST) as client:
                began = anyio.current_time()
                await client.run(picture())
                assert 0.3 <= anyio.current_time() - began < 3.0
                assert client.statistics().models[MODEL].refusals == 1

    run(main)


def test_timeout_runs_from_the_call_on_and_says_that_the_service_refused(run, open_pair):
    async def main():
        async with open_pair({**FAST}, capacity=0) as (emulator, client):
            with pytest.raises(RunwareTimeoutError, match=r"was refused by the service for 1 s, its timeout") as raised:
                await client.run(picture(), timeout=1)
            assert (raised.value.code, raised.value.raw_code) == ("rateLimit", "rateLimitExceeded")
            assert "nothing was billed" in raised.value.message
            assert not emulator.log.tasks

    run(main)


def test_model_that_refuses_everything_for_the_poll_timeout_is_one_sentence(run, open_pair):
    async def main():
        async with open_pair({**FAST, "poll_timeout": 0.3}, capacity=0) as (_, client):
            with pytest.raises(RunwareError, match=r"has refused every task of runware:400@1 for 0\.3 s") as told:
                await client.run(picture(), timeout=30)
            assert told.value.code == "rateLimit"

    run(main)


def test_cancelled_call_leaves_the_queue(run, open_pair):
    async def main():
        async with open_pair({**FAST}, capacity=1, latency=0.2) as (emulator, client):
            async with anyio.create_task_group() as calls:
                calls.start_soon(client.run, picture("first"))
                calls.start_soon(client.run, picture("second"))
                while not emulator.log.rejected:
                    await checkpoint()
                calls.cancel_scope.cancel()
            assert client.statistics().models[MODEL].waiting == 0
            await client.run(picture("third"))
            assert client.statistics().in_flight == 0

    run(main)


def test_streams_share_the_window_and_are_sent_again(run):
    async def main():
        async with Emulator(latency=0.05, capacity=2) as emulator, Client(**emulator.client_options, **FAST) as client:
            texts = []

            async def read(number):
                async with client.stream(words(f"number {number}")) as stream:
                    texts.append((await stream.result()).text)

            async with anyio.create_task_group() as calls:
                for number in range(10):
                    calls.start_soon(read, number)
            assert len(texts) == 10
            assert emulator.log.rejected
            assert client.statistics().models["google:gemma@4-31b"].in_flight == 0

    run(main)


def test_stream_that_is_refused_until_its_time_is_over_says_so(run):
    async def main():
        async with Emulator(capacity=0) as emulator, Client(**emulator.client_options, **FAST) as client:
            async with client.stream(words(), timeout=1) as stream:
                with pytest.raises(RunwareTimeoutError, match=r"refused this stream for 1 s, its timeout") as raised:
                    await stream.result()
            assert raised.value.code == "rateLimit"
            assert client.statistics().models["google:gemma@4-31b"].in_flight == 0

    run(main)


@pytest.mark.parametrize("streams", [False, True])
def test_task_that_parks_is_given_back_and_may_be_sent_again_as_it_is(run, streams):
    async def main():
        async with Emulator(latency=0.02, capacity=0) as emulator, Client(**emulator.client_options, **FAST) as client:
            prepared = client.prepare(words(delivery_method="stream") if streams else picture())
            windows, model = client.windows, prepared.model
            waiter = SlotWaiter(WakeEvent())

            async def perform(slot=None):
                if streams:
                    return await client.perform_stream(prepared, lambda *_: None, slot=slot, parks=True)
                return await client.perform(prepared, slot=slot, parks=True)

            with pytest.raises(TaskRefused) as refused:
                await perform()
            assert refused.value.error.raw_code == "rateLimitExceeded"
            state = client.statistics().models[model]
            assert (state.window, state.refusals) == (1, 1)
            windows.want(model, waiter, refused.value.number)
            await waiter.event.wait()
            slot = waiter.offered.pop(model)
            with pytest.raises(TaskRefused):
                await perform(slot)
            assert client.statistics().models[model].in_flight == 0
            assert not slot.is_open

    run(main)


def test_waiter_that_leaves_gives_back_what_it_was_offered(run):
    async def main():
        async with Emulator(latency=0.02, capacity=0) as emulator, Client(**emulator.client_options, **FAST) as client:
            with pytest.raises(TaskRefused):
                await client.perform(client.prepare(picture()), parks=True)
            waiter = SlotWaiter(WakeEvent(), lambda model: 3)
            client.windows.want(MODEL, waiter)
            client.windows.want(MODEL, waiter)
            state = client.statistics().models[MODEL]
            assert state.waiting == 3 or state.in_flight == 1, "on a busy machine the slot may be offered at once"
            await waiter.event.wait()
            assert client.statistics().models[MODEL].in_flight == 1
            client.windows.leave(waiter)
            assert client.statistics().models[MODEL].in_flight == 0

    run(main)


def test_waiters_are_woken_when_the_client_closes(run):
    async def main():
        waiter = SlotWaiter(WakeEvent())
        async with Emulator(latency=0.02, capacity=0) as emulator, Client(**emulator.client_options) as client:
            with pytest.raises(TaskRefused):
                await client.perform(client.prepare(picture()), parks=True)
            client.windows.want(MODEL, waiter)
        await waiter.event.wait()
        assert MODEL in waiter.offered

    run(main)


def test_windows_without_a_session_delay_nothing():
    windows = SendWindows()
    assert windows.has_room(MODEL)
    assert windows.take(MODEL) is None
    windows.want(MODEL, SlotWaiter(WakeEvent()))
