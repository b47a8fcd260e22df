"""64 long tasks at concurrency 64, and a service with a capacity of 8: the time beside the ideal and the official SDK.

    python -m benchmarks.windows [--transports websocket rest] [--deliveries sync async]

"64 x 2 s": 64 tasks of 2 s, all at once; the ideal is 2 s. "64 x 1 s, capacity 8": a service that takes on eight tasks
at a time and refuses one more with 429; the ideal is 8 s, and nothing may fail. Everybody talks to a new emulator in a
process of its own, with an open connection and eight tasks behind them when the clock starts. "failed" are tasks that
the caller has no result of; "refusals" are counted by the emulator.
"""

from __future__ import annotations

import argparse
import json
import time
import urllib.request
from collections.abc import Awaitable, Callable
from typing import Any

import anyio

from benchmarks.service import emulator_process, official_client
from runware_flow import Client, Failed, Flow
from runware_flow.tasks import ImageInference

COUNT = 64
WARM_UP = 8
CASES = (("64 x 2 s", 2.0, None, 2.0), ("64 x 1 s, capacity 8", 1.0, 8, 8.0))

Result = tuple[float, int]
"""Seconds, and how many tasks failed."""
Who = Callable[[dict[str, Any], str, str], Awaitable[Result]]


def picture(number: int, delivery: str) -> ImageInference:
    """One of the tasks."""
    return ImageInference(
        model="runware:400@1", positive_prompt=f"number {number}", width=512, height=512, delivery_method=delivery
    )


async def flow(options: dict[str, Any], transport: str, delivery: str) -> Result:
    """A flow with one map."""

    async def once(client: Client, count: int) -> int:
        declared = Flow("windows", concurrency=COUNT, on_error="continue")
        many = declared.map(range(count), lambda number: picture(number, delivery))
        result = await declared.execute(client)
        return sum(isinstance(outcome, Failed) for outcome in result.outcomes(many))

    async with Client(**options, transport=transport) as client:
        await once(client, WARM_UP)
        started = time.perf_counter()
        failed = await once(client, COUNT)
        return time.perf_counter() - started, failed


async def timed(run: Callable[[int], Awaitable[Any]]) -> Result:
    """Run the tasks in a plain task group."""
    failed = 0

    async def one(number: int) -> None:
        nonlocal failed
        try:
            await run(number)
        except Exception:  # noqa: BLE001 - it is counted, whatever it is
            failed += 1

    for count in (WARM_UP, COUNT):
        failed = 0
        started = time.perf_counter()
        async with anyio.create_task_group() as group:
            for number in range(count):
                group.start_soon(one, number)
    return time.perf_counter() - started, failed


async def client_alone(options: dict[str, Any], transport: str, delivery: str) -> Result:
    """Our client, a plain task group."""
    async with Client(**options, transport=transport) as client:
        return await timed(lambda number: client.run(picture(number, delivery)))


async def official(options: dict[str, Any], transport: str, delivery: str) -> Result:
    """The official SDK, a plain task group."""
    async with official_client(options, transport) as client:

        async def run(number: int) -> Any:
            return await client.run(
                {
                    "model": "runware:400@1",
                    "positivePrompt": f"number {number}",
                    "width": 512,
                    "height": 512,
                    "deliveryMethod": delivery,
                }
            )

        return await timed(run)


def refusals(options: dict[str, Any]) -> int:
    """How many tasks the emulator has refused."""
    address = options["http_base_url"].removesuffix("/v1") + "/__emulator__/log"
    with urllib.request.urlopen(address) as reply:
        return len(json.load(reply)["rejected"])


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transports", nargs="+", default=["websocket", "rest"])
    parser.add_argument("--deliveries", nargs="+", default=["sync", "async"])
    options = parser.parse_args()
    ours: list[tuple[Who, str]] = [(who, backend) for backend in ("asyncio", "trio") for who in (client_alone, flow)]
    for case, latency, capacity, ideal in CASES:
        print(case)
        print(
            f"{'transport':10} {'delivery':9} {'who':22} {'seconds':>8} {'of ideal':>9} {'failed':>7} {'refusals':>9}"
        )
        for transport in options.transports:
            for delivery in options.deliveries:
                for who, backend in [(official, "asyncio"), *ours]:
                    more = [] if capacity is None else ["--capacity", str(capacity)]
                    with emulator_process(latency=str(latency), more=more) as service:
                        taken, failed = anyio.run(who, service, transport, delivery, backend=backend)
                        refused = refusals(service)
                    name = f"{who.__name__.replace('_', ' ')}, {backend}"
                    print(
                        f"{transport:10} {delivery:9} {name:22} {taken:8.2f} {taken / ideal:9.2f} {failed:7}"
                        f" {refused:9}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
