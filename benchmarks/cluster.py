"""A batch on a Dask cluster whose parts are killed: every item has its result, and is bought once.

The emulator, the database, Dask's scheduler with its workers, and the driver are processes of their own. While the
batch runs, workers are killed (SIGKILL), the driver is killed and started again, and the database is restarted. At the
end every item must have its result, the emulator must have counted three submissions and three bills for each, and
never more tasks at once than the limit that holds for the whole cluster.

    python -m benchmarks.cluster [--items 5000] [--workers 4] [--kills 2] [--concurrency 64] [--latency 0.2..0.6]
    python -m benchmarks.cluster --workers 1 2 4 --kills 0 --calm     # throughput
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from benchmarks.crash import prompts

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
LEASE = 4.0
"""Seconds of a lease, shorter than the default, so that the items of killed workers are taken up soon."""


def poster(flow: Any, prompt: str) -> Any:
    """Three stages, each of which needs the one before."""
    from runware_flow.tasks import Caption, ImageInference, Upscale

    picture = flow.then(ImageInference(model="runware:400@1", positive_prompt=prompt, width=512, height=512))
    large = picture.then(lambda image: Upscale(model="runware:504@1", inputs={"image": image}, upscale_factor=2))
    return large.then(lambda image: Caption(model="runware:150@2", inputs={"image": image}))


async def drive(scheduler: str, url: str, items: int, concurrency: int) -> None:
    """Be the driver, and say what came of each item."""
    from runware_flow import Batch
    from runware_flow.engines import DaskEngine
    from runware_flow.journal.postgres import PostgresStore

    batch = Batch(
        poster,
        concurrency=concurrency,
        limits={"image": concurrency // 2},
        journal=PostgresStore(url, lease=LEASE),
        on_error="continue",
        name="cluster",
    ).on(DaskEngine(scheduler))
    async with batch.run(prompts(items)) as outcomes:
        async for one in outcomes:
            text = getattr(getattr(one.outcome, "value", None), "text", None)
            said = {"index": one.index, "text": text, "restored": one.is_restored, "error": str(one.error or "")}
            print(json.dumps(said), flush=True)
    report = outcomes.report
    print(json.dumps({"ok": report.ok_count, "restored": report.restored_count, "cost": report.cost}), flush=True)


def serve(workers: int) -> None:
    """Be a cluster of processes until standard input ends."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=workers, threads_per_worker=1, dashboard_address=None, scheduler_port=0, silence_logs=50
        ) as cluster,
        Client(cluster) as client,
    ):
        for _ in itertools.chain(" ", sys.stdin):
            told = {"scheduler": cluster.scheduler_address, "pids": [*client.run(os.getpid).values()]}
            print(json.dumps(told), flush=True)


class Cluster:
    """A cluster in a process of its own."""

    def __init__(self, process: Any) -> None:
        self._process = process
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
def cluster(workers: int, environment: dict[str, str]) -> Iterator[Cluster]:
    """Start Dask's scheduler and workers, which have the environment of the service."""
    command = [sys.executable, "-m", "benchmarks.cluster", "--serve", str(workers)]
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


def start_driver(scheduler: str, url: str, items: int, concurrency: int) -> Any:
    """Start a driver, which has no key."""
    shape = [scheduler, url, str(items), str(concurrency)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RUNWARE_")}
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.cluster", "--driver", *shape],
        stdout=subprocess.PIPE,
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


def main() -> None:
    """Be a part, or measure."""
    if sys.argv[1:2] == ["--driver"]:
        scheduler, url, items, concurrency = sys.argv[2:]
        anyio.run(drive, scheduler, url, int(items), int(concurrency))
        return
    if sys.argv[1:2] == ["--serve"]:
        serve(int(sys.argv[2]))
        return


if __name__ == "__main__":
    main()
