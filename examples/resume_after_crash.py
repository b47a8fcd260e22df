"""A run that is killed half-way, and continues: nothing is lost, nothing is bought twice.

Try it: `runware-flow emulate --latency 0.2..0.6 -- python examples/resume_after_crash.py`
"""

import subprocess
import sys
from pathlib import Path

import anyio

from runware_flow import Flow, Ok
from runware_flow.journal import Journal
from runware_flow.tasks import Caption, ImageInference

JOURNAL = "posters.sqlite"
PROMPTS = [f"poster number {number}" for number in range(12)]

flow = Flow("posters", concurrency=4, journal=JOURNAL)
art = flow.map(
    PROMPTS, lambda prompt: ImageInference(model="runware:400@1", positive_prompt=prompt, width=512, height=512)
)
captions = art.then(lambda image: Caption(model="runware:150@2", inputs={"image": image}))


async def work() -> None:
    async with flow.start() as run:
        async for index, outcome in run.as_completed(captions):
            assert isinstance(outcome, Ok)
            print(f"{PROMPTS[index]}: {outcome.value.text}", flush=True)
    records = [*run.result.records(art), *run.result.records(captions)]
    restored = sum(record is not None and record.is_restored for record in records)
    print(f"{restored} of {len(records)} results restored; {run.result.cost} USD, for all that was ever sent")


def main() -> None:
    """Do the work in a process that is killed, then again in one that is not."""
    for leftover in Path().glob(f"{JOURNAL}*"):
        leftover.unlink()
    command = [sys.executable, __file__, "work"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        for _ in range(3):
            print(first.stdout.readline(), end="")
        first.kill()  # SIGKILL: no clean-up of any kind
    with Journal(JOURNAL) as journal:
        summary = journal.summary()
    print(
        f"-- killed: {summary.done_count} results are in the journal, {summary.open_count} were in flight", flush=True
    )
    subprocess.run(command, check=True)


if __name__ == "__main__":
    anyio.run(work) if sys.argv[1:] == ["work"] else main()
