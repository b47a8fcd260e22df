"""The protocols of a client as a run uses it; an object that has two methods can stand in for a `Client`.

`Requester` is what users pass. `RunClient` is the same with all arguments that a run passes, as `Client` has them. The
other protocols are what a run uses of a client where it has them, and goes without otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from runware_flow.client.send_windows import SendWindows, Slot
    from runware_flow.session.events import SentBefore
    from runware_flow.types import Delivery as DeliveryMethod
    from runware_flow.types import Result, Task

__all__ = ("AccountClient", "PreparedTask", "Requester", "RunClient", "WindowedClient")


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


class RunClient(Protocol):
    """The calls of a run to its client; see those of `Client`."""

    def prepare(
        self,
        task: Task[Any] | Mapping[str, Any],
        /,
        *,
        delivery: DeliveryMethod | None = None,
        include_cost: bool | None = None,
        task_uuid: str | None = None,
    ) -> Any:
        """Resolve a task without IO; returns a `PreparedTask`."""
        ...

    async def perform(
        self,
        request: Any,
        /,
        *,
        timeout: float | None = None,
        on_result: Callable[[Any], Awaitable[None] | None] | None = None,
        on_progress: Callable[[Any], Awaitable[None] | None] | None = None,
        sent_before: SentBefore = "no",
        slot: Slot | None = None,
        parks: bool = False,
    ) -> list[Any]:
        """Send a prepared task and wait for all its results."""
        ...

    async def perform_stream(
        self,
        request: Any,
        /,
        on_delta: Callable[[str, str], None],
        *,
        timeout: float | None = None,
        slot: Slot | None = None,
        parks: bool = False,
    ) -> list[Any]:
        """Send a prepared text task that streams, and read it to its end."""
        ...


@runtime_checkable
class WindowedClient(Protocol):
    """A client with send windows: it gives a task back that the service refuses, and does not wait for room itself."""

    @property
    def windows(self) -> SendWindows:
        """The send windows of its models."""
        ...


@runtime_checkable
class AccountClient(Protocol):
    """A client that can look up the balance of the account."""

    async def account_management(self, *, operation: str, timeout: float | None = None) -> Any:
        """Send a task of that type."""
        ...
