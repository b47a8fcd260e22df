"""The requests that the service's documentation shows (October 2025) are accepted."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest
from emulator_tasks import make_service

from runware_flow.emulator.service.models import load_models

CASES = json.loads((Path(__file__).parent.parent / "cases" / "documented-requests.json").read_text(encoding="utf-8"))
NOT_WHOLE = {
    ("getting-started/introduction.md", 128): "missingModel",  # the page shows where includeCost stands, and no more
}
"""What the emulator refuses, as the service would: the page shows a part of a request."""


def test_there_are_as_many_cases_as_the_documentation_shows() -> None:
    assert len(CASES) == 152


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['page']}:{case['line']}")
def test_documented_request_is_accepted(case) -> None:
    service = make_service()
    task = {"taskUUID": str(uuid.uuid4()), **case["request"]}
    errors = service.receive([task], 0.0).frame.errors
    expected = NOT_WHOLE.get((case["page"], case["line"]))
    # the UUIDs in examples are those of other accounts' uploads
    codes = [error["code"] for error in errors if error["code"] != "mediaNotFound"]
    assert codes == ([] if expected is None else [expected])


@pytest.mark.parametrize(
    "task",
    [
        {"taskType": "upscale", "inputs": {"image": "https://example.com/photo.jpg"}, "upscaleFactor": 2},
        {
            "taskType": "photoMaker",
            "model": "civitai:139562@344487",
            "positivePrompt": "A red kite",
            "inputImages": ["https://example.com/photo.jpg"],
            "width": 1024,
            "height": 1024,
        },
        {
            "taskType": "imageInference",
            "model": "runware:101@1",
            "positivePrompt": "A red kite",
            "seed": 9_202_427_981_074_766_178,
            "width": 512,
            "height": 512,
        },
    ],
    ids=lambda task: task["taskType"],
)
def test_requests_seen_elsewhere_are_accepted(task) -> None:
    service = make_service()
    assert service.receive([{"taskUUID": str(uuid.uuid4()), **task}], 0.0).frame.errors == []


def test_a_photo_maker_task_is_answered_as_such() -> None:
    service = make_service()
    task = {
        "taskType": "photoMaker",
        "taskUUID": str(uuid.uuid4()),
        "model": "civitai:139562@344487",
        "positivePrompt": "A red kite",
        "deliveryMethod": "async",
    }
    assert service.receive([task], 0.0).frame.data[0]["taskType"] == "photoMaker"


def test_schemas_name_no_draft_that_other_validators_lack() -> None:
    from runware_flow.emulator.http.schemas import request_schema

    models = load_models()
    schemas = [request_schema(models, air) for air in models.registry["models"]]
    assert len(schemas) == 363
    assert all(schema is not None and "$schema" not in schema for schema in schemas)
