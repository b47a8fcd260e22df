"""A batch that is killed again and again (SIGKILL) and must buy everything exactly once.

The emulator runs in a process of its own, so that the service survives. A client process runs a flow of N items, three
tasks each, with a journal; it is killed at a random moment, started again with the same journal, and so on. At the end
every item must have its result, and the emulator must count exactly 3 N submissions and 3 N bills. With `--budget`, the
runs stop at that many USD instead, and the emulator must not have billed more. With `--batch` the client is a `Batch`,
else a flow with a `map`. With `--faults` a connection may also be cut while it is made for the first time, which a
client reports and does not try again: then it is started again, as after a kill.

With `--choices` an item is a race, a `first`, a hedge, a fallback after a timeout, one after a failure, one in a `map`
after a failure outside of that, and a picture that each item of a group of five asks for, under a cache. Tasks that are
to lose never finish, so that it is known who wins, whatever is killed when: the counts are exact. Three depend on the
kills: a request that was killed before its hedge was sent is only asked for; a task that fails, which costs nothing, is
sent again where its fallback was not on record; and what loses is not sent any more if a kill came between what wins
and it. At last the finished program runs once more, and must submit nothing.

    python -m benchmarks.crash [--items 300] [--kills 10] [--backend asyncio] [--transport rest] [--faults] [--seed 1]
                               [--budget 0.2] [--batch] [--choices]
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
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import anyio

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runware_flow import Client, Flow

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


GROUP = 5
"""Items that share a picture."""
CHOSEN = {"right": 1, "three": 1, "four": 1, "never late": 0, "in time": 1, "whole": 1, "caption": 1}
CHOSEN |= {"stand-in": 1}
"""What an item of `--choices` submits once each, and how often that is billed."""
LOSING = ("never left", "never one", "never two")
"""What it submits once at most, since what has won may be known before that is sent. So it is with "member", too."""
SCRIPT = ("never:prompt=never", "fail:prompt=broken")


def slow_first(items: int) -> tuple[str, ...]:
    """Let the first of the two requests of each hedge take long."""
    return tuple(f"slow:prompt=hedged of item {number}.,nth=1,seconds=2" for number in range(items))


# The client process


async def keep(image: Any, _: Any) -> Any:
    """Go on with the first of two results."""
    return image


PRICES = {"runware:400@1": 0.0006, "upscale": 0.0013, "caption": 0.0009}


class Program:
    """What a client process runs: its tasks, and the pipelines that are made of them."""

    def __init__(self, journal: str, items: int, delivery: Any) -> None:
        self.journal = journal
        self.items = items
        self.delivery = delivery

    def picture(self, prompt: str, seed: int | None = None) -> Any:
        from runware_flow.tasks import ImageInference
        from runware_flow.types import UNSET

        return ImageInference(
            model="runware:400@1",
            positive_prompt=prompt,
            width=512,
            height=512,
            seed=UNSET if seed is None else seed,
            delivery_method=self.delivery,
        )

    def upscale(self, image: Any) -> Any:
        from runware_flow.tasks import Upscale

        return Upscale(model="runware:504@1", inputs={"image": image}, upscale_factor=2, delivery_method=self.delivery)

    def caption(self, image: Any) -> Any:
        from runware_flow.tasks import Caption

        return Caption(model="runware:150@2", inputs={"image": image}, delivery_method=self.delivery)

    def chain(self, flow: Flow, prompt: str) -> Any:
        return flow.then(self.picture(prompt)).then(self.upscale).then(self.caption)

    def choices(self, flow: Flow, number: int) -> Any:
        def art(what: str) -> Any:
            return self.picture(f"{what} of item {number}.")

        won = flow.race(flow.then(art("never left")), flow.then(art("right")))
        some = flow.map(["never one", "never two", "three", "four"], art, timeout=4).first(2)
        hedged = flow.then(art("hedged"), hedge_after=0.3)
        late = flow.then(lambda: art("never late"), timeout=4, fallback=lambda: art("in time"))
        outer, members = flow.then(art("broken outside")), flow.map(["member"], art)
        answered = members.pipe(lambda one: flow.join(one, outer).then(keep).fallback(art("stand-in"))).gather()
        broken = flow.join(flow.then(art("broken")).fallback(art("whole")), answered).then(keep)
        shared = flow.then(self.picture(f"shared by group {number // GROUP}", seed=7))
        return flow.join(won, some, hedged, late, broken, shared).then(lambda image, *_: self.caption(image))

    async def run_batch(self, builder: Any, source: Any, session: Client, **options: Any) -> dict[str, Any]:
        from runware_flow import Batch

        captions = [""] * self.items
        batch: Any = Batch(builder, concurrency=32, journal=self.journal, **options)
        async with batch.run(source, session) as outcomes:
            async for one in outcomes:
                if one.error is not None:
                    raise one.error
                captions[one.index] = one.outcome.value.text
        return {"captions": captions, "cost": outcomes.report.cost}

    async def run_choices(self, session: Client, cache: str) -> dict[str, Any]:
        from runware_flow import Flow

        flow = Flow("crash", concurrency=32, journal=self.journal, cache=cache)
        last = [self.choices(flow, number) for number in range(self.items)]
        result = await flow.execute(session)
        return {"captions": [result[one].text for one in last], "cost": result.cost}

    async def run_flow(self, session: Client, budget: float | None) -> dict[str, Any]:
        from runware_flow import Budget, BudgetExceeded, Flow, FlowFailed

        flow = Flow("crash", concurrency=32, journal=self.journal)
        texts = flow.map(prompts(self.items), self.picture).then(self.upscale).then(self.caption)
        allowed = None if budget is None else Budget(budget, prices=PRICES)
        try:
            result = await flow.execute(session, budget=allowed)
        except FlowFailed as failed:
            if allowed is None or not isinstance(failed.__cause__, BudgetExceeded):
                raise
            return {"spent": allowed.spent, "reserved": allowed.reserved}
        return {"captions": [text.text for text in result[texts]], "cost": result.cost}


async def client(
    journal: str, items: int, transport: str, delivery: str, kind: str, budget: float | None
) -> dict[str, Any]:
    """Run the program to its end, in however many processes that takes."""
    from runware_flow import Client

    program, cache = Program(journal, items, delivery), f"{journal}-cache"
    async with Client(transport=cast("Any", transport)) as session:
        print("started", flush=True)
        match kind:
            case "batch":
                return await program.run_batch(program.chain, prompts(items), session)
            case "batch of choices":
                return await program.run_batch(program.choices, range(items), session, cache=cache)
            case "choices":
                return await program.run_choices(session, cache)
            case _:
                return await program.run_flow(session, budget)


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
            if process.stdout.readline() != "started\n":
                process.kill()
                process.wait()
                errors.seek(0)
                raise AssertionError(f"the client did not start: {errors.read()}")
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
            raise AssertionError(f"the client failed with status {process.returncode}: {said}")
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


def judge_choices(items: int, done: dict[str, Any], log: dict[str, Any], again: dict[str, Any]) -> dict[str, Any]:
    """Check that each choice was made once, that what lost is not billed, and that a finished program buys nothing."""
    submitted: Counter[str] = Counter()
    billed: Counter[str] = Counter()
    for task in log["tasks"]:
        what = task["request"].get("positivePrompt", task["task_type"]).partition(" of item")[0].partition(" by")[0]
        submitted[what] += 1
        billed[what] += task["cost"] > 0
    for what, bills in CHOSEN.items():
        assert (submitted[what], billed[what]) == (items, bills * items), (what, submitted, billed)
    assert all(submitted[what] <= items and not billed[what] for what in LOSING), (submitted, billed)
    assert billed["member"] == submitted["member"] <= items, (submitted, billed)
    groups = -(-items // GROUP)
    assert (submitted["shared"], billed["shared"]) == (groups, groups), (submitted, billed)
    assert items <= billed["hedged"] <= submitted["hedged"] <= 2 * items, (submitted, billed)
    failing = [submitted["broken"], submitted["broken outside"]]
    assert min(failing) >= items, (submitted, billed)
    assert billed["broken"] == billed["broken outside"] == 0, (submitted, billed)
    assert len(done["captions"]) == items
    assert len(again["tasks"]) == len(log["tasks"]), "the finished program submitted something"
    exact = {"submissions": len(CHOSEN) * items + groups, "bills": sum(CHOSEN.values()) * items + groups}
    lost = sum(submitted[what] for what in LOSING)
    apart = {"hedged": submitted["hedged"], "failed": sum(failing), "lost": lost}
    return {**exact, **apart, "conflicts": log["conflicts"], "again": 0, "usd": round(log["billed"], 4)}


def read_log(environment: dict[str, str]) -> dict[str, Any]:
    """What the emulator has been asked for."""
    address = environment["RUNWARE_HTTP_BASE_URL"].removesuffix("/v1")
    with urllib.request.urlopen(f"{address}/__emulator__/log") as answer:
        log: dict[str, Any] = json.load(answer)
    return log


def crash(options: argparse.Namespace, backend: str) -> dict[str, Any]:
    """Kill as often as asked, then let it finish, and judge."""
    chance = random.Random(f"{options.seed} {backend}")
    faults = FAULTS if options.faults else ()
    if options.choices:
        faults += SCRIPT + slow_first(options.items)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, service(options.latency, faults) as environment:
        kind = ("batch of " if options.batch else "") + ("choices" if options.choices else "")
        kind = kind.removesuffix(" of ") or "flow"
        shape = [str(options.items), options.transport, options.delivery, kind, str(options.budget or ""), backend]
        command = [sys.executable, "-m", "benchmarks.crash", "--client", str(Path(folder) / "run.sqlite"), *shape]
        kills, done = 0, None
        while done is None:
            is_last = kills >= options.kills
            seconds = None if is_last else chance.uniform(0.0, options.life)
            done = live(command, environment, seconds, is_cut=options.faults)
            kills += done is None
        log = read_log(environment)
        if options.choices:
            done = live(command, environment, None, is_cut=False)
        again = read_log(environment)
    taken = round(time.monotonic() - started, 1)
    assert done is not None
    if options.choices:
        judged = judge_choices(options.items, done, log, again)
    elif options.budget is not None:
        judged = judge_budget(options.budget, done, log)
    else:
        judged = judge(options.items, done, log)
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
    parser.add_argument("--choices", action="store_true", help="races, `first`, hedges, fallbacks, equal requests")
    parser.add_argument("--seed", default="1")
    options = parser.parse_args()
    for backend in options.backend or ("asyncio", "trio"):
        print(json.dumps(crash(options, backend)), flush=True)


if __name__ == "__main__":
    main()
