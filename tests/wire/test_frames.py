"""Frames: every shape that the service sends, and what no service should send."""

from __future__ import annotations

import contextlib
import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runware_flow.errors import ProtocolError
from runware_flow.results import CaptionResult
from runware_flow.wire.frames import Frame, Item, decode_frame, decode_result, encode_frame, pack, read_member


def frame(**members: Any) -> Frame:
    return decode_frame(json.dumps(members))


def item(**members: Any) -> Item:
    decoded = frame(data=[{"taskType": "imageInference", "taskUUID": "U1", **members}])
    assert decoded.errors == ()
    return decoded.items[0]


def test_frame_acknowledgement_is_no_result() -> None:
    ack = item()
    assert (ack.task_id, ack.task_type, ack.status, ack.is_result, ack.phase) == (
        "U1",
        "imageInference",
        None,
        False,
        "accepted",
    )


def test_frame_sync_item_without_status_is_result_with_slot() -> None:
    done = item(imageUUID="I1", imageURL="https://x", seed=5)
    assert (done.is_result, done.slot, done.phase) == (True, "I1", "done")
    assert json.loads(done.raw)["seed"] == 5


@pytest.mark.parametrize(
    "payload", [{"text": "x"}, {"structuredData": {}}, {"outputs": {"files": []}}, {"results": []}]
)
def test_frame_sync_item_without_own_id_is_result_without_slot(payload: dict[str, Any]) -> None:
    done = item(**payload)
    assert done.is_result
    assert done.slot is None


@pytest.mark.parametrize(
    "empty", [{"text": None}, {"cost": 0.1}, {"progress": 3}, {"deliveryMethod": "async"}, {"error": None}]
)
def test_frame_item_with_nothing_but_ids_is_no_result(empty: dict[str, Any]) -> None:
    assert not item(**empty).is_result


@pytest.mark.parametrize(
    ("status", "phase"),
    [
        ("processing", "pending"),
        ("queued", "pending"),
        ("success", "done"),
        ("error", "failed"),
        ("napping", "unknown"),
    ],
)
def test_frame_status_decides_phase(status: str, phase: str) -> None:
    told = item(status=status, imageUUID="I1")
    assert (told.status, told.phase, told.is_result) == (status, phase, phase == "done")


@pytest.mark.parametrize(("status", "phase"), [("validated", "step"), ("stored", "step"), ("ready", "done")])
def test_frame_upload_status_is_a_step_or_a_result(status: str, phase: str) -> None:
    told = item(taskType="modelUpload", status=status, message="so", air="a:1@1")
    assert (told.phase, told.is_result) == (phase, phase == "done")


def test_frame_upload_failed_carries_the_message() -> None:
    told = item(taskType="modelUpload", status="failed", message="no such file")
    assert told.phase == "failed"
    assert told.error is not None
    assert told.error.message == "no such file"


@pytest.mark.parametrize(
    ("sent", "read"), [(47, 47.0), (4.5, 4.5), ("47", 47.0), ("soon", None), (True, None), ([], None), ("nan", None)]
)
def test_frame_progress_of_any_form_is_a_number_or_nothing(sent: object, read: float | None) -> None:
    assert item(status="processing", progress=sent).progress == read


def test_frame_result_index_is_the_slot() -> None:
    assert item(status="success", resultIndex=0, imageUUID="I1").slot == "0"


def test_frame_partly_done_poll_keeps_order_and_error_beside_data() -> None:
    decoded = frame(
        data=[
            {"taskType": "imageInference", "taskUUID": "U1", "status": "success", "imageUUID": "I2"},
            {"taskType": "imageInference", "taskUUID": "U1", "status": "processing"},
        ],
        errors=[{"code": "timeoutProvider", "status": "error", "message": "late", "taskUUID": "U1"}],
    )
    assert [one.phase for one in decoded.items] == ["done", "pending"]
    assert [(error.code, error.message, error.task_id) for error in decoded.errors] == [
        ("timeoutProvider", "late", "U1")
    ]


def test_frame_item_error_is_the_items_own() -> None:
    told = item(status="error", error={"code": "promptBlocked", "message": "no", "parameter": ["width", "height"]})
    assert told.error is not None
    assert (told.error.code, told.error.message, told.error.task_id) == ("promptBlocked", "no", "U1")
    assert told.error.parameter == ("width", "height")
    assert not told.is_result


def test_frame_item_flat_error_is_read() -> None:
    told = item(status="error", code="taskFailed", message="broken")
    assert told.error is not None
    assert (told.error.code, told.error.message, told.error.task_type) == ("taskFailed", "broken", "imageInference")


@pytest.mark.parametrize(
    ("members", "code", "message", "task_id"),
    [
        ({"errors": [{"code": "c", "message": "m"}]}, "c", "m", None),
        ({"errors": {"code": "c", "message": "m", "taskUUID": "U"}}, "c", "m", "U"),
        ({"error": {"code": "c", "message": "m"}, "taskUUID": "U", "taskType": "t"}, "c", "m", "U"),
        ({"error": [{"code": "c", "message": "m"}]}, "c", "m", None),
        ({"error": True, "errorId": 19, "errorMessage": "m", "errorMessageContentId": 1212}, "19", "m", None),
        ({"error": "m"}, None, "m", None),
        ({"errors": ["m"]}, None, "m", None),
    ],
)
def test_frame_error_of_any_shape_is_read(
    members: dict[str, Any], code: str | None, message: str, task_id: str | None
) -> None:
    (error,) = frame(**members).errors
    assert (error.code, error.message, error.task_id) == (code, message, task_id)


@pytest.mark.parametrize("members", [{}, {"data": []}, {"data": None}, {"data": [], "errors": []}, {"error": None}])
def test_frame_without_anything_is_empty(members: dict[str, Any]) -> None:
    assert frame(**members) == Frame()


def test_frame_errors_empty_beside_data_is_no_error() -> None:
    assert frame(data=[{"taskUUID": "U1", "text": "x"}], errors=[]).items[0].is_result


def test_frame_data_as_bare_object_is_one_item() -> None:
    (only,) = frame(data={"taskType": "imageUpload", "taskUUID": "U1", "imageUUID": "I"}).items
    assert (only.task_id, only.slot) == ("U1", "I")


def test_frame_flat_item_is_one_item() -> None:
    (only,) = frame(taskType="imageInference", taskUUID="U1", imageUUID="I").items
    assert (only.task_id, only.slot) == ("U1", "I")


@pytest.mark.parametrize("task_id", [5, None, "", [], {}])
def test_frame_item_with_unusable_id_is_kept(task_id: object) -> None:
    kept = item(taskUUID=task_id, text="paid for")
    assert kept.task_id is None
    assert read_member(kept, "text") == "paid for"


def test_frame_status_of_other_type_is_unknown() -> None:
    told = item(status={"so": 1}, imageUUID="I")
    assert (told.phase, told.is_result) == ("unknown", False)


BAD = [
    b'{"taskUUID":"B","seed":NaN}',
    b'{"taskUUID":"B","seed":-Infinity}',
    b'{"taskUUID":"B","seed":1e999}',
    b'{"taskUUID":"B","seed":' + b"9" * 6000 + b"}",
    b'{"taskUUID":"B","text":"\xff\xfe"}',
    b'{"taskUUID":"B","\xff":1}',
    b'{"taskUUID":"B","text":"\\ud800"}',
    b'{"taskUUID":"B","deep":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    b'{"taskUUID":"B","deep":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}",
    b'{"taskUUID":"B","taskUUID":7}',
    b'{"taskUUID":{"a":[1,"]}"]},"text":"a \\" ] }"}',
    b'"text"',
    b"7",
    b"[]",
    b"[[[1]]]",
    b"{}",
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad[:30].decode("latin-1"))
def test_frame_bad_item_spares_its_neighbours(bad: bytes) -> None:
    good = b'{"taskType":"caption","taskUUID":"%b","text":"fine"}'
    data = b'{"data":[' + b",".join([good % b"G1", bad, good % b"G2"]) + b'],"errors":[{"code":"c","taskUUID":"E"}]}'
    decoded = decode_frame(data)
    assert [one.task_id for one in decoded.items if one.task_id not in (None, "B")] == ["G1", "G2"]
    assert [one.is_result for one in decoded.items if one.task_type] == [True, True]
    assert [error.task_id for error in decoded.errors] == ["E"]
    assert len(decoded.items) == 3
    assert isinstance(decode_result(decoded.items[1], CaptionResult).raw, dict)


@pytest.mark.parametrize("bad", [one for one in BAD if b'"B","' in one and b'B","taskUUID' not in one])
def test_frame_item_with_one_bad_member_keeps_its_id(bad: bytes) -> None:
    assert decode_frame(b'{"data":[' + bad + b"]}").items[0].task_id == "B"


def test_frame_error_entry_with_bad_member_is_read() -> None:
    (error,) = decode_frame(b'{"errors":[{"code":"c","taskUUID":"U","value":NaN}]}').errors
    assert (error.code, error.task_id) == ("c", "U")


def test_frame_item_holds_no_more_than_its_bytes() -> None:
    one = b'{"taskUUID":"U1","text":"x"}'
    data = b'{"data":[' + one + b',{"taskUUID":"U2","text":"' + b"y" * 100_000 + b'"}]}'
    assert decode_frame(data).items[0].raw == one


def test_frame_text_and_bytes_are_alike() -> None:
    text = '{"data":[{"taskUUID":"U1","text":"caf\u00e9"}]}'
    assert decode_frame(text) == decode_frame(text.encode())


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"7", b"<html>", b'{"data":[', b'{"data":[]', "\ud800", b"\xff"])
def test_frame_that_is_no_object_is_a_protocol_error(data: bytes | str) -> None:
    with pytest.raises(ProtocolError, match="not a frame"):
        decode_frame(data)


def is_sound(decoded: Frame) -> bool:
    return all(one.phase and isinstance(decode_result(one, CaptionResult).raw, dict) for one in decoded.items)


@given(st.binary() | st.text())
def test_frame_any_bytes_decode_or_are_a_protocol_error(data: bytes | str) -> None:
    with contextlib.suppress(ProtocolError):
        assert is_sound(decode_frame(data))


names = st.sampled_from(
    ["data", "errors", "error", "taskUUID", "taskType", "status", "progress", "code", "message", "parameter", "text"]
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names | st.text(max_size=4), inner, max_size=5),
    max_leaves=20,
)


@given(st.dictionaries(names, json_values, max_size=6))
@example({"data": [math.inf, {"progress": math.nan}]})
def test_frame_any_json_object_decodes(members: dict[str, Any]) -> None:
    """NaN and the infinities, which Python writes and JSON does not know, are read as null."""
    decoded = decode_frame(json.dumps(members))
    data = members.get("data")
    if isinstance(data, list):
        nulls = [one for one in data if one is None or (isinstance(one, float) and not math.isfinite(one))]
        assert len(decoded.items) == len(data) - len(nulls)


@given(st.dictionaries(names, json_values, max_size=6), st.integers(0, 2))
def test_frame_any_item_spares_its_neighbours(odd: dict[str, Any], place: int) -> None:
    items: list[dict[str, Any]] = [{"taskUUID": "G1", "text": "x"}, {"taskUUID": "G2", "imageUUID": "I"}]
    items.insert(place, odd)
    decoded = decode_frame(json.dumps({"data": items}))
    good = [one for index, one in enumerate(decoded.items) if index != place]
    assert [(one.task_id, one.is_result) for one in good] == [("G1", True), ("G2", True)]


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "taskUUID": st.sampled_from(["a", "", None, 1]),
                "status": st.sampled_from(["processing", "success", "x"]),
            },
            optional={"error": json_values, "imageUUID": json_values, "resultIndex": json_values, "cost": json_values},
        ),
        max_size=4,
    )
)
def test_frame_items_read_together_are_what_each_is_alone(items: list[dict[str, Any]]) -> None:
    alone = [one for given in items for one in decode_frame(json.dumps({"data": [given]})).items]
    assert list(decode_frame(json.dumps({"data": items})).items) == alone


@given(st.lists(st.dictionaries(st.text(max_size=5), json_values, max_size=3)), st.integers(0, 200))
def test_frame_cut_anywhere_decodes_or_is_a_protocol_error(items: list[Any], cut: int) -> None:
    data = json.dumps({"data": items, "errors": []}).encode()
    with contextlib.suppress(ProtocolError):
        assert is_sound(decode_frame(data[: max(0, len(data) - cut)]))


def test_encode_frame_joins_in_order() -> None:
    assert encode_frame([b'{"a":1}', b'{"b":2}']) == b'[{"a":1},{"b":2}]'
    assert encode_frame([]) == b"[]"


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 8), st.integers(5, 120))
def test_pack_covers_everything_within_the_caps(sizes: list[int], max_tasks: int, max_bytes: int) -> None:
    slices = pack(sizes, max_tasks=max_tasks, max_bytes=max_bytes)
    assert [size for part in slices for size in sizes[part]] == sizes
    for part in slices:
        bodies = [b"x" * size for size in sizes[part]]
        assert 1 <= len(bodies) <= max_tasks
        assert len(bodies) == 1 or len(encode_frame(bodies)) <= max_bytes


def test_pack_joins_as_much_as_fits() -> None:
    assert pack([10, 10, 10], max_tasks=64, max_bytes=23) == [slice(0, 2), slice(2, 3)]
    assert pack([], max_tasks=1, max_bytes=1) == []
