"""A run watched from beside it: its events as a progress line, and each caption the moment it is there.

Try it: `runware-flow emulate --latency 0.1..0.5 -- python examples/events.py`
"""

import anyio

from runware_flow import Flow, NodeSettled, NodeStarted, Ok, Run, RunFinished
from runware_flow.tasks import Caption, ImageInference

PROMPTS = ["a kite", "a lighthouse", "a red boat", "an old bicycle", "a market in the rain"]

flow = Flow("watched", concurrency=3)
images = flow.map(
    PROMPTS, lambda prompt: ImageInference(model="runware:400@1", positive_prompt=prompt, width=512, height=512)
)
captions = images.then(lambda image: Caption(model="runware:150@2", inputs={"image": image}))


async def show(run: Run) -> None:
    running = settled = 0
    async for event in run.events():
        match event:
            case NodeStarted(attempt=1):
                running += 1
            case NodeSettled():
                running -= event.attempts > 0
                settled += 1
            case RunFinished(end=end, time=seconds):
                print(f"[{end} after {seconds:.1f} s]")
                return
            case _:
                pass
        print(f"[{settled} of {2 * len(PROMPTS)} done, {running} running]")


async def main() -> None:
    async with flow.start() as run, anyio.create_task_group() as readers:
        readers.start_soon(show, run)
        async for index, outcome in run.as_completed(captions):
            if isinstance(outcome, Ok):
                print(f"{PROMPTS[index]}: {outcome.value.text}")


if __name__ == "__main__":
    anyio.run(main)
