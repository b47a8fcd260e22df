"""Async delivery beside the official SDK: how late results are, what the asking costs, and what it costs in CPU time.

    python -m benchmarks.polling [spread] [chains] [cpu] [calls] [--tasks 1000]

`spread`: 1,000 tasks at once, 0.5 to 3 s each, drawn evenly. "late" is the mean time from the moment at which a result
is ready at the service to the one at which the caller has it; "left" the same to the moment at which it leaves the
service. Frames are those of both directions.

`chains`: 200 chains of three tasks, 64 at a time, as in `benchmarks.chains`: tasks of 50 ms beside the official SDK,
and tasks of 0.2 to 1 s beside sync delivery.

`cpu`: the client's CPU time a task (`time.process_time`), 1,000 tasks of 50 ms, 64 at a time; median of three. The task
group that starts them is counted too, 50 us a task on asyncio and 70 on trio, for everybody.

`calls`: Python function calls of the client, as `cProfile` counts them, for a task that takes 50 ms, for one of 0.5 to
3 s that is polled more often, and for each poll that the second takes more than the first, its share of a frame, of the
reply and of what reads it included. 64 at a time, after 64 tasks of the same kind. No clock is in it, though how many
polls share a frame depends on the machine.

Every client meets a new emulator in a process of its own, with the same tasks under the same ids, which therefore take
the same time.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import os
import statistics
import time
import urllib.request
import uuid
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio

from benchmarks import chains
from benchmarks.service import emulator_process, official_client
from runware_flow import Client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Run = Callable[[dict[str, Any]], Awaitable[Any]]
WHO = ("official SDK, asyncio", "ours, asyncio", "ours, trio")
SPREAD = "0.5..3"
SHORT = "0.05"
LONG = "0.2..1.0"
AT_ONCE = 64


def read_log(options: dict[str, Any]) -> dict[str, Any]:
    """What the emulator recorded, over its control path."""
    address = options["http_base_url"].removesuffix("/v1") + "/__emulator__/log"
    with urllib.request.urlopen(address) as reply:
        return dict(json.load(reply))


def images(count: int, delivery: str) -> list[dict[str, Any]]:
    """The same tasks under the same ids for everybody."""
    return [
        {
            "taskType": "imageInference",
            "taskUUID": str(uuid.UUID(int=number + 1, version=4)),
            "model": "runware:400@1",
            "positivePrompt": f"number {number}",
            "width": 512,
            "height": 512,
            "deliveryMethod": delivery,
        }
        for number in range(count)
    ]


@asynccontextmanager
async def connected(who: str, options: dict[str, Any], transport: str) -> AsyncIterator[Run]:
    """A client of that kind, connected, as the function that runs a task."""
    if who.startswith("official"):
        async with official_client(options, transport) as theirs:
            yield theirs.run
    else:
        async with Client(**options, transport=transport) as ours:
            await ours.connect()
            yield ours.run


async def run_all(run: Run, tasks: list[dict[str, Any]], at_once: int) -> dict[str, float]:
    """Run the tasks; return when the caller had each result, by taskUUID, on the machine's monotonic clock."""
    had: dict[str, float] = {}
    limiter = anyio.CapacityLimiter(at_once)

    async def one(task: dict[str, Any]) -> None:
        async with limiter:
            (result,) = await run(task)
        had[task["taskUUID"]] = time.monotonic()
        assert result

    async with anyio.create_task_group() as group:
        for task in tasks:
            group.start_soon(one, task)
    return had


async def spread_once(who: str, options: dict[str, Any], transport: str, count: int) -> dict[str, float]:
    """One client's row of the first table."""
    tasks = images(count, "async")
    async with connected(who, options, transport) as run:
        before = await anyio.to_thread.run_sync(read_log, options)
        cpu = time.process_time()
        had = await run_all(run, tasks, count)
        cpu = time.process_time() - cpu
        after = await anyio.to_thread.run_sync(read_log, options)
    known = {entry["task_uuid"]: entry for entry in after["tasks"]}
    ready = {task_id: known[task_id]["ready_at"][0] for task_id in had}
    grown = {name: after[name] - before[name] for name in ("frames_received", "frames_sent", "posts", "polls")}
    return {
        "late": statistics.fmean(had[task_id] - ready[task_id] for task_id in had),
        "left": statistics.fmean(known[task_id]["delivered_at"][0] - ready[task_id] for task_id in had),
        "frames": grown["frames_received"] + grown["frames_sent"] + 2 * grown["posts"],
        "polls": grown["polls"] / count,
        "cpu": cpu / count * 1e6,
    }


def run_as(who: str, function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    """Run on the event loop that `who` names."""
    if who.endswith("trio"):
        return anyio.run(function, *args, backend="trio")
    return asyncio.run(function(*args))  # type: ignore[arg-type]


def spread(count: int) -> None:
    """Print the first table."""
    print(f"\n{count} tasks at once, {SPREAD} s, async delivery")
    columns = ("late ms", "left ms", "frames", "polls a task", "cpu us a task")
    print(f"{'transport':10} {'who':22} {' '.join(columns)}")
    for transport in ("websocket", "rest"):
        for who in WHO:
            with emulator_process(latency=SPREAD) as service:
                row = run_as(who, spread_once, who, service, transport, count)
            values = (row["late"] * 1000, row["left"] * 1000, row["frames"], row["polls"], row["cpu"])
            shown = " ".join(f"{value:{len(name)}.1f}" for name, value in zip(columns, values, strict=True))
            print(f"{transport:10} {who:22} {shown}")


def chained() -> None:
    """Print the second table."""
    size = (200, AT_ONCE)
    print(f"\n200 chains of three tasks, concurrency {AT_ONCE}, WebSocket, seconds")
    print(f"{'tasks':10} {'who':24} {'async':>7} {'sync':>7} {'async / sync':>13} {'official async / ours':>22}")
    for latency in (SHORT, LONG):
        theirs = 0.0
        ours = [(who, function) for who in WHO[1:] for function in (chains.client_alone, chains.flow)]
        for who, function in [(WHO[0], chains.official), *ours]:
            taken: dict[str, float] = {}
            for delivery in ("async", "sync"):
                with emulator_process(latency=latency) as service:
                    taken[delivery] = run_as(who, function, service, "websocket", delivery, *size)
            theirs = theirs or taken["async"]
            name = f"{who}, flow" if function is chains.flow else who
            print(
                f"{latency:10} {name:24} {taken['async']:7.2f} {taken['sync']:7.2f}"
                f" {taken['async'] / taken['sync']:13.2f} {theirs / taken['async']:22.1f}"
            )


async def cpu_once(who: str, options: dict[str, Any], transport: str, delivery: str, count: int) -> float:
    """Microseconds of CPU a task."""
    async with connected(who, options, transport) as run:
        warm_up = [{**task, "taskUUID": str(uuid.uuid4())} for task in images(20, delivery)]
        await run_all(run, warm_up, AT_ONCE)
        cpu = time.process_time()
        await run_all(run, images(count, delivery), AT_ONCE)
        return (time.process_time() - cpu) / count * 1e6


def cpu_time(count: int) -> None:
    """Print the third table."""
    print(f"\nCPU time of the client, us a task: {count} tasks of {SHORT} s, {AT_ONCE} at a time, median of three")
    print(f"{'transport':10} {'delivery':9} {'who':22} {'us/task':>8} {'of official':>12}")
    for transport in ("websocket", "rest"):
        for delivery in ("async", "sync"):
            runs: dict[str, list[float]] = {who: [] for who in WHO}
            for _ in range(3):
                for who in WHO:  # in turns: whatever else the machine does meets everybody
                    with emulator_process(latency=SHORT) as service:
                        runs[who].append(run_as(who, cpu_once, who, service, transport, delivery, count))
            theirs = statistics.median(runs[WHO[0]])
            for who in WHO:
                taken = statistics.median(runs[who])
                print(f"{transport:10} {delivery:9} {who:22} {taken:8.0f} {taken / theirs:12.2f}")


async def calls_once(who: str, options: dict[str, Any], count: int) -> tuple[float, float]:
    """Python function calls a task, and polls a task."""
    async with connected(who, options, "websocket") as run:
        await run_all(run, [{**task, "taskUUID": str(uuid.uuid4())} for task in images(AT_ONCE, "async")], AT_ONCE)
        before = await anyio.to_thread.run_sync(read_log, options)
        profile = cProfile.Profile()
        profile.enable()
        await run_all(run, images(count, "async"), AT_ONCE)
        profile.disable()
        after = await anyio.to_thread.run_sync(read_log, options)
    calls = sum(entry.callcount for entry in profile.getstats())
    return calls / count, (after["polls"] - before["polls"]) / count


def calls(count: int) -> None:
    """Print the calls a task and a poll."""
    print(f"\nPython calls of the client, async, WebSocket, {count} tasks, {AT_ONCE} at a time")
    print(f"{'who':22} {SHORT + ' s':>10} {'polls':>6} {SPREAD + ' s':>10} {'polls':>6} {'calls a poll':>13}")
    for who in WHO:
        told: list[float] = []
        for latency in (SHORT, SPREAD):
            with emulator_process(latency=latency) as service:
                told += run_as(who, calls_once, who, service, count)
        a_poll = (told[2] - told[0]) / (told[3] - told[1])
        print(f"{who:22} {told[0]:10.0f} {told[1]:6.2f} {told[2]:10.0f} {told[3]:6.2f} {a_poll:13.1f}", flush=True)


def main() -> None:
    """Run what was asked for; the first three by default."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help="spread, chains, cpu, calls; by default the first three")
    parser.add_argument("--tasks", type=int, default=1000)
    options = parser.parse_args()
    what = options.what or ["spread", "chains", "cpu"]
    print("load of the machine:", " ".join(f"{load:.1f}" for load in os.getloadavg()))
    if "spread" in what:
        spread(options.tasks)
    if "chains" in what:
        chained()
    if "cpu" in what:
        cpu_time(options.tasks)
    if "calls" in what:
        calls(options.tasks)
    print("load of the machine:", " ".join(f"{load:.1f}" for load in os.getloadavg()))


if __name__ == "__main__":
    main()
