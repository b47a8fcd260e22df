"""One item of a batch: its nodes are declared, run, and reduced to one outcome."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import msgspec

from runware_flow.errors import ClientStateError, DeclarationError
from runware_flow.graph.declaration import NodeKind
from runware_flow.graph.machine import FlowMachine
from runware_flow.graph.outcomes import Failed, Outcome, Skipped
from runware_flow.graph.plan import ScopePlan, compile_plan
from runware_flow.lifetime import open_task_group
from runware_flow.run.context import RunContext, current_worker
from runware_flow.run.declare import is_node
from runware_flow.run.flow import Flow
from runware_flow.run.node import Node
from runware_flow.run.pauses import Pauses
from runware_flow.run.performer import Performer
from runware_flow.run.runner import Runner

if TYPE_CHECKING:
    from collections.abc import Callable

    from runware_flow.run.accounts import Accounts
    from runware_flow.run.batch_source import Pulled
    from runware_flow.run.batch_watch import BatchWatch
    from runware_flow.run.journal.ledger import Ledger
    from runware_flow.run.journal.writer import JournalWriter
    from runware_flow.run.settings import Settings

__all__ = ("BatchItem", "ItemRunner")

A = TypeVar("A")
T = TypeVar("T")

_SIMPLE = frozenset({NodeKind.TASK, NodeKind.BUILD, NodeKind.CALL, NodeKind.PICK})
_SENDS = frozenset({NodeKind.TASK, NodeKind.BUILD})


class BatchItem(msgspec.Struct, Generic[A, T], frozen=True):
    """One item and how it ended.

    Attributes:
        index: its position in the source.
        input: the item.
        key: what it is known by in the journal.
        outcome: that of the last node; `Failed` also if a node before it failed.
    """

    index: int
    input: A
    key: str
    outcome: Outcome[T]

    @property
    def is_failed(self) -> bool:
        """Whether there is no result."""
        return self.error is not None

    @property
    def error(self) -> Exception | None:
        """Why there is none."""
        outcome = self.outcome
        return outcome.error if isinstance(outcome, Failed) else None


class ItemRunner:
    """Runs items, one after the other or beside each other; what they bought is in the accounts."""

    def __init__(
        self,
        name: str,
        builder: Callable[[Flow, Any], Node[Any]],
        settings: Settings,
        client: Any,
        writer: JournalWriter | None,
        accounts: Accounts,
        watch: BatchWatch,
    ) -> None:
        self._name = name
        self._builder = builder
        self._settings = msgspec.structs.replace(settings, journal=None, on_error="continue", progress=None)
        self._client = client
        self._writer = writer
        self._accounts = accounts
        self._watch = watch

    async def run(self, pulled: Pulled) -> BatchItem[Any, Any]:
        """Run one item to its outcome.

        Raises:
            DeclarationError: the builder does not do what a builder does.
        """
        flow = Flow(self._name)
        try:
            node = self._builder(flow, pulled.item)
        except DeclarationError:
            raise
        except Exception as error:  # noqa: BLE001 - user code: its failure is the item's
            return BatchItem(pulled.position, pulled.item, pulled.key, Failed(error))
        self._check(flow, node)
        plan = compile_plan(flow.declaration)
        if self._client is None and any(step.kind in _SENDS for step in plan.steps):
            raise ClientStateError("this batch has no client: call batch.run(items, client), or set RUNWARE_API_KEY")
        ledger = None if self._writer is None else self._ledger(self._writer, pulled.key)
        walk = self._walk if is_chain(plan) and not self._watch.wants_events else self._spread
        outcome: Outcome[Any] | None = await walk(flow, plan, node, ledger, pulled)
        assert outcome is not None
        if isinstance(outcome, Skipped) and outcome.error is not None:
            outcome = Failed(outcome.error)
        return BatchItem(pulled.position, pulled.item, pulled.key, outcome)

    def _ledger(self, writer: JournalWriter, key: str) -> Ledger:
        from runware_flow.run.journal.ledger import Ledger

        return Ledger(writer, self._name, f"item[{key}]")

    def _check(self, flow: Flow, node: Any) -> None:
        if type(node) is not Node or node.flow is not flow or node.spec.scope.parent is not None:
            given = cast("object", node)
            got = repr(given) if is_node(given) else type(given).__name__
            raise DeclarationError(
                f"the builder of batch {self._name!r} returned {got}: return a node of the flow that it was given; for"
                " many results, many.gather()"
            )

    async def _walk(
        self, flow: Flow, plan: ScopePlan, node: Node[Any], ledger: Ledger | None, pulled: Pulled
    ) -> Outcome[Any] | None:
        """Run a chain of nodes without a runner: there is never more than one to run."""
        machine = FlowMachine(plan, concurrency=1, on_error="continue")
        pauses = Pauses(machine)
        news: Any = self._watch  # it has the time, and counts
        performer = Performer(machine, self._accounts, news, pauses, self._client, ledger)
        context = RunContext(self._name, self._client, None)
        current_worker.set(context)
        try:
            while not machine.is_finished:
                while (job := machine.take()) is not None:
                    await performer.perform(job[0], job[1], context)
                    self._watch.node_settled(job[0], job[1])
                await pauses.wait_due()
        finally:
            self._watch.item_left(machine.root)
        return machine.root.outcome(node.spec.slot)

    async def _spread(
        self, flow: Flow, plan: ScopePlan, node: Node[Any], ledger: Ledger | None, pulled: Pulled
    ) -> Outcome[Any] | None:
        runner = Runner(flow, plan, self._settings, self._client, None, ledger)
        told = self._watch.follow(runner.news, pulled)
        try:
            async with open_task_group() as workers:
                runner.begin(workers)
                await runner.wait_for_end()
        finally:
            self._accounts.absorb(runner.accounts)
            del told
        return runner.machine.root.outcome(node.spec.slot)


def is_chain(plan: ScopePlan) -> bool:
    """Tell whether there is never more than one node to run: each waits for the one before it alone."""
    return len(plan.first) == 1 and all(step.kind in _SIMPLE and len(step.next) <= 1 for step in plan.steps)
