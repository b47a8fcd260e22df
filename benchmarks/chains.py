"""200 chains of three tasks, concurrency 64: the time beside the ideal, the official SDK and a task group.

    python -m benchmarks.chains [--latencies 0.05 0.2..1.0] [--transports websocket rest] [--deliveries sync async]

The ideal is what the latencies alone cost: the chains in their order, 64 at a time, each as long as its three tasks:
0.60 s for tasks of 50 ms. Everybody talks to a new emulator, in a process of its own, and has an open connection and
ten chains behind them when the clock starts. "Client alone" is our client in an AnyIO task group with a
CapacityLimiter, without a flow. The ids of the tasks are the same in every run, and with them, at the emulator, their
durations.
"""

from __future__ import annotations

import argparse
import time
import uuid
from collections.abc import Awaitable, Callable
from heapq import heappop, heappush
from typing import Any

import anyio

from benchmarks.service import emulator_process, official_client
from runware_flow import Client, Flow
from runware_flow.emulator.commands import parse_latency
from runware_flow.emulator.settings import Settings
from runware_flow.tasks import Caption, ImageInference, Upscale

LATENCIES = ("0.05", "0.2..1.0")
WARM_UP = 10
SEED = 7

Chain = Callable[[str], Awaitable[str]]


def tasks(delivery: str) -> tuple[Any, Any, Any]:
    """The three builders."""
    return (
        lambda prompt: ImageInference(
            model="runware:400@1",
            positive_prompt=prompt,
            width=512,
            height=512,
            delivery_method=delivery,
            task_uuid=task_id(prompt),
        ),
        lambda image: Upscale(
            model="runware:504@1",
            inputs={"image": image},
            upscale_factor=2,
            delivery_method=delivery,
            task_uuid=task_id(image.task_uuid),
        ),
        lambda image: Caption(
            model="runware:150@2",
            inputs={"image": image},
            delivery_method=delivery,
            task_uuid=task_id(image.task_uuid),
        ),
    )


def task_id(name: str) -> str:
    """Give the same id for the same name."""
    return str(uuid.UUID(bytes=uuid.uuid5(uuid.NAMESPACE_URL, name).bytes, version=4))


def ideal(latency: str, chains: int, concurrency: int) -> float:
    """What the durations alone cost, at that concurrency."""
    settings = Settings(seed=SEED, latency=parse_latency(latency))
    free = [0.0] * concurrency
    for prompt in prompts(chains):
        began = heappop(free)
        name = prompt
        for task_type in ("imageInference", "upscale", "caption"):
            name = task_id(name)
            began += settings.latency_of(task_type, name, 0)
        heappush(free, began)
    return max(free)


def prompts(count: int) -> list[str]:
    """Different prompts, each to be found again in its caption."""
    return [f"chain number {number} of {count}" for number in range(count)]


def check(captions: list[str]) -> None:
    """Every caption must be that of its own chain."""
    for prompt, caption in zip(prompts(len(captions)), captions, strict=True):
        assert f'"{prompt}"' in caption, (prompt, caption)


async def flow(options: dict[str, Any], transport: str, delivery: str, chains: int, concurrency: int) -> float:
    """A flow with one map and two stages after it."""

    async def once(count: int) -> list[str]:
        art, big, text = tasks(delivery)
        declared = Flow("chains", concurrency=concurrency)
        last = declared.map(prompts(count), art).then(big).then(text)
        return [caption.text for caption in (await declared.execute(client))[last]]

    async with Client(**options, transport=transport) as client:
        await once(WARM_UP)
        started = time.perf_counter()
        captions = await once(chains)
        taken = time.perf_counter() - started
    check(captions)
    return taken


async def timed(chain: Chain, chains: int, concurrency: int) -> float:
    """Run `chain` for every prompt in a plain task group."""
    captions = [""] * chains
    limiter = anyio.CapacityLimiter(concurrency)

    async def one(number: int, prompt: str) -> None:
        async with limiter:
            captions[number] = await chain(prompt)

    for count in (WARM_UP, chains):
        started = time.perf_counter()
        async with anyio.create_task_group() as group:
            for number, prompt in enumerate(prompts(count)):
                group.start_soon(one, number, prompt)
        taken = time.perf_counter() - started
    check(captions)
    return taken


async def client_alone(options: dict[str, Any], transport: str, delivery: str, chains: int, concurrency: int) -> float:
    """Our client, a plain task group."""
    art, big, text = tasks(delivery)
    async with Client(**options, transport=transport) as client:

        async def chain(prompt: str) -> str:
            (image,) = await client.run(art(prompt))
            (large,) = await client.run(big(image))
            (caption,) = await client.run(text(large))
            return str(caption.text)

        return await timed(chain, chains, concurrency)


async def official(options: dict[str, Any], transport: str, delivery: str, chains: int, concurrency: int) -> float:
    """The official SDK, a plain task group."""
    async with official_client(options, transport) as client:

        async def chain(prompt: str) -> str:
            more = {"deliveryMethod": delivery}
            more["taskUUID"] = task_id(prompt)
            image = await client.run(
                {"model": "runware:400@1", "positivePrompt": prompt, "width": 512, "height": 512, **more}
            )
            more["taskUUID"] = task_id(more["taskUUID"])
            large = await client.run(
                {"model": "runware:504@1", "inputs": {"image": image[0]["imageURL"]}, "upscaleFactor": 2, **more}
            )
            more["taskUUID"] = task_id(more["taskUUID"])
            caption = await client.run({"model": "runware:150@2", "inputs": {"image": large[0]["imageURL"]}, **more})
            return str(caption[0]["text"])

        return await timed(chain, chains, concurrency)


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chains", type=int, default=200)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--latencies", nargs="+", default=LATENCIES)
    parser.add_argument("--transports", nargs="+", default=["websocket", "rest"])
    parser.add_argument("--deliveries", nargs="+", default=["sync", "async"])
    options = parser.parse_args()
    size = (options.chains, options.concurrency)
    ours = [(who, backend) for backend in ("asyncio", "trio") for who in (client_alone, flow)]
    for latency in options.latencies:
        best = ideal(latency, *size)
        print(f"{options.chains} chains of three tasks of {latency} s, concurrency {options.concurrency}: {best:.2f} s")
        print(f"{'transport':10} {'delivery':9} {'who':22} {'seconds':>8} {'of ideal':>9} {'of official':>12}")
        for transport in options.transports:
            for delivery in options.deliveries:
                theirs = 0.0
                for who, backend in [(official, "asyncio"), *ours]:
                    with emulator_process(latency=latency) as service:
                        taken = anyio.run(who, service, transport, delivery, *size, backend=backend)
                    theirs = theirs or taken
                    name = f"{who.__name__.replace('_', ' ')}, {backend}"
                    ratios = f"{taken / best:9.2f} {taken / theirs:12.2f}"
                    print(f"{transport:10} {delivery:9} {name:22} {taken:8.2f} {ratios}", flush=True)


if __name__ == "__main__":
    main()
