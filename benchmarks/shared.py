"""A batch that several processes share through a journal in PostgreSQL, and what that gains.

Each process runs the same program; the emulator and the database are processes of their own, started for the
benchmark. It tells how long N processes take, from the first item to the last outcome, and what the emulator counted.

    python -m benchmarks.shared [--items 400] [--processes 1 2 4] [--latency 0.1..0.4] [--concurrency 16]
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import anyio

from benchmarks.crash import prompts, service

if TYPE_CHECKING:
    from collections.abc import Iterator


async def work(url: str, items: int, lease: float, concurrency: int) -> None:
    """Take part in the batch until all of it is done, and say what came of each item."""
    from runware_flow import Batch, Client, Flow
    from runware_flow.journal.postgres import PostgresStore
    from runware_flow.tasks import Caption, ImageInference, Upscale

    def item(flow: Flow, prompt: str) -> Any:
        picture = flow.then(ImageInference(model="runware:400@1", positive_prompt=prompt, width=512, height=512))
        large = picture.then(lambda image: Upscale(model="runware:504@1", inputs={"image": image}, upscale_factor=2))
        return large.then(lambda image: Caption(model="runware:150@2", inputs={"image": image}))

    store = PostgresStore(url, lease=lease)
    batch = Batch(item, concurrency=concurrency, journal=store, on_error="continue", name="shared")
    async with Client() as client, batch.run(prompts(items), client) as outcomes:
        async for one in outcomes:
            text = getattr(getattr(one.outcome, "value", None), "text", None)
            said = {"index": one.index, "text": text, "restored": one.is_restored, "error": str(one.error or "")}
            print(json.dumps(said), flush=True)
    report = outcomes.report
    print(json.dumps({"ok": report.ok_count, "restored": report.restored_count, "cost": report.cost}), flush=True)


def start(
    url: str,
    items: int,
    environment: dict[str, str],
    lease: float = 30.0,
    concurrency: int = 16,
    backend: str = "asyncio",
) -> Any:
    """Start a process that takes part."""
    shape = [url, str(items), str(lease), str(concurrency), backend]
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.shared", "--worker", *shape],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
        env={**os.environ, **environment},
    )


def bought(environment: dict[str, str]) -> dict[str, Any]:
    """Ask the emulator what it was asked for."""
    address = environment["RUNWARE_HTTP_BASE_URL"].removesuffix("/v1")
    with urllib.request.urlopen(f"{address}/__emulator__/log") as answer:
        log: dict[str, Any] = json.load(answer)
    tasks = [task for task in log["tasks"] if task["task_type"] in ("imageInference", "upscale", "caption")]
    return {
        "submissions": len(tasks),
        "ids": len({task["task_uuid"] for task in tasks}),
        "bills": sum(task["cost"] > 0 for task in tasks),
        "conflicts": log["conflicts"],
    }


@contextmanager
def databases(*, is_durable: bool = False) -> Iterator[Any]:
    """What makes new databases; a commit in a durable one waits for the disk."""
    sys.path.append(str(Path(__file__).parents[1] / "tests" / "journal"))
    from postgres_server import PostgresServer

    with cast("Any", PostgresServer)(is_durable=is_durable) as server:
        yield server


def measure(url: str, options: argparse.Namespace, count: int) -> dict[str, Any]:
    """Let so many processes share a batch."""
    with service(options.latency, ()) as environment:
        processes = [start(url, options.items, environment, 30.0, options.concurrency) for _ in range(count)]
        firsts = [process.stdout.readline() for process in processes]
        began = time.monotonic()
        said = [process.stdout.read().splitlines() for process in processes]
        seconds = time.monotonic() - began
        lines = [[json.loads(line) for line in [first, *rest]] for first, rest in zip(firsts, said, strict=True)]
        own = [sum(not line.get("restored", True) for line in one[:-1]) for one in lines]
        return {
            "processes": count,
            "seconds": round(seconds, 1),
            "items_a_second": round(options.items / seconds, 1),
            "items_of_each": own,
            **bought(environment),
        }


def main() -> None:
    """Take part, or measure."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if sys.argv[1:2] == ["--worker"]:
        url, items, lease, concurrency, backend = sys.argv[2:]
        anyio.run(work, url, int(items), float(lease), int(concurrency), backend=backend)
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=400)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--latency", default="0.1..0.4")
    parser.add_argument("--concurrency", type=int, default=16, help="items at once, in each process")
    options = parser.parse_args()
    with databases() as server:
        for count in options.processes:
            print(json.dumps(measure(server.url(), options, count)), flush=True)


if __name__ == "__main__":
    main()
