"""What the client's tests share: an emulator, every transport, and the search for what was left behind."""

from __future__ import annotations

import gc
from contextlib import asynccontextmanager

import pytest

from runware_flow import Client
from runware_flow.emulator import Emulator


@pytest.fixture(params=["websocket", "rest"])
def transport(request):
    return request.param


@pytest.fixture(params=["sync", "async"])
def delivery(request):
    return request.param


@pytest.fixture
def open_pair(transport):
    """`async with open_pair(faults=[...]) as (emulator, client)`: both on real sockets, the client checked after."""

    @asynccontextmanager
    async def opener(client_options=None, **emulator_options):
        emulator_options.setdefault("latency", 0.02)
        async with Emulator(**emulator_options) as emulator:
            options = {**emulator.client_options, "transport": transport, **(client_options or {})}
            async with Client(**options) as client:
                yield emulator, client
        gc.collect()  # an unclosed socket or task becomes a warning here, and a warning is an error

    return opener
