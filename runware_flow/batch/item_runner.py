"""Runs one item of a batch: declares its nodes, restores or runs them, and reduces them to one outcome."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

import anyio
import msgspec

from runware_flow.batch.item import NO_ITEM, BatchItem, Work
from runware_flow.batch.restore import Restorer, restore
from runware_flow.cache.single_flight import SingleFlight
from runware_flow.errors import ClientStateError, DeclarationError, NodeNotAvailable, RunwareTimeoutError
from runware_flow.flow.flow import Flow, open_declaration
from runware_flow.flow.node import Node
from runware_flow.graph.declaration import SENDS, NodeKind, is_node
from runware_flow.graph.limits import check_limits
from runware_flow.graph.machine import FlowMachine
from runware_flow.graph.outcomes import Failed, Ok, Outcome, Skipped
from runware_flow.graph.plan import ScopePlan, compile_plan
from runware_flow.journal.store import LeaseLost
from runware_flow.lifetime import open_task_group
from runware_flow.runner.accounts import Accounts
from runware_flow.runner.admission import RunAdmission
from runware_flow.runner.context import RunContext, current_worker
from runware_flow.runner.node_runner import NodeRunner
from runware_flow.runner.opening import open_ledger
from runware_flow.runner.pauses import Pauses
from runware_flow.runner.runner import Runner
from runware_flow.runner.tracing import traced

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from runware_flow.batch.leases import ItemLeases
    from runware_flow.batch.report import BatchReport
    from runware_flow.batch.source import Pulled
    from runware_flow.batch.watch import BatchWatch
    from runware_flow.cache.single_flight import ResultCache
    from runware_flow.graph.attempts import RetryBudget
    from runware_flow.journal.ledger import Ledger
    from runware_flow.journal.writer import JournalWriter
    from runware_flow.runner.admission import Admission
    from runware_flow.runner.requester import Requester, RunClient
    from runware_flow.runner.settings import Settings

__all__ = ("BatchContext", "ItemRunner")


_SIMPLE = frozenset({NodeKind.TASK, NodeKind.BUILD, NodeKind.CALL, NodeKind.PICK})


class BatchContext(NamedTuple):
    """What all items of a run have around them."""

    name: str
    settings: Settings
    client: Requester | None
    writer: JournalWriter | None
    accounts: Accounts
    report: BatchReport
    watch: BatchWatch
    admission: Admission
    retries: RetryBudget
    result_cache: ResultCache | None
    leases: ItemLeases | None = None
    has_item_accounts: bool = False

    def open_accounts(self) -> Accounts:
        """What an item's requests are counted in."""
        return Accounts(self.accounts) if self.has_item_accounts else self.accounts

    def has_lost(self, lease: int) -> bool:
        """Tell whether a lease that was held is lost."""
        return bool(lease) and self.leases is not None and not self.leases.has(lease)


class ItemRunner:
    """Runs items, one after the other or beside each other; what they bought is in the accounts."""

    def __init__(self, around: BatchContext, builder: Callable[..., Node[Any]], deadline: float | None = None) -> None:
        self._around = around
        self._builder = builder
        self._settings = msgspec.structs.replace(around.settings, journal=None, on_error="continue", progress=None)
        self._deadline = deadline
        self._shared: tuple[Any, ...] = ()
        self._is_checked = False
        self.suspend: Callable[[Callable[[], Awaitable[None]]], Awaitable[None]] | None = None
        """Waits with what is given while another item is worked on."""

    async def share(self, builder: Callable[[Flow], Node[Any]]) -> None:
        """Make what every item is given: the result of the node that `builder` declares. With a journal, once for all.

        Raises:
            Exception: that of the node that failed.
            NodeNotAvailable: the node has no result, though nothing failed: a branch did not take its way.
        """
        flow = open_declaration(self._around.name)
        flow.declaration.root.path = "shared"  # in receipts and errors
        node = builder(flow)
        self._check(flow, node, "shared=")
        outcome = await self._outcome(Work(NO_ITEM, flow, node, self._around.accounts, self._ledger("shared")))
        if isinstance(outcome, (Failed, Skipped)) and outcome.error is not None:
            raise outcome.error
        if not isinstance(outcome, Ok):
            why = f": {outcome.because}" if isinstance(outcome, Skipped) else ""
            raise NodeNotAvailable(f"{node.spec.describe()}, which shared= returned, has no result{why}")
        self._shared = (outcome.value,)

    @property
    def has_journal(self) -> bool:
        """Whether items may be finished on record, so that it pays to look many up at once."""
        writer = self._around.writer
        return writer is not None and writer.has_past and not self._around.watch.wants_events

    def declare(self, pulled: Pulled) -> Work:
        """Call the builder of an item.

        Raises:
            DeclarationError: the builder does not do what a builder does.
        """
        flow = open_declaration(self._around.name)
        try:
            node = self._builder(flow, pulled.item, *self._shared)
        except DeclarationError:
            raise
        except Exception as error:  # noqa: BLE001 - user code: its failure is the item's
            return Work(pulled, flow, error, self._around.accounts)
        self._check(flow, node, "the builder")
        accounts = self._around.open_accounts()
        return Work(pulled, flow, node, accounts, self._ledger(f"item[{pulled.key}]", f"[{pulled.key}]"))

    async def restore(self, works: list[Work]) -> tuple[list[tuple[BatchItem[Any, Any], Work]], list[Work]]:
        """Find the items whose outcomes are in the journal, at once; returns these with their works, and the others."""
        around = self._around
        asked: list[tuple[Work, Restorer]] = []
        for work in works:
            if work.ledger is not None and isinstance(work.node, Node):
                asked.append((work, Restorer(work.node, around.client, work.ledger)))
        if asked and around.writer is not None:
            await restore([found for _, found in asked], around.writer)
        done: list[tuple[BatchItem[Any, Any], Work]] = []
        for work, found in asked:
            if found.is_known:
                found.book(work.accounts)
                around.watch.restored(work.flow.declaration.root, work.pulled)
                done.append((work.ended(Ok(found.value)), work))
        known = {work for work, found in asked if found.is_known}
        return done, [work for work in works if work not in known]

    async def run(self, work: Work) -> BatchItem[Any, Any]:
        """Run one item to its outcome. After a cancel the report says what was in flight."""
        node = work.node
        if not isinstance(node, Node):
            return work.ended(Failed(node))
        try:
            outcome = await self._in_time(work)
        except LeaseLost:
            raise
        except BaseException:
            if not self._around.has_lost(work.lease):
                self._around.report.abandon(work.ended(work.abandoned()))
            raise
        return work.ended(outcome)

    async def _in_time(self, work: Work) -> Outcome[Any]:
        if self._deadline is None:
            return await self._outcome(work)
        with anyio.move_on_after(self._deadline):
            return await self._outcome(work)
        left = work.abandoned()
        what = f"item {work.pulled.position} passed its deadline, {self._deadline} s after its start"
        if left.may_be_billed:
            what += f"; its task {left.task_uuid} may be billed" if left.task_uuid else "; it may be billed"
        late = RunwareTimeoutError(what, code="timeout", task_uuid=left.task_uuid, may_be_billed=left.may_be_billed)
        return Failed(late)

    async def _outcome(self, work: Work) -> Outcome[Any]:
        plan = compile_plan(work.flow.declaration)
        is_item = work.pulled is not NO_ITEM
        check_limits(plan, self._settings.limits, may_be_unused=self._is_checked or not is_item)
        self._is_checked = self._is_checked or is_item
        if self._around.client is None and _sends(plan):
            raise ClientStateError("this batch has no client: call batch.run(items, client), or set RUNWARE_API_KEY")
        self._around.report.work()
        is_short = is_chain(plan) and not self._around.watch.wants_events
        await (self._walk if is_short else self._spread)(work, plan)
        assert work.machine is not None
        assert isinstance(work.node, Node)
        outcome = work.machine.root.outcome(work.node.spec.slot)
        assert outcome is not None
        return outcome

    def _ledger(self, prefix: str, item: str = "") -> Ledger | None:
        return open_ledger(self._around.writer, self._around.name, prefix, item)

    def _check(self, flow: Flow, node: Any, whose: str) -> None:
        if type(node) is not Node or node.declaration is not flow.declaration or node.spec.scope.parent is not None:
            given = cast("object", node)
            got = repr(given) if is_node(given) else type(given).__name__
            raise DeclarationError(
                f"{whose} of batch {self._around.name!r} returned {got}: return a node of the flow that it was given;"
                " for many results, many.gather()"
            )

    async def _walk(self, work: Work, plan: ScopePlan) -> None:
        """Run a chain of nodes without a runner: there is never more than one to run."""
        around = self._around
        # A chain has one node to run at a time, and perhaps a second request for it.
        work.machine = machine = FlowMachine(plan, concurrency=self._settings.concurrency, on_error="continue")
        pauses = Pauses(machine)
        event_bus: Any = _ItemClock(around.watch)
        run_admission = RunAdmission(machine, around.admission, pauses)
        single_flight = None if around.result_cache is None else SingleFlight(machine, pauses, around.result_cache)
        node_runner = NodeRunner(
            machine,
            work.accounts,
            event_bus,
            pauses,
            run_admission,
            cast("RunClient | None", around.client),
            work.ledger,
            around.retries,
            single_flight,
        )
        context = RunContext(around.name, around.client, None, {}, work.origin)
        current_worker.set(context)
        perform = traced(node_runner.perform)
        try:
            while not machine.is_finished:
                if (job := machine.take()) is not None:
                    await perform(job[0], job[1], context)
                    around.watch.node_settled(job[0], job[1])
                elif run_admission.waits_for_window and self.suspend is not None:
                    await self.suspend(pauses.wait_due)
                else:
                    await pauses.wait_due()
        finally:
            run_admission.close()
            if single_flight is not None:
                single_flight.close(is_over=True)
            around.watch.item_left(machine.root, work.pulled)
            await node_runner.end()

    async def _spread(self, work: Work, plan: ScopePlan) -> None:
        """Run nodes that may run beside each other, or whose events are wanted."""
        around = self._around
        runner = Runner(
            work.flow.declaration,
            plan,
            self._settings,
            around.client,
            around.admission,
            None,
            work.ledger,
            around.retries,
            around.result_cache,
        )
        runner.origin = work.origin
        work.machine = runner.machine
        reader = None if work.pulled is NO_ITEM else self._around.watch.follow(runner.event_bus, work.pulled)
        try:
            async with open_task_group() as workers:
                runner.task_group = workers
                runner.begin()
                await runner.wait_for_end()
        finally:
            work.accounts.absorb(runner.accounts)
            del reader  # the event bus holds it weakly


class _ItemClock:
    """Stands where a run has its `EventBus`: it has the time since the item began, from which its policies count."""

    __slots__ = (
        "clock",
        "is_read",
        "node_delta",
        "node_progress",
        "node_refused",
        "node_started",
        "note_request",
        "start",
    )

    def __init__(self, watch: BatchWatch) -> None:
        self.clock = anyio.current_time
        self.start = self.clock()
        self.is_read = watch.counts_nodes
        self.node_started = watch.node_started
        self.node_refused = watch.node_refused
        self.node_progress = self.node_delta = self.note_request = watch.node_progress

    def time(self) -> float:
        return self.clock() - self.start


def _sends(plan: ScopePlan) -> bool:
    steps = [*plan.steps, *(step.fallback for step in plan.steps if step.fallback is not None)]
    return any(step.kind in SENDS for step in steps)


def is_chain(plan: ScopePlan) -> bool:
    """Tell whether there is never more than one node to run: each waits for the one before it alone."""
    return len(plan.first) == 1 and all(step.kind in _SIMPLE and len(step.next) <= 1 for step in plan.steps)
