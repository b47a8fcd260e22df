"""Calls of the older Python client (`runware` 0.5.24), which goes by WebSocket alone."""

import asyncio
import logging
import sys
import uuid
from contextlib import asynccontextmanager

import runware.base
from calls import FILM, PICTURE, TEXT_MODEL, check, raises, report, setting
from runware import (
    I3dInference,
    I3dInputs,
    IAsyncTaskResponse,
    IAudioInference,
    IControlNetGeneral,
    IFrameImage,
    IImageBackgroundRemoval,
    IImageCaption,
    IImageInference,
    IImageUpscale,
    IInputs,
    IModelSearch,
    IPhotoMaker,
    IPromptEnhance,
    ITextInference,
    ITextInferenceMessage,
    ITraining,
    IUploadModelLora,
    IVectorize,
    IVideoCaption,
    IVideoCaptionInputs,
    IVideoInference,
    Runware,
)
from runware.base import RunwareAPIError

# the address for streams is looked up in a table that has the service's alone
runware.base.get_http_url_from_ws_url = lambda _: setting("http_base_url")


@asynccontextmanager
async def client(**options):
    opened = Runware(
        api_key=setting("api_key"),
        url=setting("ws_base_url"),
        log_level=logging.CRITICAL,
        **{"timeout": 10_000, "max_retries": 0, **options},
    )
    await opened.connect()
    try:
        yield opened
    finally:
        await opened.disconnect()


def image(**parameters):
    given = {"model": "runware:101@1", "positivePrompt": "A red kite", "width": 512, "height": 512, **parameters}
    return IImageInference(**given)


def ask(**parameters):
    messages = [ITextInferenceMessage(role="user", content="What is a kite?")]
    return ITextInference(model=TEXT_MODEL, messages=messages, **parameters)


async def text_to_image():
    async with client() as api:
        images = await api.imageInference(requestImage=image(numberResults=3, seed=5, includeCost=True))
        check([one.seed for one in images] == [5, 6, 7], images)
        check(all(one.imageURL and one.imageUUID and one.cost > 0 for one in images), images)


async def text_to_image_async():
    async with client() as api:
        accepted = await api.imageInference(requestImage=image(deliveryMethod="async", numberResults=2))
        check(isinstance(accepted, IAsyncTaskResponse), accepted)
        images = await api.getResponse(taskUUID=accepted.taskUUID, numberResults=2)
        check(len(images) == 2 and all(one.imageURL for one in images), images)


async def partial_images():
    async with client() as api:
        seen = []
        await api.imageInference(
            requestImage=image(numberResults=2, onPartialImages=lambda images, error: seen.append((images, error)))
        )
        check(len(seen) == 2 and all(error is None and images for images, error in seen), seen)


async def image_as_base64_and_data_uri():
    async with client() as api:
        for form, field in (("base64Data", "imageBase64Data"), ("dataURI", "imageDataURI")):
            (one,) = await api.imageInference(requestImage=image(outputType=form))
            check(getattr(one, field), one)


async def image_to_image_with_control_net():
    async with client() as api:
        guide = IControlNetGeneral(model="runware:29@1", guideImage=PICTURE, weight=0.5, startStep=0, endStep=9)
        (one,) = await api.imageInference(
            requestImage=image(seedImage=PICTURE, strength=0.7, controlNet=[guide], steps=20)
        )
        check(one.imageURL, one)


async def upscale():
    async with client() as api:
        (one,) = await api.imageUpscale(
            upscaleGanPayload=IImageUpscale(inputImage=PICTURE, upscaleFactor=2, includeCost=True)
        )
        check(one.imageURL and one.cost > 0, one)


async def caption():
    async with client() as api:
        said = await api.imageCaption(requestImageToText=IImageCaption(inputImage=PICTURE, model="runware:150@2"))
        check(said.text, said)


async def caption_without_a_model():
    async with client() as api:
        said = await api.imageCaption(requestImageToText=IImageCaption(inputImage=PICTURE))
        check(said.text, said)


async def caption_of_a_film():
    async with client() as api:
        request = IVideoCaption(model="memories:1@1", inputs=IVideoCaptionInputs(video=FILM), deliveryMethod="async")
        accepted = await api.videoCaption(requestVideoCaption=request)
        (said,) = await api.getResponse(taskUUID=accepted.taskUUID) if hasattr(accepted, "taskUUID") else accepted
        check(said.text, said)


async def remove_background():
    async with client() as api:
        request = IImageBackgroundRemoval(inputImage=PICTURE, model="runware:109@1", outputFormat="PNG")
        (one,) = await api.imageBackgroundRemoval(removeImageBackgroundPayload=request)
        check(one.imageURL.endswith(".png"), one)


async def enhance_prompt():
    async with client() as api:
        found = await api.promptEnhance(
            promptEnhancer=IPromptEnhance(prompt="a kite", promptVersions=3, promptMaxLength=64)
        )
        check(len({one.text for one in found}) == 3, found)


async def vectorize():
    async with client() as api:
        (one,) = await api.imageVectorize(
            vectorizePayload=IVectorize(model="recraft:1@1", inputs=IInputs(image=PICTURE))
        )
        check(one.imageURL.endswith(".svg"), one)


async def photo_maker():
    async with client() as api:
        request = IPhotoMaker(
            model="civitai:139562@344487",
            positivePrompt="img of a woman with a kite",
            width=1024,
            height=1024,
            inputImages=[PICTURE],
            style="Photographic",
            strength=40,
        )
        (one,) = await api.photoMaker(requestPhotoMaker=request)
        check(one.imageURL, one)


async def film():
    async with client() as api:
        request = IVideoInference(
            model="klingai:5@3",
            positivePrompt="A red kite",
            duration=5,
            width=1920,
            height=1080,
            frameImages=[IFrameImage(inputImage=PICTURE, frame="first")],
            includeCost=True,
        )
        accepted = await api.videoInference(requestVideo=request)
        (one,) = await api.getResponse(taskUUID=accepted.taskUUID)
        check(one.videoURL and one.cost > 0, one)


async def sound():
    async with client() as api:
        request = IAudioInference(model="elevenlabs:1@1", positivePrompt="Wind in a kite", duration=10)
        accepted = await api.audioInference(requestAudio=request)
        found = await api.getResponse(taskUUID=accepted.taskUUID) if hasattr(accepted, "status") else accepted
        check(found[0].audioURL, found)


async def text():
    async with client() as api:
        (said,) = await api.textInference(requestText=ask(includeUsage=True))
        check("What is a kite?" in said.text and said.finishReason == "stop", said)


async def text_streamed():
    async with client() as api:
        parts = [part async for part in await api.textInference(requestText=ask(deliveryMethod="stream"))]
        words = [part for part in parts if isinstance(part, str)]
        check(len(words) > 5 and parts[-1].text == "".join(words), parts)


async def model_in_3d():
    async with client() as api:
        request = I3dInference(model="tripo:v3.1@0", positivePrompt="a kite", inputs=I3dInputs(image=PICTURE))
        accepted = await api.inference3d(request3d=request)
        (one,) = await api.getResponse(taskUUID=accepted.taskUUID)
        check(one.outputs.files[0].url.endswith(".glb"), one)


async def upload_an_image():
    async with client() as api:
        stored = await api.uploadImage(PICTURE)
        check(stored.imageUUID, stored)
        (one,) = await api.imageInference(requestImage=image(seedImage=stored.imageUUID, strength=0.5))
        check(one.imageURL, one)


async def upload_a_medium():
    async with client() as api:
        stored = await api.uploadMedia(PICTURE)
        check(stored.mediaUUID, stored)


async def upload_a_model():
    async with client() as api:
        lora = IUploadModelLora(
            air="mine:1@1",
            architecture="flux1d",
            name="Kites",
            downloadURL="https://example.com/kites.safetensors",
            uniqueIdentifier="a" * 64,
            version="1.0",
            format="safetensors",
            private=True,
        )
        stages = await api.modelUpload(requestModel=lora)
        check([one["status"] for one in stages][-1] == "ready" and all(one["message"] for one in stages), stages)


async def search_models():
    async with client() as api:
        query = {"search": "realistic", "category": "checkpoint", "architecture": "sdxl", "visibility": "all"}
        found = await api.modelSearch(payload=IModelSearch(tags=["photorealistic"], **query))
        check(found.totalResults > 0 and found.results[0].air and found.results[0].version, found)


async def details_of_a_task():
    async with client() as api:
        identity = str(uuid.uuid4())
        await api.imageInference(requestImage=image(taskUUID=identity))
        details = await api.getTaskDetails(identity)
        check(details.taskUUID == identity and details.request and details.response, details)


async def train():
    async with client() as api:
        request = ITraining(
            model="runware:flux-1-dev@style-lora-training",
            inputs={"dataset": PICTURE},
            importModel={
                "air": "mine:2@1",
                "name": "kites",
                "uniqueIdentifier": "b" * 64,
                "version": "1.0",
                "private": True,
            },
        )
        accepted = await api.training(requestTraining=request)
        (one,) = await api.getResponse(taskUUID=accepted.taskUUID) if not isinstance(accepted, list) else accepted
        check(one.outputs["files"][0]["url"], one)


async def refused_parameter():
    async with client() as api:
        error = await raises(RunwareAPIError, api.imageInference(requestImage=image(width=999)), "width")
        check(error.code == "invalidWidth", error)


async def unknown_model():
    async with client() as api:
        await raises(RunwareAPIError, api.imageInference(requestImage=image(model="nobody:1@1")), "modelNotFound")


async def failed_task():
    async with client() as api:
        await raises(
            RunwareAPIError, api.imageInference(requestImage=image(positivePrompt="doomed")), "The task failed"
        )


async def failed_task_async():
    async with client() as api:
        accepted = await api.imageInference(requestImage=image(positivePrompt="doomed", deliveryMethod="async"))
        await raises(RunwareAPIError, api.getResponse(taskUUID=accepted.taskUUID), "The task failed")


async def wrong_key():
    opened = Runware(api_key="wrong", url=setting("ws_base_url"), timeout=5_000, max_retries=0)
    try:
        await opened.connect()
        await raises(Exception, opened.imageInference(requestImage=image()), "Invalid API key")
    finally:
        await opened.disconnect()


CALLS = [
    value
    for name, value in list(globals().items())
    if asyncio.iscoroutinefunction(value) and value.__module__ == "__main__" and name != "client"
]

if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    report([call for call in CALLS if not sys.argv[1:] or call.__name__ in sys.argv[1:]])
