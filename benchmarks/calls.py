"""Python function calls for one task in steady state: a client of the wire alone, the official SDK, ours, and a flow.

    python -m benchmarks.calls [--tasks 640] [--deliveries sync async] [--top 40 --who flow --backend asyncio]

What `cProfile` counts, functions of Python and of C alike, over all tasks, 64 at a time, divided by their number. There
is no clock in it, so a busy machine changes little: only how many answers happen to share a frame, and how many polls a
task takes. The service is an emulator in a process of its own, tasks take 50 ms, and 64 tasks go before as a warm-up.

"wire" is the floor: one writer, one reader, an event for each task in a dict, nothing else. It runs on the library that
our carrier has on that event loop, `websockets` or trio-websocket. What it can do is sync delivery. It, the official
SDK and our client are called from a task group with a CapacityLimiter, one task each; a flow has workers of its own.

`--top` lists the functions of one client by how often they are called for a task.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import functools
import json
import uuid
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import trio_websocket
import websockets

from benchmarks.service import emulator_process, official_client
from runware_flow import Client, Flow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

AT_ONCE = 64
LATENCY = "0.05"
WHO = ("wire", "official", "client", "flow")

Run = Callable[[int], Awaitable[None]]


def image(number: int, delivery: str) -> dict[str, Any]:
    """The same task for everybody."""
    return {
        "taskType": "imageInference",
        "model": "runware:400@1",
        "positivePrompt": f"number {number}",
        "width": 512,
        "height": 512,
        "deliveryMethod": delivery,
    }


async def run_all(run: Callable[[dict[str, Any]], Awaitable[Any]], delivery: str, count: int) -> None:
    """Run so many tasks in a plain task group, 64 at a time."""
    limiter = anyio.CapacityLimiter(AT_ONCE)

    async def one(number: int) -> None:
        async with limiter:
            results = await run(image(number, delivery))
        assert len(results) == 1

    async with anyio.create_task_group() as group:
        for number in range(count):
            group.start_soon(one, number)


class Wire:
    """A client that does nothing but the wire."""

    def __init__(self, send: Callable[[str], Awaitable[None]], receive: Callable[[], Awaitable[Any]]) -> None:
        self._send = send
        self._receive = receive
        self._waiting: list[dict[str, Any]] = []
        self._arrived = anyio.Event()
        self._events: dict[str, anyio.Event] = {}
        self._results: dict[str, list[Any]] = {}

    async def authenticate(self, api_key: str) -> None:
        """Send the key, and wait until it is accepted."""
        await self._send(json.dumps([{"taskType": "authentication", "apiKey": api_key}]))
        assert "connectionSessionUUID" in json.loads(await self._receive())["data"][0]

    async def run(self, task: dict[str, Any]) -> list[Any]:
        """Send a task and wait for its result."""
        task_id = task["taskUUID"] = str(uuid.uuid4())
        event = self._events[task_id] = anyio.Event()
        self._waiting.append(task)
        self._arrived.set()
        await event.wait()
        return self._results.pop(task_id)

    async def write(self) -> None:
        """Send what waits, all in one frame."""
        while True:
            await self._arrived.wait()
            self._arrived = anyio.Event()
            await anyio.lowlevel.checkpoint()
            tasks, self._waiting = self._waiting, []
            await self._send(json.dumps(tasks))

    async def read(self) -> None:
        """Hand the results to those who wait."""
        while True:
            for item in json.loads(await self._receive())["data"]:
                task_id = item["taskUUID"]
                self._results[task_id] = [item]
                self._events.pop(task_id).set()


@asynccontextmanager
async def wire(options: dict[str, Any], delivery: str, backend: str) -> AsyncIterator[Run]:
    """The floor."""
    url = options["ws_base_url"]
    async with contextlib.AsyncExitStack() as stack:
        if backend == "asyncio":
            theirs = await stack.enter_async_context(websockets.connect(url, compression=None, ping_interval=None))
            client = Wire(theirs.send, theirs.recv)
        else:
            ours = await stack.enter_async_context(trio_websocket.open_websocket_url(url))
            client = Wire(ours.send_message, ours.get_message)
        await client.authenticate(options["api_key"])
        group = await stack.enter_async_context(anyio.create_task_group())
        group.start_soon(client.write)
        group.start_soon(client.read)
        yield functools.partial(run_all, client.run, delivery)
        group.cancel_scope.cancel()


@asynccontextmanager
async def official(options: dict[str, Any], delivery: str, _: str) -> AsyncIterator[Run]:
    """The official SDK."""
    async with official_client(options, "websocket") as client:
        yield functools.partial(run_all, client.run, delivery)


@asynccontextmanager
async def client(options: dict[str, Any], delivery: str, _: str) -> AsyncIterator[Run]:
    """Our client."""
    async with Client(**options) as ours:
        yield functools.partial(run_all, ours.run, delivery)


@asynccontextmanager
async def flow(options: dict[str, Any], delivery: str, _: str) -> AsyncIterator[Run]:
    """A flow of one map."""
    async with Client(**options) as ours:

        async def run(count: int) -> None:
            declared = Flow("calls", concurrency=AT_ONCE)
            images = declared.map(range(count), lambda number: image(number, delivery))
            assert len((await declared.execute(ours))[images]) == count

        yield run


async def profile(who: Any, options: dict[str, Any], delivery: str, backend: str, count: int) -> dict[str, float]:
    """Calls for one task, by function."""
    profiler = cProfile.Profile()
    async with who(options, delivery, backend) as run:
        await run(AT_ONCE)
        profiler.enable()
        await run(count)
        profiler.disable()
    return {_name(entry.code): entry.callcount / count for entry in profiler.getstats()}


def _name(code: Any) -> str:
    if isinstance(code, str):
        return code
    file = Path(code.co_filename)
    return f"{file.parent.name}/{file.name}:{code.co_firstlineno} {code.co_qualname}"


def main() -> None:
    """Print the table, or the functions of one client."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=640)
    parser.add_argument("--deliveries", nargs="+", choices=("sync", "async"), default=["sync", "async"])
    parser.add_argument("--who", nargs="+", choices=WHO, default=WHO)
    parser.add_argument("--backend", nargs="+", choices=("asyncio", "trio"), default=["asyncio", "trio"])
    parser.add_argument("--top", type=int, default=0, help="list so many functions of each")
    chosen = parser.parse_args()
    print(f"Python calls a task, {chosen.tasks} tasks of {LATENCY} s, {AT_ONCE} at a time, over WebSocket")
    print(f"{'delivery':9} {'backend':8} {'who':9} {'calls':>6} {'above the wire':>15}")
    for delivery in chosen.deliveries:
        for backend in chosen.backend:
            floor = 0.0
            for who in chosen.who:
                if (who == "wire" and delivery == "async") or (who == "official" and backend == "trio"):
                    continue
                with emulator_process(latency=LATENCY) as service:
                    counts = anyio.run(
                        profile, globals()[who], service, delivery, backend, chosen.tasks, backend=backend
                    )
                total = sum(counts.values())
                floor = total if who == "wire" else floor
                above = f"{total - floor:15.0f}" if floor else ""
                print(f"{delivery:9} {backend:8} {who:9} {total:6.0f} {above}", flush=True)
                for name, calls in sorted(counts.items(), key=lambda pair: -pair[1])[: chosen.top]:
                    print(f"{calls:12.2f}  {name}")


if __name__ == "__main__":
    main()
