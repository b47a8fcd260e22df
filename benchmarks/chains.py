"""200 chains of three tasks, 50 ms each, concurrency 64: the time beside the ideal, on every backend and transport.

The ideal is what the latencies alone cost: the longest chain (3 x 50 ms) times the waves that 200 chains need at
concurrency 64 (4), 0.60 s.
"""

from __future__ import annotations

import argparse
import math
import time
from typing import Any

import anyio

from benchmarks.service import emulator_process
from runware_flow import Client, Flow
from runware_flow.tasks import Caption, ImageInference, Upscale

LATENCY = 0.05


def declare(chains: int, concurrency: int, delivery: str) -> tuple[Flow, Any]:
    """The three-stage pipeline, once for each prompt."""
    flow = Flow("chains", concurrency=concurrency)
    art = flow.map(
        [f"chain number {number}" for number in range(chains)],
        lambda prompt: ImageInference(
            model="runware:400@1", positive_prompt=prompt, width=512, height=512, delivery_method=delivery
        ),
    )
    big = art.then(
        lambda image: Upscale(
            model="runware:504@1", inputs={"image": image}, upscale_factor=2, delivery_method=delivery
        )
    )
    text = big.then(lambda image: Caption(model="runware:150@2", inputs={"image": image}, delivery_method=delivery))
    return flow, text


async def measure(options: dict[str, Any], transport: str, delivery: str, chains: int, concurrency: int) -> float:
    """Seconds from the start of the run to its end; the connection is open and warm before."""
    flow, text = declare(chains, concurrency, delivery)
    warm, _ = declare(10, 10, delivery)
    async with Client(**options, transport=transport) as client:
        await warm.execute(client)
        started = time.perf_counter()
        result = await flow.execute(client)
        taken = time.perf_counter() - started
    for number, caption in enumerate(result[text]):
        assert f"chain number {number}" in caption.text, caption
    return taken


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chains", type=int, default=200)
    parser.add_argument("--concurrency", type=int, default=64)
    options = parser.parse_args()
    ideal = 3 * LATENCY * math.ceil(options.chains / options.concurrency)
    print(f"{options.chains} chains of three {LATENCY * 1000:.0f} ms tasks, concurrency {options.concurrency}")
    print(f"{'backend':8} {'transport':10} {'delivery':9} {'seconds':>8} {'ideal':>6} {'ratio':>6}")
    with emulator_process(latency=str(LATENCY)) as service:
        for backend in ("asyncio", "trio"):
            for transport in ("websocket", "rest"):
                for delivery in ("sync", "async"):
                    taken = anyio.run(
                        measure, service, transport, delivery, options.chains, options.concurrency, backend=backend
                    )
                    print(f"{backend:8} {transport:10} {delivery:9} {taken:8.2f} {ideal:6.2f} {taken / ideal:6.2f}")


if __name__ == "__main__":
    main()
