"""Wrong and hostile clients: each gets an error or is dropped, and the emulator goes on."""

from __future__ import annotations

import base64
import itertools
import json
import os
import socket
import struct
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from emulator_clients import open_rest, open_socket
from emulator_tasks import image, make_service
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from waiting import wait_until
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from runware_flow.emulator import Emulator
from runware_flow.emulator.media.store import Recipe
from runware_flow.emulator.service.models import load_models

if TYPE_CHECKING:
    from collections.abc import Callable

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


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_websocket_message_beyond_the_limit_ends_that_connection_alone(run, compression) -> None:
    async def main() -> None:
        async with Emulator(latency=0, max_frame_bytes=10_000) as emulator, open_socket(emulator) as other:
            url = emulator.client_options["ws_base_url"]
            bomb = await anyio.to_thread.run_sync(
                lambda: connect(url, proxy=None, compression=compression, close_timeout=0.2).__enter__()
            )
            with suppress(ConnectionClosed):
                await anyio.to_thread.run_sync(bomb.send, "[" + " " * 5_000_000 + "]")
            await wait_until(lambda: bomb.protocol.close_rcvd is not None)
            assert bomb.protocol.close_rcvd is not None
            assert bomb.protocol.close_rcvd.code == 1009
            await anyio.to_thread.run_sync(bomb.close)
            assert (await other.ask(image()))["data"]

    run(main)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
MODELS = load_models()
TYPES = [*MODELS.parameters, "imageUpload", "mediaStorage", "modelUpload", "modelSearch", "accountManagement"]


@st.composite
def strange_tasks(draw: Callable[[st.SearchStrategy[Any]], Any]) -> dict[str, Any]:
    """A task with the right names and any values: the catalog's own choices now and then, so that some are accepted."""
    task_type = draw(st.sampled_from(TYPES))
    models = [air for air, entry in MODELS.registry["models"].items() if entry["taskType"] == task_type]
    names = sorted(MODELS.parameters.get(task_type, frozenset())) or ["image", "operation", "media", "limit"]
    task = draw(st.dictionaries(st.sampled_from(names), JSON, max_size=4))
    usual = {"positivePrompt": "kite", "width": 256, "height": 256, "prompt": "kite", "operation": "upload"}
    usual |= {"media": "x", "image": "x", "inputs": {"image": "http://x/y"}, "importModel": {}}
    usual["messages"] = [{"role": "user", "content": "hi"}]
    task = {name: value for name, value in usual.items() if name in names} | task
    model = draw(st.sampled_from([*models, "civitai:1@1"]))
    return {**task, "taskType": task_type, "taskUUID": image()["taskUUID"], "model": model}


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(strange_tasks())
@example({"taskType": "modelUpload", "taskUUID": image()["taskUUID"], "model": "civitai:1@1", "air": [None]})
@example({"taskType": "modelUpload", "taskUUID": image()["taskUUID"], "model": "civitai:1@1", "architecture": {}})
def test_service_answers_any_values_without_an_exception(task) -> None:
    service = make_service(latency=0)
    reply = service.receive([task], 0.0)
    for job in reply.started:
        if job.needs_inputs:
            service.make_items(job, [Recipe(process="generated", width=64, height=64)] * len(job.inputs), 0.0)
        if job.renderings:
            service.finish(job, 0.0)
    service.advance(0.0)
    frame = service.collect(reply)
    assert frame.data or frame.errors
    assert len(frame.data) <= 20
    json.dumps(frame.body())
    search = {"taskType": "modelSearch", "taskUUID": image()["taskUUID"], "search": "kite", "visibility": "all"}
    json.dumps(service.collect(service.receive([search], 0.0)).body())


WRONG_VALUES: list[dict[str, Any]] = [
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
]


def test_task_with_values_of_the_wrong_kind_never_brings_it_down(run, caplog) -> None:
    async def main() -> None:
        async with Emulator(latency=0) as emulator, open_rest(emulator) as rest, open_socket(emulator) as client:
            for parameters in WRONG_VALUES:
                task = {**image(), **parameters}
                if "messages" in parameters or task["taskType"] == "upscale":
                    task = {key: task[key] for key in task if key not in ("positivePrompt", "width", "height")}
                response = await rest.client.post(rest.url, json=[task])
                assert response.status_code < 600, parameters
                assert response.json(), parameters
                body = await client.ask({**task, "taskUUID": image()["taskUUID"]})
                assert body["data"] or body["errors"], parameters

    run(main)
    assert caplog.records == []


def raw_client(emulator: Emulator) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(emulator.base_url.rsplit(":", 1)[1])), timeout=5)


UPGRADE = (
    b"GET /v1 HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


NO_PROTOCOL: list[bytes] = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"NONSENSE\r\n\r\n",
    b"POST /v1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n[{",
    b"POST /v1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
    b"POST /v1 HTTP/1.1\r\n" + b"A: b\r\n" * 10_000 + b"\r\n",
    b"GET /v1 HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    UPGRADE.replace(b"/v1", b"/v2"),
    UPGRADE + b"\xff" * 100,
    UPGRADE + b"\x81\x05hello",
    UPGRADE + b"\x81\xfe\xff\xff\0\0\0\0" + b"[" * 100,
    UPGRADE + b"\x81\x82\0\0\0\0\xff\xfe",
    UPGRADE + b"\x81\xff" + struct.pack(">Q", 2**62) + b"\0\0\0\0" + b"x" * 100,
]


def test_bytes_that_are_no_protocol_are_dropped(run) -> None:
    async def main() -> None:
        async with Emulator(latency=0) as emulator, open_rest(emulator) as rest:
            for data, reset in itertools.product(NO_PROTOCOL, (False, True)):
                client = await anyio.to_thread.run_sync(raw_client, emulator)
                client.sendall(data)
                await anyio.sleep(0.01)
                if reset:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
                assert (await rest.post(image()))["data"]

    run(main)


@pytest.mark.exhaustive
@pytest.mark.parametrize("ends", ["silence", "stop"])
def test_client_that_never_reads_is_cut(run, ends) -> None:
    async def main() -> None:
        big = base64.b64encode(os.urandom(1_000_000)).decode()
        idle_timeout = 1.5 if ends == "silence" else 120  # longer than the upload takes on a busy machine
        async with AsyncExitStack() as clients, Emulator(latency=0, idle_timeout=idle_timeout) as emulator:
            client = await clients.enter_async_context(open_socket(emulator))
            stored = {"taskType": "mediaStorage", "taskUUID": image()["taskUUID"], "operation": "upload", "media": big}
            await client.ask(stored)
            details = {"taskType": "getTaskDetails", "taskUUID": stored["taskUUID"]}
            with suppress(ConnectionClosed):
                for _ in range(12):
                    await client.send(details)
            if ends == "silence":
                await wait_until(lambda: emulator.log.open_connections == 0)
        assert emulator.log.open_connections == 0

    run(main)
