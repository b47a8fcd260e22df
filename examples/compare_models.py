"""One prompt, several models, and what became of each: a model that fails leaves the others alone.

Try it: `runware-flow emulate --fault fail:model=runware:101@1 -- python examples/compare_models.py`
"""

import anyio

from runware_flow import Abandoned, Failed, Flow, Node, Ok, Skipped
from runware_flow.results import CaptionResult
from runware_flow.tasks import Caption, ImageInference

MODELS = ["runware:400@1", "runware:101@1", "runware:999@9"]

flow = Flow("compare", on_error="continue")


def declare(model: str) -> Node[CaptionResult]:
    """A part of a pipeline that is used again and again is a function."""
    image = flow.then(
        ImageInference(model=model, positive_prompt="A lighthouse at dusk", width=512, height=512),
        label=f"picture by {model}",
        timeout=60,
    )
    return image.then(lambda image: Caption(model="runware:150@2", inputs={"image": image}), label=f"caption {model}")


captions = {model: declare(model) for model in MODELS}


async def main() -> None:
    result = await flow.execute()
    for model, node in captions.items():
        match result.outcome(node):
            case Ok(caption):
                print(f"{model}: {caption.text}")
            case Failed(error):
                print(f"{model}: no caption: {error}")
            case Skipped(because, error):
                print(f"{model}: skipped, because {because}: {error}")
            case Abandoned(task_uuid):
                print(f"{model}: abandoned; look for task {task_uuid}")


if __name__ == "__main__":
    anyio.run(main)
