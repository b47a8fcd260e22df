"""One picture: the client alone, without a flow.

Try it: `runware-flow emulate -- python examples/one_image.py`
"""

import anyio

from runware_flow import Client
from runware_flow.tasks import ImageInference


async def main() -> None:
    async with Client() as client:  # the key and the addresses come from RUNWARE_* in the environment
        images = await client.run(
            ImageInference(
                model="runware:400@1",
                positive_prompt="A lighthouse at dusk",
                width=512,
                height=512,
                include_cost=True,
            )
        )
        path = await client.save(images[0], "out/lighthouse")  # the extension comes from the content
    print(f"saved {path}, which cost {images[0].cost} USD")


if __name__ == "__main__":
    anyio.run(main)
