"""What the service answers at once: getResponse, getTaskDetails, ping, the account, the search for models."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

from runware_flow.emulator.problems import Problem
from runware_flow.emulator.service.account import account
from runware_flow.emulator.service.constraints import check_type
from runware_flow.emulator.service.jobs import Frame
from runware_flow.emulator.service.kinds import Kind
from runware_flow.emulator.service.search import search

if TYPE_CHECKING:
    from runware_flow.emulator.service.jobs import Job
    from runware_flow.emulator.service.models import Models
    from runware_flow.emulator.service.state import ServiceState

__all__ = ("IMMEDIATE", "STORAGE_KINDS", "answer", "changes_something", "check", "is_immediate", "poll")

IMMEDIATE = frozenset({"ping", "getTaskDetails", "modelSearch", "accountManagement", "authentication"})

STORAGE_KINDS: dict[str, Kind] = {
    "imageUpload": Kind(task_type="imageUpload", medium="image"),
    "mediaStorage": Kind(task_type="mediaStorage", medium="media"),
    "modelUpload": Kind(task_type="modelUpload", medium=""),
}
"""Utilities that take time or read a medium: they run as jobs."""

_REQUIRED = {"imageUpload": ("image",), "mediaStorage": ("operation", "media"), "accountManagement": ("operation",)}

_ACCOUNT = ("getDetails", "getUsageActivity", "getUsagePerformance", "getUsageErrors")


def check(task: dict[str, Any], models: Models) -> Problem | None:
    """Refuse a utility task that lacks what it needs."""
    for name in _REQUIRED.get(task["taskType"], ()):
        if not isinstance(task.get(name), str) or not task[name]:
            code = f"missing{name[0].upper()}{name[1:]}"
            return Problem(code, f"Missing value for '{name}' parameter.", parameter=name, type="string")
    if task["taskType"] == "mediaStorage" and task["operation"] not in {"upload", "delete"}:
        message = "Invalid value for 'operation' parameter. It must be one of: upload, delete."
        return Problem("invalidParameter", message, parameter="operation", allowedValues=["upload", "delete"])
    if task["taskType"] == "modelUpload":  # the service keeps what it is given, and search and results repeat it
        try:
            for name, limit in models.limits["modelUpload"].items():
                if limit["type"] == "string" and name in task:
                    check_type(name, task[name], "string")
        except Problem as problem:
            return problem
    if task["taskType"] == "accountManagement" and task["operation"] not in _ACCOUNT:
        message = f"Invalid value for 'operation' parameter. It must be one of: {', '.join(_ACCOUNT)}."
        return Problem("invalidParameter", message, parameter="operation", allowedValues=list(_ACCOUNT))
    return None


def is_immediate(task: dict[str, Any]) -> bool:
    """Tell whether a (checked) task is answered from the service's state alone."""
    return task["taskType"] in IMMEDIATE or (task["taskType"] == "mediaStorage" and task["operation"] == "delete")


def changes_something(task: dict[str, Any]) -> bool:
    """Tell whether a (checked) task does more than ask."""
    return task["taskType"] not in IMMEDIATE


def poll(state: ServiceState, task: dict[str, Any], now: float, frame: Frame) -> None:
    """Answer a getResponse: the whole state of all results, in their order, each time (protocol facts, section 4)."""
    job = state.jobs.get(task["taskUUID"])
    if job is None or job.is_closed:
        if job is None or state.settings.closed_task == "unknown":
            _poll_unknown(state, task, frame)
        return
    entry = state.log.task(job.task_id)
    if entry is not None:
        entry.polls += 1
    if state.has_expired(job, now):
        problem = Problem("taskExpired", "The task is finished, and its results are not kept any more.", status=404)
        frame.errors.append(problem.entry(job.task_type, job.task_id))
        frame.status = max(frame.status, problem.status)
        return
    for slot in job.slots:
        if slot.is_done:
            frame.add_result(job, slot, polled=True)
        else:
            frame.data.append(_processing(state, job, slot.ready_at, now))


def _processing(state: ServiceState, job: Job, ready_at: float, now: float) -> dict[str, Any]:
    item: dict[str, Any] = {"taskType": job.task_type, "taskUUID": job.task_id, "status": "processing"}
    if job.kind.task_type in state.settings.progress and ready_at < inf:
        share = (now - job.accepted_at) / max(1e-9, ready_at - job.accepted_at)
        item["progress"] = min(99, int(100 * share))
    return item


def _poll_unknown(state: ServiceState, task: dict[str, Any], frame: Frame) -> None:
    """A taskUUID that is not known looks as if it was running, but for the taskType [3p]."""
    if state.settings.unknown_task == "processing":
        frame.data.append({"taskType": "getResponse", "taskUUID": task["taskUUID"], "status": "processing"})
    elif state.settings.unknown_task == "notFound":
        problem = Problem("taskNotFound", "The task does not exist.", parameter="taskUUID")
        frame.errors.append(problem.entry("getResponse", task["taskUUID"]))
        frame.status = max(frame.status, problem.status)


def answer(state: ServiceState, task: dict[str, Any], now: float) -> dict[str, Any] | Problem:
    """Answer a utility that needs nothing but the service's state."""
    task_type = task["taskType"]
    if task_type == "ping":
        return {"taskType": "ping", "pong": True}
    if task_type == "authentication":
        return Problem("invalidParameter", "The request is already authenticated.", parameter="taskType")
    ids = {"taskType": task_type, "taskUUID": task["taskUUID"]}
    if task_type == "getTaskDetails":
        details = _details(state, task["taskUUID"])
        return details if isinstance(details, Problem) else {**ids, **details}
    if task_type == "mediaStorage":
        if not state.media_store.remove(task["media"]):
            return Problem("mediaNotFound", f"The media '{task['media']}' does not exist.", parameter="media")
        return {**ids, "operation": "delete", "mediaUUID": task["media"]}
    if task_type == "modelSearch":
        return {**ids, **search(state, task)}
    used = account(state, task)
    return used if isinstance(used, Problem) else {**ids, **used}


def _details(state: ServiceState, task_uuid: str) -> dict[str, Any] | Problem:
    """The archive: the request as it was sent and the answer as it was given, for sync tasks too [doc]."""
    job = state.jobs.get(task_uuid)
    if job is None:
        return Problem("taskNotFound", "The task does not exist.", parameter="taskUUID")
    frame = Frame()
    for slot in job.slots:
        if slot.is_done:
            frame.add_result(job, slot, polled=False)
    response = {"errors": frame.errors} if frame.errors and not frame.data else {"data": frame.data}
    if frame.errors and frame.data:
        response["errors"] = frame.errors
    return {"request": [job.task], "response": response}
