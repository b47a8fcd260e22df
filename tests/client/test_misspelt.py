"""Names that are a slip for a known one are found before a request is sent; those that are like none are sent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runware_flow import RunwareError, catalog
from runware_flow.client import request
from runware_flow.client.request import check_names, prepare
from runware_flow.tasks import ImageInference

DRAW = {"model": "runware:400@1", "positivePrompt": "a kite"}


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"positive_prompt": "a kite"}, "positivePrompt"),
        ({"positivPrompt": "a kite"}, "positivePrompt"),
        ({"cfgScale": 5}, "CFGScale"),
        ({"number_results": 2}, "numberResults"),
        ({"inputs": {"referenceImage_s": ["u"]}}, "inputs.referenceImages"),
        ({"inputs": {"seed_image": "u"}}, "inputs.seedImage"),
        ({"inputs": {"seedImge": "u"}}, "inputs.seedImage"),
    ],
)
def test_misspelt_name_is_an_error_that_names_the_right_one(given, meant):
    with pytest.raises(RunwareError, match=f"is it {meant!r}") as caught:
        prepare({**DRAW, **given})
    assert caught.value.code == "validation"


def test_misspelt_input_of_a_struct_is_found_too():
    with pytest.raises(RunwareError, match="seedImage"):
        prepare(ImageInference(model="m", positive_prompt="a kite", inputs={"seedimage": "u"}))


def test_names_are_compared_letter_by_letter_only_if_they_are_new(monkeypatch):
    compared = []
    monkeypatch.setattr(request, "get_close_matches", lambda name, *_: compared.append(name) or [])
    for _ in range(3):
        prepare({"taskType": "imageInference", "deliveryMethod": "sync", **DRAW, "aThingOfTomorrow": 1})
    assert compared == ["aThingOfTomorrow"]


def test_name_that_is_like_none_is_sent():
    prepared = prepare({**DRAW, "brandNewThing": 1, "inputs": {"hologram": "u"}})
    assert prepared.wire["brandNewThing"] == 1


def test_no_name_of_the_catalog_is_taken_for_a_slip():
    for task_type, parameters in catalog.limits().items():
        if task_type.startswith("_") or "model" not in parameters:
            continue
        inputs = dict.fromkeys(catalog.known_inputs(task_type), "u")
        assert prepare({"taskType": task_type, "model": "m:1@1", "inputs": inputs}).wire["inputs"] == inputs


CASES = json.loads((Path(__file__).parents[1] / "cases" / "documented-requests.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['page']}:{case['line']}")
def test_no_name_of_the_documentation_is_taken_for_a_slip(case):
    wire = {name: value for name, value in case["request"].items() if name != "taskUUID"}
    check_names(
        wire, wire.get("taskType", "imageInference"), catalog.known_inputs(wire.get("taskType", "imageInference"))
    )


@pytest.mark.parametrize("name", ["seedImages", "referenceImage", "images"])
def test_one_and_many_of_a_thing_are_no_slips(name):
    check_names({"inputs": {name: "u"}}, "imageInference", catalog.known_inputs("imageInference"))
