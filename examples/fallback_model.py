"""Where a model fails for good, another one makes the picture, and the steps after it go on.

Try it: `runware-flow emulate --fault fail:model=bfl:2@1,prompt=kite -- python examples/fallback_model.py`
"""

import anyio

from runware_flow import Flow
from runware_flow.tasks import Caption, ImageInference

PROMPTS = ["a lighthouse", "a kite", "a red boat"]


def first_choice(prompt: str) -> ImageInference:
    return ImageInference(model="bfl:2@1", positive_prompt=prompt, width=1024, height=1024)


def second_choice(prompt: str) -> ImageInference:
    return ImageInference(model="runware:400@1", positive_prompt=prompt, width=1024, height=1024)


flow = Flow("fallback", on_error="continue")

# Two attempts of each: the second model has its turn only after the service has said that the first has failed.
images = flow.map(PROMPTS, first_choice, fallback=second_choice, retry=2, label="picture")
captions = images.then(lambda image: Caption(model="runware:150@2", inputs={"image": image}), label="caption")


async def main() -> None:
    result = await flow.execute()
    for record, caption in zip(result.records(images), result[captions], strict=True):
        assert record is not None
        print(f"{record.model}: {caption.text}")
    print(f"{result.cost} USD")


if __name__ == "__main__":
    anyio.run(main)
