"""The emulator in a process of its own, so that its CPU time is not counted as the client's; and the official SDK."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence


@contextmanager
def emulator_process(*, latency: str, backend: str = "asyncio", more: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """Start `runware-flow serve` with `latency` on `backend` and `more` options; give the client options it prints."""
    command = [sys.executable, "-m", "runware_flow", "serve", "--port", "0", "--latency", latency, "--backend", backend]
    command += more
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())
        finally:
            process.terminate()
            process.wait(timeout=10)


@asynccontextmanager
async def official_client(options: dict[str, Any], transport: str) -> AsyncIterator[Any]:
    """Connect the official SDK to the emulator that `options` name. Its other hosts are constants of its modules."""
    import runware.client
    import runware.content
    import runware.validate

    runware.client.SCHEMAS_BASE_URL = options["schemas_base_url"]
    runware.validate.SCHEMAS_BASE_URL = options["schemas_base_url"]
    runware.content.CONTENT_BASE_URL = options["content_base_url"]
    settings = {name: options[name] for name in ("api_key", "ws_base_url", "http_base_url")}
    async with runware.Runware(**settings, transport=transport) as client:
        if transport == "websocket":
            await client.connect()
        yield client
