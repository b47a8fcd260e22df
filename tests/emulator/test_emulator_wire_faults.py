"""Faults of the wire: what a client sees when frames, answers and connections go wrong."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from emulator_clients import open_rest, open_socket
from emulator_tasks import image, poll, text
from waiting import wait_until

from runware_flow.emulator import Emulator

pytestmark = pytest.mark.usefixtures("watched")


def test_killed_connection_ends_without_a_closing_frame_and_keeps_the_frame(run) -> None:
    from websockets.exceptions import ConnectionClosedError

    async def main() -> None:
        async with Emulator(latency=0, faults=["kill:nth=2"]) as emulator:
            async with open_socket(emulator, authenticated=False) as client:
                session_id = (await client.authenticate(emulator))["data"][0]["connectionSessionUUID"]
                task = image()
                await client.send(task)
                with pytest.raises(ConnectionClosedError) as caught:
                    await client.receive()
                assert caught.value.rcvd is None
            async with open_socket(emulator, authenticated=False) as client:
                await client.authenticate(emulator, session_id)
                assert (await client.receive())["data"][0]["taskUUID"] == task["taskUUID"]

    run(main)


@pytest.mark.parametrize("fault", ["cut:nth=1", "swallow-ack:nth=1"])
def test_cut_request_was_carried_out(run, fault) -> None:
    async def main() -> None:
        async with Emulator(latency=0, faults=[fault]) as emulator, open_rest(emulator) as rest:
            task = image(deliveryMethod="async")
            with pytest.raises(httpx.RemoteProtocolError):
                await rest.post(task)
            body = await rest.post(task, status=400)
            assert body["errors"][0]["code"] == "conflictTaskUUID"
            assert (await rest.wait(task["taskUUID"]))[0]["status"] == "success"

    run(main)


def test_http_faults_have_their_status_headers_and_body(run) -> None:
    async def main() -> None:
        faults = ["http:nth=1,status=429,retry_after=0.5", "http:nth=2,status=502,body=text", "http:nth=3,body=empty"]
        async with Emulator(latency=0, faults=faults) as emulator, open_rest(emulator) as rest:
            utilities = [await rest.client.post(rest.url, json=[image()]) for _ in range(4)]
            assert [answer.status_code for answer in utilities] == [429, 502, 503, 200]
            assert utilities[0].headers["retry-after"] == "0.5"
            assert utilities[0].json()["errors"][0]["code"] == "rateLimitExceeded"
            assert utilities[1].text.startswith("<html>")
            assert utilities[2].content == b""
            assert len(emulator.log.tasks) == 1

    run(main)


def test_frames_are_duplicated_split_and_emptied(run) -> None:
    async def main() -> None:
        faults = ["duplicate:nth=2", "split:nth=3", "empty-data:nth=4", "empty-errors:nth=5"]
        async with Emulator(latency=0, faults=faults) as emulator, open_socket(emulator) as client:
            first = await client.ask(image())
            assert await client.receive() == first
            await client.send(image(numberResults=2))
            assert [len((await client.receive())["data"]) for _ in range(2)] == [1, 1]
            assert await client.ask(image()) == {"data": []}
            assert (await client.receive())["data"]
            assert (await client.ask(image()))["errors"] == []

    run(main)


def test_frames_that_wait_are_merged(run) -> None:
    async def main() -> None:
        latency = {"imageInference": (0.0, 0.02)}
        async with Emulator(latency=latency, faults=["merge:seconds=0.1"]) as emulator, open_socket(emulator) as client:
            tasks = [image() for _ in range(3)]
            await client.send(*tasks)
            body = await client.receive()
            assert {item["taskUUID"] for item in body["data"]} == {task["taskUUID"] for task in tasks}

    run(main)


def test_lost_frame_is_found_by_a_poll_of_an_async_task(run) -> None:
    async def main() -> None:
        async with Emulator(latency=0, faults=["drop-frame:nth=2"]) as emulator, open_socket(emulator) as client:
            task = image(deliveryMethod="async")
            await client.send(task)
            await wait_until(lambda: bool(emulator.log.asked) and emulator.log.asked[0].ready_at != [None])
            assert (await client.ask(poll(task)))["data"][0]["status"] == "success"

    run(main)


def test_faults_can_be_added_and_cleared_while_it_runs(run) -> None:
    async def main() -> None:
        async with Emulator(latency=0) as emulator, open_rest(emulator) as rest:
            emulator.faults.add("http:status=503")
            await rest.post(image(), status=503)
            assert not emulator.log.tasks
            emulator.faults.clear()
            await rest.post(image())
            assert len(emulator.log.tasks) == 1

    run(main)


def test_stray_frame_comes_before_the_answer_to_the_key(run) -> None:
    async def main() -> None:
        async with (
            Emulator(faults=["stray-frame", "reject-key:nth=2,shape=legacy"]) as emulator,
            open_socket(emulator, authenticated=False) as client,
        ):
            assert (await client.authenticate(emulator))["data"][0] == {"taskType": "ping", "pong": True}
            assert (await client.receive())["data"][0]["taskType"] == "authentication"
            body = await client.authenticate(emulator)
            assert body["error"] is True
            assert body["errorMessage"]

    run(main)


async def read_stream(emulator: Emulator, task: dict[str, Any]) -> bytes:
    async with open_rest(emulator) as rest, rest.client.stream("POST", rest.url, json=[task]) as response:
        assert response.headers["content-type"] == "text/event-stream"
        return b"".join([chunk async for chunk in response.aiter_raw()])


def test_text_streams_end_fail_and_break_off_as_configured(run) -> None:
    async def main() -> None:
        faults = ["split-stream:nth=2", "truncate-stream:nth=3", "fail:prompt=doomed,code=providerError"]
        async with Emulator(latency=0.01, faults=faults) as emulator:
            whole = await read_stream(emulator, text("hé", deliveryMethod="stream"))
            assert whole.endswith(b"data: [DONE]\n\n")
            assert b'"finishReason":"stop"' in whole
            pieces = await read_stream(emulator, text("hé", deliveryMethod="stream"))
            assert pieces.count(b"delta") == whole.count(b"delta")
            broken = await read_stream(emulator, text("hé", deliveryMethod="stream"))
            assert b"finishReason" not in broken
            assert b"[DONE]" not in broken
            doomed = await read_stream(emulator, text("doomed", deliveryMethod="stream"))
            assert b'"code":"providerError"' in doomed
            settings = {"thinkingLevel": "high"}
            assert b"reasoningContent" in await read_stream(
                emulator, text("why", deliveryMethod="stream", settings=settings)
            )
            assert all(entry.is_delivered for entry in emulator.log.asked)

    run(main)


def test_text_stream_is_refused_over_websocket_and_beside_other_tasks(run) -> None:
    async def main() -> None:
        async with Emulator() as emulator, open_rest(emulator) as rest, open_socket(emulator) as client:
            task = text("hi", deliveryMethod="stream")
            assert (await client.ask(task))["errors"][0]["parameter"] == "deliveryMethod"
            assert (await rest.post(task, image(), status=400))["errors"]
            assert (await rest.post({**task, "messages": []}, status=400))["errors"]

    run(main)
