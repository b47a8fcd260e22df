"""Four variants of one picture, the best one enlarged: a task of several results fans out, and comes together again.

Try it: `runware-flow emulate -- python examples/variants.py`
"""

import anyio

from runware_flow import Client, Flow
from runware_flow.results import CaptionResult, ImageResult
from runware_flow.tasks import Caption, ImageInference, Upscale


def best(images: list[ImageResult], captions: list[CaptionResult]) -> Upscale:
    """Enlarge the picture with the longest caption; put your own judgement here."""
    lengths = [len(caption.text or "") for caption in captions]
    winner = images[lengths.index(max(lengths))]
    return Upscale(model="runware:504@1", inputs={"image": winner}, upscale_factor=2)


flow = Flow("variants")

variants = flow.each(
    ImageInference(
        model="runware:400@1", positive_prompt="A red kite", width=512, height=512, number_results=4, seed=98
    )
)
captions = variants.then(lambda image: Caption(model="runware:150@2", inputs={"image": image}))
poster = flow.join(variants.gather(), captions.gather()).then(best)


async def main() -> None:
    async with Client() as client:
        result = await flow.execute(client)
        path = await client.save(result[poster], "out/best")
    for image, caption in zip(result[variants], result[captions], strict=True):
        print(image.seed, caption.text)
    print(f"the best of {len(result[variants])}: {path}")


if __name__ == "__main__":
    anyio.run(main)
