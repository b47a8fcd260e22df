"""What a node costs: 10,000 items through three no-op stages, concurrency 64, beside a task group and aiometer.

"task group" is a plain AnyIO task group with a CapacityLimiter, one task an item that awaits the three stages in turn;
"aiometer" is `aiometer.run_on_each` with `max_at_once` for the same function (asyncio and trio). What is measured is
the time of the processor, each in turn, seven times: other work on the machine then slows all of them down alike.
"calls" are the Python calls of a node in all (`cProfile`), which do not depend on the machine.

The last table has the same flow at three sizes, smallest of three rounds, each size in a process of its own: what a
node costs should not depend on how many there are. "calls" are counted in one more run.
"""

from __future__ import annotations

import cProfile
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING

import aiometer
import anyio
import anyio.lowlevel

from runware_flow import Flow

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ITEMS = 10_000
ROUNDS = 7
CONCURRENCY = 64
SIZES = (1_000, 10_000, 100_000)


async def stage(value: int) -> int:
    """Do nothing but let others run, as every await on a socket would."""
    await anyio.lowlevel.checkpoint()
    return value + 1


async def chain(number: int) -> None:
    """The three stages in turn."""
    assert await stage(await stage(await stage(number))) == number + 3


async def by_task_group(items: int = ITEMS) -> None:
    """One task an item, a limiter in front."""
    limiter = anyio.CapacityLimiter(CONCURRENCY)

    async def one(number: int) -> None:
        async with limiter:
            await chain(number)

    async with anyio.create_task_group() as group:
        for number in range(items):
            group.start_soon(one, number)


async def by_aiometer(items: int = ITEMS) -> None:
    """The bounded map of aiometer."""
    await aiometer.run_on_each(chain, range(items), max_at_once=CONCURRENCY)


async def by_flow(items: int = ITEMS) -> None:
    """Three stages of a flow; every result is kept."""
    flow = Flow("overhead", concurrency=CONCURRENCY)
    last = flow.map(range(items), stage).then(stage).then(stage)
    result = await flow.execute()
    assert result[last][-1] == items + 2


async def seconds(work: Callable[[], Awaitable[None]]) -> float:
    """The seconds that the processor works on it."""
    started = time.process_time()
    await work()
    return time.process_time() - started


async def calls(work: Callable[[int], Awaitable[None]], items: int = 1000) -> float:
    """Python calls of a node, after a first run."""
    await work(1000)
    profiler = cProfile.Profile()
    profiler.enable()
    await work(items)
    profiler.disable()
    return sum(entry.callcount for entry in profiler.getstats()) / items / 3


async def measure() -> tuple[dict[str, list[float]], dict[str, float]]:
    """For each its seconds in each round, and its calls."""
    works = {"task group": by_task_group, "aiometer": by_aiometer, "flow": by_flow}
    taken: dict[str, list[float]] = {who: [] for who in works}
    for _ in range(ROUNDS):
        for who, work in works.items():
            taken[who].append(await seconds(work))
    return taken, {who: await calls(work) for who, work in works.items()}


async def measure_size(nodes: int) -> tuple[float, float]:
    """Microseconds of the processor and Python calls a node, of a flow of so many."""
    items = nodes // 3
    await by_flow(SIZES[0] // 3)
    taken = min([await seconds(lambda: by_flow(items)) for _ in range(3)])
    return taken / items / 3 * 1e6, await calls(by_flow, items)


def at_size(nodes: int, backend: str) -> tuple[float, float]:
    """The same, in this process."""
    return anyio.run(measure_size, nodes, backend=backend)


def main() -> None:
    """Print the tables."""
    print(f"{ITEMS} items, three no-op stages, concurrency {CONCURRENCY}")
    print(f"{'backend':8} {'who':12} {'us a node':>10} {'of task group':>14} {'calls':>7}")
    for backend in ("asyncio", "trio"):
        taken, counted = anyio.run(measure, backend=backend)
        for who, times in taken.items():
            ratio = statistics.median(own / plain for own, plain in zip(times, taken["task group"], strict=True))
            print(f"{backend:8} {who:12} {min(times) / ITEMS / 3 * 1e6:10.1f} {ratio:14.2f} {counted[who]:7.1f}")

    print(f"\n{'backend':8} {'nodes':>8} {'us a node':>10} {'calls':>7}")
    for backend in ("asyncio", "trio"):
        for nodes in SIZES:
            with ProcessPoolExecutor(1, get_context("spawn")) as process:
                cpu, counted_calls = process.submit(at_size, nodes, backend).result()
            print(f"{backend:8} {nodes:8} {cpu:10.1f} {counted_calls:7.1f}")


if __name__ == "__main__":
    main()
