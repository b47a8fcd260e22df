"""HTTP replies: whatever comes back is a frame, and says what went wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runware_flow.wire.frames import UNREADABLE, Frame, decode_reply
from runware_flow.wire.problems import to_error


def reply(http_status: int, /, **members: Any) -> Frame:
    return decode_reply(http_status, json.dumps(members).encode())


def test_reply_of_success_is_the_frame() -> None:
    decoded = reply(200, data=[{"taskUUID": "U1", "text": "x"}])
    assert decoded.items[0].is_result
    assert decoded.errors == ()


def test_reply_200_with_errors_keeps_them_without_status() -> None:
    (error,) = reply(200, data=[], errors=[{"code": "c", "message": "m", "taskUUID": "U1"}]).errors
    assert (error.task_id, error.status_code) == ("U1", None)


def test_reply_4xx_with_errors_stamps_the_status() -> None:
    decoded = reply(400, data=[], errors=[{"code": "conflictTaskUUID", "message": "m", "taskUUID": "U1"}])
    assert [(error.code, error.task_id, error.status_code) for error in decoded.errors] == [
        ("conflictTaskUUID", "U1", 400)
    ]


def test_reply_4xx_of_a_partly_accepted_batch_keeps_the_items() -> None:
    decoded = reply(400, data=[{"taskType": "caption", "taskUUID": "U1"}], errors=[{"code": "c", "taskUUID": "U2"}])
    assert [item.task_id for item in decoded.items] == ["U1"]
    assert [error.task_id for error in decoded.errors] == ["U2"]


def test_reply_5xx_with_item_error_stamps_it_and_adds_none() -> None:
    decoded = reply(500, data=[{"taskUUID": "U1", "status": "error", "error": {"code": "c", "message": "m"}}])
    assert decoded.errors == ()
    assert decoded.items[0].error is not None
    assert decoded.items[0].error.status_code == 500


@pytest.mark.parametrize(
    ("status", "body", "code", "stable", "says"),
    [
        (401, b"", None, "auth", "empty body"),
        (502, b"<html>Bad gateway</html>", None, "serverError", "Bad gateway"),
        (503, b"\xff\xfe", None, "serverError", "503"),
        (504, b"[]", None, "timeout", "504"),
        (200, b"", UNREADABLE, "serverError", "empty body"),
        (200, b"hello", UNREADABLE, "serverError", "hello"),
        (403, b'{"message":"Forbidden"}', None, "auth", "Forbidden"),
        (429, b'{"data":[]}', None, "rateLimit", "HTTP 429"),
        (402, b"{}", None, "quota", "HTTP 402"),
    ],
)
def test_reply_without_an_error_of_the_service_gets_one(
    status: int, body: bytes, code: str | None, stable: str, says: str
) -> None:
    decoded = decode_reply(status, body)
    (told,) = decoded.errors
    assert (told.code, told.task_id, told.status_code) == (code, None, status)
    error = to_error(told)
    assert (error.code, error.status_code) == (stable, status)
    assert says in error.message


def test_reply_of_a_long_page_is_cut_in_the_message_and_whole_in_raw() -> None:
    (told,) = decode_reply(500, b"<p>" + b"x" * 10_000).errors
    assert len(told.message) < 300
    assert len(told.raw) > 10_000


def test_reply_problem_document_becomes_one_error() -> None:
    decoded = reply(
        422,
        type="https://docs/errors#invalid-payload",
        title="Invalid payload",
        status=422,
        detail="prompt is missing",
        errors=[{"detail": "required", "pointer": "/payload/prompt"}],
        requestId="R1",
    )
    (told,) = decoded.errors
    assert told.code == "invalidPayload"
    assert told.message == "Invalid payload; prompt is missing; /payload/prompt required"
    error = to_error(told)
    assert (error.problem_type, error.request_id) == ("https://docs/errors#invalid-payload", "R1")


def test_reply_environment_paused_is_quota() -> None:
    (told,) = reply(429, type="https://x#environment-paused", title="Paused").errors
    assert to_error(told).code == "quota"


@given(st.integers(100, 599), st.binary())
def test_reply_of_any_bytes_is_a_frame(status: int, body: bytes) -> None:
    decoded = decode_reply(status, body)
    if status >= 400:
        assert decoded.errors or any(item.error for item in decoded.items)


json_members = st.dictionaries(
    st.sampled_from(["data", "errors", "error", "title", "detail", "type", "message", "taskUUID"]),
    st.recursive(st.none() | st.text() | st.integers(), lambda one: st.lists(one) | st.dictionaries(st.text(), one)),
)


@given(st.integers(100, 599), json_members)
def test_reply_of_any_object_is_a_frame(status: int, members: dict[str, Any]) -> None:
    decoded = reply(status, **members)
    if status >= 400:
        assert decoded.errors or any(item.error for item in decoded.items)


def test_error_carries_everything_that_is_known() -> None:
    (told,) = reply(
        429,
        errors=[
            {
                "code": "rateLimitExceeded",
                "message": "slow down",
                "parameter": ["width", "height"],
                "documentation": "https://docs",
                "taskType": "caption",
                "taskUUID": "U1",
            }
        ],
    ).errors
    error = to_error(told, task_type="ignored", task_uuid="ignored", retry_after=2.5)
    assert (error.code, error.raw_code, error.message, error.retryable) == (
        "rateLimit",
        "rateLimitExceeded",
        "slow down",
        True,
    )
    assert (error.task_type, error.task_uuid, error.documentation) == ("caption", "U1", "https://docs")
    assert (error.parameter, error.status_code, error.retry_after) == (("width", "height"), 429, 2.5)


def test_error_without_ids_takes_those_of_the_caller() -> None:
    (told,) = reply(200, errors=[{"code": "c"}]).errors
    error = to_error(told, task_type="caption", task_uuid="U1")
    assert (error.task_type, error.task_uuid) == ("caption", "U1")
    assert error.message == "the service refused caption with code c"
