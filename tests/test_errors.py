"""The error classes as plain data: stable codes, pickling, look-alikes."""

from __future__ import annotations

import copy
import pickle

import pytest

from runware_flow import create_runware_error
from runware_flow.errors import (
    BudgetExceeded,
    FlowFailed,
    JournalError,
    RunwareError,
    RunwareTimeoutError,
    TooFewSucceeded,
    is_runware_error,
    stable_code,
)


@pytest.mark.parametrize(
    ("raw_code", "code"),
    [
        ("invalidApiKey", "auth"),
        ("missingAuthentication", "auth"),
        ("tokenExpired", "auth"),
        ("insufficientCredits", "quota"),
        ("paymentRequired", "quota"),
        ("rateLimitExceeded", "rateLimit"),
        ("providerRateLimitExceeded", "rateLimit"),
        ("providerContentPolicyViolation", "safety"),
        ("invalidProviderContent", "safety"),
        ("timeoutProvider", "timeout"),
        ("providerTimeout", "timeout"),
        ("modelNotFound", "notFound"),
        ("taskExpired", "notFound"),
        ("providerUnavailable", "provider"),
        ("inferenceError", "provider"),
        ("internalServerError", "serverError"),
        ("connectionLost", "connection"),
        ("conflictTaskUUID", "validation"),
        ("missingDimensionParameters", "validation"),
        ("valueTooLarge", "validation"),
        ("aborted", "aborted"),
        ("somethingNobodyHasSeen", "unknown"),
    ],
)
def test_stable_code_from_raw_code(raw_code, code):
    assert stable_code(raw_code) == code


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "validation"), (401, "auth"), (402, "quota"), (404, "notFound"), (429, "rateLimit"), (502, "serverError")],
)
def test_stable_code_unknown_raw_code_falls_back_to_status(status, code):
    assert stable_code("somethingNobodyHasSeen", status) == code
    assert stable_code(None, status) == code


def test_runware_error_pickles_with_all_its_fields():
    error = RunwareTimeoutError(
        "too late",
        code="timeout",
        raw_code="timeout",
        parameter=("width", "height"),
        task_uuid="u",
        results=[1],
        validation_errors=[{"path": ["width"]}],
        retry_after=2.5,
        problem_type="https://x#late",
        request_id="R1",
    )
    made = pickle.loads(pickle.dumps(error))
    assert type(made) is RunwareTimeoutError
    assert vars(made) == vars(error)
    assert isinstance(made, TimeoutError)


@pytest.mark.parametrize(
    "error",
    [
        RunwareError("no", code="provider", task_uuid="u"),
        TooFewSucceeded("both failed", errors=[]),
        BudgetExceeded("too dear", node="art", limit=1.0, spent=0.9, left=0.1),
        FlowFailed("art failed", result=None, node="art", path="art"),
        JournalError("gone"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_error_with_a_note_is_pickled_and_copied_with_it(error):
    error.add_note("in item 7")
    for made in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(made) is type(error)
        assert str(made) == str(error)
        assert vars(made) == vars(error)


def test_create_runware_error_derives_the_code():
    error = create_runware_error("invalidParameter", "Width must be a multiple of 64", parameter="width")
    assert (error.code, error.retryable, error.parameter) == ("validation", False, "width")
    assert is_runware_error(error)


def test_is_runware_error_accepts_a_look_alike_only_with_a_stable_code():
    class Other(Exception):
        code = "quota"
        message = "no money"

    assert is_runware_error(Other())
    Other.code = "E404"
    assert not is_runware_error(Other())
    assert not is_runware_error(ValueError("no"))


def test_runware_error_retryable_can_be_said_explicitly():
    assert RunwareError("x", code="provider").retryable
    assert not RunwareError("x", code="provider", retryable=False).retryable
