"""The same script of calls through the official client and through ours: the same requests, field for field.

Left out of the comparison are ids and the `User-Agent`, and where this client is different on purpose: tasks that wait
share a POST or a frame; polls do too, and come at other times; the registry is fetched only when a call needs it; on
WebSocket `get_response` and `get_task_details` are POSTs of their own.
"""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import asynccontextmanager
from urllib.parse import parse_qsl, unquote, urlsplit

import aiohttp
import anyio
import httpx
import pytest
import websockets
from official_sdk import point_at, with_official
from runware import InvokeOptions, RunOptions, clear_validator_cache
from runware.types.sdk import RuntimeDependencies

from runware_flow import Client
from runware_flow.emulator import run_in_thread
from runware_flow.transport.websocket import open_websocket

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
HEADERS = ("authorization", "content-type", "if-none-match", "accept")
PHOTO = "https://example.com/photo.jpg"
KNOWN = "11111111-2222-4333-8444-555555555555"

TASKS = [
    {"model": "runware:400@1", "positivePrompt": "Abstract digital art", "width": 1024, "height": 1024},
    {"model": "google:3@3", "positivePrompt": "Ocean waves at sunset", "width": 1280, "height": 720, "duration": 8},
    {"model": "google:gemma@4-31b", "messages": [{"role": "user", "content": "Explain quantum computing"}]},
    {
        "model": "alibaba:qwen@3-tts-1.7b-voicedesign",
        "positivePrompt": "A calm, friendly young woman with a soft tone",
        "speech": {"text": "Hello “world”", "voice": "design"},
    },
    {
        "model": "civitai:133005@782002",
        "taskType": "imageInference",
        "positivePrompt": "A professional headshot portrait",
        "negativePrompt": "blurry, distorted",
        "width": 1024,
        "height": 1024,
        "steps": 30,
        "scheduler": "DPMSolverMultistep",
        "CFGScale": 7.5,
        "lora": [{"model": "civitai:1@2", "weight": 0.5}],
    },
    {"model": "bfl-flux-2-dev", "positivePrompt": "a slug", "includeCost": True},
    {"model": "runware:400@1", "positivePrompt": "three", "numberResults": 3, "seed": 0, "acceleration": None},
    {"model": "runware:504@1", "inputs": {"image": PHOTO}, "upscaleFactor": 2},
    {"model": "runware:150@2", "taskType": "caption", "inputs": {"image": PHOTO}},
    {"model": "runware:llama-3-1-8b@prompt-enhancer", "prompt": "a kite", "promptMaxLength": 64, "promptVersions": 1},
    {"model": "nobodys-own-model", "taskType": "imageInference", "positivePrompt": "passes through", "taskUUID": KNOWN},
]
UPLOAD = {"category": "checkpoint", "architecture": "sdxl", "format": "safetensors", "name": "mine", "version": "1"}
WRONG = {"model": "runware:400@1", "positivePrompt": "a kite", "width": -1, "height": 512}
QUESTION = {"model": "google:gemma@4-31b", "messages": [{"role": "user", "content": "Hi"}], "includeCost": True}
SYNC = InvokeOptions(delivery_method="sync")


async def all_at_once(calls):
    async def one(call):
        try:
            await call
        except Exception as error:  # noqa: BLE001  # what is compared is what was sent
            assert type(error).__name__ == "RunwareError"  # noqa: PT017

    async with anyio.create_task_group() as group:
        for call in calls:
            group.start_soon(one, call)


async def stream_theirs(client):
    await (await client.stream(dict(QUESTION))).text()


async def stream_ours(client):
    async with client.stream(QUESTION) as stream:
        await stream.full_text()


async def twice(call, *arguments):
    await call(*arguments)
    await call(*arguments)


SCRIPT = {
    "async": (
        lambda client: all_at_once([client.run(dict(task)) for task in TASKS[:-1]]),
        lambda client: all_at_once([client.run(task) for task in TASKS[:-1]]),
    ),
    "sync": (
        lambda client: all_at_once([client.run({**task, "deliveryMethod": "sync"}) for task in TASKS]),
        lambda client: all_at_once([client.run(task, delivery="sync") for task in TASKS]),
    ),
    "validate": (
        lambda client: all_at_once([client.run(dict(WRONG), RunOptions(validate=True))]),
        lambda client: all_at_once([client.run(WRONG, validate=True)]),
    ),
    "stream": (stream_theirs, stream_ours),
    "search": (
        lambda client: client.model_search({"search": "portrait", "category": "checkpoint", "limit": 10, "offset": 2}),
        lambda client: client.model_search("portrait", category="checkpoint", limit=10, offset=2),
    ),
    "image upload": (
        lambda client: client.image_upload({"image": PHOTO}),
        lambda client: client.image_upload(PHOTO),
    ),
    "media storage": (
        lambda client: client.media_storage({"operation": "upload", "media": PHOTO}),
        lambda client: client.media_storage(PHOTO),
    ),
    "media deletion": (
        lambda client: all_at_once([client.media_storage({"operation": "delete", "media": KNOWN})]),
        lambda client: all_at_once([client.media_storage(KNOWN, operation="delete")]),
    ),
    "account": (
        lambda client: client.account_management({"operation": "getUsageActivity", "groupBy": ["model"]}),
        lambda client: client.account_management("getUsageActivity", group_by=["model"]),
    ),
    "model upload": (
        lambda client: client.model_upload({**UPLOAD, "downloadURL": "https://example.com/m.safetensors"}),
        lambda client: client.model_upload(**UPLOAD, download_url="https://example.com/m.safetensors"),
    ),
    "get response": (
        lambda client: client.get_response({"taskUUID": KNOWN}),
        lambda client: client.get_response(KNOWN),
    ),
    "task details": (
        lambda client: all_at_once([client.get_task_details({"taskUUID": KNOWN})]),
        lambda client: all_at_once([client.get_task_details(KNOWN)]),
    ),
    "invoke": (
        lambda client: client.invoke("my-app", "v1/run", {"prompt": "hi"}, environment="dev", options=SYNC),
        lambda client: client.invoke("my-app", {"prompt": "hi"}, endpoint_path="v1/run", environment="dev", sync=True),
    ),
    "get task": (
        lambda client: all_at_once([client.get_task("my-app", KNOWN)]),
        lambda client: all_at_once([client.get_task("my-app", KNOWN)]),
    ),
    "list models": (
        lambda client: client.content.list_models(
            {"search": "flux & co", "category": "image", "paginate": True, "limit": 2, "offset": 1, "sort": "name"}
        ),
        lambda client: client.content.list_models(
            search="flux & co", category="image", paginate=True, limit=2, offset=1, sort="name"
        ),
    ),
    "model": (
        lambda client: client.content.get_model("runware:400@1"),
        lambda client: client.content.get_model("runware:400@1"),
    ),
    "examples": (
        lambda client: client.content.get_model_examples("bfl-flux-2-dev", {"capability": "io:text-to-image"}),
        lambda client: client.content.get_model_examples("bfl-flux-2-dev", capability="io:text-to-image"),
    ),
    "pricing": (
        lambda client: client.content.get_model_pricing("bfl-flux-2-dev"),
        lambda client: client.content.get_model_pricing("bfl-flux-2-dev"),
    ),
    "guides": (
        lambda client: client.content.get_model_guides("bfl-flux-2-dev"),
        lambda client: client.content.get_model_guides("bfl-flux-2-dev"),
    ),
    "collections": (
        lambda client: client.content.list_collections({"category": "video"}),
        lambda client: client.content.list_collections(category="video"),
    ),
    "collection": (
        lambda client: client.content.get_collection("nobody"),
        lambda client: client.content.get_collection("nobody"),
    ),
    "capabilities": (
        lambda client: client.content.list_capabilities(),
        lambda client: client.content.list_capabilities(),
    ),
    "creators": (lambda client: client.content.list_creators(), lambda client: client.content.list_creators()),
    "creator": (
        lambda client: client.content.get_creator("google"),
        lambda client: client.content.get_creator("google"),
    ),
    "registry": (lambda client: twice(client.refresh_registry), lambda client: twice(client.refresh_registry)),
}
"""What the official client is asked for, and what ours is, by name."""


class Wire:
    """What left a client: tasks wherever they went, and HTTP requests."""

    def __init__(self):
        self.step = "connect"
        self.tasks = {}
        self.requests = {}
        self.registry = set()

    def frame(self, text):
        """A WebSocket message."""
        self._take(json.loads(text))

    def http(self, method, url, headers, body):
        """An HTTP request."""
        told = {name.lower(): value for name, value in headers.items()}
        kept = {name: told[name] for name in HEADERS if told.get(name) not in (None, "*/*")}
        if not body:
            kept.pop("content-type", None)  # of nothing, as the official client says in its question for an app's task
        place = urlsplit(url)
        address = [UUID.sub("<uuid>", unquote(place.path)), sorted(parse_qsl(place.query))]
        if place.path.endswith("registry.json"):
            self.registry.add((method, place.path, kept.get("if-none-match") is not None))
            return
        plain = json.loads(body) if body else None
        bodies = self._take(plain) if isinstance(plain, list) else [scrub(plain)]
        self.requests.setdefault(self.step, []).extend([method, address, kept, one] for one in bodies)

    def _take(self, tasks):
        kept = [task for task in map(scrub, tasks) if self.step == "get response" or not is_poll(task)]
        kept = [task for task in kept if task["taskType"] != "ping"]
        self.tasks.setdefault(self.step, []).extend(kept)
        return kept


def is_poll(task):
    if task["taskType"] != "getResponse":
        return False
    assert task == {"taskType": "getResponse", "taskUUID": "<uuid>"}
    return True


def scrub(value):
    """Without ids, but for the one that the script itself gives."""
    if isinstance(value, dict):
        return {key: scrub(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [scrub(inner) for inner in value]
    return UUID.sub("<uuid>", value) if isinstance(value, str) and value != KNOWN else value


async def go_through(client, wire, which):
    for step, calls in SCRIPT.items():
        wire.step = step
        await calls[which](client)


def theirs(emulator, transport):
    wire = Wire()

    async def ws_connect(url):
        socket = await websockets.connect(url)
        send = socket.send

        async def noting(text):
            wire.frame(text)
            await send(text)

        socket.send = noting
        return socket

    async def start(session, context, params):
        context.body = b""

    async def chunk(session, context, params):
        context.body += params.chunk

    async def end(session, context, params):
        wire.http(params.method, str(params.url), params.headers, context.body)

    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(start)
    trace.on_request_chunk_sent.append(chunk)
    trace.on_request_end.append(end)

    async def main():
        async with aiohttp.ClientSession(trace_configs=[trace]) as session:
            dependencies = RuntimeDependencies(session=session, ws_connect=ws_connect)
            settings = {"transport": transport, "dependencies": dependencies}
            await with_official(emulator, lambda client: go_through(client, wire, 0), **settings)

    asyncio.run(asyncio.wait_for(main(), 20))
    return wire


def ours(emulator, transport, run):
    wire = Wire()

    @asynccontextmanager
    async def connector(url, **options):
        async with open_websocket(url, **options) as connection:
            yield Noting(connection, wire)

    async def hook(request):
        wire.http(request.method, str(request.url), request.headers, await request.aread())

    async def main():
        async with httpx.AsyncClient(event_hooks={"request": [hook]}, trust_env=False) as http_client:
            options = {"transport": transport, "connector": connector, "http_client": http_client}
            async with Client(**emulator.client_options, **options, max_retries=0) as client:
                await client.connect()
                await go_through(client, wire, 1)

    run(main)
    return wire


class Noting:
    def __init__(self, connection, wire):
        self._connection, self._wire = connection, wire
        self.receive = connection.receive

    async def send(self, frame):
        self._wire.frame(frame)
        await self._connection.send(frame)


def ordered(entries):
    return sorted(json.dumps(entry, sort_keys=True) for entry in entries)


@pytest.mark.parametrize("transport", ["websocket", "rest"])
def test_same_script_of_calls_sends_the_same_requests(run, transport, monkeypatch):
    with run_in_thread(latency=0.02, api_key="one-key") as emulator:
        point_at(emulator, monkeypatch)
        clear_validator_cache()  # which is that of the process
        expected = theirs(emulator, transport)
        asked = [entry.request for entry in emulator.log.asked]
        rejected = len(emulator.log.rejected)
    with run_in_thread(
        latency=0.02, api_key="one-key"
    ) as emulator:  # on its own, the one taskUUID of the script is new again
        sent = ours(emulator, transport, run)
        assert ordered(scrub([entry.request for entry in emulator.log.asked])) == ordered(scrub(asked))
        assert len(emulator.log.rejected) == rejected
    assert len(expected.tasks["async"]) == len(TASKS) - 1
    for step in ("connect", *SCRIPT):
        assert ordered(sent.tasks.get(step, [])) == ordered(expected.tasks.get(step, [])), step
        if transport == "rest":
            assert ordered(sent.requests.get(step, [])) == ordered(expected.requests.get(step, [])), step
    assert sent.registry == expected.registry
