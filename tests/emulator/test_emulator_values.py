"""What is inside of parameters, and the schemas that tell clients the same rules."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from emulator_tasks import image, make_id, text

from runware_flow.emulator.http.schemas import request_schema, response_schema
from runware_flow.emulator.service.models import load_models
from runware_flow.emulator.service.validation import check_task
from runware_flow.emulator.settings import Settings


def check(task: dict[str, Any]):
    return check_task(task, load_models(), Settings())


WRONG = [
    ({"lora": [{"model": "civitai:1@2", "weight": 9}]}, "invalidParameter", "lora.0.weight"),
    ({"lora": [{"model": "a:1@2"}, {"weight": 1}]}, "missingParameter", "lora.1.model"),
    ({"lora": [{"model": 5}]}, "invalidParameter", "lora.0.model"),
    ({"outpaint": {"top": 64, "blur": 33}}, "invalidParameter", "outpaint.blur"),
    ({"outpaint": {"left": 65}}, "invalidParameter", "outpaint.left"),
    ({"acceleratorOptions": {"teaCache": "yes"}}, "invalidParameter", "acceleratorOptions.teaCache"),
    ({"ultralytics": {"confidence": 1.5}}, "invalidParameter", "ultralytics.confidence"),
    ({"pulid": {"inputImages": []}}, "arrayTooSmall", "pulid.inputImages"),
    ({"pulid": {"inputImages": ["x", "y"]}}, "arrayTooLarge", "pulid.inputImages"),
    ({"safety": {"checkContent": 1}}, "invalidParameter", "safety.checkContent"),
    ({"advancedFeatures": {"watermark": {"opacity": 2}}}, "invalidParameter", "advancedFeatures.watermark.opacity"),
    ({"providerSettings": {"nobody": {}}}, "unknownProviderSettingsProvider", "providerSettings.nobody"),
    ({"webhookURL": "ftp://x/y"}, "invalidParameter", "webhookURL"),
    ({"uploadEndpoint": "http://[bad"}, "invalidParameter", "uploadEndpoint"),
    ({"webhookURL": "http://x:99999/"}, "invalidParameter", "webhookURL"),
]


@pytest.mark.parametrize(("changes", "code", "parameter"), WRONG)
def test_check_wrong_value_inside_is_named_by_its_path(changes, code, parameter) -> None:
    problem = check({**image(), **changes})
    assert problem is not None
    assert (problem.code, problem.parameter) == (code, parameter)


@pytest.mark.parametrize(
    "changes",
    [
        {"lora": []},
        {"lora": [{"model": "civitai:1@2", "weight": -4, "newer": 1}]},
        {"outpaint": {"top": 128, "blur": 0}},
        {"advancedFeatures": {"watermark": {"text": "mine", "opacity": 0.5}, "layerDiffuse": True}},
        {"inputs": {"referenceImages": ["x"] * 14}},
        {"providerSettings": {"bfl": {"safetyTolerance": 2}}},
        {"webhookURL": "https://example.com/hook?token=1", "uploadEndpoint": "http://127.0.0.1:1/x"},
    ],
)
def test_check_known_and_newer_values_inside_pass(changes) -> None:
    assert check({**image(), **changes}) is None


def test_check_settings_of_another_provider_are_refused() -> None:
    task = {**image(), "model": "openai:gpt-image@2", "providerSettings": {"bfl": {}}}
    problem = check(task)
    assert problem is not None
    assert problem.code == "mismatchProviderSettingsProvider"
    assert check({**task, "providerSettings": {"openai": {"quality": "high"}}}) is None


def test_check_text_settings_state_their_range() -> None:
    task = text("hi", settings={"maxTokens": 0})
    problem = check(task)
    assert problem is not None
    assert problem.parameter == "settings.maxTokens"
    assert "at least 1" in problem.message


def test_schema_of_every_model_is_valid_and_has_its_response() -> None:
    models = load_models()
    for air in models.registry["models"]:
        schema = request_schema(models, air)
        assert schema is not None
        jsonschema.Draft7Validator.check_schema(schema)
        assert schema["properties"]["taskType"]["const"] == models.task_type(air)
        response = response_schema(models, str(models.task_type(air)))
        assert response is not None
        assert "taskUUID" in response["required"]
    assert request_schema(models, "nobody:1@1") is None


@pytest.mark.parametrize(("changes", "code", "parameter"), WRONG)
def test_schema_refuses_what_the_check_refuses_and_takes_what_it_takes(changes, code, parameter) -> None:
    schema = request_schema(load_models(), "runware:101@1")
    assert schema is not None
    jsonschema.validate(image(), schema)
    if code in {"invalidParameter", "arrayTooLarge"} and parameter not in {"webhookURL", "uploadEndpoint"}:
        with pytest.raises(jsonschema.ValidationError) as caught:
            jsonschema.validate({**image(), **changes}, schema)
        assert ".".join(map(str, caught.value.absolute_path)) == parameter


def test_schema_names_the_deliveries_of_a_model() -> None:
    schema = request_schema(load_models(), "google:3@3")
    assert schema is not None
    assert schema["properties"]["deliveryMethod"] == {"oneOf": [{"const": "async"}]}
    task = {"taskType": "videoInference", "taskUUID": make_id(), "model": "google:3@3", "deliveryMethod": "sync"}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**task, "positivePrompt": "waves"}, schema)
