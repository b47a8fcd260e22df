"""Every async test runs on asyncio and on trio."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio
import pytest
from hypothesis import settings

# Properties are judged by what holds, never by how long an example took on a busy machine. `make test` tries some
# examples of each, `make test-exhaustive` many more.
# CI takes the same examples each time, so that one commit has one verdict; anywhere else they are drawn anew.
settings.register_profile("quick", deadline=None, max_examples=25, derandomize="CI" in os.environ)
settings.register_profile("exhaustive", deadline=None, max_examples=300, derandomize="CI" in os.environ)
IS_EXHAUSTIVE = os.environ.get("RUNWARE_FLOW_EXHAUSTIVE") == "1"
settings.load_profile("exhaustive" if IS_EXHAUSTIVE else "quick")
HANG_SECONDS = 240 if IS_EXHAUSTIVE else 30
"""What takes longer is taken for a hang."""

# A shell that starts a program in the background lets it ignore interrupts, and with it all that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Leave what is imported by now out of later collections; many tests begin one to look for what was left behind."""
    gc.collect()
    gc.freeze()


T = TypeVar("T")
Run = Callable[..., Any]


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> str:
    """The name of the event loop's library."""
    return str(request.param)


@pytest.fixture
def run(backend: str) -> Run:
    """Run an async function on the backend under test: `run(main)`; which ends it if it hangs."""

    def runner(main: Callable[..., Awaitable[T]], *args: Any) -> T:
        async def bounded() -> T:
            with anyio.fail_after(HANG_SECONDS):
                return await main(*args)

        return anyio.run(bounded, backend=backend)

    return runner
