"""A pipeline of three tasks: generate, upscale, caption.

Try it: `runware-flow emulate -- python examples/poster.py`
"""

import anyio

from runware_flow import Flow
from runware_flow.tasks import Caption, ImageInference, Upscale

flow = Flow("lighthouse", concurrency=64)

art = flow.then(ImageInference(model="runware:400@1", positive_prompt="A lighthouse at dusk", width=1024, height=1024))
big = art.then(lambda image: Upscale(model="runware:504@1", inputs={"image": image}, upscale_factor=2), retry=3)
text = big.then(lambda image: Caption(model="runware:150@2", inputs={"image": image}))

if __name__ == "__main__":
    result = anyio.run(flow.execute)
    print(result[big].url)
    print(result[text].text)
    print(f"{result.cost} USD")
