"""What a node costs: 10,000 items through three no-op stages, concurrency 64, beside a task group and aiometer.

"task group" is a plain AnyIO task group with a CapacityLimiter, one task an item that awaits the three stages in turn;
"aiometer" is `aiometer.run_on_each` with `max_at_once` for the same function (asyncio and trio). Best of five.
"""

from __future__ import annotations

import functools
import time
from typing import Any

import aiometer
import anyio
import anyio.lowlevel

from runware_flow import Flow

ITEMS = 10_000
CONCURRENCY = 64


async def stage(value: int) -> int:
    """Do nothing but let others run, as every await on a socket would."""
    await anyio.lowlevel.checkpoint()
    return value + 1


async def chain(number: int) -> None:
    """The three stages in turn."""
    assert await stage(await stage(await stage(number))) == number + 3


async def by_task_group() -> None:
    """One task an item, a limiter in front."""
    limiter = anyio.CapacityLimiter(CONCURRENCY)

    async def one(number: int) -> None:
        async with limiter:
            await chain(number)

    async with anyio.create_task_group() as group:
        for number in range(ITEMS):
            group.start_soon(one, number)


async def by_aiometer() -> None:
    """The bounded map of aiometer."""
    await aiometer.run_on_each(chain, range(ITEMS), max_at_once=CONCURRENCY)


async def by_flow() -> None:
    """Three stages of a flow; every result is kept."""
    flow = Flow("overhead", concurrency=CONCURRENCY)
    last = flow.map(range(ITEMS), stage).then(stage).then(stage)
    result = await flow.execute()
    assert result[last][-1] == ITEMS + 2


async def best(work: Any) -> float:
    """The shortest of five runs, in seconds."""
    taken: list[float] = []
    for _ in range(5):
        started = time.perf_counter()
        await work()
        taken.append(time.perf_counter() - started)
    return min(taken)


def main() -> None:
    """Print the table."""
    print(f"{ITEMS} items, three no-op stages, concurrency {CONCURRENCY}")
    print(f"{'backend':8} {'who':12} {'seconds':>8} {'us a node':>10} {'of task group':>14}")
    for backend in ("asyncio", "trio"):
        run = functools.partial(anyio.run, backend=backend)
        plain = run(best, by_task_group)
        for who, taken in (("task group", plain), ("aiometer", run(best, by_aiometer)), ("flow", run(best, by_flow))):
            print(f"{backend:8} {who:12} {taken:8.3f} {taken / ITEMS / 3 * 1e6:10.1f} {taken / plain:14.2f}")


if __name__ == "__main__":
    main()
