"""The time limits of an attempt of a node: timeout, deadline, and time without progress."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio

from runware_flow.errors import RunwareTimeoutError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from runware_flow.graph.declaration import NodeSpec

__all__ = ("Patience", "check_deadline", "in_time")


class Patience:
    """Waits at most so many seconds, and at most `idle` seconds without progress."""

    __slots__ = ("_end", "_idle", "_scope")

    def __init__(self, seconds: float | None, idle: float | None) -> None:
        self._end = float("inf") if seconds is None else anyio.current_time() + seconds
        self._idle = float("inf") if idle is None else idle
        self._scope = anyio.CancelScope()
        self.restart()

    def restart(self) -> None:
        """Restart the idle time: the task has made progress."""
        self._scope.deadline = min(self._end, anyio.current_time() + self._idle)

    @property
    def is_idle(self) -> bool:
        """Whether the idle time ended the waiting."""
        return self._scope.cancelled_caught and anyio.current_time() < self._end

    async def wait(self, function: Callable[..., Awaitable[Any]], *args: Any) -> tuple[bool, Any]:
        """Await `function(*args)`; tell whether it came to its end, and what it returned."""
        with self._scope:
            return True, await function(*args)
        return False, None


async def in_time(
    spec: NodeSpec,
    now: float,
    function: Callable[..., Awaitable[Any]],
    *args: Any,
    task_uuid: str | None = None,
    listen: Callable[[Callable[[], None]], None] | None = None,
) -> Any:
    """Await `function(*args)` for as long as the policy of a node, which is timed, allows.

    Args:
        now: seconds since the start of the run.
        listen: gets a function to call at each progress of the task.

    Raises:
        RunwareTimeoutError: the time was over; it names the node and, with `task_uuid`, its request.
    """
    limit, words = _seconds_left(spec, now)
    if limit is not None and limit <= 0:
        raise _late(spec, words, task_uuid)
    patience = Patience(limit, spec.policy.idle)
    if listen is not None:
        listen(patience.restart)
    is_done, value = await patience.wait(function, *args)
    if is_done:
        return value
    if patience.is_idle:
        raise RunwareTimeoutError(
            f"{spec.describe()}, was given up after {spec.policy.idle} s without progress",
            code="timeout",
            task_uuid=task_uuid,
            may_be_billed=task_uuid is not None,
        )
    raise _late(spec, words, task_uuid, may_be_billed=task_uuid is not None)


def check_deadline(spec: NodeSpec, clock: Callable[[], float], task_uuid: str | None = None) -> None:
    """Check that the deadline of a node has not passed, if it has one.

    Args:
        clock: tells the seconds since the start of the run.

    Raises:
        RunwareTimeoutError: it has.
    """
    if spec.policy.deadline is not None:
        limit, words = _seconds_left(spec, clock())
        if limit is not None and limit <= 0:
            raise _late(spec, words, task_uuid)


def _seconds_left(spec: NodeSpec, now: float) -> tuple[float | None, str]:
    """How long an attempt may take from `now` on, and what is to be said if that is over."""
    policy = spec.policy
    limit, words = policy.timeout, f"took longer than its timeout of {policy.timeout} s"
    if policy.deadline is not None:
        left = policy.deadline - now
        if limit is None or left < limit:
            limit, words = left, f"passed its deadline, {policy.deadline} s after the start of the run"
    return limit, words


def _late(spec: NodeSpec, words: str, task_uuid: str | None, *, may_be_billed: bool = False) -> RunwareTimeoutError:
    message = f"{spec.describe()}, {words}"
    return RunwareTimeoutError(message, code="timeout", task_uuid=task_uuid, may_be_billed=may_be_billed)
