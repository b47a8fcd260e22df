"""The log of the emulator, for tests: what was requested, when it was ready and delivered, and what it cost."""

from __future__ import annotations

import threading
from dataclasses import InitVar, asdict, dataclass, field
from typing import Any, TypeVar

__all__ = ("CallEntry", "Log", "TaskEntry")

T = TypeVar("T")


@dataclass
class TaskEntry:
    """One accepted task. Times are `time.monotonic()` seconds, the same clock in every process of the machine."""

    task_uuid: str
    task_type: str
    model: str | None
    channel: str
    delivery: str
    request: dict[str, Any]
    asked_at: float
    ready_at: list[float | None]
    """By result; None while it is not ready."""
    delivered_at: list[float | None]
    """By result: when it first left for the client."""
    polls: int = 0
    conflicts: int = 0
    """How often the same taskUUID was submitted again."""
    cost: float = 0.0
    """USD billed for it so far."""
    errors: list[str] = field(default_factory=list[str])

    @property
    def is_delivered(self) -> bool:
        """Whether every result has left for the client."""
        return all(at is not None for at in self.delivered_at)


@dataclass
class CallEntry:
    """A call of the service to a webhook (POST) or an upload endpoint (PUT), for one result."""

    task_uuid: str
    index: int
    method: str
    url: str
    at: list[float]
    """When each attempt began."""
    statuses: list[int | None]
    """What each attempt got: an HTTP status, or None if no answer came in time."""


@dataclass
class Log:
    """The record of one emulator; safe to read from another thread while it runs.

    Attributes:
        tasks: accepted tasks in the order they came.
        rejected: tasks refused at submit: `taskUUID`, `taskType`, `model`, `code`, and `at`, when.
        calls: webhooks and uploads, in the order they were begun.
        connections: WebSocket connections that were opened.
        authentications: successful ones, over WebSocket.
        frames_received, frames_sent: WebSocket messages.
        posts: HTTP requests to the inference endpoint.
        polls: getResponse tasks; `poll_requests`: frames and POSTs that carried at least one.
        fetches: media served over HTTP.
    """

    tasks: list[TaskEntry] = field(default_factory=list[TaskEntry])
    rejected: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    calls: list[CallEntry] = field(default_factory=list[CallEntry])
    connections: int = 0
    open_connections: int = 0
    authentications: int = 0
    frames_received: int = 0
    frames_sent: int = 0
    posts: int = 0
    polls: int = 0
    poll_requests: int = 0
    conflicts: int = 0
    fetches: int = 0
    billed_micro_usd: int = 0
    retained: InitVar[int] = 100_000
    """Entries of each list that are kept at least; of many more the oldest are dropped. The counts count all."""

    def __post_init__(self, retained: int) -> None:
        self._lock = threading.Lock()
        self._by_id: dict[str, TaskEntry] = {}
        self._retained = max(retained, 1)

    def enter(self, entry: TaskEntry) -> None:
        """Record an accepted task."""
        with self._lock:
            self.tasks.append(entry)
            self._by_id[entry.task_uuid] = entry
            for dropped in self._drop_oldest(self.tasks):
                self._by_id.pop(dropped.task_uuid, None)

    def reject(self, refusal: dict[str, Any]) -> None:
        """Record a refused task."""
        with self._lock:
            self.rejected.append(refusal)
            self._drop_oldest(self.rejected)

    def call(self, entry: CallEntry) -> None:
        """Record a webhook or an upload that is begun."""
        with self._lock:
            self.calls.append(entry)
            self._drop_oldest(self.calls)

    def _drop_oldest(self, entries: list[T]) -> list[T]:
        """Cut a list back once it is a quarter too long, so that cutting costs little; what was dropped."""
        if len(entries) <= self._retained + self._retained // 4:
            return []
        dropped = entries[: -self._retained]
        del entries[: -self._retained]
        return dropped

    def task(self, task_uuid: str) -> TaskEntry | None:
        """Return the entry of that task."""
        return self._by_id.get(task_uuid)

    @property
    def asked(self) -> list[TaskEntry]:
        """The accepted tasks so far."""
        with self._lock:
            return list(self.tasks)

    @property
    def billed(self) -> float:
        """USD billed so far."""
        return self.billed_micro_usd / 1_000_000

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain data, for other processes."""
        with self._lock:
            return {**asdict(self), "billed": self.billed}
