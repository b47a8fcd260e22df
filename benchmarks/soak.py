"""2,000 tasks while the connection is cut at random 50 times: nothing may be lost, nothing bought twice.

    python -m benchmarks.soak [--tasks 2000] [--kills 50] [--delivery mixed] [--backend trio] [--seed 1]

A relay stands between the client and the emulator. 50 times, a moment after a random number of results has come, it
resets the connection through it, both ways: what was under way is gone. Without `--backend` and `--delivery` every
combination runs. Exits with 1 if a task has no result, if the service met a taskUUID more than was asked for, or if it
billed more than one result a task.
"""

from __future__ import annotations

import argparse
import random
import socket
import struct
import sys
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import SocketAttribute

from runware_flow import Client
from runware_flow.emulator.emulator import run_in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anyio.abc import SocketStream, TaskGroup

LATENCY = (0.01, 0.4)
AT_ONCE = 200
COST = 0.0006


class Relay:
    """Passes bytes to a port of this machine, until `cut`."""

    def __init__(self, port: int, group: TaskGroup) -> None:
        self._port = port
        self._group = group
        self._pairs: set[tuple[SocketStream, SocketStream]] = set()

    async def serve(self, client: SocketStream) -> None:
        """Pass on what one connection carries."""
        async with client, await anyio.connect_tcp("127.0.0.1", self._port) as server:
            pair = (client, server)
            self._pairs.add(pair)
            try:
                async with anyio.create_task_group() as ways:
                    ways.start_soon(self._pump, client, server, ways)
                    ways.start_soon(self._pump, server, client, ways)
            finally:
                self._pairs.discard(pair)

    async def _pump(self, source: SocketStream, sink: SocketStream, ways: TaskGroup) -> None:
        try:
            while True:
                await sink.send(await source.receive())
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            ways.cancel_scope.cancel()

    async def cut(self) -> int:
        """Reset every connection; what was under way is lost. Returns how many there were."""
        pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            for stream in pair:
                with suppress(OSError):  # it has ended by itself in this moment
                    raw = stream.extra(SocketAttribute.raw_socket)
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                await stream.aclose()
        return len(pairs)


@asynccontextmanager
async def relayed(url: str) -> AsyncIterator[tuple[str, Relay]]:
    """A relay in front of `url`, and the address to use instead."""
    head, _, path = url.removeprefix("ws://").partition("/")
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as group,
    ):
        relay = Relay(int(head.rpartition(":")[2]), group)
        group.start_soon(listener.serve, relay.serve)
        yield f"ws://127.0.0.1:{listener.extra(SocketAttribute.local_port)}/{path}", relay
        group.cancel_scope.cancel()


@dataclass
class Soaked:
    """What came of it."""

    seconds: float = 0.0
    kills: int = 0
    results: int = 0
    errors: list[str] = field(default_factory=list[str])
    known: int = 0
    """Tasks that the service has met."""
    billed: int = 0
    """Results that it billed."""
    statistics: Any = None

    def is_clean(self, tasks: int) -> bool:
        """Whether nothing was lost and nothing bought twice."""
        return not self.errors and self.results == self.known == self.billed == tasks


async def soak(options: dict[str, Any], tasks: int, kills: int, delivery: str, seed: int) -> Soaked:
    """Run the tasks, and cut at random moments in between until `kills` connections are gone."""
    dice = random.Random(seed)
    came = Soaked()
    moments = sorted(dice.sample(range(tasks * 9 // 10), kills))
    limiter = anyio.CapacityLimiter(AT_ONCE)
    started = time.monotonic()
    async with (
        relayed(options["ws_base_url"]) as (address, relay),
        Client(**{**options, "ws_base_url": address}, retry_delay=0.2) as client,
    ):
        await client.connect()

        async def one(number: int) -> None:
            how = delivery if delivery != "mixed" else ("sync", "async")[number % 2]
            task = {"model": "runware:400@1", "positivePrompt": f"number {number}", "width": 512, "height": 512}
            async with limiter:
                try:
                    results = await client.run({**task, "deliveryMethod": how}, timeout=120)
                    came.results += len(results)
                except Exception as error:  # noqa: BLE001 - what is lost is counted, whatever lost it
                    came.errors.append(f"{type(error).__name__}: {error}")
            while moments and came.results + len(came.errors) > moments[0]:
                moment = moments.pop(0)
                await anyio.sleep(dice.uniform(0.0, 0.03))
                if await relay.cut():
                    came.kills += 1
                else:
                    moments.insert(0, moment)  # no connection stands just now

        async with anyio.create_task_group() as group:
            for number in range(tasks):
                group.start_soon(one, number)
        came.statistics = client.statistics()
    came.seconds = time.monotonic() - started
    return came


def run(tasks: int, kills: int, delivery: str, backend: str, seed: int) -> Soaked:
    """One soak beside an emulator of its own."""
    with run_in_thread(latency=LATENCY, seed=seed) as emulator:
        came = anyio.run(soak, emulator.client_options, tasks, kills, delivery, seed, backend=backend)
        came.known = len({entry.task_uuid for entry in emulator.log.asked})
        came.billed = round(emulator.log.billed / COST)
    return came


def main() -> None:
    """Run and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--delivery", choices=("sync", "async", "mixed"))
    parser.add_argument("--backend", choices=("asyncio", "trio"))
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    is_clean = True
    for backend in [options.backend] if options.backend else ["asyncio", "trio"]:
        for delivery in [options.delivery] if options.delivery else ["sync", "async", "mixed"]:
            came = run(options.tasks, options.kills, delivery, backend, options.seed)
            verdict = "clean" if came.is_clean(options.tasks) else "NOT CLEAN"
            is_clean = is_clean and verdict == "clean"
            print(
                f"{backend:8} {delivery:6} {came.seconds:6.1f} s  {came.kills} kills  {came.results} results"
                f"  {came.known} known  {came.billed} billed  {came.statistics.resends} sent again"
                f"  {len(came.errors)} errors  {verdict}"
            )
            for error in sorted(set(came.errors))[:5]:
                print("   ", error)
    sys.exit(not is_clean)


if __name__ == "__main__":
    main()
