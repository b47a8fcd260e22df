"""What a reply of the serverless service means, and when to poll again: no loop, no clock."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runware_flow.errors import RunwareError
from runware_flow.wire.serverless import (
    LATE_TASK_SECONDS,
    POLL_SECONDS,
    AppTask,
    check_address,
    encode_invocation,
    invoke_path,
    pause_before_request,
    read_reply,
    task_path,
)

TASK_ID = "9b0e0f60-8c46-4c42-9ef4-1c3f6c1a8a11"


def reply(status: int, plain: Any, **more: Any) -> Any:
    body = plain if isinstance(plain, bytes) else json.dumps(plain).encode()
    return read_reply(status, body, task_id=TASK_ID, **more)


def problem(status: int, kind: str = "about:blank", **more: Any) -> RunwareError:
    said = reply(status, {"type": kind, "title": "No", "status": status, "detail": "because", **more}, retry_after=7.0)
    assert isinstance(said, RunwareError)
    return said


def test_invocation_paths_and_envelope() -> None:
    assert invoke_path("my-app", None, None, waits=False) == "/v1/apps/my-app/invoke-async"
    assert invoke_path("my-app", "a/b", "dev", waits=True) == "/v1/apps/my-app/invoke-sync/a/b?environment=dev"
    assert task_path("my-app", TASK_ID, None) == f"/v1/apps/my-app/tasks/{TASK_ID}"
    assert json.loads(encode_invocation(TASK_ID, {"prompt": "hi"})) == {"taskId": TASK_ID, "payload": {"prompt": "hi"}}


@pytest.mark.parametrize(
    ("address", "parameter"),
    [
        (("My-App", None, None), "app_id"),
        (("app", None, None), "app_id"),
        (("../admin", None, None), "app_id"),
        (("my-app", "a%2Fb", None), "endpoint_path"),
        (("my-app", "a//b", None), "endpoint_path"),
        (("my-app", "/".join(["abcdefgh"] * 40), None), "endpoint_path"),
        (("my-app", None, "Dev"), "environment"),
    ],
)
def test_address_that_cannot_be_is_refused_by_name(address: Any, parameter: str) -> None:
    with pytest.raises(RunwareError) as caught:
        check_address(*address)
    assert (caught.value.code, caught.value.parameter) == ("validation", parameter)


@pytest.mark.parametrize("address", [("my-app", None, None), ("my-app", "v1/run-it", "dev.2"), ("my-app", "", "dev")])
def test_address_that_is_right_passes(address: Any) -> None:
    check_address(*address)


@pytest.mark.parametrize(
    ("status", "is_done", "pause"),
    [("pending", False, POLL_SECONDS), ("completed", True, None), ("failed", True, None)],
)
def test_task_that_is_not_done_is_polled_again(status: str, is_done: bool, pause: float | None) -> None:
    task = reply(202, {"id": TASK_ID, "status": status, "output": None, "createdAt": "now", "new": 1})
    assert isinstance(task, AppTask)
    assert (task.is_done, task.created_at, task.raw["new"]) == (is_done, "now", 1)
    assert pause_before_request(task, since_accepted=1.0) == pause


@pytest.mark.parametrize(
    ("status", "raw_code", "code", "retryable"),
    [
        (400, "validationFailed", "validation", False),
        (401, "unauthorized", "auth", False),
        (402, "paymentRequired", "quota", False),
        (403, "forbidden", "auth", False),
        (404, "resourceNotFound", "notFound", False),
        (409, "conflictingState", "validation", False),
        (413, "maxRequestSize", "validation", False),
        (422, "validationFailed", "validation", False),
        (429, "rateLimitExceeded", "rateLimit", True),
        (502, "internalServerError", "serverError", True),
        (503, "serviceUnavailable", "serverError", True),
    ],
)
def test_problem_statuses_have_the_codes_of_the_official_client(
    status: int, raw_code: str, code: str, retryable: bool
) -> None:
    for said in (problem(status), reply(status, b""), reply(status, b"<html>")):
        assert (said.raw_code, said.code, said.retryable) == (raw_code, code, retryable)
        assert (said.task_uuid, said.status_code) == (TASK_ID, status)


def test_problem_tells_what_and_where_and_by_which_request() -> None:
    said = problem(
        422, errors=[{"detail": "is no number", "pointer": "#/payload/steps"}], requestId="req-1", endpointPath="run"
    )
    assert said.parameter == "payload.steps"
    assert "because" in said.message
    assert "is no number" in said.message
    assert said.message.endswith("(request req-1)")
    assert said.request_id == "req-1"
    assert said.problem_type is not None


def test_paused_environment_is_a_matter_of_quota_and_not_retried() -> None:
    said = problem(429, "https://runware.ai/docs/serverless/errors#environment-paused")
    assert (said.raw_code, said.code, said.retryable) == ("environmentPaused", "quota", False)
    assert pause_before_request(said, since_accepted=None) is None


def test_retry_after_is_waited_for_and_a_short_one_does_not_hasten() -> None:
    assert pause_before_request(problem(503), since_accepted=1.0) == 7.0
    assert pause_before_request(reply(503, {}, retry_after=0.1), since_accepted=1.0) == POLL_SECONDS


@pytest.mark.parametrize(
    ("since_accepted", "pause"), [(0.0, POLL_SECONDS), (LATE_TASK_SECONDS - 1, POLL_SECONDS), (LATE_TASK_SECONDS, None)]
)
def test_accepted_task_may_be_missing_for_a_while(since_accepted: float, pause: float | None) -> None:
    missing = reply(404, {"type": "about:blank", "title": "Not found", "status": 404})
    assert pause_before_request(missing, since_accepted=since_accepted) == pause
    assert pause_before_request(missing, since_accepted=None) is None


def test_reply_that_is_no_task_is_a_failure_of_the_service() -> None:
    for body in (b"", b"[]", b'{"data":[]}', b"\xff"):
        said = reply(200, body)
        assert (said.raw_code, said.retryable) == ("unrecognizedResponse", True)
