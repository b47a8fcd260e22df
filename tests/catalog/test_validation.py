"""Requests against the schema of their model: what is found, and in which words."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from typing import Any

import pytest

from runware_flow.catalog.validation import SchemaUnusable, Validator, validation_error

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "model": {"const": "a:1@1"},
        "width": {"type": "integer", "minimum": 128, "multipleOf": 64},
        "inputs": {
            "type": "object",
            "properties": {"images": {"type": "array", "items": {"type": "string", "maxLength": 8}}},
            "required": ["images"],
            "additionalProperties": False,
        },
    },
    "required": ["model", "width"],
    "additionalProperties": False,
}
GOOD: dict[str, Any] = {"model": "a:1@1", "width": 512}


def found(**changes: Any) -> list[tuple[str | None, str]]:
    wire = {name: value for name, value in {**GOOD, **changes}.items() if value is not None}
    return [(one["parameter"], one["validator"]) for one in Validator(SCHEMA).check(wire)]


def test_validation_of_a_right_request_finds_nothing() -> None:
    assert found() == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"width": -1}, [("width", "minimum"), ("width", "multipleOf")]),
        ({"width": None}, [("width", "required")]),
        ({"colour": "red"}, [("colour", "additionalProperties")]),
        ({"inputs": {}}, [("inputs.images", "required")]),
        ({"inputs": {"images": ["short", "far too long"]}}, [("inputs.images[1]", "maxLength")]),
    ],
)
def test_validation_names_the_parameter_by_its_wire_name(changes: Any, expected: Any) -> None:
    assert found(**changes) == expected


def test_validation_error_is_plain_data_and_says_it_in_one_sentence() -> None:
    problems = Validator(SCHEMA).check({**GOOD, "width": -1, "colour": 1})
    error = validation_error(problems, task_type="imageInference", task_uuid="u", model="a:1@1")
    assert str(error).startswith("this imageInference with a:1@1 does not fit the schema of its model: ")
    assert "(and 2 more" in str(error)
    assert (error.code, error.parameter, error.task_uuid) == ("validation", ("colour", "width"), "u")
    assert json.loads(json.dumps(error.validation_errors))[0]["path"] == []
    assert pickle.loads(pickle.dumps(error)).validation_errors == error.validation_errors


def test_validation_does_not_repeat_a_whole_picture() -> None:
    problems = Validator(SCHEMA).check({**GOOD, "inputs": {"images": ["data:image/png;base64," + "A" * 100_000]}})
    assert len(problems[0]["message"]) < 200
    assert problems[0]["message"].endswith("is too long")


@pytest.mark.parametrize("schema", [{"type": 7}, {"properties": []}])
def test_validation_schema_of_a_wrong_form_is_unusable(schema: Any) -> None:
    with pytest.raises(SchemaUnusable, match="no JSON Schema"):
        Validator(schema)


def test_validation_schema_that_leads_outside_is_unusable_and_fetches_nothing() -> None:
    with pytest.raises(SchemaUnusable, match="leads outside"):
        Validator({"$ref": "https://example.invalid/other.json"}).check(GOOD)


def test_validation_import_costs_no_jsonschema() -> None:
    program = (
        "import sys, runware_flow.catalog.validation, runware_flow.client.client\nprint('jsonschema' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True).split() == ["False"]
