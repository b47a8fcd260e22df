"""A batch that is killed again and again (SIGKILL) and must buy everything exactly once.

The emulator runs in a process of its own, so that the service survives. A client process runs a flow of N items, three
tasks each, with a journal; it is killed at a random moment, started again with the same journal, and so on. At the end
every item must have its result, and the emulator must count exactly 3 N submissions and 3 N bills. With `--budget`, the
runs stop at that many USD instead, and the emulator must not have billed more. With `--batch` the client is a `Batch`,
else a flow with a `map`. With `--faults` a connection may also be cut while it is made for the first time, which a
client reports and does not try again: then it is started again, as after a kill.

    python -m benchmarks.crash [--items 300] [--kills 10] [--backend asyncio] [--transport rest] [--faults] [--seed 1]
                               [--budget 0.2] [--batch]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import anyio

if TYPE_CHECKING:
    from collections.abc import Iterator

FAULTS = (
    "kill:every=61",
    "kill-mid-frame:every=151",
    "swallow-ack:every=67",
    "drop-frame:every=71",
    "drop-poll:every=73",
    "cut:every=79",
)


def prompts(count: int) -> list[str]:
    """Prompts to be found again in the captions."""
    return [f"crash item number {number}" for number in range(count)]


# The client process


PRICES = {"runware:400@1": 0.0006, "upscale": 0.0013, "caption": 0.0009}


async def client(
    journal: str, items: int, transport: str, delivery: str, kind: str, budget: float | None
) -> dict[str, Any]:
    """Run the batch to its end, in however many processes that takes."""
    from runware_flow import Batch, Budget, BudgetExceeded, Client, Flow, FlowFailed
    from runware_flow.tasks import Caption, ImageInference, Upscale

    def picture(prompt: str) -> Any:
        return ImageInference(
            model="runware:400@1", positive_prompt=prompt, width=512, height=512, delivery_method=delivery
        )

    def upscale(image: Any) -> Any:
        return Upscale(model="runware:504@1", inputs={"image": image}, upscale_factor=2, delivery_method=delivery)

    def caption(image: Any) -> Any:
        return Caption(model="runware:150@2", inputs={"image": image}, delivery_method=delivery)

    def item(flow: Flow, prompt: str) -> Any:
        return flow.then(picture(prompt)).then(upscale).then(caption)

    flow = Flow("crash", concurrency=32, journal=journal)
    texts = flow.map(prompts(items), picture).then(upscale).then(caption)
    async with Client(transport=transport) as session:
        print("started", flush=True)
        if kind == "batch":
            captions = [""] * items
            async with Batch(item, concurrency=32, journal=journal).run(prompts(items), session) as outcomes:
                async for one in outcomes:
                    captions[one.index] = cast("Any", one.outcome).value.text
            return {"captions": captions, "cost": outcomes.report.cost}
        allowed = None if budget is None else Budget(budget, prices=PRICES)
        try:
            result = await flow.execute(session, budget=allowed)
        except FlowFailed as failed:
            if allowed is None or not isinstance(failed.__cause__, BudgetExceeded):
                raise
            return {"spent": allowed.spent, "reserved": allowed.reserved}
    return {"captions": [text.text for text in result[texts]], "cost": result.cost}


# The process that kills


@contextmanager
def service(latency: str, faults: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """An emulator in a process of its own, and the environment that names it."""
    options = [part for fault in faults for part in ("--fault", fault)]
    command = [sys.executable, "-m", "runware_flow", "serve", "--port", "0", "--latency", latency, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            told = json.loads(process.stdout.readline())
            yield {f"RUNWARE_{name.upper()}": str(value) for name, value in told.items()}
        finally:
            process.terminate()
            process.wait(timeout=20)


def live(
    command: list[str], environment: dict[str, str], seconds: float | None, *, is_cut: bool
) -> dict[str, Any] | None:
    """One life of the client: killed after that many seconds of work, run to its end, or cut off at its start."""
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env={**os.environ, **environment}
        ) as process,
    ):
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "started\n", "the client did not start"
            if seconds is not None:
                try:
                    process.wait(seconds)
                except subprocess.TimeoutExpired:
                    process.kill()
                    return None
            told = process.stdout.read()
        finally:
            process.kill()
        if process.wait() != 0:
            errors.seek(0)
            said = errors.read()
            if is_cut and "connectionFailed" in said:
                return None
            sys.stderr.write(said)
            raise AssertionError("the client failed")
    done: dict[str, Any] = json.loads(told)
    return done


def judge(items: int, done: dict[str, Any], log: dict[str, Any]) -> dict[str, Any]:
    """Check that everything was bought exactly once."""
    tasks = [task for task in log["tasks"] if task["task_type"] in ("imageInference", "upscale", "caption")]
    bills = [task for task in tasks if task["cost"] > 0]
    missing = [p for p, caption in zip(prompts(items), done["captions"], strict=True) if f'"{p}"' not in caption]
    assert not missing, missing
    assert len(tasks) == len({task["task_uuid"] for task in tasks}) == 3 * items, len(tasks)
    assert len(bills) == 3 * items, len(bills)
    assert abs(done["cost"] - log["billed"]) < 1e-6, (done["cost"], log["billed"])
    usd = round(done["cost"], 4)
    return {"submissions": len(tasks), "bills": len(bills), "conflicts": log["conflicts"], "usd": usd}


def judge_budget(budget: float, done: dict[str, Any], log: dict[str, Any]) -> dict[str, Any]:
    """Check that all lives together kept to the budget, and knew what they had spent."""
    assert log["billed"] <= budget + 1e-9, log["billed"]
    assert abs(done["spent"] - log["billed"]) < 1e-6, (done, log["billed"])
    assert done["spent"] > budget - max(PRICES.values()), done
    return {"budget": budget, "usd": round(done["spent"], 4), "reserved": round(done["reserved"], 4)}


def crash(options: argparse.Namespace, backend: str) -> dict[str, Any]:
    """Kill as often as asked, then let it finish, and judge."""
    chance = random.Random(f"{options.seed} {backend}")
    faults = FAULTS if options.faults else ()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, service(options.latency, faults) as environment:
        kind = "batch" if options.batch else "flow"
        shape = [str(options.items), options.transport, options.delivery, kind, str(options.budget or ""), backend]
        command = [sys.executable, "-m", "benchmarks.crash", "--client", str(Path(folder) / "run.sqlite"), *shape]
        kills, done = 0, None
        while done is None:
            is_last = kills >= options.kills
            seconds = None if is_last else chance.uniform(0.0, options.life)
            done = live(command, environment, seconds, is_cut=options.faults)
            kills += done is None
        address = environment["RUNWARE_HTTP_BASE_URL"].removesuffix("/v1")
        with urllib.request.urlopen(f"{address}/__emulator__/log") as answer:
            log = json.load(answer)
    taken = round(time.monotonic() - started, 1)
    judged = judge_budget(options.budget, done, log) if options.budget is not None else judge(options.items, done, log)
    return {"backend": backend, "kills": kills, **judged, "seconds": taken}


def main() -> None:
    """Be the client, or kill it."""
    if sys.argv[1:2] == ["--client"]:
        journal, items, transport, delivery, kind, budget, backend = sys.argv[2:]
        usd = float(budget) if budget else None
        print(json.dumps(anyio.run(client, journal, int(items), transport, delivery, kind, usd, backend=backend)))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=300)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--life", type=float, default=1.0, help="seconds of work before a kill, at most")
    parser.add_argument("--latency", default="0.1..0.4")
    parser.add_argument("--backend", choices=("asyncio", "trio"), action="append")
    parser.add_argument("--transport", choices=("websocket", "rest"), default="websocket")
    parser.add_argument("--delivery", choices=("async", "sync"), default="async")
    parser.add_argument("--budget", type=float, help="USD at which the runs stop")
    parser.add_argument("--faults", action="store_true", help="connections break and answers are lost, too")
    parser.add_argument("--batch", action="store_true", help="a Batch instead of a flow")
    parser.add_argument("--seed", default="1")
    options = parser.parse_args()
    for backend in options.backend or ("asyncio", "trio"):
        print(json.dumps(crash(options, backend)), flush=True)


if __name__ == "__main__":
    main()
