"""One item of a batch: its nodes while they run, and how it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from runware_flow.batch.source import Pulled
from runware_flow.graph.outcomes import Abandoned, Failed, Outcome, Skipped

if TYPE_CHECKING:
    from runware_flow.flow.flow import Flow
    from runware_flow.flow.node import Node
    from runware_flow.graph.machine import FlowMachine
    from runware_flow.journal.ledger import Ledger
    from runware_flow.runner.accounts import Accounts

__all__ = ("NO_ITEM", "BatchItem", "Work")

A = TypeVar("A")
T = TypeVar("T")

NO_ITEM = Pulled(-1, None, "")
"""Stands for what all items share."""


class BatchItem(msgspec.Struct, Generic[A, T], frozen=True):
    """One item and how it ended.

    Attributes:
        index: its position in the source.
        input: the item.
        key: what it is known by in the journal.
        outcome: that of the last node; `Failed` also if a node before it failed, or if the item's deadline passed.
        is_restored: it is an earlier run's, from the journal; nothing was sent.
    """

    index: int
    input: A
    key: str
    outcome: Outcome[T]
    is_restored: bool = False

    @property
    def is_failed(self) -> bool:
        """Whether something failed. A last node on a way that a branch does not take is skipped: that is no failure."""
        return self.error is not None

    @property
    def error(self) -> Exception | None:
        """The error of an outcome that failed; `None` otherwise."""
        outcome = self.outcome
        return outcome.error if isinstance(outcome, Failed) else None


class Work:
    """The nodes of one item, or of what all share, and how far they are.

    Attributes:
        node: the one whose outcome is the item's; or what the builder raised.
        accounts: what it bought; the run's, unless each item has its own.
        machine: of the run of its nodes, once there is one.
        is_begun: it has been counted.
    """

    __slots__ = ("accounts", "flow", "is_begun", "ledger", "machine", "node", "pulled")

    def __init__(
        self, pulled: Pulled, flow: Flow, node: Node[Any] | Exception, accounts: Accounts, ledger: Ledger | None = None
    ) -> None:
        self.accounts = accounts
        self.pulled = pulled
        self.flow = flow
        self.node = node
        self.ledger = ledger
        self.machine: FlowMachine | None = None
        self.is_begun = False

    def ended(self, outcome: Outcome[Any]) -> BatchItem[Any, Any]:
        """Say how the item ended."""
        if isinstance(outcome, Skipped) and outcome.error is not None:
            outcome = Failed(outcome.error)
        is_restored = self.ledger is not None and self.ledger.has_restored and not self.ledger.is_fresh
        return BatchItem(self.pulled.position, self.pulled.item, self.pulled.key, outcome, is_restored)

    @property
    def lease(self) -> int:
        """The number of its lease; 0 without one."""
        return 0 if self.ledger is None else self.ledger.lease

    @property
    def origin(self) -> tuple[int, str] | None:
        """Position and key of the item; None for what all share."""
        return None if self.pulled is NO_ITEM else (self.pulled.position, self.pulled.key)

    def abandoned(self) -> Abandoned:
        """Say what a cancel met in flight: a task, or that something may be billed."""
        machine = self.machine
        if machine is None:
            return Abandoned(None, may_be_billed=False)
        for slot in range(machine.root.plan.size):
            outcome = machine.root.outcome(slot)
            if isinstance(outcome, Abandoned):
                return outcome
        return Abandoned(None, may_be_billed=machine.abandoned_count > 0)
