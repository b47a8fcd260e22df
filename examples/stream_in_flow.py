"""A flow whose first step writes a text: it is shown word by word, and the picture that follows is made from it.

Try it: `runware-flow emulate -- python examples/stream_in_flow.py`
"""

import anyio

from runware_flow import Client, Flow, NodeDelta, Run
from runware_flow.results import TextResult
from runware_flow.tasks import ImageInference, TextInference

flow = Flow("told and drawn")

scene = flow.then(
    TextInference(
        model="google:gemma@4-31b",
        messages=[{"role": "user", "content": "Describe a lighthouse at dusk in one sentence"}],
        delivery_method="stream",  # the words are events of the run; the result is the node's, as ever
    ),
    label="scene",
)


def draw(scene: TextResult) -> ImageInference:
    return ImageInference(model="runware:400@1", positive_prompt=scene.text or "", width=512, height=512)


picture = scene.then(draw, label="picture")


async def show(run: Run) -> None:
    async for event in run.events():
        if isinstance(event, NodeDelta) and event.kind == "text":
            print(event.text, end="", flush=True)


async def main() -> None:
    async with Client() as client:
        async with flow.start(client) as run:  # leaves when the run has ended
            await show(run)
        path = await client.save(run.result[picture], "out/scene")
    print(f"\n{path}, {run.result.cost} USD")


if __name__ == "__main__":
    anyio.run(main)
