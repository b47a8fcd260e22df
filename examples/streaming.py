"""Print a text while it is written, then what it used: runware-flow emulate -- python examples/streaming.py."""

import anyio

from runware_flow import Client
from runware_flow.tasks import TextInference

QUESTION = "Explain in one sentence why lighthouses blink"


async def main() -> None:
    task = TextInference(
        model="google:gemma@4-31b", messages=[{"role": "user", "content": QUESTION}], include_cost=True
    )
    async with Client() as client, client.stream(task) as stream:
        async for word in stream.text:
            print(word, end="", flush=True)
        result = await stream.result()
    print(f"\n[{result.finish_reason}] {result.usage} ${result.cost}")


if __name__ == "__main__":
    anyio.run(main)
