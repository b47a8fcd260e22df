"""Serverless apps: any app and endpoint exists, and returns what it was given (protocol facts, section 11).

The output is `{"app", "endpoint", "payload"}`; a payload with a string `error` makes the task fail with that text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runware_flow.emulator.jsonvalues import as_object, is_object
from runware_flow.emulator.problems import Problem
from runware_flow.emulator.service.validation import is_uuid

if TYPE_CHECKING:
    from runware_flow.emulator.settings import Settings

__all__ = ("Serverless", "problem_document")

_APP = re.compile(r"[a-z][a-z0-9-]{4,28}[a-z0-9]")
_SEGMENT = re.compile(r"[a-z]([a-z0-9-]{0,62}[a-z0-9])?")
_ENVIRONMENT = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


@dataclass(slots=True)
class _Task:
    task_id: str
    app_id: str
    endpoint: str
    environment: str
    payload: dict[str, Any]
    ready_at: float
    created: str


class Serverless:
    """The tasks of all apps, sans-IO: `now` is monotonic seconds, `clock` the time of day as ISO 8601 text."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._tasks: dict[tuple[str, str], _Task] = {}

    def invoke(self, app_id: str, endpoint: str, environment: str, body: Any, now: float, clock: str) -> float:
        """Accept a task, or find the one that its id already names; returns when it is ready.

        Raises:
            Problem: a name or the body is not as it must be (422).
        """
        _check_names(app_id, endpoint, environment)
        task_id, payload = _read_body(body)
        task = self._tasks.get((app_id, task_id))
        if task is None:
            ready_at = now + self._settings.latency_of("serverless", task_id, 0)
            task = _Task(task_id, app_id, endpoint, environment, payload, ready_at, clock)
            self._tasks[app_id, task_id] = task
        return task.ready_at

    def get(self, app_id: str, task_id: str, environment: str, now: float, clock: str) -> dict[str, Any]:
        """Return one task.

        Raises:
            Problem: there is none of that id in that app and environment (404).
        """
        task = self._tasks.get((app_id, task_id))
        if task is None or task.environment != environment:
            raise Problem("taskNotFound", f"There is no task '{task_id}' in the app '{app_id}'.", status=404)
        return _describe(task, now, clock)

    def list(self, app_id: str, limit: int, cursor: str, now: float, clock: str) -> dict[str, Any]:
        """Return a page of an app's tasks, the oldest first, and where the next page starts."""
        tasks = [task for task in self._tasks.values() if task.app_id == app_id]
        first = int(cursor) if cursor.isdecimal() else 0
        following = str(first + limit) if first + limit < len(tasks) else None
        return {
            "data": [_describe(task, now, clock) for task in tasks[first : first + limit]],
            "nextCursor": following,
        }


def _check_names(app_id: str, endpoint: str, environment: str) -> None:
    segments = endpoint.split("/") if endpoint else []
    names = (
        ("appId", _APP.fullmatch(app_id)),
        ("endpointPath", len(endpoint) <= 255 and all(_SEGMENT.fullmatch(one) for one in segments)),
        ("environment", _ENVIRONMENT.fullmatch(environment)),
    )
    for name, is_valid in names:
        if not is_valid:
            raise Problem("validationFailed", f"The value of '{name}' is not valid.", parameter=name, status=422)


def _read_body(body: Any) -> tuple[str, dict[str, Any]]:
    members = as_object(body)
    if set(members) != {"taskId", "payload"}:
        raise Problem("validationFailed", "The body has the members 'taskId' and 'payload', no other.", status=422)
    task_id, payload = members["taskId"], members["payload"]
    if not is_uuid(task_id) or task_id != task_id.lower():
        message = "A task id is a UUID in lower case."
        raise Problem("validationFailed", message, parameter="/taskId", status=422)
    if not is_object(payload):
        raise Problem("validationFailed", "The payload is an object.", parameter="/payload", status=422)
    return task_id, payload


def _describe(task: _Task, now: float, clock: str) -> dict[str, Any]:
    is_done = now >= task.ready_at
    error = task.payload.get("error") if is_done else None
    failure = error if isinstance(error, str) else None
    output = {"app": task.app_id, "endpoint": task.endpoint, "payload": task.payload}
    return {
        "id": task.task_id,
        "status": "pending" if not is_done else "completed" if failure is None else "failed",
        "appId": task.app_id,
        "endpointPath": task.endpoint,
        "output": output if is_done and failure is None else None,
        "error": failure,
        "createdAt": task.created,
        "completedAt": clock if is_done else None,
    }


def problem_document(problem: Problem, request_id: str) -> dict[str, Any]:
    """Return a problem as RFC 9457 has it."""
    errors = [{"detail": problem.message, "pointer": problem.parameter}] if problem.parameter else []
    return {
        "type": f"https://runware.ai/docs/serverless/errors#{problem.code}",
        "title": problem.code,
        "status": problem.status,
        "detail": problem.message,
        "errors": errors,
        "requestId": request_id,
    }
