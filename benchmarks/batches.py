"""What a batch costs: a million trivial items on a service in memory, and thousands through the emulator.

    python -m benchmarks.batches [--items 1000000] [--emulated 20000] [--backend asyncio] [--engines]

Trivial: one task an item, answered at once by a client in this process, concurrency 64, no journal. Memory is that of
the process when a hundredth of the items is done (what it needs to work at all) and the most it ever held after that.
Emulated: one 50 ms image an item over the WebSocket, sync and at concurrency 256, the emulator in a process of its own,
with and without a journal; every item's result is checked, and the emulator's count of bills.
`--engines`: the trivial items of a batch beside the same items as a fan-out of a flow, and what it costs by itself to
declare and compile the nodes of each item.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import urllib.request
from itertools import count as counting
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import msgspec

from benchmarks.journal import megabytes
from benchmarks.service import emulator_process
from runware_flow import Batch, Client, Flow, Node
from runware_flow.client.request import prepare
from runware_flow.graph.machine import FlowMachine
from runware_flow.graph.plan import compile_plan
from runware_flow.results import ImageResult
from runware_flow.tasks import ImageInference

GOAL_MB = 64 * 1.048576


def picture(flow: Flow, number: int) -> Node[ImageResult]:
    """The pipeline of an item."""
    return flow.then(
        ImageInference(model="runware:400@1", positive_prompt=f"picture {number}", width=512, height=512, seed=number)
    )


def picture_sync(flow: Flow, number: int) -> Node[ImageResult]:
    """The same, delivered on the connection that it was asked over."""
    return flow.then(
        ImageInference(
            model="runware:400@1", positive_prompt=f"picture {number}", width=512, height=512, delivery_method="sync"
        )
    )


class InMemory:
    """Answers at once, after letting others in."""

    def __init__(self) -> None:
        self._numbers = counting()

    def prepare(self, task: Any, /, **more: Any) -> Any:
        return prepare(task, new_task_id=f"{next(self._numbers):08x}-0000-4000-8000-000000000000", include_cost=True)

    async def perform(self, request: Any, /, **more: Any) -> list[Any]:
        await anyio.lowlevel.checkpoint()
        item = {
            "taskType": "imageInference",
            "taskUUID": request.task_id,
            "imageURL": "https://x/y.jpg",
            "cost": 0.0013,
        }
        return [msgspec.convert(item, ImageResult)]


async def trivial(count: int) -> None:
    """Print what many items cost in time and memory."""
    started, begun = time.perf_counter(), time.process_time()
    done, early, most = 0, 0.0, 0.0
    async with Batch(picture).run(range(count), InMemory()) as outcomes:
        async for _ in outcomes:
            done += 1
            if done == count // 100:
                early = most = megabytes()
            elif done % 1000 == 0:
                most = max(most, megabytes())
    taken, cpu = time.perf_counter() - started, time.process_time() - begun
    assert outcomes.report.ok_count == count
    assert outcomes.report.cost == round(count * 0.0013, 6)
    print(
        f"  {count} trivial items: {taken:.1f} s, {cpu:.1f} s of CPU, {cpu / count * 1e6:.0f} us an item; memory"
        f" {early:.0f} MB after a hundredth, {most:.0f} MB at most: +{most - early:.0f} MB (goal: {GOAL_MB:.0f})"
    )


async def fan_out(count: int) -> None:
    """Print what the same items cost as a fan-out of a flow, whose outcomes are kept."""
    started, begun = time.perf_counter(), time.process_time()
    flow = Flow("fan-out")
    made = flow.map(
        range(count),
        lambda number: ImageInference(
            model="runware:400@1", positive_prompt=f"picture {number}", width=512, height=512, seed=number
        ),
    )
    early = most = 0.0
    done = 0
    async with flow.start(InMemory()) as run:
        async for _ in run.as_completed(made):
            done += 1
            if done == count // 100:
                early = most = megabytes()
            elif done % 1000 == 0:
                most = max(most, megabytes())
    cpu = time.process_time() - begun
    print(
        f"  {count} trivial items as a fan-out: {time.perf_counter() - started:.1f} s, {cpu:.1f} s of CPU,"
        f" {cpu / count * 1e6:.0f} us an item; memory +{most - early:.0f} MB,"
        f" {(most - early) * 1e6 / count:.0f} bytes an item"
    )


def compiled(count: int) -> None:
    """Print what it costs to declare the nodes of each item and to compile a plan of them, and what that holds."""
    begun = time.process_time()
    for number in range(count):
        flow = Flow("item")
        picture(flow, number)
    declared = time.process_time()
    for number in range(count):
        flow = Flow("item")
        picture(flow, number)
        FlowMachine(compile_plan(flow.declaration), concurrency=1, on_error="stop")
    both = time.process_time() - declared
    print(
        f"  declaring an item: {(declared - begun) / count * 1e6:.0f} us;"
        f" with a plan and a machine of its own: {both / count * 1e6:.0f} us"
    )


async def emulated(count: int, service: dict[str, Any], journal: Path | None) -> None:
    """Print what as many items as asked for cost through real sockets."""
    started, begun = time.perf_counter(), time.process_time()
    early = most = 0.0
    seen = 0
    async with Client(**service) as client:
        batch = Batch(picture_sync, concurrency=256, journal=journal)
        async with batch.run(range(count), client) as outcomes:
            async for item in outcomes:
                assert not item.is_failed, item.error
                seen += 1
                if seen == count // 10:
                    early = most = megabytes()
                elif seen % 500 == 0:
                    most = max(most, megabytes())
    taken, cpu = time.perf_counter() - started, time.process_time() - begun
    kind = "without a journal" if journal is None else "with a journal"
    print(
        f"  {count} items through the emulator, {kind}: {taken:.1f} s, {count / taken:.0f} a second; {cpu:.1f} s CPU,"
        f" {cpu / count * 1e6:.0f} us an item; memory {early:.0f} MB after a tenth, +{most - early:.0f} MB at most"
    )
    assert outcomes.report.ok_count == count


def bills(service: dict[str, Any]) -> tuple[int, float]:
    """How many tasks the emulator counted, and for how much."""
    address = service["http_base_url"].removesuffix("/v1")
    with urllib.request.urlopen(f"{address}/__emulator__/log") as answer:
        log = json.load(answer)
    return log["task_count"] if "task_count" in log else len(log["tasks"]), log["billed"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--emulated", type=int, default=2_000)
    parser.add_argument("--engines", action="store_true")
    parser.add_argument("--backend", choices=("asyncio", "trio"), action="append")
    options = parser.parse_args()
    for backend in options.backend or ("asyncio", "trio"):
        print(backend)
        if options.items:
            anyio.run(trivial, options.items, backend=backend)
            if options.engines:
                anyio.run(fan_out, options.items, backend=backend)
                compiled(options.items)
        if not options.emulated:
            continue
        for has_journal in (False, True):
            with emulator_process(latency="0.05") as service, tempfile.TemporaryDirectory() as folder:
                journal = Path(folder) / "batch.sqlite" if has_journal else None
                anyio.run(emulated, options.emulated, service, journal, backend=backend)
                print(f"    the emulator: {bills(service)}")


if __name__ == "__main__":
    main()
