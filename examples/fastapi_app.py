"""A web service (FastAPI): a picture as JSON, by a response model, and a text while it is written.

Try it: `runware-flow emulate -- hypercorn examples/fastapi_app.py:app`, then open `/docs` there.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from runware_flow import Client
from runware_flow.results import ImageResult
from runware_flow.tasks import ImageInference, TextInference


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
    yield
    await client.aclose()


client = Client()  # opened by the first request
app = FastAPI(lifespan=lifespan)


@app.post("/pictures")
async def picture(prompt: str) -> ImageResult:
    return await client.run_one(ImageInference(model="runware:400@1", positive_prompt=prompt, width=512, height=512))


@app.get("/chat")
async def chat(question: str) -> StreamingResponse:
    async def words() -> AsyncGenerator[str]:  # when the browser leaves, it is dropped and the stream closed
        task = TextInference(model="google:gemma@4-31b", messages=[{"role": "user", "content": question}])
        async with client.stream(task) as stream:
            async for word in stream.text:
                yield word

    return StreamingResponse(words(), media_type="text/plain")
