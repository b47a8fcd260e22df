"""A client whose HTTP requests are counted, and can be made to fail, on real sockets."""

from __future__ import annotations

from contextlib import asynccontextmanager

import httpx

from runware_flow import Client
from runware_flow.emulator import Emulator


class Asked:
    """The requests that left, by path; those whose path begins with `broken` never get through."""

    def __init__(self):
        self.requests = []
        self.broken = None

    async def note(self, request):
        self.requests.append(request)
        if self.broken is not None and request.url.path.startswith(self.broken):
            raise httpx.ConnectError("no way through")

    def paths(self, beginning):
        return [one.url.path for one in self.requests if one.url.path.startswith(beginning)]


@asynccontextmanager
async def open_counted(client_options=None, **emulator_options):
    """`async with open_counted() as (emulator, client, asked)`."""
    emulator_options.setdefault("latency", 0.02)
    asked = Asked()
    async with Emulator(**emulator_options) as emulator:
        http = httpx.AsyncClient(event_hooks={"request": [asked.note]}, trust_env=False)
        async with http:
            options = {**emulator.client_options, "http_client": http, **(client_options or {})}
            async with Client(**options) as client:
                yield emulator, client, asked
