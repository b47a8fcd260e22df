"""A thousand prompts through a batch: at most 32 at a time, in memory that does not grow, and once each.

Try it: `runware-flow emulate -- python examples/thousand_prompts.py`
"""

import sys
from collections.abc import Iterator

import anyio

from runware_flow import Batch, Flow, Node
from runware_flow.results import CaptionResult
from runware_flow.tasks import Caption, ImageInference

COLORS = ["red", "blue", "green", "golden", "black"]
THINGS = ["kite", "boat", "door", "tower", "bicycle", "lighthouse", "umbrella", "tram"]


def prompts(count: int) -> Iterator[str]:
    """Stands for a file or a table: read as slots become free, never all in memory."""
    for number in range(count):
        yield f"a {COLORS[number % len(COLORS)]} {THINGS[number % len(THINGS)]}, picture {number}"


def poster(flow: Flow, prompt: str) -> Node[CaptionResult]:
    """Declare what happens to one prompt."""
    art = flow.then(
        ImageInference(model="runware:400@1", positive_prompt=prompt, width=512, height=512), label="art", retry=2
    )
    return art.then(lambda image: Caption(model="runware:150@2", inputs={"image": image}), label="caption")


# With a journal, the same command continues after a crash: journal="posters.sqlite".
batch = Batch(poster, concurrency=32, on_error="continue")


async def main(count: int) -> None:
    async with batch.run(prompts(count)) as outcomes:
        async for item in outcomes:  # as they finish
            if item.is_failed:
                print(f"{item.input}: {item.error}")
    report = outcomes.report
    print(f"{report.ok_count} posters, {report.failed_count} failed, {report.cost} USD")
    for line in report.receipt():
        print(f"{line.stage}: {line.count} x {line.model}, {line.cost} USD")


if __name__ == "__main__":
    anyio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
