"""A thousand rows of a CSV: a picture and a text for each, once each, and a CSV of what came of them.

Try it: `runware-flow emulate -- python examples/csv_rows.py products.csv done.csv`, where products.csv has the columns
`id` and `name`. After a crash the same command goes on and buys nothing twice.
"""

import csv
import sys
from typing import TextIO

import anyio

from runware_flow import Batch, Flow, Node, Ok
from runware_flow.results import CaptionResult
from runware_flow.tasks import Caption, ImageInference


def describe(flow: Flow, row: dict[str, str]) -> Node[CaptionResult]:
    art = flow.then(ImageInference(model="runware:400@1", positive_prompt=row["name"], width=512, height=512))
    return art.then(lambda image: Caption(model="runware:150@2", inputs={"image": image}))


batch = Batch(describe, concurrency=64, journal="rows.sqlite", key=lambda row: row["id"], on_error="continue")


async def main(source: TextIO, target: TextIO) -> None:
    done = csv.writer(target)
    async with batch.run(csv.DictReader(source)) as outcomes:
        async for item in outcomes:
            done.writerow([item.key, item.outcome.value.text if isinstance(item.outcome, Ok) else "", item.error or ""])
    print(outcomes.report)


if __name__ == "__main__":
    with open(sys.argv[1], newline="") as source, open(sys.argv[2], "w", newline="") as target:
        anyio.run(main, source, target)
