"""Clients that know nothing of this library: httpx and the blocking `websockets`."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import httpx

if TYPE_CHECKING:
    from runware_flow.emulator import Emulator


class Rest:
    """The plainest REST client: httpx and JSON."""

    def __init__(self, emulator: Emulator, client: httpx.AsyncClient) -> None:
        self.url = emulator.client_options["http_base_url"]
        self.client = client

    async def post(self, *tasks: Any, status: int = 200) -> dict[str, Any]:
        response = await self.client.post(self.url, json=list(tasks))
        assert response.status_code == status, response.text
        return response.json()

    async def poll(self, task_id: str) -> dict[str, Any]:
        return await self.post({"taskType": "getResponse", "taskUUID": task_id})

    async def wait(self, task_id: str) -> list[dict[str, Any]]:
        """Poll until nothing is being processed any more."""
        while True:
            body = await self.poll(task_id)
            if all(item["status"] != "processing" for item in body["data"]):
                return body["data"]
            await anyio.sleep(0.01)

    async def get(self, url: str) -> httpx.Response:
        return await self.client.get(url)


@asynccontextmanager
async def open_rest(emulator: Emulator, key: str | None = None):
    headers = {"Authorization": f"Bearer {key or emulator.client_options['api_key']}"}
    async with httpx.AsyncClient(headers=headers, trust_env=False) as client:
        yield Rest(emulator, client)


class Socket:
    """The plainest WebSocket client: the blocking one of `websockets`, in a thread, so that it runs beside any loop."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    async def send(self, *tasks: Any) -> None:
        await self.send_raw(json.dumps(tasks))

    async def send_raw(self, message: str | bytes) -> None:
        await anyio.to_thread.run_sync(self.connection.send, message)

    async def receive(self, timeout: float = 5.0) -> dict[str, Any]:
        return json.loads(await anyio.to_thread.run_sync(self.connection.recv, timeout))

    async def ask(self, *tasks: Any) -> dict[str, Any]:
        await self.send(*tasks)
        return await self.receive()

    async def authenticate(self, emulator: Emulator, session_id: str | None = None) -> dict[str, Any]:
        task = {"taskType": "authentication", "apiKey": emulator.client_options["api_key"]}
        if session_id is not None:
            task["connectionSessionUUID"] = session_id
        return await self.ask(task)


@asynccontextmanager
async def open_socket(emulator: Emulator, *, authenticated: bool = True):
    from websockets.sync.client import connect

    url = emulator.client_options["ws_base_url"]
    connection = await anyio.to_thread.run_sync(
        lambda: connect(url, proxy=None, max_size=None, close_timeout=0.2).__enter__()
    )
    try:
        client = Socket(connection)
        if authenticated:
            await client.authenticate(emulator)
        yield client
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(connection.close)
