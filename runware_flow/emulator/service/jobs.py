"""A job: a task that the service has accepted, and the frames that answer it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runware_flow.emulator.media.store import Medium
    from runware_flow.emulator.problems import Problem
    from runware_flow.emulator.service.kinds import Kind

__all__ = ("Frame", "Input", "Job", "Rendering", "Slot")


@dataclass(frozen=True, slots=True)
class Input:
    """A medium that a task was given: the parameter's name and its value as sent."""

    parameter: str
    value: str


@dataclass(slots=True, eq=False)
class Slot:
    """One result of a task."""

    index: int
    ready_at: float
    """When it is ready; infinity for a task that never finishes."""
    item: dict[str, Any] | None = None
    problem: Problem | None = None
    problem_shape: str = "errors"
    is_done: bool = False
    done_at: float | None = None
    delivered_at: float | None = None
    medium: Medium | None = None
    """What it made, if that is a file."""


@dataclass(frozen=True, slots=True)
class Rendering:
    """A medium whose bytes go into the result itself: the field of the slot's item, and in which form."""

    slot: Slot
    field: str
    medium: Medium
    as_data_uri: bool


@dataclass(slots=True, eq=False)
class Job:
    """One accepted task."""

    task: dict[str, Any]
    kind: Kind
    delivery: str
    channel: str
    accepted_at: float
    slots: list[Slot]
    inputs: list[Input] = field(default_factory=list[Input])
    session_id: str | None = None
    cost: int = 0
    """Micro-USD of each result."""
    needs_inputs: bool = False
    """Some input is not stored here: it has to be read before the items can be made."""
    renderings: list[Rendering] = field(default_factory=list[Rendering])
    """What has to be drawn before the items are complete."""
    has_items: bool = False
    """Its inputs are read and its items are made; before that no result is ready, whatever the clock says."""
    is_overdue: bool = False
    is_closed: bool = False
    """A sync task whose answer was delivered: getResponse knows it no more [3p]."""

    @property
    def task_id(self) -> str:
        """Its taskUUID."""
        return str(self.task["taskUUID"])

    @property
    def task_type(self) -> str:
        """Its taskType, as it was asked."""
        return str(self.task["taskType"])

    def failure_shape(self, wanted: str) -> str:
        """Return where its failures stand: as `wanted`, but a sync task of which nothing is left has `errors` [doc]."""
        return "errors" if self.delivery != "async" and all(slot.problem for slot in self.slots) else wanted

    @property
    def is_settled(self) -> bool:
        """Whether all its results are there, as items or as errors."""
        return all(slot.is_done for slot in self.slots)


@dataclass(slots=True, eq=False)
class Frame:
    """One message of the service."""

    data: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    errors: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    delivers: list[tuple[Job, Slot]] = field(default_factory=list[tuple[Job, Slot]])
    delay: float = 0.0
    is_acknowledgement: bool = False
    """It is sent even if its data is empty."""
    is_lost: bool = False
    """A fault took something out of it; on REST, where one answer belongs to one request, the connection is cut."""
    status: int = 200
    shape: str = "errors"
    """How errors are written: `errors` (a list), `error` (one object), `legacy` (as of old for a refused key)."""
    queued_at: float = 0.0

    @property
    def is_empty(self) -> bool:
        """Whether it says nothing."""
        return not self.data and not self.errors

    def extend(self, other: Frame) -> None:
        """Take over all that another frame says."""
        self.data += other.data
        self.errors += other.errors
        self.delivers += other.delivers

    def add_result(self, job: Job, slot: Slot, *, polled: bool, shape: str | None = None) -> None:
        """Put a finished result, or its failure, into the frame; items carry a status only in poll answers [3p]."""
        status = {"status": "success"} if polled and job.kind.task_type != "modelUpload" else {}
        if slot.problem is None:
            self.data.append({**(slot.item or {}), **status})
        elif job.kind.task_type == "modelUpload":
            ids = {"taskType": job.task_type, "taskUUID": job.task_id}
            self.data.append({**ids, "status": "failed", "message": slot.problem.message})
        elif (shape or slot.problem_shape) == "item":
            ids = {"taskType": job.task_type, "taskUUID": job.task_id}
            self.data.append({**ids, "status": "error", "error": slot.problem.entry()})
        else:
            self.errors.append({**slot.problem.entry(job.task_type, job.task_id), "status": "error"})
        self.delivers.append((job, slot))

    def body(self) -> dict[str, Any]:
        """Return the JSON object that is sent."""
        if self.errors and self.shape == "error":
            return {"error": self.errors[0]}
        if self.errors and self.shape == "legacy":
            old = {"errorMessageContentId": 1212, "errorId": 19, "errorMessage": self.errors[0]["message"]}
            return {"error": True, **old}
        if self.errors:
            return {"data": self.data, "errors": self.errors}
        return {"data": self.data}
