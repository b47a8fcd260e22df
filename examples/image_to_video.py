"""A picture, a description of it, and a film that starts with the picture and is told what it shows.

Try it: `runware-flow emulate -- python examples/image_to_video.py`
"""

import anyio

from runware_flow import Client, Flow
from runware_flow.results import CaptionResult, ImageResult
from runware_flow.tasks import Caption, ImageInference, VideoInference


def film(image: ImageResult, caption: CaptionResult) -> VideoInference:
    """Both values are there when this is called; the picture goes in by its address, not through this machine."""
    return VideoInference(
        model="bytedance:seedance@1.5-pro",
        positive_prompt=f"{caption.text} The camera moves slowly towards it.",
        inputs={"frameImages": [image]},
        duration=5,
    )


flow = Flow("film")
image = flow.then(
    ImageInference(model="runware:400@1", positive_prompt="A lighthouse at dusk", width=1280, height=720), label="image"
)
caption = image.then(lambda image: Caption(model="runware:150@2", inputs={"image": image}), label="caption")
video = flow.join(image, caption).then(film, label="film", timeout=900)  # films take minutes


async def main() -> None:
    async with Client() as client:
        result = await flow.execute(client)
        path = await client.save(result[video], "out/lighthouse")
    print(result[caption].text)
    print(f"{path}, {result.cost} USD")


if __name__ == "__main__":
    anyio.run(main)
