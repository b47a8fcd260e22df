"""Wrong and hostile clients: each gets an error or is dropped, and the emulator goes on."""

from __future__ import annotations

import base64
import os
import socket
import struct
from contextlib import AsyncExitStack, suppress

import anyio
import pytest
from emulator_clients import open_rest, open_socket, wait_until
from emulator_tasks import image
from websockets.exceptions import ConnectionClosed

from runware_flow.emulator import Emulator

pytestmark = pytest.mark.usefixtures("watched")

BODIES = [
    b"",
    b"{",
    b"null",
    b"{}",
    b'"x"',
    b"[" * 100_000,
    b'[{"a":' * 10_000,
    b"\xff\xfe\x00",
    b"[1e999]",
    b'["\\ud800"]',
    b"[" + b"1," * 20_000 + b"1]",
]


def test_rest_bodies_that_are_no_request_are_client_errors(run) -> None:
    async def main() -> None:
        async with Emulator(latency=0) as emulator, open_rest(emulator) as rest:
            for body in BODIES:
                response = await rest.client.post(rest.url, content=body)
                assert response.status_code in (400, 401), body[:20]
                assert response.json()["errors"], body[:20]
            assert (await rest.post())["data"] == []
            await rest.post(image())

    run(main)


def test_websocket_messages_that_are_no_request_are_answered_with_errors(run) -> None:
    async def main() -> None:
        async with Emulator(latency=0) as emulator, open_socket(emulator) as client:
            for body in BODIES:
                await client.send_raw(body)
                assert (await client.receive())["errors"], body[:20]
            await client.send(image())
            assert (await client.receive())["data"]

    run(main)


def test_rest_body_beyond_the_limit_is_refused(run) -> None:
    async def main() -> None:
        async with Emulator(latency=0, max_frame_bytes=1000) as emulator, open_rest(emulator) as rest:
            response = await rest.client.post(rest.url, content=b"[" + b" " * 5000 + b"]")
            assert response.status_code == 413
            assert response.json()["errors"][0]["code"] == "valueTooLarge"

    run(main)


@pytest.mark.parametrize(
    "parameters",
    [
        {"positivePrompt": {"a": 1}},
        {"inputs": "x"},
        {"inputs": {"image": 5, "images": [None, [], {}]}},
        {"inputs": {"referenceImages": ["data:image/png;base64,AAAA"]}},
        {"width": 1e308},
        {"numberResults": "many"},
        {"numberResults": 1e9},
        {"seed": 10**30},
        {"ttl": "x"},
        {"outputType": {}},
        {"outputType": [[]]},
        {"outputFormat": []},
        {"safety": []},
        {"deliveryMethod": None},
        {"deliveryMethod": {}},
        {"model": {}},
        {"taskType": "textInference", "model": "google:gemma@4-31b", "messages": [{"role": "user"}]},
        {
            "taskType": "textInference",
            "model": "google:gemma@4-31b",
            "messages": [{"role": "user", "content": [1, {}]}],
        },
        {"taskType": "upscale", "model": "runware:500@1", "inputs": {"image": "x"}, "upscaleFactor": -1},
        {"taskType": "mediaStorage", "operation": "delete", "media": "../../etc"},
        {"taskType": "modelSearch", "search": {}, "limit": "x", "offset": -5, "sort": []},
        {"taskType": "accountManagement", "operation": "getUsageActivity"},
        {"taskType": "getTaskDetails"},
        {"taskType": "modelUpload", "category": 5},
    ],
)
def test_task_with_values_of_the_wrong_kind_never_brings_it_down(run, parameters, caplog) -> None:
    async def main() -> None:
        async with Emulator(latency=0) as emulator, open_rest(emulator) as rest, open_socket(emulator) as client:
            task = {**image(), **parameters}
            if "messages" in parameters or task["taskType"] == "upscale":
                task = {key: value for key, value in task.items() if key not in ("positivePrompt", "width", "height")}
            response = await rest.client.post(rest.url, json=[task])
            assert response.status_code < 600
            assert response.json()
            body = await client.ask({**task, "taskUUID": image()["taskUUID"]})
            assert body["data"] or body["errors"]

    run(main)
    assert caplog.records == []


def raw_client(emulator: Emulator) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(emulator.base_url.rsplit(":", 1)[1])), timeout=5)


UPGRADE = (
    b"GET /v1 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"NONSENSE\r\n\r\n",
        b"POST /v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n[{",
        b"POST /v1 HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1 HTTP/1.1\r\n" + b"A: b\r\n" * 10_000 + b"\r\n",
        b"GET /v1 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        UPGRADE.replace(b"/v1", b"/v2"),
        UPGRADE + b"\xff" * 100,
        UPGRADE + b"\x81\x05hello",
        UPGRADE + b"\x81\xfe\xff\xff\0\0\0\0" + b"[" * 100,
        UPGRADE + b"\x81\x82\0\0\0\0\xff\xfe",
        UPGRADE + b"\x81\xff" + struct.pack(">Q", 2**62) + b"\0\0\0\0" + b"x" * 100,
    ],
)
def test_bytes_that_are_no_protocol_are_dropped(run, data) -> None:
    async def main() -> None:
        async with Emulator(latency=0) as emulator, open_rest(emulator) as rest:
            for reset in (False, True):
                client = await anyio.to_thread.run_sync(raw_client, emulator)
                client.sendall(data)
                await anyio.sleep(0.02)
                if reset:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
            await rest.post(image())

    run(main)


@pytest.mark.parametrize("ends", ["silence", "stop"])
def test_client_that_never_reads_is_cut(run, ends) -> None:
    async def main() -> None:
        big = base64.b64encode(os.urandom(1_000_000)).decode()
        idle_timeout = 0.4 if ends == "silence" else 120
        async with AsyncExitStack() as clients, Emulator(latency=0, idle_timeout=idle_timeout) as emulator:
            client = await clients.enter_async_context(open_socket(emulator))
            stored = {"taskType": "mediaStorage", "taskUUID": image()["taskUUID"], "operation": "upload", "media": big}
            await client.ask(stored)
            details = {"taskType": "getTaskDetails", "taskUUID": stored["taskUUID"]}
            with suppress(ConnectionClosed):
                for _ in range(30):
                    await client.send(details)
            if ends == "silence":
                await wait_until(lambda: emulator.log.open_connections == 0)
        assert emulator.log.open_connections == 0

    run(main)
