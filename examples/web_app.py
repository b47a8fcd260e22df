"""A web endpoint: a run for each request, its events sent as they happen; the browser leaves, the run is cancelled.

Try it: `runware-flow emulate --latency 1..2 -- hypercorn examples/web_app.py:app`, and in another terminal
`curl -N 'http://127.0.0.1:8000/posters?prompt=a+kite'`
"""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from runware_flow import Client, Flow, NodeSettled, NodeStarted
from runware_flow.tasks import Caption, ImageInference


class EventStream(StreamingResponse):
    """Runs a flow for as long as a client listens."""

    def __init__(self, flow: Flow, client: Client) -> None:
        self.run = flow.start(client, on_error="continue")
        self.sender, self.receiver = anyio.create_memory_object_stream[str](16)  # a slow browser slows its run
        super().__init__(self.receiver, media_type="text/event-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self.receiver, anyio.create_task_group() as group:
            group.start_soon(self.perform)
            await super().__call__(scope, receive, send)  # until the channel ends, or the browser leaves
            group.cancel_scope.cancel()  # nothing more is sent to the service; it may bill what it has

    async def perform(self) -> None:
        async with self.sender, self.run as run:
            async for event in run.events():
                if isinstance(event, NodeStarted | NodeSettled):
                    data = {"step": event.label, "event": type(event).__name__, "time": event.time}
                    await self.sender.send(f"data: {json.dumps(data)}\n\n")


async def posters(request: Request) -> EventStream:
    flow = Flow("poster")
    prompt = request.query_params.get("prompt", "a kite")
    art = flow.then(ImageInference(model="runware:400@1", positive_prompt=prompt, width=512, height=512), label="art")
    art.then(lambda image: Caption(model="runware:150@2", inputs={"image": image}), label="caption")
    return EventStream(flow, request.app.state.client)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncGenerator[None]:
    async with Client() as app.state.client:  # one connection for all requests
        yield


app = Starlette(routes=[Route("/posters", posters)], lifespan=lifespan)
