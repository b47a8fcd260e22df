"""How a node ended: `Ok`, `Failed`, `Skipped` or `Abandoned`, for `match` statements."""

from __future__ import annotations

from typing import Generic, TypeAlias, TypeVar

import msgspec

__all__ = ("Abandoned", "Failed", "Ok", "Outcome", "Skipped")

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Ok(msgspec.Struct, Generic[T_co], frozen=True):
    """The node finished; `value` is its result."""

    value: T_co


class Failed(msgspec.Struct, frozen=True):
    """All attempts of the node failed; `error` is the last error."""

    error: Exception


class Skipped(msgspec.Struct, frozen=True):
    """The node was never sent; `because` is one sentence that says why.

    Attributes:
        because: the reason, for a human: which node failed, or that the run was stopped.
        error: the error that caused it, if there is one.
    """

    because: str
    error: Exception | None = None


class Abandoned(msgspec.Struct, frozen=True):
    """The node was in flight when its run was cancelled.

    Attributes:
        task_uuid: the request's taskUUID, by which its result can still be collected; `None` if it has none yet, and
            for a function.
        may_be_billed: whether the service may have the request, and so may finish and bill it.
    """

    task_uuid: str | None
    may_be_billed: bool


Outcome: TypeAlias = Ok[T] | Failed | Skipped | Abandoned
"""Any of the four; `Outcome[ImageResult]` is what `result.outcome(node)` returns for a `Node[ImageResult]`."""
