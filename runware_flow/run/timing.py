"""How long an attempt of a node may take: its timeout, and what is left until its deadline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio

from runware_flow.errors import RunwareTimeoutError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from runware_flow.graph.declaration import NodeSpec

__all__ = ("in_time", "seconds_left")


async def in_time(
    spec: NodeSpec, now: float, function: Callable[..., Awaitable[Any]], *args: Any, task_uuid: str | None = None
) -> Any:
    """Await `function(*args)` for as long as the node's policy allows; a cancel scope exists only if it limits that.

    Args:
        now: seconds since the start of the run.

    Raises:
        RunwareTimeoutError: the time was over; it names the node and, with `task_uuid`, its request.
    """
    if not spec.policy.is_timed:
        return await function(*args)
    limit, late = seconds_left(spec, now, task_uuid)
    with anyio.move_on_after(limit):
        return await function(*args)
    raise late


def seconds_left(spec: NodeSpec, now: float, task_uuid: str | None) -> tuple[float | None, RunwareTimeoutError]:
    """Return how long an attempt may take from `now` on, and the error to raise if that is over.

    Raises:
        RunwareTimeoutError: it is over already.
    """
    policy = spec.policy
    limit, words = policy.timeout, f"took longer than its timeout of {policy.timeout} s"
    if policy.deadline is not None:
        left = policy.deadline - now
        if limit is None or left < limit:
            limit, words = left, f"passed its deadline, {policy.deadline} s after the start of the run"
    late = RunwareTimeoutError(f"{spec.describe()}, {words}", code="timeout", task_uuid=task_uuid)
    if limit is not None and limit <= 0:
        raise late
    return limit, late
