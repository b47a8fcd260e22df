"""Serverless apps on the wire: names, envelopes, what a reply means and when to poll again (protocol facts, 11).

Pure functions: times come in as seconds, nothing waits here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from runware_flow.errors import RunwareError, stable_code
from runware_flow.wire import salvage
from runware_flow.wire.entries import Entry, read_entry
from runware_flow.wire.frames import decode_reply

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = (
    "ENVIRONMENT_RULE",
    "LATE_TASK_SECONDS",
    "POLL_SECONDS",
    "AppTask",
    "check_address",
    "encode_invocation",
    "invoke_path",
    "is_environment",
    "pause_before_request",
    "read_reply",
    "task_path",
)

POLL_SECONDS = 2.0
"""Seconds between two polls of a task, as in the official client [sdk]."""

LATE_TASK_SECONDS = 30.0
"""Seconds after a task was accepted in which a 404 does not mean that it does not exist [sdk]."""

_APP = re.compile(r"[a-z][a-z0-9-]{4,28}[a-z0-9]")
_SEGMENT = re.compile(r"[a-z]([a-z0-9-]{0,62}[a-z0-9])?")
_ENVIRONMENT = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_LONGEST_ENDPOINT = 255

ENVIRONMENT_RULE = "1 to 63 small letters, digits, dots, hyphens and underscores"
"""The rule for names of environments [doc], in words."""

_RAW_CODES = {
    400: "validationFailed",
    401: "unauthorized",
    402: "paymentRequired",
    403: "forbidden",
    404: "resourceNotFound",
    409: "conflictingState",
    413: "maxRequestSize",
    422: "validationFailed",
    429: "rateLimitExceeded",
    503: "serviceUnavailable",
}
"""The raw codes of the official client [sdk]; any other status is `internalServerError`."""


class AppTask(Entry, frozen=True, kw_only=True, rename="camel"):
    """The state of one invocation of an app."""

    id: str | None = None
    status: str | None = None
    """`pending`, `completed` or `failed`."""
    app_id: str | None = None
    endpoint_path: str | None = None
    output: Any = None
    """What the app returned; `None` until the task is completed."""
    error: str | None = None
    """Why the task failed; `None` for any other."""
    created_at: str | None = None
    completed_at: str | None = None

    @property
    def is_done(self) -> bool:
        """Whether the task is completed or failed."""
        return self.status in ("completed", "failed")


def is_environment(name: str) -> bool:
    """Tell whether an environment may have this name."""
    return _ENVIRONMENT.fullmatch(name) is not None


def check_address(app_id: str, endpoint_path: str | None, environment: str | None) -> None:
    """Check the names that address an app; they go into the URL as they are.

    Raises:
        RunwareError: code `validation`, naming the parameter.
    """
    names: dict[str, Any] = {"app_id": app_id, "endpoint_path": endpoint_path, "environment": environment}
    for name, given in names.items():
        if not isinstance(given, str) and (given is not None or name == "app_id"):
            raise _invalid(name, f"{name} is a text, not {given!r:.80}")
    segments = endpoint_path.split("/") if endpoint_path else []
    rules: tuple[tuple[str, object, bool, str], ...] = (
        ("app_id", app_id, _APP.fullmatch(app_id) is not None, "6 to 30 small letters, digits and hyphens"),
        (
            "endpoint_path",
            endpoint_path,
            len(endpoint_path or "") <= _LONGEST_ENDPOINT and all(map(_SEGMENT.fullmatch, segments)),
            "names of small letters, digits and hyphens, joined by /",
        ),
        (
            "environment",
            environment,
            environment is None or is_environment(environment),
            ENVIRONMENT_RULE,
        ),
    )
    for name, value, is_right, wanted in rules:
        if not is_right:
            raise _invalid(name, f"{name} {value!r} is not {wanted}")


def invoke_path(app_id: str, endpoint_path: str | None, environment: str | None, *, waits: bool) -> str:
    """The path, with its query, that takes an invocation; with `waits` the one that answers with the finished task."""
    endpoint = f"/{endpoint_path}" if endpoint_path else ""
    return f"/v1/apps/{app_id}/invoke-{'sync' if waits else 'async'}{endpoint}{_query(environment)}"


def task_path(app_id: str, task_id: str, environment: str | None) -> str:
    """The path, with its query, of one task."""
    return f"/v1/apps/{app_id}/tasks/{task_id}{_query(environment)}"


def _query(environment: str | None) -> str:
    return f"?environment={quote(environment)}" if environment else ""


def encode_invocation(task_id: str, payload: Mapping[str, Any]) -> bytes:
    """Encode the body of an invocation: these two members; the service refuses any other [doc].

    `payload` holds plain JSON types only.
    """
    return msgspec.json.encode({"taskId": task_id, "payload": payload})


def read_reply(
    status: int, body: bytes, *, task_id: str, retry_after: float | None = None, request_id: str | None = None
) -> AppTask | RunwareError:
    """Return what a reply means: the state of the task, or the error. Never raises."""
    if status < 400:
        plain = _object(body)
        if plain is None or not isinstance(plain.get("status"), str):
            return RunwareError(
                f"the serverless service answered HTTP {status} without a task",
                code="serverError",
                raw_code="unrecognizedResponse",
                task_uuid=task_id,
                status_code=status,
            )
        return read_entry(AppTask, plain)
    return _read_problem(status, body, task_id, retry_after, request_id)


def _read_problem(
    status: int, body: bytes, task_id: str, retry_after: float | None, request_id: str | None
) -> RunwareError:
    said = decode_reply(status, body).errors
    raw_code = said[0].code if said else None
    if raw_code is None or stable_code(raw_code) == "unknown":
        raw_code = _RAW_CODES.get(status, "internalServerError")
    message = (said[0].message if said else "") or f"the serverless service answered HTTP {status}"
    problem = _object(body) or {}
    request_id = request_id or (problem["requestId"] if isinstance(problem.get("requestId"), str) else None)
    return RunwareError(
        f"{message} (request {request_id})" if request_id else message,
        code=stable_code(raw_code, status),
        raw_code=raw_code,
        parameter=_pointer(problem),
        task_uuid=task_id,
        status_code=status,
        retry_after=retry_after,
        problem_type=problem["type"] if isinstance(problem.get("type"), str) else None,
        request_id=request_id,
    )


def _pointer(problem: dict[str, Any]) -> str | None:
    """The parameter that the first entry of a problem document points to (a JSON pointer)."""
    entries: Any = problem.get("errors")
    first: Any = entries[0] if salvage.is_array(entries) and entries else None
    pointer: Any = first.get("pointer") if salvage.is_object(first) else None
    return pointer.lstrip("#/").replace("/", ".") or None if isinstance(pointer, str) else None


def pause_before_request(
    reply: AppTask | RunwareError, *, since_accepted: float | None, pause: float = POLL_SECONDS
) -> float | None:
    """Return the seconds to wait before the next poll; `None` if this reply is final.

    Args:
        reply: the last reply.
        since_accepted: seconds since the service accepted the task; None while it has not.
        pause: seconds between two polls; a `Retry-After` of the service may ask for more.
    """
    if isinstance(reply, AppTask):
        return None if reply.is_done else pause
    is_late = reply.status_code == 404 and since_accepted is not None and since_accepted < LATE_TASK_SECONDS
    if not is_late and not reply.retryable:
        return None
    return max(pause, reply.retry_after or 0.0)


def _object(body: bytes) -> dict[str, Any] | None:
    found = salvage.mapping(body)
    return None if found is None else found[0]


def _invalid(parameter: str, message: str) -> RunwareError:
    return RunwareError(message, code="validation", raw_code="invalidParameter", parameter=parameter)
