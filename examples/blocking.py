"""A plain script: no `async`, no event loop of your own.

Try it: `runware-flow emulate -- python examples/blocking.py "a red kite" "a lighthouse at dusk"`
"""

import sys

from runware_flow import Flow, FlowFailed
from runware_flow.tasks import Caption, ImageInference


def main(prompts: list[str]) -> None:
    flow = Flow("blocking", progress=True)  # a line to standard error now and then
    images = flow.map(
        prompts, lambda prompt: ImageInference(model="runware:400@1", positive_prompt=prompt, width=512, height=512)
    )
    captions = images.then(lambda image: Caption(model="runware:150@2", inputs={"image": image}))
    try:
        result = flow.run()
    except FlowFailed as error:
        sys.exit(error.summary)
    for image, caption in zip(result[images], result[captions], strict=True):
        print(f"{image.url}\n    {caption.text}")


if __name__ == "__main__":
    main(sys.argv[1:] or ["a red kite"])
