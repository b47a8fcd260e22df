"""Every task type with the fields of its results, checked against the catalog's schemas of results."""

from __future__ import annotations

import io
from typing import Any

import anyio
import jsonschema
import pytest
from emulator_clients import open_rest
from emulator_tasks import codes, image, make_id, make_service, submit
from PIL import Image

from runware_flow.emulator import Emulator
from runware_flow.emulator.http.schemas import response_schema
from runware_flow.emulator.service.models import load_models

pytestmark = pytest.mark.usefixtures("watched")

PICTURE = {"inputs": {"image": "https://example.com/a-red-kite.jpg"}}
FILM = {"inputs": {"video": "https://example.com/a-film.mp4"}}
PROMPT = {"positivePrompt": "a red kite"}
TASKS: list[tuple[str, str, dict[str, Any], set[str]]] = [
    ("imageInference", "runware:101@1", {**PROMPT, "width": 256, "height": 256}, {"imageUUID", "imageURL", "seed"}),
    ("videoInference", "google:3@3", {**PROMPT, "width": 320, "height": 192}, {"videoUUID", "videoURL", "seed"}),
    (
        "audioInference",
        "alibaba:qwen@3-tts-1.7b-voicedesign",
        {**PROMPT, "speech": {"text": "hello", "voice": "design"}},
        {"audioUUID", "audioURL", "seed"},
    ),
    (
        "textInference",
        "google:gemma@4-31b",
        {"messages": [{"role": "user", "content": "hi"}], "includeUsage": True},
        {"text", "finishReason", "usage"},
    ),
    ("3dInference", "", {**PROMPT, **PICTURE}, {"outputs", "seed"}),
    ("caption", "runware:150@2", PICTURE, {"text"}),
    ("caption", "memories:1@1", FILM, {"text"}),
    ("upscale", "runware:504@1", {**PICTURE, "upscaleFactor": 2}, {"imageUUID", "imageURL", "inputImageUUID"}),
    ("removeBackground", "runware:109@1", PICTURE, {"imageUUID", "imageURL", "inputImageUUID"}),
    (
        "imageMasking",
        "runware:35@1",
        PICTURE,
        {"maskImageUUID", "maskImageURL", "detections", "inputImageUUID"},
    ),
    (
        "controlNetPreprocess",
        "runware:controlnet-preprocess@canny",
        PICTURE,
        {"guideImageUUID", "guideImageURL", "inputImageUUID"},
    ),
    ("promptEnhance", "runware:llama-3-1-8b@prompt-enhancer", {"prompt": "a kite", "promptVersions": 2}, {"text"}),
    ("vectorize", "recraft:1@1", PICTURE, {"imageUUID", "imageURL"}),
    ("training", "runware:flux-1-dev@style-lora-training", {**PICTURE, "importModel": {}}, {"air", "outputs"}),
    ("tools", "runware:ffmpeg@0", {**PICTURE, "outputFormat": "PNG"}, {"outputs"}),
]


def complete(task_type: str, model: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """A task of that type; without a model, one of the first that the catalog has."""
    entries = load_models().registry["models"].items()
    air = model if model in dict(entries) else next(key for key, entry in entries if entry["taskType"] == task_type)
    known = set((load_models().schema(air) or {})["properties"])
    kept = {name: value for name, value in parameters.items() if name in known or name in ("inputs", "prompt")}
    return {"taskType": task_type, "taskUUID": make_id(), "model": air, "deliveryMethod": "async", **kept}


@pytest.mark.parametrize(("task_type", "model", "parameters", "fields"), TASKS, ids=lambda one: str(one)[:24])
def test_result_has_its_fields_and_its_files_open(run, task_type, model, parameters, fields) -> None:
    async def main() -> None:
        async with Emulator(latency=0) as emulator, open_rest(emulator) as rest:
            task = {**complete(task_type, model, parameters), "includeCost": True}
            assert set((await rest.post(task))["data"][0]) == {"taskType", "taskUUID"}
            items = await rest.wait(task["taskUUID"])
            assert len(items) == parameters.get("promptVersions", 1)
            for item in items:
                assert set(item) == {"taskType", "taskUUID", "status", "cost", *fields}
                schema = response_schema(emulator.service.models, task["taskType"])
                jsonschema.validate({key: value for key, value in item.items() if key != "status"}, schema)
                urls = [value for key, value in item.items() if key.endswith("URL")]
                urls += [file["url"] for file in item.get("outputs", {}).get("files", [])]
                for url in urls:
                    answer = await rest.get(url)
                    assert answer.status_code == 200, url
                    assert answer.content

    run(main)


@pytest.mark.parametrize("task_type", ["upscale", "removeBackground"])
def test_film_comes_back_from_a_film_and_only_async(task_type) -> None:
    service = make_service()
    film = {"taskType": task_type, "taskUUID": make_id(), "model": "civitai:1@1", **FILM}
    assert codes(submit(service, {**film, "deliveryMethod": "sync"})) == ["invalidParameter"]
    reply = service.receive([film], 0.0)
    assert reply.frame.data == [{"taskType": task_type, "taskUUID": film["taskUUID"]}]
    assert not reply.waiting


@pytest.mark.parametrize(("format_", "name"), [("JPG", "JPEG"), ("PNG", "PNG"), ("WEBP", "WEBP"), ("webp", "WEBP")])
def test_picture_comes_in_the_format_and_the_forms_that_were_asked_for(run, format_, name) -> None:
    async def main() -> None:
        async with Emulator(latency=0) as emulator, open_rest(emulator) as rest:
            forms = ["URL", "dataURI", "base64Data"]
            (item,) = (await rest.post(image(outputFormat=format_, outputType=forms)))["data"]
            data = (await rest.get(item["imageURL"])).content
            assert Image.open(io.BytesIO(data)).format == name
            uri = item["imageDataURI"]
            assert uri.partition(",")[2] == item["imageBase64Data"]
            assert uri.startswith(f"data:image/{name.lower()};base64,")

    run(main)


def test_safety_flag_comes_only_when_it_was_asked_for(run) -> None:
    async def main() -> None:
        async with Emulator(latency=0) as emulator, open_rest(emulator) as rest:
            safety = {"checkContent": True}
            tasks = (image(), image(safety=safety), image("an NSFW kite", safety=safety))
            plain, checked, caught = [(await rest.post(task))["data"][0] for task in tasks]
            assert "NSFWContent" not in plain
            assert (checked["NSFWContent"], caught["NSFWContent"]) == (False, True)

    run(main)


def test_log_is_readable_by_other_processes(run) -> None:
    async def main() -> None:
        async with Emulator(latency=0) as emulator, open_rest(emulator) as rest:
            task = image(includeCost=True)
            (item,) = (await rest.post(task))["data"]
            await rest.post({**image(), "width": 1}, status=400)
            with anyio.fail_after(5):
                log = (await rest.get(f"{emulator.base_url}/__emulator__/log")).json()
            assert log["tasks"][0]["task_uuid"] == task["taskUUID"]
            assert log["tasks"][0]["ready_at"][0] <= log["tasks"][0]["delivered_at"][0]
            assert log["billed"] == pytest.approx(item["cost"])
            assert log["rejected"][0]["code"] == "invalidWidth"
            assert log["posts"] == 2

    run(main)
