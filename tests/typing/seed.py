"""The examples of the official TypeScript README, one by one, as they are written here.

mypy strict and pyright strict check that they are accepted and typed; `tests/client/test_seed_examples.py` runs them.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, assert_type

import anyio
import pytest

from runware_flow import (
    Client,
    Failed,
    LogEntry,
    Ok,
    Progress,
    Result,
    RunwareError,
    create_runware_error,
    file_to_data_uri,
    is_runware_error,
)
from runware_flow.architectures import ExactlyIllustrative, Sdxl
from runware_flow.operations import Caption, UpscaleImage
from runware_flow.results import (
    AudioResult,
    CaptionResult,
    ImageResult,
    ModelUploadResult,
    TextResult,
    UpscaleResult,
    VideoResult,
)
from runware_flow.tasks import AudioInference, ImageInference, TextInference, VideoInference
from runware_flow.wire.content import ContentModel, Page

if TYPE_CHECKING:
    from pathlib import Path

PHOTO = "https://example.com/photo.jpg"


async def one_method_for_everything(client: Client) -> None:
    images = await client.run(
        ImageInference(model="runware:400@1", positive_prompt="Abstract digital art", width=1024, height=1024)
    )
    videos = await client.run(
        VideoInference(model="google:3@3", positive_prompt="Ocean waves at sunset", duration=8, width=1280, height=720)
    )
    responses = await client.run(
        TextInference(model="google:gemma@4-31b", messages=[{"role": "user", "content": "Explain quantum computing"}])
    )
    audio = await client.run(
        AudioInference(
            model="alibaba:qwen@3-tts-1.7b-voicedesign",
            positive_prompt="A calm, friendly young woman with a soft tone",
            speech={"text": "Hello world", "voice": "design"},
        )
    )
    assert_type(images, list[ImageResult])
    assert_type(videos, list[VideoResult])
    assert_type(responses, list[TextResult])
    assert_type(audio, list[AudioResult])
    assert_type(images[0].url, str)


async def architecture_types(client: Client) -> None:
    images = await client.run(
        Sdxl(
            model="civitai:133005@782002",
            positive_prompt="A professional headshot portrait",
            negative_prompt="blurry, distorted",
            width=1024,
            height=1024,
            steps=30,
            scheduler="DPMSolverMultistep",  # in no list of the catalog: enums are hints
        )
    )
    assert_type(images, list[ImageResult])


async def community_models(client: Client) -> None:
    images = await client.run(
        ExactlyIllustrative(
            model="runware:exactly-illustrative@my-trained-style",
            positive_prompt="A lighthouse on a rocky cliff at twilight",
            width=1024,
            height=1024,
        )
    )
    assert_type(images, list[ImageResult])


async def slugs(client: Client) -> None:
    by_air = await client.run({"model": "runware:400@1", "positivePrompt": "a kite"})
    by_slug = await client.run({"model": "bfl-flux-2-dev", "positivePrompt": "a kite"})
    assert_type(by_air, list[Result])
    assert_type(by_slug, list[Result])


async def one_result(client: Client) -> None:
    image = await client.run_one(ImageInference(model="runware:400@1", positive_prompt="a kite"))
    by_name = await client.run_one({"model": "bfl-flux-2-dev", "positivePrompt": "a kite"})
    assert_type(image, ImageResult)
    assert_type(by_name, Result)


async def streaming(client: Client) -> None:
    story = TextInference(
        model="google:gemma@4-31b", messages=[{"role": "user", "content": "Tell me a story about a robot"}]
    )
    async with client.stream(story) as stream:
        async for word in stream.text:
            assert_type(word, str)
        async for thought in stream.reasoning:
            assert_type(thought, str)
        result = await stream.result()
        assert_type(result.text, str)
        assert_type(result.finish_reason, str | None)
        assert_type(result.cost, float | None)
        assert result.text == await stream.full_text()


async def concurrent_operations(client: Client) -> None:
    images: list[ImageResult] = []
    upscaled: list[UpscaleResult] = []
    captions: list[CaptionResult] = []

    async def draw() -> None:
        images.extend(
            await client.run(ImageInference(model="runware:400@1", positive_prompt="Abstract art", number_results=3))
        )

    async def enlarge() -> None:
        upscaled.extend(await client.run(UpscaleImage(model="runware:504@1", inputs={"image": PHOTO})))

    async def describe() -> None:
        captions.extend(await client.run(Caption(model="runware:150@2", inputs={"image": PHOTO})))

    async with anyio.create_task_group() as group:
        group.start_soon(draw)
        group.start_soon(enlarge)
        group.start_soon(describe)
    assert [len(images), len(upscaled), len(captions)] == [3, 1, 1]


async def cancellation(client: Client) -> None:
    with anyio.move_on_after(0) as scope:
        await client.run(ImageInference(model="runware:400@1", positive_prompt="A detailed scene"))
    assert scope.cancelled_caught


async def callbacks(client: Client) -> None:
    ready: list[str] = []

    def on_result(item: Ok[VideoResult] | Failed) -> None:
        ready.append(item.value.url if isinstance(item, Ok) else f"failed: {item.error}")

    def on_progress(item: Progress) -> None:
        assert item.progress is None or item.progress <= 100

    waves = VideoInference(model="google:3@3", positive_prompt="Ocean waves", number_results=3, width=1280, height=720)
    await client.run(waves, on_result=on_result, on_progress=on_progress, timeout=600)
    assert len(ready) == 3


async def errors(client: Client) -> None:
    wrong = {"model": "runware:400@1", "positivePrompt": "A landscape", "width": -1, "height": 1024}
    with pytest.raises(RunwareError) as caught:
        await client.run(wrong, validate=True)
    error = caught.value
    assert (error.code, error.retryable, error.parameter) == ("validation", False, "width")
    assert error.documentation is not None
    assert error.task_type == "imageInference"
    assert error.validation_errors[0]["path"] == ["width"]
    assert is_runware_error(error)
    client.clear_validator_cache()
    own = create_runware_error(
        "invalidParameter", "Width must be a multiple of 64", parameter="width", task_type="imageInference"
    )
    assert_type(own, RunwareError)
    assert own.code == "validation"


async def new_models(client: Client) -> None:
    await client.refresh_registry()
    responses = await client.run(
        TextInference(model="google:gemma@4-31b", messages=[{"role": "user", "content": "Hello"}]), delivery="sync"
    )
    assert responses[0].text


async def utilities(client: Client) -> None:
    models = await client.model_search("portrait", category="checkpoint", architecture="sdxl", limit=10)
    assert models.results is not None
    uploaded = await client.image_upload(PHOTO)
    assert_type(uploaded.image_uuid, str | None)
    account = await client.account_management("getDetails")
    assert account.raw["balance"]
    (image,) = await client.run(ImageInference(model="runware:400@1", positive_prompt="a kite"))
    archived = await client.get_task_details(image.task_uuid)
    assert archived.request
    state = await client.get_response(image.task_uuid)
    assert state.status == "success"
    mine = await client.model_upload(
        category="checkpoint",
        architecture="sdxl",
        format="safetensors",
        name="mine",
        version="1",
        download_url="https://example.com/m.safetensors",
    )
    assert_type(mine, ModelUploadResult)


async def content(client: Client) -> None:
    models = await client.content.list_models(
        capability="io:text-to-image", category="image", creator="black-forest-labs", search="flux"
    )
    assert_type(models, list[ContentModel])
    model = await client.content.get_model("alibaba-z-image-turbo")
    assert_type(model, ContentModel | None)
    await client.content.get_model_examples("flux-1-dev")
    await client.content.get_model_pricing("flux-1-dev")
    await client.content.list_capabilities()
    await client.content.list_collections(category="image")
    await client.content.list_creators()
    await client.content.get_creator("google")
    page = await client.content.list_models(paginate=True, limit=25, offset=0)
    assert_type(page, Page[ContentModel])


async def file_helpers(client: Client, photo: Path) -> None:
    data_uri = await file_to_data_uri(photo)
    assert base64.b64decode(data_uri.partition(",")[2])
    assert (await client.image_upload(data_uri)).image_uuid


def log_sink(entry: LogEntry) -> None:
    assert_type(entry.category, str)
    assert_type(entry.timestamp, float)


EXAMPLES = (
    one_method_for_everything,
    architecture_types,
    community_models,
    slugs,
    streaming,
    concurrent_operations,
    cancellation,
    callbacks,
    errors,
    new_models,
    utilities,
    content,
)
"""Everything above that needs no more than a client."""
