"""Four variants of each prompt, and of each the one that fits its prompt best: judged by a caption, saved to a folder.

Try it: `runware-flow emulate -- python examples/best_of_four.py "a red kite" "a blue boat"`
"""

import sys

from runware_flow import Flow, Node
from runware_flow.results import CaptionResult, ImageResult
from runware_flow.tasks import Caption, ImageInference


def variants(prompt: str) -> ImageInference:
    return ImageInference(model="runware:400@1", positive_prompt=prompt, width=512, height=512, number_results=4)


def describe(image: ImageResult) -> Caption:
    return Caption(model="runware:150@2", inputs={"image": image})


def choose(images: list[ImageResult], captions: list[CaptionResult]) -> ImageResult:
    """Take the picture of which there is most to say; put your own judgement here."""
    return max(zip(images, captions, strict=True), key=lambda pair: len(pair[1].text or ""))[0]


def best(prompt: Node[str]) -> Node[ImageResult]:
    """What happens to one prompt."""
    images = prompt.each(variants)
    return flow.join(images.gather(), images.then(describe).gather()).pick(choose)


flow = Flow("best-of-four", journal="best.sqlite")
saved = flow.map(sys.argv[1:]).pipe(best).save("out/{index}")

if __name__ == "__main__":
    result = flow.run()
    for prompt, path in zip(sys.argv[1:], result[saved], strict=True):
        print(f"{prompt}: {path}")
    print(f"{result.cost} USD")
