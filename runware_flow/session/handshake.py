"""The authentication of a connection: the key is sent, and the service accepts it, rejects it, or sends another frame.

Success is an item of type `authentication` that carries a `connectionSessionUUID`; one that carries none is a failure,
as in the official clients [sdk]. A failure is an error without a taskUUID [doc]. Only one that speaks of authentication
means that the key is bad and ends the session; any other error, and any other frame, does not (both official clients
get this wrong: one looks for a member that is never sent, one takes every error for a rejection [sdk]).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from runware_flow.errors import RunwareError, stable_code
from runware_flow.wire.frames import read_member
from runware_flow.wire.problems import to_error

if TYPE_CHECKING:
    from runware_flow.secret import Secret
    from runware_flow.wire.frames import ErrorItem, Frame

__all__ = ("AUTHENTICATION", "Verdict", "authentication_body", "is_about_authentication", "read_verdict")

AUTHENTICATION = "authentication"

Verdict: TypeAlias = tuple[Literal["accepted"], str] | tuple[Literal["rejected", "failed"], RunwareError]
"""`accepted` with the session's id, `rejected` or `failed` (a later try may succeed) with an error."""


def authentication_body(api_key: Secret, session_id: str | None) -> bytes:
    """Encode the authentication task; `session_id` resumes an earlier session."""
    body: dict[str, Any] = {"taskType": AUTHENTICATION, "apiKey": api_key.reveal()}
    if session_id is not None:
        body["connectionSessionUUID"] = session_id
    return msgspec.json.encode(body)


def read_verdict(frame: Frame) -> Verdict | None:
    """Find the answer to the authentication task in a frame; `None` if it is not there."""
    for item in frame.items:
        if item.task_type != AUTHENTICATION or item.task_id is not None:
            continue
        if item.error is not None:
            return _judge(item.error)
        session_id = read_member(item, "connectionSessionUUID")
        if isinstance(session_id, str) and session_id:
            return "accepted", session_id
        message = "the service accepted the connection but named no session"
        return "rejected", RunwareError(message, code="auth", raw_code="authFailed", task_type=AUTHENTICATION)
    return next((_judge(error) for error in frame.errors if _is_answer(error)), None)


def is_about_authentication(error: ErrorItem) -> bool:
    """Tell whether an error of no task says that the key, or the connection's right to speak, is gone."""
    return error.task_id is None and stable_code(error.code, error.status_code, error.message) == "auth"


def _is_answer(error: ErrorItem) -> bool:
    if error.task_id is not None:
        return False
    return error.task_type == AUTHENTICATION or is_about_authentication(error) or _is_legacy(error)


def _is_legacy(error: ErrorItem) -> bool:
    """The form of old servers: `{"error": true, "errorId": 19, "errorMessage": "..."}` [doc]."""
    return error.task_type is None and error.code is not None and error.code.isdecimal()


def _judge(error: ErrorItem) -> Verdict:
    problem = to_error(error, task_type=AUTHENTICATION)
    if _is_legacy(error):
        problem = RunwareError(problem.message, code="auth", raw_code=error.code, task_type=AUTHENTICATION)
    return ("rejected" if problem.code == "auth" else "failed"), problem
