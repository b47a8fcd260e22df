"""What the service refuses, and what it must not refuse."""

from __future__ import annotations

from typing import Any

import pytest
from emulator_tasks import caption, image, make_id, text

from runware_flow.emulator.service.models import load_models
from runware_flow.emulator.service.validation import check_task, check_task_uuid
from runware_flow.emulator.settings import Settings


def check(task: dict[str, Any], **settings: Any):
    return check_task(task, load_models(), Settings(**settings))


@pytest.mark.parametrize(
    ("changes", "code", "parameter"),
    [
        ({"width": 100}, "invalidWidth", "width"),
        ({"width": 130}, "invalidWidth", "width"),
        ({"height": 4096}, "invalidHeight", "height"),
        ({"height": None}, "missingDimensionParameters", ["width", "height", "referenceImages"]),
        ({"width": "512"}, "invalidWidth", "width"),
        ({"width": True}, "invalidWidth", "width"),
        ({"steps": 0}, "invalidSteps", "steps"),
        ({"steps": 2.5}, "invalidSteps", "steps"),
        ({"numberResults": 21}, "invalidParameter", "numberResults"),
        ({"numberResults": 0}, "invalidParameter", "numberResults"),
        ({"positivePrompt": "x"}, "invalidPositivePromptLength", "positivePrompt"),
        ({"positivePrompt": "x" * 3001}, "invalidPositivePromptLength", "positivePrompt"),
        ({"positivePrompt": None}, "missingPositivePrompt", "positivePrompt"),
        ({"positivePrompt": ["x"]}, "invalidPositivePrompt", "positivePrompt"),
        ({"outputFormat": "TIFF"}, "invalidParameter", "outputFormat"),
        ({"outputType": "file"}, "invalidParameter", "outputType"),
        ({"deliveryMethod": "stream"}, "invalidParameter", "deliveryMethod"),
        ({"deliveryMethod": "webhook"}, "invalidParameter", "deliveryMethod"),
        ({"outputQuality": 100}, "invalidParameter", "outputQuality"),
        ({"ttl": 59}, "invalidParameter", "ttl"),
        ({"seed": -1}, "invalidParameter", "seed"),
        ({"includeCost": "yes"}, "invalidParameter", "includeCost"),
        ({"positveprompt": "x"}, "unknownParameter", "positveprompt"),
        ({"model": None}, "missingModel", "model"),
        ({"model": "flux"}, "invalidModel", "model"),
        ({"model": 7}, "invalidModel", "model"),
        ({"model": "runware:999@1"}, "modelNotFound", "model"),
        ({"model": "google:none@1"}, "modelNotFound", "model"),
        ({"model": "runware:150@2"}, "unsupportedTaskType", "taskType"),
        ({"taskType": "paint"}, "unsupportedTaskType", "taskType"),
    ],
)
def test_check_wrong_parameter_is_named_with_its_code(changes, code, parameter) -> None:
    problem = check({**image(), **changes})
    assert problem is not None
    assert (problem.code, problem.parameter) == (code, parameter)
    entry = problem.entry("imageInference", "x")
    assert entry["message"]
    assert entry["taskUUID"] == "x"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"width": None, "height": None},
        {"width": 2048, "height": 144},
        {"steps": 30.0},
        {"outputFormat": "png"},
        {"outputType": ["URL", "base64Data"]},
        {"positivePrompt": "__BLANK__"},
        {"scheduler": "DPMSolverMultistep", "model": "civitai:133005@782002"},
        {"model": "runware:exactly-illustrative@my-trained-style"},
        {"lora": [{"model": "civitai:1@2", "weight": 1.0}]},
        {"routing": {}, "safety": {"checkContent": True}, "advancedFeatures": {}},
        {"seed": 2**40},
        {"width": None, "height": None, "inputs": {"referenceImages": ["x"]}},
        {"model": "openai:gpt-image@2", "positivePrompt": "x" * 10_000},
    ],
)
def test_check_what_clients_send_passes(changes) -> None:
    assert check({**image(), **changes}) is None


def test_check_dimensions_are_required_where_the_switch_says_so() -> None:
    problem = check({**image(), "width": None, "height": None}, require_dimensions=True)
    assert problem is not None
    assert problem.parameter == ["width", "height", "referenceImages"]


@pytest.mark.parametrize("task_uuid", [None, "", "1", 5, "00000000-0000-1000-8000-000000000000"])
def test_check_task_uuid_of_another_form_is_refused(task_uuid) -> None:
    problem = check_task_uuid({"taskUUID": task_uuid})
    assert problem is not None
    assert problem.parameter == "taskUUID"
    assert check_task_uuid({"taskUUID": make_id()}) is None


@pytest.mark.parametrize("messages", [None, [], "hi", ["hi"], [{"role": "bot", "content": "x"}]])
def test_check_messages_of_another_form_are_refused(messages) -> None:
    problem = check({**text("hi"), "messages": messages})
    assert problem is not None
    assert problem.parameter == "messages"


def test_check_last_message_must_be_from_the_user() -> None:
    history = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    assert check({**text("hi"), "messages": history}) is not None
    assert check({**text("hi"), "messages": [*history, history[0]]}) is None


def test_check_caption_and_upscale_need_an_image_new_or_old_style() -> None:
    task = caption("https://example.com/a.jpg")
    assert check(task) is None
    inputs = task.pop("inputs")
    problem = check(task)
    assert problem is not None
    assert problem.parameter == "inputs"
    assert check({**task, "inputImage": inputs["image"]}) is None


def test_check_upscale_factor_follows_the_models_schema() -> None:
    task = {"taskType": "upscale", "taskUUID": make_id(), "model": "runware:504@1", "inputs": {"image": "x"}}
    assert check({**task, "upscaleFactor": 4}) is None
    problem = check({**task, "upscaleFactor": 3})
    assert problem is not None
    assert problem.details["allowedValues"] == [2, 4]


def test_check_every_model_of_the_catalog_is_known_under_its_own_task_type() -> None:
    models = load_models()
    for air, entry in models.registry["models"].items():
        problem = check({"taskType": entry["taskType"], "taskUUID": make_id(), "model": air})
        assert problem is None or problem.parameter not in ("model", "taskType"), air
