"""What `progress=` costs: 10,000 items through three no-op stages with and without it, and the same with real requests.

No-op stages are the worst case: all the time there is the run's own. "emulator" is 600 chains of two tasks over one
WebSocket, the emulator in a process of its own. Standard error is a terminal for "rich" and a file otherwise. Best of
five, taken in turn.
"""

from __future__ import annotations

import os
import pty
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel

from benchmarks.service import emulator_process
from runware_flow import Client, Flow
from runware_flow.tasks import Caption, ImageInference

if TYPE_CHECKING:
    from collections.abc import Iterator

ITEMS = 10_000
CHAINS = 600
WAYS: dict[str, Any] = {"none": None, "True": True, "json": "json", "rich": "rich", "callable": lambda event: None}


async def stage(value: int) -> int:
    """Do nothing but let others run."""
    await anyio.lowlevel.checkpoint()
    return value + 1


async def by_functions(progress: Any, _: dict[str, Any]) -> float:
    """Time the no-op stages."""
    flow = Flow("overhead", concurrency=64)
    flow.map(range(ITEMS), stage, label="a").then(stage, label="b").then(stage, label="c")
    started = time.perf_counter()
    await flow.execute(progress=progress)
    return time.perf_counter() - started


async def by_tasks(progress: Any, options: dict[str, Any]) -> float:
    """Time the chains of tasks."""
    flow = Flow("tasks", concurrency=64)
    art = flow.map(
        range(CHAINS), lambda number: ImageInference(model="runware:400@1", positive_prompt=f"kite {number}")
    )
    art.then(lambda image: Caption(model="runware:150@2", inputs={"image": image}))
    async with Client(**options) as client:
        await client.connect()
        started = time.perf_counter()
        await flow.execute(client, progress=progress)
        return time.perf_counter() - started


@contextmanager
def standard_error(*, is_terminal: bool) -> Iterator[None]:
    """Put a terminal, or a file, in the place of standard error."""
    before = sys.stderr
    if not is_terminal:
        with tempfile.TemporaryFile("w") as sys.stderr:
            yield
        sys.stderr = before
        return
    main, end = pty.openpty()
    reader = threading.Thread(target=_drain, args=(main,))
    reader.start()
    with os.fdopen(end, "w") as sys.stderr:
        yield
    sys.stderr = before
    reader.join()
    os.close(main)


def _drain(main: int) -> None:
    try:
        while os.read(main, 65536):
            pass
    except OSError:  # the other end is closed
        pass


def measure(work: Any, options: dict[str, Any], backend: str) -> dict[str, float]:
    """The shortest of five runs for each way."""
    best = dict.fromkeys(WAYS, float("inf"))
    for _ in range(5):
        for name, progress in WAYS.items():
            with standard_error(is_terminal=name == "rich"):
                best[name] = min(best[name], anyio.run(work, progress, options, backend=backend))
    return best


def main() -> None:
    """Print the table."""
    os.environ.setdefault("TERM", "xterm")
    print(f"{'backend':8} {'work':10} {'progress':10} {'seconds':>8} {'of none':>8}")
    with emulator_process(latency="0.05") as options:
        for backend in ("asyncio", "trio"):
            for name, work in (("functions", by_functions), ("emulator", by_tasks)):
                best = measure(work, options, backend)
                for way, seconds in best.items():
                    print(f"{backend:8} {name:10} {way:10} {seconds:8.3f} {seconds / best['none']:8.2f}", flush=True)


if __name__ == "__main__":
    main()
