"""Results: a surprising field costs that field alone."""

from __future__ import annotations

import json
import pickle
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runware_flow.results import (
    RESULT_TYPES,
    ImageMaskingResult,
    ImageResult,
    ModelUploadResult,
    ThreeDResult,
    UpscaleResult,
)
from runware_flow.types import MediaResult, Result
from runware_flow.wire.frames import Item, decode_frame, decode_result


def result(kind: type[Result], **members: Any) -> Any:
    (item,) = decode_frame(json.dumps({"data": [{"taskUUID": "U1", **members}]})).items
    return decode_result(item, kind)


def test_result_has_fields_by_python_names_and_raw_by_wire_names() -> None:
    sent = {"taskType": "imageInference", "imageUUID": "I1", "imageURL": "https://i", "NSFWContent": False, "new": [1]}
    image = result(ImageResult, **sent, seed=5, cost=0.0013)
    assert (image.task_type, image.task_uuid, image.image_uuid, image.url) == (
        "imageInference",
        "U1",
        "I1",
        "https://i",
    )
    assert (image.nsfw_content, image.seed, image.cost) == (False, 5, 0.0013)
    assert image.raw == {"taskUUID": "U1", **sent, "seed": 5, "cost": 0.0013}


@pytest.mark.parametrize(
    ("sent", "read"), [(2**31, 2**31), (2**70, 2**70), (5.0, 5), ("5", 5), (5.5, None), ("x", None), ([], None)]
)
def test_result_number_of_any_form_is_read_or_left_to_raw(sent: object, read: int | None) -> None:
    image = result(ImageResult, seed=sent, imageUUID="I1")
    assert image.seed == read
    assert image.image_uuid == "I1"
    assert image.raw["seed"] == sent


def test_result_with_every_field_of_another_type_keeps_raw() -> None:
    sent = {"imageUUID": 1, "imageURL": {}, "seed": {}, "NSFWContent": [], "cost": "much", "taskType": 3}
    image = result(ImageResult, **sent)
    assert (image.image_uuid, image.image_url, image.seed, image.cost, image.task_type) == (None, None, None, None, "")
    assert image.raw == {"taskUUID": "U1", **sent}


def test_result_with_unreadable_member_keeps_the_others() -> None:
    (item,) = decode_frame(b'{"data":[{"taskUUID":"U1","imageUUID":"I1","x":"\xff","y":1e999,"seed":NaN}]}').items
    image = decode_result(item, ImageResult)
    assert (image.image_uuid, image.seed) == ("I1", None)
    assert image.raw["imageUUID"] == "I1"


def test_result_of_no_object_is_empty() -> None:
    assert decode_result(Item(raw=b"5"), ImageResult) == ImageResult()


def test_result_survives_pickling_with_raw() -> None:
    image = result(ImageResult, imageUUID="I1", new=1)
    again = pickle.loads(pickle.dumps(image))
    assert again == image
    assert again.raw == image.raw


def test_result_media_of_each_kind_have_url_and_reference() -> None:
    assert result(UpscaleResult, videoURL="https://v").url == "https://v"
    assert result(ImageMaskingResult, maskImageURL="https://m").url == "https://m"
    assert result(ThreeDResult, outputs={"files": [{"uuid": "F", "url": "https://f"}]}).url == "https://f"
    assert result(ImageResult, imageUUID="I1").reference == "I1"
    assert result(ImageResult, imageBase64Data="aGk=").reference == "aGk="


@pytest.mark.parametrize("outputs", [None, {}, {"files": []}, {"files": {}}, {"files": [5]}, {"files": [{"url": 5}]}])
def test_result_with_odd_outputs_has_no_medium(outputs: object) -> None:
    with pytest.raises(ValueError, match="no medium"):
        _ = result(ThreeDResult, outputs=outputs).reference


def test_result_of_a_model_upload_shows_its_status() -> None:
    upload = result(ModelUploadResult, taskType="modelUpload", status="ready", air="a:1@1", message="done")
    assert (upload.status, upload.air) == ("ready", "a:1@1")


@pytest.mark.parametrize("kind", list(dict.fromkeys(RESULT_TYPES.values())))
def test_result_of_each_type_is_frozen_and_needs_nothing(kind: type[Result]) -> None:
    empty = kind()
    assert all(getattr(empty, name) in (None, "") for name in kind.__struct_fields__)
    with pytest.raises(AttributeError):
        empty.cost = 1.0  # type: ignore[misc]
    if issubclass(kind, MediaResult) and kind.media_kinds:
        assert all(f"{prefix}_url" in kind.__struct_fields__ for prefix in kind.media_kinds)


odd_values = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers()) | st.just({})


@given(st.sampled_from(sorted(RESULT_TYPES)), st.data())
def test_result_of_any_members_is_decoded(task_type: str, data: st.DataObject) -> None:
    kind = RESULT_TYPES[task_type]
    members = data.draw(st.dictionaries(st.sampled_from(kind.__struct_encode_fields__), odd_values))
    (item,) = decode_frame(json.dumps({"data": [members]})).items
    decoded = decode_result(item, kind)
    for name, wire_name in zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True):
        value = getattr(decoded, name)
        assert value in (None, "") or wire_name in members
    assert decoded.raw.keys() >= {name for name, value in members.items() if value is not None}
    msgspec.json.encode(decoded)
