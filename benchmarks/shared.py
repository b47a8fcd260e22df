"""A batch that several processes share through a journal in PostgreSQL, and what that gains.

Each process runs the same program; the emulator and the database are processes of their own, started for the
benchmark. It tells how long N processes take, from the first item to the last outcome, and what the emulator counted.

    python -m benchmarks.shared [--items 400] [--processes 1 2 4] [--latency 0.1..0.4] [--concurrency 16]
    python -m benchmarks.shared --in-memory --items 100000 --processes 8 --concurrency 64

In memory: one task an item, answered at once by a client in each process, so that what is measured is the batch and the
journal. Each process writes down what it sent, which must be each item once under an id of its own, and how large it
was after a tenth of the items and at the end.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

import anyio
import anyio.lowlevel
import msgspec

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


class CountingClient:
    """Answers at once, under the id that it is given, and keeps what it was sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []

    def prepare(self, task: Any, /, *, task_uuid: str | None = None, **_: Any) -> Any:
        from runware_flow.client.request import prepare

        return prepare(task, new_task_id=task_uuid or str(uuid4()), include_cost=True)

    async def perform(self, request: Any, /, **_: Any) -> list[Any]:
        from runware_flow.results import ImageResult

        await anyio.lowlevel.checkpoint()
        self.sent.append((request.wire["positivePrompt"], request.task_id))
        item = {"taskType": "imageInference", "taskUUID": request.task_id, "imageURL": "https://x/y.jpg"}
        return [msgspec.convert({**item, "cost": 0.0013}, ImageResult)]


async def work_in_memory(url: str, items: int, lease: float, concurrency: int, told: str) -> None:
    """Take part in a batch of single tasks, and write down what was sent and how large the process was."""
    from benchmarks.batches import picture
    from benchmarks.journal import megabytes
    from runware_flow import Batch
    from runware_flow.journal.postgres import PostgresStore

    client, sizes, done = CountingClient(), [megabytes()], 0
    store = PostgresStore(url, lease=lease)
    batch = Batch(picture, concurrency=concurrency, journal=store, on_error="continue", name="shared")
    async with batch.run(range(items), client) as outcomes:
        async for _ in outcomes:
            done += 1
            if done == 1:
                print("first", flush=True)
            if done % max(items // 10, 1) == 0:
                sizes.append(megabytes())
    report = outcomes.report
    lines = {"sent": client.sent, "megabytes": sizes, "ok": report.ok_count, "cost": report.cost}
    await anyio.Path(told).write_text(json.dumps(lines), encoding="utf-8")


def start(
    url: str,
    items: int,
    environment: dict[str, str],
    lease: float = 30.0,
    concurrency: int = 16,
    backend: str = "asyncio",
    *told: str,
) -> Any:
    """Start a process that takes part; with a file to write to, one whose service is in memory."""
    shape = [url, str(items), str(lease), str(concurrency), backend, *told]
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


def measure_in_memory(url: str, items: int, concurrency: int, count: int) -> dict[str, Any]:
    """Let so many processes share a batch whose service is in each of them."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.json" for number in range(count)]
        processes = [start(url, items, {}, 30.0, concurrency, "asyncio", str(file)) for file in files]
        for process in processes:
            process.stdout.readline()
        began = time.monotonic()
        for process in processes:
            _, errors = process.communicate()
            assert process.returncode == 0, errors
        seconds = time.monotonic() - began
        told = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    sent = [tuple(one) for lines in told for one in lines["sent"]]
    assert all(lines["ok"] == items for lines in told), [lines["ok"] for lines in told]
    assert all(abs(lines["cost"] - items * 0.0013) < 1e-6 for lines in told), [lines["cost"] for lines in told]
    return {
        "processes": count,
        "items": items,
        "seconds": round(seconds, 1),
        "items_a_second": round(items / seconds, 1),
        "bought": len(sent),
        "items_bought": len({prompt for prompt, _ in sent}),
        "ids": len({task_uuid for _, task_uuid in sent}),
        "items_of_each": [len(lines["sent"]) for lines in told],
        "megabytes_at_each_tenth": [[round(size) for size in lines["megabytes"]] for lines in told],
    }


def main() -> None:
    """Take part, or measure."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if sys.argv[1:2] == ["--worker"]:
        url, items, lease, concurrency, backend, *told = sys.argv[2:]
        function = cast("Any", work_in_memory if told else work)
        anyio.run(function, url, int(items), float(lease), int(concurrency), *told, backend=backend)
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=400)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--latency", default="0.1..0.4")
    parser.add_argument("--concurrency", type=int, default=16, help="items at once, in each process")
    parser.add_argument("--in-memory", action="store_true", help="the service is in memory")
    options = parser.parse_args()
    with databases() as server:
        for count in options.processes:
            if options.in_memory:
                told = measure_in_memory(server.url(), options.items, options.concurrency, count)
                print(json.dumps(told), flush=True)
                continue
            print(json.dumps(measure(server.url(), options, count)), flush=True)


if __name__ == "__main__":
    main()
