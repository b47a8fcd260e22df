"""What a journal costs: throughput beside a run without one, and resuming a batch of many journalled nodes.

    python -m benchmarks.journal [--nodes 1000000] [--backend asyncio] [--no-throughput]

Throughput: 200 chains of three 50 ms tasks, concurrency 64, the emulator in a process of its own, best of three.
Resuming: a batch of one-task items whose outcomes are all in the journal (written straight into the store), with a
client that fails if it is asked for anything. Memory is the growth of the process between a tenth of the batch and its
end.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import anyio

from benchmarks.chains import LATENCIES, prompts, tasks
from benchmarks.service import emulator_process
from runware_flow import Batch, Client, Flow, Node
from runware_flow.client.request import prepare
from runware_flow.graph.fingerprint import fingerprint, item_key
from runware_flow.journal.sqlite import SqliteStore
from runware_flow.journal.store import Begin, NodeKey, Settle
from runware_flow.tasks import ImageInference

ITEM = b'{"taskType":"imageInference","taskUUID":"%s","imageURL":"https://im.runware.ai/image/%d.jpg","cost":0.0013}'


async def throughput(service: dict[str, Any], folder: str) -> None:
    """Print the time of a run without a journal and with one."""
    best = {False: 1e9, True: 1e9}
    async with Client(**service) as client:
        for attempt in range(4):
            for has_journal in best:
                art, big, text = tasks("async")
                journal = Path(folder) / f"{attempt}.sqlite" if has_journal else None
                flow = Flow("chains", concurrency=64, journal=journal)
                names = [f"{prompt}, run {attempt} of {has_journal}" for prompt in prompts(200)]  # each buys its own
                flow.map(names, art).then(big).then(text)
                started = time.perf_counter()
                await flow.execute(client)
                if attempt:  # the first teaches the poller
                    best[has_journal] = min(best[has_journal], time.perf_counter() - started)
    ratio = best[False] / best[True]
    print(f"  throughput: {best[False]:.2f} s without, {best[True]:.2f} s with a journal: {ratio:.2f} of that without")


def picture(prompt: str) -> ImageInference:
    """The task of an item."""
    return ImageInference(model="runware:400@1", positive_prompt=prompt, width=512, height=512)


def poster(flow: Flow, prompt: str) -> Node[Any]:
    """The pipeline of an item."""
    return flow.then(picture(prompt))


class Nobody:
    """A client that is never asked for anything."""

    def prepare(self, task: Any, /, **more: Any) -> Any:
        return prepare(task, new_task_id="00000000-0000-4000-8000-000000000000", include_cost=True)

    async def perform(self, request: Any, /, **more: Any) -> list[Any]:
        raise AssertionError("something was bought again")


def fill(path: Path, count: int) -> None:
    """Write the journal of a finished batch."""
    store = SqliteStore(path)
    store.open()
    for first in range(0, count, 1000):
        begins: list[Begin] = []
        for number in range(first, min(first + 1000, count)):
            prompt = f"poster {number}"
            task_id = f"{number:08x}-0000-4000-8000-000000000000"
            request = prepare(picture(prompt), new_task_id=task_id, include_cost=True)
            known = item_key(prompt)
            key = NodeKey("poster", f"item[{known}]/imageInference", fingerprint(request.wire), f"[{known}]")
            begins.append(Begin(key, 1.0, task_id, "imageInference", request.model, b"{}"))
        entries = store.apply(begins)
        settles: list[Settle] = []
        for begin, entry in zip(begins, entries, strict=True):
            assert entry is not None
            item = ITEM % (str(begin.task_uuid).encode(), entry.number)
            settles.append(Settle(entry.number, 2.0, is_done=True, items=(item,), cost=0.0013))
        store.apply(settles)
    store.close()


def megabytes() -> float:
    """What the process holds in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


async def resume(path: Path, count: int) -> None:
    """Print how long a batch over what is all in the journal takes."""
    started, begun = time.perf_counter(), time.process_time()
    async with Batch(poster, journal=path).run((f"poster {n}" for n in range(count)), Nobody()) as outcomes:
        await anext(outcomes)
        opened = time.perf_counter() - started
        done, early = 1, 0.0
        async for _ in outcomes:
            done += 1
            if done == count // 10:
                early = megabytes()
    taken, cpu = time.perf_counter() - started, time.process_time() - begun
    size = (await anyio.Path(path).stat()).st_size
    assert outcomes.report.ok_count == count
    print(
        f"  resuming {count} nodes: first after {opened * 1000:.0f} ms, all after {taken:.1f} s"
        f" ({taken / count * 1e6:.0f} us a node; {cpu:.1f} s of CPU, {cpu / count * 1e6:.0f} us a node); memory"
        f" {early:.0f} MB at a tenth, {megabytes():.0f} MB at the end; journal {size / 1e6:.0f} MB"
    )


def floor(count: int) -> None:
    """Print how long the builders alone take, without which nobody knows whether the pipeline has changed."""
    begun = time.process_time()
    for number in range(count):
        poster(Flow("poster"), f"poster {number}")
    cpu = time.process_time() - begun
    print(f"  the builders alone, without journal or event loop: {cpu:.1f} s of CPU, {cpu / count * 1e6:.0f} us a node")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=100_000)
    parser.add_argument("--backend", choices=("asyncio", "trio"), action="append")
    parser.add_argument("--no-throughput", dest="throughput", action="store_false")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "resume.sqlite"
        started = time.perf_counter()
        fill(path, options.nodes)
        print(f"a journal of {options.nodes} nodes, written in {time.perf_counter() - started:.0f} s")
        floor(options.nodes)
        for backend in options.backend or ("asyncio", "trio"):
            print(backend)
            if options.throughput:
                with emulator_process(latency=LATENCIES[0]) as service, tempfile.TemporaryDirectory() as runs:
                    anyio.run(throughput, service, runs, backend=backend)
            anyio.run(resume, path, options.nodes, backend=backend)


if __name__ == "__main__":
    main()
