"""Your own async functions as nodes: read prompts, fan out over them, write files, in one flow with the tasks.

Try it: `runware-flow emulate -- python examples/functions.py`
"""

import anyio

from runware_flow import Flow, current_run
from runware_flow.results import ImageResult, TextResult
from runware_flow.tasks import ImageInference, TextInference


async def topics() -> list[str]:
    """Stands for a database, a web page, a queue: anything that is awaited."""
    await anyio.lowlevel.checkpoint()
    return ["a lighthouse", "a red kite"]


def scene(topic: str) -> TextInference:
    message = {"role": "user", "content": f"One sentence: a picture of {topic}"}
    return TextInference(model="google:gemma@4-31b", messages=[message])


def picture(answer: TextResult) -> ImageInference:
    return ImageInference(model="runware:400@1", positive_prompt=answer.text or "", width=512, height=512)


async def keep(image: ImageResult) -> str:
    """Runs inside the run: it finds the client there, and is cancelled with it."""
    path = await current_run().client.save(image, f"out/scene-{image.seed}")
    return str(path)


flow = Flow("functions")
paths = flow.then(topics).map(scene, label="scene").then(picture).then(keep)
index = paths.gather().pick("\n".join)  # pure and synchronous

if __name__ == "__main__":
    result = anyio.run(flow.execute)
    print(result[index])
