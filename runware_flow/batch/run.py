"""One run of a batch in this process, and the protocol of engines, which run one in others."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import anyio

from runware_flow.batch.batch_runner import BatchRunner
from runware_flow.batch.item_runner import BatchContext, ItemRunner
from runware_flow.batch.leases import ItemLeases, open_leases
from runware_flow.batch.report import BatchOutcomes, BatchReport, Outbox
from runware_flow.batch.source import BatchSource, FedSource
from runware_flow.batch.watch import BatchWatch
from runware_flow.cache.single_flight import open_result_cache
from runware_flow.graph.attempts import RetryBudget
from runware_flow.graph.tolerance import Tolerance
from runware_flow.journal.store import journal_named
from runware_flow.lifetime import open_task_group
from runware_flow.runner.accounts import Accounts
from runware_flow.runner.opening import open_admission, open_journal

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from contextlib import AbstractAsyncContextManager

    from runware_flow.flow.flow import Flow
    from runware_flow.flow.node import Node
    from runware_flow.runner.admission import Admission
    from runware_flow.runner.requester import Requester
    from runware_flow.runner.settings import Settings

__all__ = ("BatchRun", "BatchSpec", "BatchState", "Engine", "open_run", "open_state")


class BatchSpec(NamedTuple):
    """What a batch does with each item.

    Attributes:
        builder: declares an item's nodes.
        key: names an item, if it is not known by a hash.
        deadline: seconds that an item has from its start.
        tolerate: the share of items that may fail.
        shared: declares what all items share.
    """

    name: str
    builder: Callable[..., Node[Any]]
    key: Callable[[Any], str] | None
    settings: Settings
    deadline: float | None = None
    tolerate: float = 0.0
    shared: Callable[[Flow], Node[Any]] | None = None


class Engine(Protocol):
    """Runs batches in other processes. What `Batch.on` takes."""

    def check(self, spec: BatchSpec) -> None:
        """Check that a batch can run there.

        Raises:
            DeclarationError: it cannot.
        """
        ...

    def open_run(self, spec: BatchSpec, items: Any) -> AbstractAsyncContextManager[BatchOutcomes[Any, Any]]:
        """Run a batch for the time of a block, as `Batch.run` does."""
        ...


class BatchState(NamedTuple):
    """The side of a run that is read: its outcomes, its numbers, and what watches it."""

    source: BatchSource | FedSource
    accounts: Accounts
    report: BatchReport
    outbox: Outbox[Any, Any]
    watch: BatchWatch
    tolerance: Tolerance


class BatchRun(NamedTuple):
    """The side of a run that works."""

    runner: BatchRunner
    admission: Admission


def open_state(spec: BatchSpec, items: Any) -> BatchState:
    """Make the side of a run that is read; its source is to be closed."""
    source = BatchSource(items, spec.key)
    accounts = Accounts()
    report = BatchReport(accounts, source.total, name=spec.name, journal=journal_named(spec.settings.journal))
    outbox: Outbox[Any, Any] = Outbox(report, spec.name, spec.settings.concurrency)
    watch = BatchWatch(spec.name, spec.settings, items, accounts)
    return BatchState(source, accounts, report, outbox, watch, Tolerance(spec.tolerate, source.total))


@asynccontextmanager
async def open_run(
    spec: BatchSpec, state: BatchState, client: Requester | None = None, *, has_item_accounts: bool = False
) -> AsyncGenerator[BatchRun]:
    """Work through the source of a batch beside the body of a block.

    Args:
        client: the client to send tasks with; `None` opens one from the environment.
        has_item_accounts: the requests of each item are also counted by themselves.
    """
    settings, watch = spec.settings, state.watch
    async with AsyncExitStack() as stack:
        stack.push_async_callback(state.source.aclose)
        writer = await open_journal(settings, stack)
        if client is None and os.environ.get("RUNWARE_API_KEY"):
            from runware_flow.client.client import Client

            client = await stack.enter_async_context(Client())
        # What all items cost is not known beforehand, so the balance is told only if there is none.
        admission = await open_admission(spec.name, settings, client, writer, stack, lambda _: 0.0)
        stack.callback(admission.close)
        watch.refused_count = admission.refused_count
        result_cache = await open_result_cache(settings.cache, client)
        leases = open_leases(writer, spec.name)
        if leases is not None:
            stack.push_async_callback(leases.close)
        context = BatchContext(
            spec.name,
            settings,
            client,
            writer,
            state.accounts,
            state.report,
            watch,
            admission,
            RetryBudget(),
            result_cache,
            leases,
            has_item_accounts,
        )
        runner = ItemRunner(context, spec.builder, spec.deadline)
        batch_runner = BatchRunner(runner, state.source, state.outbox, settings, state.tolerance, watch, leases)
        runner.suspend = batch_runner.suspend
        async with open_task_group() as workers:
            watch.begin(workers, batch_runner.stop)
            workers.start_soon(_work, batch_runner, spec.shared, admission, leases)
            try:
                yield BatchRun(batch_runner, admission)
            except BaseException:
                workers.cancel_scope.cancel()
                watch.close()
                raise
            finally:
                state.outbox.leave()
                batch_runner.stop()


async def _work(
    batch_runner: BatchRunner,
    shared: Callable[[Flow], Node[Any]] | None,
    admission: Admission,
    leases: ItemLeases | None,
) -> None:
    async with anyio.create_task_group() as beside:
        beside.start_soon(admission.attend)
        if leases is not None:
            beside.start_soon(leases.renew)
        await batch_runner.run(shared)
        beside.cancel_scope.cancel()
