"""A batch on a Dask cluster whose parts are killed: every item has its result, and is bought once.

The emulator, the database, Dask's scheduler with its workers, and the driver are processes of their own. While the
batch runs, workers are killed (SIGKILL), the driver is killed and started again, and the database is restarted. At the
end every item must have its result, the emulator must have counted three submissions and three bills for each, and
never more tasks at once than the limit that holds for the whole cluster.

    python -m benchmarks.cluster [--items 5000] [--workers 4] [--kills 2] [--concurrency 64] [--latency 0.2..0.6]
    python -m benchmarks.cluster --workers 1 2 4 --calm               # throughput on the emulator
    python -m benchmarks.cluster --workers 1 2 3 4 --in-memory --items 20000      # throughput on a service in memory
    python -m benchmarks.cluster --in-memory --items 1000000 --concurrency 512 --every 20000       # memory of all parts
    python -m benchmarks.cluster --workers 1 4 --capacity 8 --items 200 --latency 1   # a service that refuses
    python -m benchmarks.cluster --steps 5000                         # a journalled step in PostgreSQL and in SQLite

In memory: one task an item, answered at once by a client in each worker, so that what is measured is the engine and
the journal. Told are the seconds of CPU that each part took, and the memory of the driver, of the scheduler and of the
largest worker at each tenth, or after that many items; at the end what each has grown by for an item since the middle.
Capacity: one task an item; the emulator takes on that many at the same time and refuses others
with 429; it counts its refusals. Steps: functions that do nothing, at concurrency 64 and one after the other, with
commits that wait for the disk; the server and the file are on the same one.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import psutil

from benchmarks.batches import InMemory
from benchmarks.crash import prompts, service
from benchmarks.service import emulator_process
from benchmarks.shared import bought, databases
from benchmarks.windows import refusals

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

ROOT = Path(__file__).parents[1]
LEASE = 4.0
"""Seconds of a lease, shorter than the default, so that the items of killed workers are taken up soon."""


def poster(flow: Any, prompt: str) -> Any:
    """Three stages, each of which needs the one before."""
    from runware_flow.tasks import Caption, ImageInference, Upscale

    picture = flow.then(ImageInference(model="runware:400@1", positive_prompt=prompt, width=512, height=512))
    large = picture.then(lambda image: Upscale(model="runware:504@1", inputs={"image": image}, upscale_factor=2))
    return large.then(lambda image: Caption(model="runware:150@2", inputs={"image": image}))


def picture(flow: Any, prompt: str) -> Any:
    """One task."""
    from runware_flow.tasks import ImageInference

    return flow.then(ImageInference(model="runware:400@1", positive_prompt=prompt, width=512, height=512))


async def drive(scheduler: str, url: str, items: int, concurrency: int, ending: str = "") -> None:
    """Be the driver, and say what came of each item, and after a Ctrl-C what was in flight."""
    from runware_flow import Batch
    from runware_flow.engines import DaskEngine
    from runware_flow.journal.postgres import PostgresStore

    is_picture = ending == "picture"
    batch: Any = Batch(
        picture if is_picture else poster,
        concurrency=concurrency,
        limits=None if is_picture else {"image": concurrency // 2},
        journal=PostgresStore(url, lease=LEASE),
        on_error="continue",
        name="cluster",
    ).on(DaskEngine(scheduler))
    report: Any = None
    try:
        async with batch.run(prompts(items)) as outcomes:
            report = outcomes.report
            async for one in outcomes:
                text = getattr(getattr(one.outcome, "value", None), "text", None)
                said = {"index": one.index, "text": text, "restored": one.is_restored, "error": str(one.error or "")}
                print(json.dumps(said), flush=True)
    except anyio.get_cancelled_exc_class():
        left: list[Any] = [item.outcome for item in report.abandoned]
        told = [{"task_uuid": one.task_uuid, "may_be_billed": one.may_be_billed} for one in left]
        print(json.dumps({"abandoned": told}), flush=True)
        raise
    print(json.dumps({"ok": report.ok_count, "restored": report.restored_count, "cost": report.cost}), flush=True)


async def drive_many(scheduler: str, url: str, items: int, concurrency: int, every: int) -> None:
    """Be a driver that keeps nothing and says now and then how large it is."""
    from benchmarks.journal import megabytes
    from runware_flow import Batch
    from runware_flow.engines import DaskEngine

    batch = Batch(picture, concurrency=concurrency, journal=url, name="many").on(DaskEngine(scheduler))
    done = 0
    async with batch.run(f"prompt number {number}" for number in range(items)) as outcomes:
        async for _ in outcomes:
            done += 1
            if done == 1 or done % every == 0:
                print(json.dumps({"done": done, "megabytes": megabytes()}), flush=True)
    assert outcomes.report.ok_count == items
    assert outcomes.report.cost == round(items * 0.0013, 6)


class InMemoryClient(InMemory):
    """Stands in a worker for a client: opened from the environment, and answering at once."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return


def use_memory() -> None:
    """Let this worker send nothing."""
    import runware_flow.client.client

    os.environ["RUNWARE_API_KEY"] = "none is needed"
    vars(runware_flow.client.client)["Client"] = InMemoryClient


def open_runs() -> int:
    """How many runs this worker has."""
    from runware_flow.engines import worker

    return len(worker._RUNS)


def serve(workers: int, *, in_memory: bool = False) -> None:
    """Be a cluster of processes until standard input ends."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=workers, threads_per_worker=1, dashboard_address=None, scheduler_port=0, silence_logs=50
        ) as cluster,
        Client(cluster) as client,
    ):
        if in_memory:
            client.run(use_memory)
        for _ in itertools.chain(" ", sys.stdin):
            told = {"scheduler": cluster.scheduler_address, "pids": [*client.run(os.getpid).values()]}
            print(json.dumps(told), flush=True)


class Cluster:
    """A cluster in a process of its own."""

    def __init__(self, process: Any) -> None:
        self._process = process
        self.pid: int = process.pid
        told = json.loads(process.stdout.readline())
        self.scheduler: str = told["scheduler"]
        self._pids: list[int] = told["pids"]

    def pids(self) -> list[int]:
        """The processes of the workers that there are now."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self._pids = json.loads(self._process.stdout.readline())["pids"]
        return self._pids


@contextmanager
def cluster(workers: int, environment: dict[str, str], *more: str) -> Iterator[Cluster]:
    """Start Dask's scheduler and workers, which have the environment of the service."""
    command = [sys.executable, "-m", "benchmarks.cluster", "--serve", str(workers), *more]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, cwd=ROOT, env={**os.environ, **environment}, **pipes) as process:
        try:
            yield Cluster(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def start_driver(scheduler: str, url: str, items: int, concurrency: int, *ending: str, errors: Any = None) -> Any:
    """Start a driver, which has no key."""
    shape = [scheduler, url, str(items), str(concurrency), *ending]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RUNWARE_")}
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.cluster", "--driver", *shape],
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        cwd=ROOT,
        env=environment,
    )


def finish(driver: Any, items: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Read a driver to its end: what came of each item, and its report."""
    with driver:
        lines = [json.loads(line) for line in driver.stdout.read().splitlines()]
    assert driver.returncode == 0, "the driver failed"
    assert sorted(line["index"] for line in lines[:-1]) == list(range(items))
    for line in lines[:-1]:
        assert f'"{prompts(items)[line["index"]]}"' in (line["text"] or ""), line
    return lines[:-1], lines[-1]


def most_at_once(tasks: list[dict[str, Any]], kinds: tuple[str, ...]) -> int:
    """How many tasks of these kinds the service had in work at the same time, at most."""
    changes = [(task["asked_at"], 1) for task in tasks if task["task_type"] in kinds]
    changes += [(max(task["ready_at"]), -1) for task in tasks if task["task_type"] in kinds]
    return max(itertools.accumulate(change for _, change in sorted(changes)))


def judge(environment: dict[str, str], items: int, concurrency: int) -> dict[str, Any]:
    """Check what the emulator has counted."""
    address = environment["RUNWARE_HTTP_BASE_URL"].removesuffix("/v1")
    with urllib.request.urlopen(f"{address}/__emulator__/log") as answer:
        tasks = json.load(answer)["tasks"]
    told = bought(environment)
    told["most_at_once"] = most_at_once(tasks, ("imageInference", "upscale", "caption"))
    told["most_images_at_once"] = most_at_once(tasks, ("imageInference", "upscale"))
    assert told["submissions"] == told["ids"] == told["bills"] == 3 * items, told
    assert told["most_at_once"] <= concurrency, told
    assert told["most_images_at_once"] <= concurrency // 2, told
    return told


def show(items: int, workers: int, kills: int, concurrency: int, latency: str) -> dict[str, Any]:
    """Kill workers and the driver and restart the database while the batch runs; then judge."""
    with databases() as server, service(latency, ()) as environment, cluster(workers, environment) as running:
        url, began = server.url(), time.monotonic()
        # What happens after which share of the items, in this order.
        events = [*["worker"] * (kills // 2), "database", *["worker"] * (kills - kills // 2), "driver"]
        done: set[int] = set()
        lives = 1
        driver = start_driver(running.scheduler, url, items, concurrency)
        for number, event in enumerate(events, 1):
            while len(done) < items * number / (len(events) + 1):
                done.add(json.loads(driver.stdout.readline())["index"])
            if event == "worker":
                os.kill(running.pids()[0], signal.SIGKILL)
            elif event == "database":
                server.stop(signal.SIGQUIT)
                time.sleep(0.5)  # what is written meanwhile has to wait
                server.start()
            else:
                driver.kill()
                with driver:
                    driver.stdout.read()
                driver, lives = start_driver(running.scheduler, url, items, concurrency), lives + 1
        lines, report = finish(driver, items)
        assert report["ok"] == items, report
        seconds = round(time.monotonic() - began, 1)
        happened = {"workers_killed": kills, "drivers_killed": lives - 1, "databases_restarted": 1}
        shape = {"items": len(lines), "workers": workers, "concurrency": concurrency}
        return {**shape, **happened, **judge(environment, items, concurrency), "seconds": seconds}


def calm(items: int, workers: int, concurrency: int, latency: str) -> dict[str, Any]:
    """Let nothing happen, and measure from the first outcome to the last."""
    with databases() as server, service(latency, ()) as environment, cluster(workers, environment) as running:
        driver = start_driver(running.scheduler, server.url(), items, concurrency)
        driver.stdout.readline()
        began = time.monotonic()
        with driver:
            count = len(driver.stdout.read().splitlines())
        seconds = time.monotonic() - began
        assert count == items
        told = judge(environment, items, concurrency)
        rate = round(items / seconds, 1)
        return {"workers": workers, "items": items, "seconds": round(seconds, 1), "items_a_second": rate, **told}


def in_memory(items: int, workers: int, concurrency: int, every: int) -> dict[str, Any]:
    """Drive items through workers whose service is in memory, and measure all parts from the first outcome on."""
    with databases() as server, cluster(workers, {}, "--in-memory") as running:
        database = psutil.Process(server.pid)
        driver = start_driver(running.scheduler, server.url(), items, concurrency, "many", str(every))
        with driver:
            driver.stdout.readline()
            parts = {
                "driver": [psutil.Process(driver.pid)],
                "scheduler": [psutil.Process(running.pid)],
                "workers": [psutil.Process(pid) for pid in running.pids()],
                "database": [database, *database.children()],
            }
            spent, began = {name: _cpu(those) for name, those in parts.items()}, time.monotonic()
            sizes: list[dict[str, float]] = []
            for line in driver.stdout:
                told = json.loads(line)
                own = {name: round(_largest(parts[name]), 1) for name in ("driver", "scheduler", "workers")}
                seconds = time.monotonic() - began
                sizes.append({"items": told["done"], **own})
                print(json.dumps({"seconds": round(seconds), **sizes[-1]}), file=sys.stderr, flush=True)
                now = {name: _cpu(those) for name, those in parts.items()}
        assert driver.returncode == 0, "the driver failed"
        first, middle, last = sizes[0], sizes[len(sizes) // 2 - 1], sizes[-1]
        grown = last["items"] - middle["items"]
        return {
            "workers": workers,
            "items": items,
            "seconds": round(seconds, 1),
            "items_a_second": round(items / seconds, 1),
            "microseconds_of_cpu_an_item": {name: round((now[name] - spent[name]) / items * 1e6) for name in parts},
            "megabytes_first_and_last": {name: [first[name], last[name]] for name in own},
            "bytes_an_item_since_the_middle": {name: round((last[name] - middle[name]) * 1e6 / grown) for name in own},
        }


def _cpu(processes: list[psutil.Process]) -> float:
    spent = 0.0
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # a worker that began anew has another connection to the database
            times = process.cpu_times()
            spent += times.user + times.system
    return spent


def _largest(processes: list[psutil.Process]) -> float:
    return float(max(process.memory_info().rss for process in processes)) / 1e6


def refused(items: int, workers: int, concurrency: int, latency: str, capacity: int) -> dict[str, Any]:
    """Drive items at a service that refuses what is too much, and count its refusals."""
    with (
        databases() as server,
        emulator_process(latency=latency, more=["--capacity", str(capacity)]) as options,
        cluster(workers, {f"RUNWARE_{name.upper()}": str(value) for name, value in options.items()}) as running,
    ):
        driver = start_driver(running.scheduler, server.url(), items, concurrency, "picture")
        first = json.loads(driver.stdout.readline())
        began = time.monotonic()
        with driver:
            lines = [first, *(json.loads(line) for line in driver.stdout.read().splitlines())]
        seconds = time.monotonic() - began + float(latency)  # the first outcome is as late as one task
        ideal = items * float(latency) / capacity
        return {
            "workers": workers,
            "items": items,
            "capacity": capacity,
            "seconds": round(seconds, 1),
            "of_ideal": round(seconds / ideal, 2),
            "failed": sum(bool(line["error"]) for line in lines[:-1]),
            "refusals": refusals(options),
        }


def steps(count: int) -> None:
    """Say what a journalled step costs in PostgreSQL and in SQLite, on the same disk."""
    from benchmarks.durable import chain, commits, wide
    from runware_flow.journal.postgres import PostgresStore

    with databases(is_durable=True) as server, tempfile.TemporaryDirectory(dir="/tmp") as folder:
        for round_number in range(3):
            path = Path(folder) / f"{round_number}.sqlite"
            told = {
                "bare_commit_in_sqlite": commits(Path(folder) / f"bare{round_number}.sqlite"),
                "sqlite_at_64": anyio.run(wide, count, path),
                "postgres_at_64": anyio.run(wide, count, PostgresStore(server.url())),
                "sqlite_chain": anyio.run(chain, count // 10, Path(folder) / f"chain{round_number}.sqlite"),
                "postgres_chain": anyio.run(chain, count // 10, PostgresStore(server.url())),
                "no_journal_at_64": anyio.run(wide, count, None),
            }
            print(json.dumps({"microseconds_a_step": {name: round(taken) for name, taken in told.items()}}), flush=True)


def main() -> None:
    """Be a part, or measure."""
    if sys.argv[1:2] == ["--driver"]:
        scheduler, url, items, concurrency, *ending = sys.argv[2:]
        if ending[:1] == ["many"]:
            anyio.run(drive_many, scheduler, url, int(items), int(concurrency), int(ending[1]))
        else:
            anyio.run(drive, scheduler, url, int(items), int(concurrency), *ending)
        return
    if sys.argv[1:2] == ["--serve"]:
        serve(int(sys.argv[2]), in_memory="--in-memory" in sys.argv)
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=5000)
    parser.add_argument("--workers", type=int, nargs="+", default=[4])
    parser.add_argument("--kills", type=int, default=2, help="workers that are killed")
    parser.add_argument("--concurrency", type=int, default=64, help="items at once, in the whole cluster")
    parser.add_argument("--latency", default="0.2..0.6")
    parser.add_argument("--calm", action="store_true", help="nothing is killed")
    parser.add_argument("--in-memory", action="store_true", help="the service is in memory")
    parser.add_argument("--every", type=int, help="say after that many items how large all parts are")
    parser.add_argument("--capacity", type=int, help="tasks that the service takes on at the same time")
    parser.add_argument("--steps", type=int, help="measure a journalled step instead, that many times")
    options = parser.parse_args()
    if options.steps is not None:
        steps(options.steps)
        return
    for workers in options.workers:
        shape = options.items, workers
        if options.in_memory:
            told = in_memory(*shape, options.concurrency, options.every or options.items // 10)
            print(json.dumps(told), flush=True)
        elif options.capacity is not None:
            told = refused(*shape, options.concurrency, options.latency, options.capacity)
            print(json.dumps(told), flush=True)
        elif options.calm:
            print(json.dumps(calm(*shape, options.concurrency, options.latency)), flush=True)
        else:
            print(json.dumps(show(*shape, options.kills, options.concurrency, options.latency)), flush=True)


if __name__ == "__main__":
    main()
