"""The same flow inside a Trio program: nothing but the first line of the program changes.

Try it: `runware-flow emulate -- python examples/trio_main.py`
"""

import trio

from runware_flow import Client, Flow
from runware_flow.tasks import Caption, ImageInference

PROMPTS = ["a kite", "a lighthouse", "a red boat"]

flow = Flow("on trio")
images = flow.map(
    PROMPTS, lambda prompt: ImageInference(model="runware:400@1", positive_prompt=prompt, width=512, height=512)
)
captions = images.then(lambda image: Caption(model="runware:150@2", inputs={"image": image}))


async def main() -> None:
    async with Client() as client, trio.open_nursery() as nursery:  # your nurseries and ours go together
        nursery.start_soon(tick, nursery.cancel_scope)
        with trio.fail_after(60):
            result = await flow.execute(client)
        nursery.cancel_scope.cancel()
    for caption in result[captions]:
        print(caption.text)


async def tick(scope: trio.CancelScope) -> None:
    while not scope.cancel_called:
        await trio.sleep(1)
        print("still at it")


if __name__ == "__main__":
    trio.run(main)
