"""Bodies of calls to a webhook: both shapes, failures, copies, and whatever else comes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runware_flow.errors import ProtocolError
from runware_flow.results import ImageResult, TextResult
from runware_flow.wire.webhooks import NoticeFilter, read_webhook

IMAGE = {"taskType": "imageInference", "taskUUID": "t", "imageUUID": "i", "imageURL": "https://x/i.jpg", "cost": 0.1}
TEXT = {"taskType": "textInference", "taskUUID": "t", "text": "words"}
FAILURE = {"taskType": "imageInference", "taskUUID": "t", "code": "inferenceError", "message": "it broke"}


def read(**members: Any):
    return read_webhook(json.dumps(members).encode())


@pytest.mark.parametrize("body", [IMAGE, {"data": [IMAGE]}, {"data": IMAGE}, {"data": [IMAGE], "errors": []}])
def test_result_of_either_shape_is_typed(body: dict[str, Any]) -> None:
    (notice,) = read(**body)
    assert isinstance(notice.result, ImageResult)
    assert (notice.result.url, notice.result.cost, notice.error) == ("https://x/i.jpg", 0.1, None)
    assert (notice.task_uuid, notice.task_type, notice.identity) == ("t", "imageInference", "t i")


@pytest.mark.parametrize(
    "body",
    [
        FAILURE,
        {**FAILURE, "status": "error"},
        {"errors": [FAILURE]},
        {"data": [], "errors": [FAILURE]},
        {"error": FAILURE},
        {"data": [{"taskType": "imageInference", "taskUUID": "t", "status": "error", "error": FAILURE}]},
    ],
)
def test_failure_of_any_shape_is_an_error(body: dict[str, Any]) -> None:
    (notice,) = read(**body)
    assert notice.result is None
    assert notice.error is not None
    assert (notice.error.code, notice.error.raw_code, notice.error.task_uuid) == ("provider", "inferenceError", "t")


def test_several_results_and_failures_of_one_call_are_all_there() -> None:
    other = {**IMAGE, "imageUUID": "j"}
    notices = read(data=[IMAGE, other], errors=[FAILURE])
    assert [notice.error is None for notice in notices] == [True, True, False]
    assert len({notice.identity for notice in notices}) == 3


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"data": []},
        {"data": [{"taskType": "imageInference", "taskUUID": "t"}]},
        {"data": [{**IMAGE, "status": "processing"}]},
        {"data": [{"imageURL": "https://x/i.jpg"}]},
        {"errors": [{"code": "inferenceError", "message": "of nobody"}]},
    ],
)
def test_what_tells_of_no_end_of_a_task_is_left_out(body: dict[str, Any]) -> None:
    assert read(**body) == ()


@pytest.mark.parametrize("body", [b"", b"[]", b"words", b"\xff"])
def test_body_that_is_no_object_is_a_protocol_error(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        read_webhook(body)


def test_copies_are_recognised_by_task_and_result() -> None:
    seen = NoticeFilter()
    calls = [
        IMAGE,
        {**IMAGE, "status": "success", "cost": 0.2},
        {**IMAGE, "imageUUID": "j"},
        {**IMAGE, "taskUUID": "u"},
    ]
    assert [seen.is_new(notice) for body in calls for notice in read(**body)] == [True, False, True, True]


def test_copies_of_results_without_an_id_are_recognised_by_content() -> None:
    seen = NoticeFilter()
    calls = [TEXT, {**TEXT, "cost": 0.1}, {**TEXT, "text": "other words"}, FAILURE, FAILURE]
    assert [seen.is_new(notice) for body in calls for notice in read(**body)] == [True, False, True, True, False]
    assert isinstance(read(**TEXT)[0].result, TextResult)


def test_filter_is_bounded_and_forgets_on_request() -> None:
    seen = NoticeFilter(remembered=2)
    one, two, three = (read(**{**IMAGE, "imageUUID": name})[0] for name in "abc")
    assert [seen.is_new(notice) for notice in (one, two, three, one)] == [True] * 4
    assert not seen.is_new(three)
    seen.forget(three)
    assert seen.is_new(three)


@given(
    st.recursive(
        st.none() | st.text() | st.integers() | st.floats(),
        lambda one: (
            st.lists(one) | st.dictionaries(st.sampled_from([*IMAGE, *FAILURE, "data", "errors", "error"]), one)
        ),
    )
)
def test_any_json_is_notices_or_a_protocol_error(plain: Any) -> None:
    try:
        notices = read_webhook(json.dumps(plain).encode())
    except ProtocolError:
        return
    assert all(notice.task_uuid and (notice.result is None) != (notice.error is None) for notice in notices)
