"""Accepts or refuses a task, and makes the job of an accepted one."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Any

from runware_flow.emulator.problems import Problem
from runware_flow.emulator.service import results, utilities
from runware_flow.emulator.service.jobs import Job, Slot
from runware_flow.emulator.service.kinds import UTILITIES, Kind, kind_of, price, result_count
from runware_flow.emulator.service.validation import check_task, check_task_uuid, is_uuid

if TYPE_CHECKING:
    from runware_flow.emulator.service.sessions import Session
    from runware_flow.emulator.service.state import ServiceState

__all__ = ("make_job", "refuse")


def refuse(state: ServiceState, task: dict[str, Any], now: float) -> Problem | None:
    """Return what is wrong with a task that just arrived, or None."""
    task_type = task.get("taskType")
    if not isinstance(task_type, str):
        message = "Missing value for 'taskType' parameter."
        return Problem("missingTaskType", message, parameter="taskType", type="string")
    if task_type == "ping":
        return None
    problem = check_task_uuid(task)
    if problem is not None:
        return problem
    if task_type in utilities.IMMEDIATE or task_type == "getResponse":
        return utilities.check(task, state.models)
    if _is_taken(state, task["taskUUID"], now):
        return _conflict(state, task)
    if task_type in UTILITIES:
        problem = utilities.check(task, state.models)
    else:
        problem = check_task(task, state.models, state.settings, state.uploaded)
    if problem is None:
        problem = _check_inputs(state, task, now)
    capacity = state.settings.capacity
    if problem is None and capacity is not None and state.running >= capacity:
        problem = Problem("rateLimitExceeded", "The queue is full; try again later.")
    fault = state.faults.trigger("reject", task) if problem is None else None
    if fault is not None:
        message = fault.message or "The task was refused."
        code, shape = fault.code or "invalidParameter", fault.shape or "errors"
        return Problem(code, message, status=fault.status, shape=shape)
    return problem


def _check_inputs(state: ServiceState, task: dict[str, Any], now: float) -> Problem | None:
    """Refuse a UUID that names no stored medium; what else an input is only reading it can tell."""
    for medium_input in results.find_inputs(task):
        if is_uuid(medium_input.value) and state.media_store.by_id(medium_input.value, now) is None:
            message = f"The media '{medium_input.value}' does not exist."
            return Problem("mediaNotFound", message, parameter=medium_input.parameter)
    return None


def _is_taken(state: ServiceState, task_uuid: str, now: float) -> bool:
    job = state.jobs.get(task_uuid)
    return job is not None and (state.settings.conflict_after_retention or not state.has_expired(job, now))


def _conflict(state: ServiceState, task: dict[str, Any]) -> Problem:
    job = state.jobs[task["taskUUID"]]
    state.log.conflicts += 1
    entry = state.log.task(job.task_id)
    if entry is not None:
        entry.conflicts += 1
    context = {"taskType": job.task_type, "taskUUID": job.task_id, "deliveryMethod": job.delivery}
    message = f"A task with the taskUUID '{job.task_id}' already exists."
    return Problem("conflictTaskUUID", message, parameter="taskUUID", context=context)


def make_job(state: ServiceState, task: dict[str, Any], now: float, session: Session | None) -> Job:
    """Make the job of a checked task: its results, when each is ready, what it costs, which of them will fail."""
    kind = kind_of(task) or utilities.STORAGE_KINDS[task["taskType"]]
    count = 5 if kind.task_type == "modelUpload" else result_count(kind, task)
    slow = state.faults.trigger("slow", task)
    extra = 0.0 if slow is None else slow.seconds or 1.0
    queue = str(task.get("model") or kind.task_type)
    seconds = [extra + _latency(state, task, kind.task_type, index) for index in range(count)]
    slots = [Slot(index, state.queues.enter(queue, now, seconds[index])) for index in range(count)]
    job = Job(
        task=task,
        kind=kind,
        delivery=_delivery(task, kind),
        channel="rest" if session is None else "websocket",
        accepted_at=now,
        slots=slots,
        inputs=results.find_inputs(task),
        session_id=None if session is None else session.session_id,
        cost=round(price(kind, task) * state.settings.price_factor),
    )
    if state.faults.trigger("never", task) is not None:
        for slot in slots:
            slot.ready_at = inf
    _plan_failures(state, job)
    return job


def _delivery(task: dict[str, Any], kind: Kind) -> str:
    """A task with a webhook is acknowledged like an async one, whatever its delivery [doc, 3p]."""
    asked = str(task.get("deliveryMethod") or kind.delivery)
    return "async" if task.get("webhookURL") and asked == "sync" else asked


def _latency(state: ServiceState, task: dict[str, Any], task_type: str, index: int) -> float:
    if task_type in {"imageUpload", "mediaStorage"}:
        return 0.0
    seconds = state.settings.latency_of(task_type, task["taskUUID"], index)
    return seconds * (index + 1) / 5 if task_type == "modelUpload" else seconds


def _plan_failures(state: ServiceState, job: Job) -> None:
    """Mark the results that a fault will let fail once their time has come."""
    fault = state.faults.trigger("fail", job.task)
    if fault is None:
        return
    if job.kind.task_type == "modelUpload":
        del job.slots[(fault.index or 0) + 1 :]  # the stages after the one that fails never come
        fault = replace(fault, index=len(job.slots) - 1)
    code = fault.code or "inferenceError"
    failing = [slot for slot in job.slots if fault.index is None or fault.index == slot.index]
    for slot in failing:
        slot.problem = Problem(code, fault.message or "The task failed.", status=fault.status)
    for slot in failing:
        slot.problem_shape = fault.shape or job.failure_shape(state.settings.failure_shape)
