"""`transport="auto"`: the WebSocket where it opens, else REST; decided once, before anything is sent."""

from __future__ import annotations

from contextlib import asynccontextmanager

import anyio
import pytest

from runware_flow import Client, RunwareError
from runware_flow.emulator import Emulator
from runware_flow.tasks import ImageInference
from runware_flow.transport.connection import TransportError


def picture(number=0):
    return ImageInference(model="runware:400@1", positive_prompt=f"picture {number}", width=512, height=512)


@asynccontextmanager
async def mute_port():
    """A port that accepts connections and never says a word."""
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        async with anyio.create_task_group() as group:
            group.start_soon(listener.serve, hold)
            yield listener.extra(anyio.abc.SocketAttribute.local_port)
            group.cancel_scope.cancel()


async def hold(stream):
    async with stream:
        await anyio.sleep_forever()


async def run_tasks(client, count=3):
    async with anyio.create_task_group() as group:
        for number in range(count):
            group.start_soon(client.run, picture(number))


def channels(emulator):
    return {entry.channel for entry in emulator.log.asked}


def test_auto_uses_the_websocket_where_it_opens(run):
    async def main():
        async with Emulator(latency=0.01) as emulator:
            async with Client(**emulator.client_options, transport="auto") as client:
                await run_tasks(client)
            assert channels(emulator) == {"websocket"}
            assert emulator.log.connections == 1

    run(main)


@pytest.mark.parametrize("failure", ["refused", "handshake refused", "no answer", "lost while authenticating"])
@pytest.mark.parametrize("is_asked", [True, False])
def test_auto_uses_rest_where_the_websocket_cannot_be_opened(run, failure, is_asked):
    async def main():
        faults = ["kill:nth=1"] if failure == "lost while authenticating" else []
        async with Emulator(latency=0.01, faults=faults) as emulator, mute_port() as port:
            urls = {
                "refused": "ws://127.0.0.1:1/v1",
                "handshake refused": emulator.client_options["ws_base_url"] + "/elsewhere",
                "no answer": f"ws://127.0.0.1:{port}/v1",
            }
            options = {**emulator.client_options, "transport": "auto", "auth_timeout": 0.3}
            options["ws_base_url"] = urls.get(failure, options["ws_base_url"])
            lines = []
            async with Client(**options, debug=True, log_sink=lines.append) as client:
                if is_asked:
                    await client.connect()
                await run_tasks(client)
                await run_tasks(client)
            assert channels(emulator) == {"rest"}
            assert len(emulator.log.asked) == 6
            assert len([line for line in lines if "REST is used instead" in line.message]) == 1

    run(main)


def test_auto_does_not_hide_a_rejected_key(run):
    async def main():
        async with Emulator() as emulator:
            options = {**emulator.client_options, "api_key": "wrong", "transport": "auto"}
            async with Client(**options) as client:
                with pytest.raises(RunwareError) as caught:
                    await client.run(picture())
                assert caught.value.code == "auth"
            assert emulator.log.posts == 0

    run(main)


def test_auto_stays_with_a_websocket_that_breaks_later(run):
    async def main():
        async with Emulator(latency=0.01, faults=["kill:every=4"]) as emulator:
            async with Client(**emulator.client_options, transport="auto", retry_delay=0.02) as client:
                await run_tasks(client, 10)
            assert channels(emulator) == {"websocket"}
            assert emulator.log.posts == 0

    run(main)


def test_auto_deadline_of_a_task_holds_while_the_transport_is_chosen(run):
    async def main():
        async with Emulator() as emulator, mute_port() as port:
            options = {**emulator.client_options, "transport": "auto", "ws_base_url": f"ws://127.0.0.1:{port}/v1"}
            async with Client(**options) as client:
                with pytest.raises(TimeoutError):
                    await client.run(picture(), timeout=0.05)

    run(main)


def test_auto_block_that_ends_while_a_call_waits_for_the_choice_ends_the_call(run):
    async def main():
        reached = anyio.Event()
        raised = []

        @asynccontextmanager
        async def connector(url, **options):
            reached.set()
            await anyio.sleep_forever()
            raise TransportError("refused", "never", sent=False)
            yield

        async def call(client):
            try:
                await client.run(picture())
            except RunwareError as error:
                raised.append(error.code)

        async with Emulator() as emulator, anyio.create_task_group() as group:
            async with Client(**emulator.client_options, transport="auto", connector=connector) as client:
                group.start_soon(call, client)
                await reached.wait()
        assert raised == ["aborted"]

    run(main)
