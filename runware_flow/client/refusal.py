"""The signal that the service refused a task for now, which returns the task to the queue of its model."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runware_flow.errors import RunwareError

__all__ = ("TaskRefused",)


class TaskRefused(Exception):
    """The service has not accepted a task, since it has too much to do; it is to be sent again, as it is.

    Attributes:
        error: what the service said.
        number: the task's turn, for `SendWindows.want`.
        may_have_arrived: an earlier send of it brought no reply, so the service may have accepted it then.
    """

    def __init__(self, error: RunwareError, number: int | None = None, *, may_have_arrived: bool = False) -> None:
        super().__init__(str(error))
        self.error = error
        self.number = number
        self.may_have_arrived = may_have_arrived
