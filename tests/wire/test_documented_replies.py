"""The replies that the service's documentation shows: nothing in them is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runware_flow.results import RESULT_TYPES
from runware_flow.types import Result
from runware_flow.wire.frames import decode_frame, decode_result

CASES = json.loads((Path(__file__).parents[1] / "cases" / "documented-replies.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['page']}:{case['line']}")
def test_documented_reply_is_decoded_with_nothing_lost(case):
    reply = case["reply"]
    frame = decode_frame(json.dumps(reply).encode())
    listed = reply.get("data", [])
    items = listed if isinstance(listed, list) else [listed]
    assert len(frame.items) == len(items)
    for item, plain in zip(frame.items, items, strict=True):
        result = decode_result(item, RESULT_TYPES.get(item.task_type or "", Result))
        assert result.raw == plain
        assert item.task_id == plain.get("taskUUID")
        for name, value in plain.items():
            field = {
                wire: own for own, wire in zip(result.__struct_fields__, result.__struct_encode_fields__, strict=True)
            }
            if name in field:
                assert getattr(result, field[name]) == value, name
    errors = reply.get("errors", [])
    for error, plain in zip(frame.errors, errors, strict=True):
        assert json.loads(error.raw) == plain
        assert (error.code, error.message) == (plain["code"], plain["message"])
        assert (error.task_id, error.task_type) == (plain.get("taskUUID"), plain.get("taskType"))
        assert (error.parameter, error.documentation) == (plain.get("parameter"), plain.get("documentation"))


def test_there_are_as_many_cases_as_the_documentation_shows():
    assert len(CASES) == 25
    assert sum(len(case["reply"].get("errors", [])) for case in CASES) == 2


def test_seeds_of_63_bits_are_exact():
    body = b'{"data":[{"taskType":"imageInference","taskUUID":"1","imageUUID":"2","seed":9202427981074766178}]}'
    result = decode_result(decode_frame(body).items[0], RESULT_TYPES["imageInference"])
    assert result.seed == result.raw["seed"] == 9202427981074766178


@pytest.mark.parametrize(
    ("task_type", "kind"), [("upscale", "image"), ("removeBackground", "image"), ("upscale", "video")]
)
@pytest.mark.parametrize("names", [("mediaUUID", "mediaURL"), None])
def test_media_fields_of_either_name_are_the_medium(task_type, kind, names):
    uuid_name, url_name = names or (f"{kind}UUID", f"{kind}URL")
    item = {"taskType": task_type, "taskUUID": "1", uuid_name: "2", url_name: "https://im.runware.ai/a.jpg"}
    result = decode_result(decode_frame(json.dumps({"data": [item]}).encode()).items[0], RESULT_TYPES[task_type])
    assert (result.url, result.uuid) == ("https://im.runware.ai/a.jpg", "2")
