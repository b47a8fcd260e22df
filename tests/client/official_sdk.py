"""The official Python client (runware-sdk 1.8.0) beside ours, against the same emulator."""

from __future__ import annotations

import asyncio

import runware.client
import runware.content
import runware.validate
from runware import Runware


def point_at(emulator, monkeypatch):
    """Lead its schema and content hosts, which are constants of three modules, to the emulator."""
    options = emulator.client_options
    monkeypatch.setattr(runware.client, "SCHEMAS_BASE_URL", options["schemas_base_url"])
    monkeypatch.setattr(runware.validate, "SCHEMAS_BASE_URL", options["schemas_base_url"])
    monkeypatch.setattr(runware.content, "CONTENT_BASE_URL", options["content_base_url"])


def call_official(emulator, call, **settings):
    """Open the official client in an event loop of its own, and return what `call(client)` returns."""
    return asyncio.run(asyncio.wait_for(with_official(emulator, call, **settings), 20))


async def with_official(emulator, call, *, transport="websocket", **settings):
    """Open the official client, and return what `call(client)` returns. Its times are milliseconds."""
    options = emulator.client_options
    configured = {
        "api_key": options["api_key"],
        "transport": transport,
        "ws_base_url": options["ws_base_url"],
        "http_base_url": options["http_base_url"],
        "serverless_base_url": options["serverless_base_url"],
        "timeout": 10_000,
        "max_retries": 0,
        "retry_delay": 10,
        **settings,
    }

    async with Runware(**configured) as client:
        return await call(client)
