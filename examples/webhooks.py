"""The service calls when a picture is ready: a webhook, served with Hypercorn beside the client.

Try it: `runware-flow emulate -- python examples/webhooks.py`

The address must be one that the service can reach; the emulator reaches 127.0.0.1. Any ASGI server does in place of
Hypercorn, and any ASGI framework can mount the receiver.
"""

import socket

import anyio
from hypercorn.config import Config
from hypercorn.trio import serve  # pyright: ignore[reportUnknownVariableType]  # of WSGI, which it takes too

from runware_flow import Client, WebhookReceiver
from runware_flow.tasks import ImageInference


async def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{listener.getsockname()[1]}/runware"
    config = Config()
    config.bind, config.loglevel = [f"fd://{listener.detach()}"], "ERROR"
    done = anyio.Event()
    async with Client() as client, anyio.create_task_group() as group:
        receiver = WebhookReceiver(client, address)
        group.start_soon(lambda: serve(receiver, config, shutdown_trigger=done.wait))
        task = ImageInference(
            model="runware:400@1",
            positive_prompt="A lighthouse at dusk",
            width=512,
            height=512,
            number_results=3,
            webhook_url=receiver.url,
        )
        async with client.submit(task) as delivery:
            async for image in delivery:
                print("ready:", image.image_uuid is not None)
        done.set()


if __name__ == "__main__":
    anyio.run(main, backend="trio")
