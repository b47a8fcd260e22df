"""What a run needs of a client: two methods, so that anything that has them can stand in for one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from runware_flow.types import Result, Task

__all__ = ("PreparedTask", "Requester")


class PreparedTask(Protocol):
    """A resolved task, ready to be sent: the model is known and a taskUUID is given."""

    @property
    def task_id(self) -> str: ...
    @property
    def task_type(self) -> str: ...
    @property
    def model(self) -> str | None: ...
    @property
    def wire(self) -> Mapping[str, Any]: ...
    @property
    def slots(self) -> int: ...
    @property
    def result_type(self) -> type[Result]: ...


class Requester(Protocol):
    """What tasks are sent with; `Client` is one.

    As `Client`'s do, `perform` also takes `timeout=` for a node that has one and `on_result=` for a task of several
    results; for a run with a journal it takes `sent_before=`, and `prepare` takes `task_uuid=`.
    """

    def prepare(self, task: Task[Any] | Mapping[str, Any], /, *, include_cost: bool | None = None) -> Any:
        """Resolve a task without IO; returns a `PreparedTask`."""
        ...

    async def perform(
        self, request: Any, /, *, on_progress: Callable[[Any], Awaitable[None] | None] | None = None
    ) -> list[Any]:
        """Send a prepared task and wait for all its results."""
        ...
