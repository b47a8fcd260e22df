"""Calls of the official Python client (`runware-sdk` 1.8.0), by WebSocket; times are milliseconds."""

import asyncio
import logging
import sys
from contextlib import asynccontextmanager

import runware.client
import runware.content
import runware.validate
from calls import FILM, PICTURE, TEXT_MODEL, check, raises, report, setting
from runware import InvokeOptions, RunOptions, Runware, RunwareError

# its schema and content hosts are constants of three modules
runware.client.SCHEMAS_BASE_URL = runware.validate.SCHEMAS_BASE_URL = setting("schemas_base_url")
runware.content.CONTENT_BASE_URL = setting("content_base_url")


@asynccontextmanager
async def client(**options):
    names = ("api_key", "ws_base_url", "http_base_url", "serverless_base_url")
    given = {name: setting(name) for name in names}
    async with Runware(**{**given, "timeout": 10_000, "max_retries": 0, **options}) as opened:
        yield opened


def image(**parameters):
    return {"model": "runware:400@1", "positivePrompt": "A red kite", "width": 512, "height": 512, **parameters}


SOURCE = {"inputs": {"image": PICTURE}}
QUESTION = {"model": TEXT_MODEL, "messages": [{"role": "user", "content": "What is a kite?"}]}


async def text_to_image():
    async with client() as api:
        images = await api.run(image(numberResults=3, seed=5, includeCost=True, deliveryMethod="sync"))
        check(sorted(one["seed"] for one in images) == [5, 6, 7] and all(one["cost"] > 0 for one in images), images)


async def text_to_image_async():
    async with client() as api:
        seen = []
        images = await api.run(image(numberResults=2), RunOptions(on_result=seen.append))
        check(len(images) == len(seen) == 2 and all(one["imageURL"] for one in images), images)


async def text_to_image_over_rest():
    async with client(transport="rest") as api:
        for delivery in ("sync", "async"):
            (one,) = await api.run(image(deliveryMethod=delivery))
            check(one["imageURL"], one)


async def image_as_base64_and_data_uri():
    async with client() as api:
        for form, field in (("base64Data", "imageBase64Data"), ("dataURI", "imageDataURI")):
            (one,) = await api.run(image(outputType=form))
            check(one[field], one)


async def fine_tune():
    async with client(validate=True) as api:
        tuned = image(model="civitai:133005@782002", taskType="imageInference", steps=20)
        (one,) = await api.run(tuned)
        check(one["imageURL"], one)


async def upscale():
    async with client() as api:
        (one,) = await api.run({"model": "runware:504@1", "upscaleFactor": 2, "includeCost": True, **SOURCE})
        check(one["imageURL"] and one["cost"] > 0, one)


async def caption():
    async with client() as api:
        (said,) = await api.run({"model": "runware:150@2", **SOURCE})
        check(said["text"], said)


async def remove_background():
    async with client() as api:
        (one,) = await api.run({"model": "runware:109@1", "outputFormat": "PNG", **SOURCE})
        check(one["imageURL"].endswith(".png"), one)


async def mask():
    async with client() as api:
        (one,) = await api.run({"model": "runware:35@1", **SOURCE})
        check(one["maskImageURL"] and one["detections"], one)


async def enhance_prompt():
    async with client() as api:
        task = {"taskType": "promptEnhance", "model": "runware:llama-3-1-8b@prompt-enhancer", "prompt": "a kite"}
        found = await api.run({**task, "promptVersions": 3, "promptMaxLength": 64, "deliveryMethod": "sync"})
        check(len({one["text"] for one in found}) == 3, found)


async def film():
    async with client() as api:
        (one,) = await api.run({"model": "google:3@3", "positivePrompt": "A red kite", "duration": 8})
        check(one["videoURL"], one)


async def upscale_of_a_film():
    async with client() as api:
        (one,) = await api.run({"model": "bfl:flux@video-upscale", "inputs": {"video": FILM}})
        check(one["videoURL"], one)


async def text():
    async with client() as api:
        (said,) = await api.run({**QUESTION, "includeUsage": True})
        check("What is a kite?" in said["text"] and said["usage"]["totalTokens"] > 0, said)


async def text_streamed():
    async with client() as api:
        stream = await api.stream(dict(QUESTION))
        words = [word async for word in stream.text_stream]
        check(len(words) > 5 and "".join(words) == (await stream.result()).text, words)


async def upload_a_medium():
    async with client() as api:
        (stored,) = await api.media_storage({"operation": "upload", "media": PICTURE})
        check(stored["mediaUUID"], stored)


async def upload_a_model():
    async with client() as api:
        model = {"category": "lora", "architecture": "sdxl", "air": "mine:4@1", "name": "Kites", "version": "1.0"}
        model |= {"format": "safetensors", "downloadURL": "https://example.com/kites.safetensors"}
        (stage,) = await api.model_upload(model)
        check(stage["status"] == "ready", stage)


async def search_models():
    async with client() as api:
        (found,) = await api.model_search({"search": "portrait", "architecture": "sdxl", "limit": 10})
        check(found["totalResults"] > 0 and found["results"][0]["air"], found)


async def account():
    async with client() as api:
        (details,) = await api.account_management({"operation": "getDetails"})
        check(details["balance"]["amount"] > 0 and "*" in details["apiKeys"][0]["apiKey"], details)


async def details_of_a_task():
    async with client() as api:
        (one,) = await api.run(image(deliveryMethod="sync"))
        (details,) = await api.get_task_details({"taskUUID": one["taskUUID"]})
        check(details["request"] and details["response"], details)


async def content():
    async with client() as api:
        query = {"capability": "io:text-to-image", "category": "image", "creator": "black-forest-labs"}
        check(await api.content.list_models({**query, "search": "flux"}), query)
        for slug in ("alibaba-z-image-turbo", "flux-1-dev"):
            check(await api.content.get_model(slug), slug)
        check((await api.content.get_creator("google"))["models"], "google")


async def serverless():
    async with client() as api:
        options = InvokeOptions(delivery_method="sync")
        task = await api.invoke("my-app", "generate", {"prompt": "a kite"}, options=options)
        check(task["status"] == "completed", task)


async def validate():
    async with client(validate=True) as api:
        error = await raises(RunwareError, api.run(image(width=999)))
        check(error.code == "validation" and error.parameter == "width", error)
        check(await api.run(image()), "valid")


async def refused_parameter():
    async with client() as api:
        error = await raises(RunwareError, api.run(image(width=999)))
        check(error.code == "validation" and error.parameter == "width", error)


async def unknown_model():
    async with client() as api:
        task = image(model="nonexistent:999@999", taskType="imageInference")
        error = await raises(RunwareError, api.run(task))
        check(error.code == "notFound", error)


async def failed_task():
    async with client() as api:
        await raises(RunwareError, api.run(image(positivePrompt="doomed", deliveryMethod="sync")), "failed")


async def failed_task_async():
    async with client() as api:
        await raises(RunwareError, api.run(image(positivePrompt="doomed")), "failed")


async def wrong_key():
    async def use():
        async with client(api_key="wrong") as api:
            await api.run(image())

    error = await raises(RunwareError, use())
    check(error.code == "auth", error)


CALLS = [
    value
    for name, value in list(globals().items())
    if asyncio.iscoroutinefunction(value) and value.__module__ == "__main__" and name != "client"
]

if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    report([call for call in CALLS if not sys.argv[1:] or call.__name__ in sys.argv[1:]])
