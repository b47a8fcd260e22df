"""A program whose run is given up: interrupted from outside, or ended by a node that fails. See test_give_up.py.

It prints "ready" once some of its pictures are there and others are being made, and at its end what became of each.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from typing import Any

import anyio

from runware_flow import Client, Flow, FlowFailed, Many, Ok, Run
from runware_flow.tasks import ImageInference

COUNT = 16


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def picture(number: int) -> ImageInference:
    return ImageInference(model="runware:400@1", positive_prompt=f"picture {number}", width=512, height=512)


async def main(ending: str, journal: str) -> None:
    ready = anyio.Event()

    async def end() -> None:
        await ready.wait()
        if ending != "failure":
            await anyio.sleep_forever()
        raise LookupError("the user's code failed")

    flow = Flow("given up", concurrency=6, journal=journal, on_error="cancel")
    flow.then(end)
    pictures = flow.map(range(COUNT), picture, key=str)
    try:
        async with Client() as client, flow.start(client) as run:
            async for index, _ in run.as_completed(pictures):
                if index >= 3 and not ready.is_set():
                    await anyio.sleep(0.3)  # until the next ones are accepted
                    say("ready")
                    ready.set()
    except FlowFailed:
        pass
    finally:
        tell(run, pictures)


def tell(run: Run, pictures: Many[Any]) -> None:
    said = []
    for outcome in run.result.outcomes(pictures):
        holder = outcome.value if isinstance(outcome, Ok) else outcome
        may_be_billed = getattr(outcome, "may_be_billed", None)
        said.append([type(outcome).__name__, getattr(holder, "task_uuid", None), may_be_billed])
    say(json.dumps(said))


if __name__ == "__main__":
    backend, *arguments = sys.argv[1:]
    with suppress(KeyboardInterrupt):
        anyio.run(main, *arguments, backend=backend)
