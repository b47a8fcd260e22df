"""A text that reaches the browser while it is written (FastAPI): one client for the application, a stream a request.

Try it: `runware-flow emulate -- hypercorn examples/fastapi_stream.py:app`, then open `/chat?question=Why` there.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from runware_flow import Client
from runware_flow.tasks import TextInference


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    app.state.client = Client()  # opened by the first request, and closed here
    yield
    await app.state.client.aclose()


app = FastAPI(lifespan=lifespan)


async def words(client: Client, question: str) -> AsyncGenerator[str]:
    """The answer, word by word. When the browser leaves, this generator is dropped and the stream is closed."""
    task = TextInference(model="google:gemma@4-31b", messages=[{"role": "user", "content": question}])
    async with client.stream(task) as stream:
        async for word in stream.text:
            yield word


@app.get("/chat")
async def chat(request: Request, question: str) -> StreamingResponse:
    """Send the answer as it comes."""
    return StreamingResponse(words(request.app.state.client, question), media_type="text/plain")
