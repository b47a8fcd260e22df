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


PICTURE = "https://example.com/photo.jpg"
IMAGE = {
    "taskType": "imageInference",
    "model": "runware:101@1",
    "positivePrompt": "A red kite",
    "width": 512,
    "height": 512,
}
FILM = {"taskType": "videoInference", "positivePrompt": "A red kite", "duration": 5}
SEEN_ELSEWHERE = {
    "upscale without a model": {"taskType": "upscale", "inputs": {"image": PICTURE}, "upscaleFactor": 2},
    "puLID": {**IMAGE, "puLID": {"inputImages": [PICTURE], "idWeight": 1}},
    "pulid": {**IMAGE, "pulid": {"inputImages": [PICTURE], "idWeight": 1}},
    "startStep 0": {
        **IMAGE,
        "controlNet": [{"model": "runware:20@1", "guideImage": PICTURE, "weight": 1, "startStep": 0, "endStep": 9}],
    },
    "ipAdapters": {**IMAGE, "ipAdapters": [{"model": "runware:105@1", "guideImage": PICTURE, "weight": 0.5}]},
    "inputAudios": {
        "taskType": "videoInference",
        "model": "bytedance:5@1",
        "inputAudios": ["https://example.com/voice.mp3"],
        "frameImages": [PICTURE],
    },
    "inputMedia": {
        "taskType": "videoInference",
        "model": "pixverse:lipsync@1",
        "inputMedia": ["https://example.com/f.mp4"],
    },
    "flat frameImages": {**FILM, "model": "klingai:5@3", "frameImages": [{"inputImage": PICTURE, "frame": "first"}]},
    "film of a picture without a prompt": {
        "taskType": "videoInference",
        "model": "klingai:3@2",
        "duration": 5,
        "frameImages": [PICTURE],
    },
    "photoMaker": {
        "taskType": "photoMaker",
        "model": "civitai:139562@344487",
        "positivePrompt": "A red kite",
        "inputImages": [PICTURE],
        "style": "Photographic",
        "strength": 40,
        "width": 1024,
        "height": 1024,
    },
    "a seed of 63 bits": {**IMAGE, "seed": 9_202_427_981_074_766_178},
}


@pytest.mark.parametrize("name", SEEN_ELSEWHERE)
def test_requests_seen_elsewhere_are_accepted(name) -> None:
    service = make_service()
    task = {"taskUUID": str(uuid.uuid4()), **SEEN_ELSEWHERE[name]}
    assert service.receive([task], 0.0).frame.errors == []


def test_a_seed_of_63_bits_comes_back_exactly() -> None:
    service = make_service()
    task = {"taskUUID": str(uuid.uuid4()), "deliveryMethod": "async", **SEEN_ELSEWHERE["a seed of 63 bits"]}
    service.receive([task], 0.0)
    service.advance(2.0)
    item = service.jobs[task["taskUUID"]].slots[0].item
    assert item is not None
    assert item["seed"] == 9_202_427_981_074_766_178


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
