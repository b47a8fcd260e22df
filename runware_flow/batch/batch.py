"""`Batch`: one pipeline for each item of a source of any length, in bounded memory."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack, asynccontextmanager
from copy import copy
from typing import TYPE_CHECKING, Any, Generic, TypeVar, Unpack, cast, overload

import anyio

from runware_flow.batch.batch_runner import BatchRunner
from runware_flow.batch.item import BatchContext, ItemRunner
from runware_flow.batch.leases import ItemLeases, open_leases
from runware_flow.batch.report import BatchOutcomes, BatchReport, Outbox
from runware_flow.batch.source import BatchSource
from runware_flow.batch.watch import BatchWatch
from runware_flow.cache.single_flight import open_result_cache
from runware_flow.errors import DeclarationError
from runware_flow.flow.checks import call_name, caller, check_call, takes
from runware_flow.graph.attempts import RetryBudget
from runware_flow.graph.batches import Tolerance
from runware_flow.lifetime import HostedBlock, open_task_group
from runware_flow.runner.accounts import Accounts
from runware_flow.runner.interrupted import journal_file
from runware_flow.runner.opening import open_admission, open_journal
from runware_flow.runner.settings import Settings, read_settings
from runware_flow.tracebacks import border
from runware_flow.types import problem_of_seconds

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from typing_extensions import TypeVar as TypeVarWithDefault

    from runware_flow.batch.plan import BatchPlan
    from runware_flow.flow.flow import Flow
    from runware_flow.flow.node import Node
    from runware_flow.flow.options import BatchOptions, Items
    from runware_flow.graph.prices import PriceOption
    from runware_flow.runner.admission import Admission
    from runware_flow.runner.requester import Requester

    S = TypeVarWithDefault("S", default=None)
else:
    S = TypeVar("S")

__all__ = ("Batch",)

A = TypeVar("A")
T = TypeVar("T")
# In the overloads of __init__, which may not name those of the class:
B = TypeVar("B")
U = TypeVar("U")
V = TypeVar("V")


class Batch(Generic[A, T, S]):
    """A pipeline for each item of a source.

    Args:
        builder: called with a new flow and an item, and with the result of `shared=` if the run has one; declares the
            item's nodes in the flow and returns the last one, whose outcome is the item's. It is called again for each
            item when a batch is resumed, so it is pure.
        key: names an item; by default items are known by a hash of what they are. Equal keys get an ordinal.
        **options: see `BatchOptions`.

    Raises:
        DeclarationError: an argument that makes no sense.
    """

    @overload
    def __init__(
        self: Batch[B, U, None],
        builder: Callable[[Flow, B], Node[U]],
        *,
        key: Callable[[B], str] | None = None,
        **options: Unpack[BatchOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: Batch[B, U, V],
        builder: Callable[[Flow, B, V], Node[U]],
        *,
        key: Callable[[B], str] | None = None,
        **options: Unpack[BatchOptions],
    ) -> None: ...
    def __init__(
        self,
        builder: Callable[..., Node[Any]],
        *,
        key: Callable[[Any], str] | None = None,
        **options: Unpack[BatchOptions],
    ) -> None:
        where = caller()
        check_call(builder, 3 if takes(builder, 3) else 2, where, verb="Batch", may_be_async=False)
        if key is not None:
            check_call(key, 1, where, verb="Batch(key=)", may_be_async=False)
        given: dict[str, Any] = dict(options)
        self.name: str = given.pop("name", None) or call_name(builder)
        self._builder = builder
        self._key = key
        self._deadline = _read_deadline(given.pop("deadline", None))
        self._tolerate = _read_tolerate(given.pop("tolerate", None), given.get("on_error", "stop"))
        self._settings: Settings = read_settings(Settings(), cast("Any", given), owner="Batch")

    if not TYPE_CHECKING:  # Batch[A, T] is a batch without shared=

        def __class_getitem__(cls, kinds: Any) -> Any:
            return super().__class_getitem__((*kinds, None) if isinstance(kinds, tuple) and len(kinds) == 2 else kinds)

    def __repr__(self) -> str:
        return f"<Batch {self.name!r}, concurrency {self._settings.concurrency}>"

    @overload
    def run(
        self: Batch[A, T, None], items: Items[A], client: Requester | None = None
    ) -> AbstractAsyncContextManager[BatchOutcomes[A, T]]: ...
    @overload
    def run(
        self, items: Items[A], client: Requester | None = None, *, shared: Callable[[Flow], Node[S]]
    ) -> AbstractAsyncContextManager[BatchOutcomes[A, T]]: ...
    def run(
        self, items: Items[A], client: Requester | None = None, *, shared: Callable[[Flow], Node[Any]] | None = None
    ) -> AbstractAsyncContextManager[BatchOutcomes[A, T]]:
        """Work through `items` beside the body of an `async with`, which reads the outcomes as they come.

        Items are pulled as others finish, so memory does not grow with their number; while outcomes are unread, no
        more are pulled. Leaving the block early (a `break`) stops the batch: nothing more is pulled, and what is in
        flight runs to its end and is counted, since it has been paid for. An exception or a cancel in the block
        abandons what is in flight; with a journal the next run collects it. So does an async generator around the block
        that is dropped; the block may be left in another task than the one that entered it.

        Args:
            items: an iterable, an async iterable, or a callable that makes one. A synchronous one is pulled on the
                event loop, so it must not block.
            client: the client to send tasks with; it stays open. By default one from the environment.
            shared: declares, in a flow of its own, what every item needs, and returns the node whose result the
                builder is given as a third argument. It is made once, before the first item; with a journal, once for
                all runs. If it fails, the batch does.
        """
        if not takes(self._builder, 2 if shared is None else 3):
            what = (
                "has no shared=, but its builder takes a third argument"
                if shared is None
                else "has shared=, so its builder takes a third argument, its result"
            )
            raise DeclarationError(f"this run of batch {self.name!r} {what}")
        if shared is not None:
            check_call(shared, 1, caller(), verb="run(shared=)", may_be_async=False)
        return HostedBlock(lambda: self._run(items, client, shared), lambda outcomes: outcomes)

    @overload
    async def collect(self: Batch[A, T, None], items: Items[A], client: Requester | None = None) -> BatchReport: ...
    @overload
    async def collect(
        self, items: Items[A], client: Requester | None = None, *, shared: Callable[[Flow], Node[S]]
    ) -> BatchReport: ...
    @border
    async def collect(
        self, items: Items[A], client: Requester | None = None, *, shared: Callable[[Flow], Node[Any]] | None = None
    ) -> BatchReport:
        """Work through `items` to the end and tell what came of them, in numbers; results are not kept.

        A cancel abandons what is in flight, which may be billed; with a journal the same call continues there.

        Raises:
            FlowFailed: an item failed and `on_error` is not `"continue"`.
        """
        async with cast("Any", self).run(items, client, shared=shared) as outcomes:
            async for _ in outcomes:
                pass
        report: BatchReport = outcomes.report
        return report

    def plan(
        self,
        items: Items[A],
        *,
        sample: int = 20,
        prices: Mapping[str, PriceOption] | None = None,
        shared: object = None,
    ) -> BatchPlan:
        """Tell what a run would send and cost, from a sample of the items. Sends nothing; see `Flow.plan`.

        Args:
            items: a list, something else that can be read again, or a callable that makes the iterator.
            sample: how many items are looked at: from all over a sequence, else the first ones.
            prices: by AIR, slug or task type, as for `Flow.plan`; others are learned from the batch's journal.
            shared: what stands for the result of `shared=`, for a builder that takes it.

        Raises:
            DeclarationError: the items can be read only once, or an item's declaration makes no sense.
        """
        from runware_flow.batch.plan import plan_batch
        from runware_flow.flow.plan import price_list

        known = price_list(prices, self._settings.journal)
        return plan_batch(self.name, self._builder, items, sample, known, shared)

    def overridden(self, key: Callable[[Any], str] | None, **options: Any) -> Batch[A, T, S]:
        """Make the same batch with other options; for the command line."""
        other = copy(self)
        other._key = key or self._key
        other._settings = read_settings(self._settings, cast("Any", options), owner="Batch")
        return other

    @asynccontextmanager
    async def _run(
        self, items: Items[A], client: Requester | None, shared: Callable[[Flow], Node[Any]] | None
    ) -> AsyncGenerator[BatchOutcomes[A, T]]:
        settings = self._settings
        async with AsyncExitStack() as stack:
            writer = await open_journal(settings, stack)
            if client is None and os.environ.get("RUNWARE_API_KEY"):
                from runware_flow.client.client import Client

                client = await stack.enter_async_context(Client())
            source = BatchSource(items, self._key)
            stack.push_async_callback(source.aclose)
            accounts = Accounts()
            report = BatchReport(accounts, source.total, name=self.name, journal=journal_file(settings.journal))
            outbox: Outbox[A, T] = Outbox(report, self.name, settings.concurrency)
            watch = BatchWatch(self.name, settings, items, accounts)
            # What all items cost is not known beforehand, so the balance is told only if there is none.
            admission = await open_admission(self.name, settings, client, writer, stack, lambda _: 0.0)
            stack.callback(admission.close)
            watch.refused_count = admission.refused_count
            result_cache = await open_result_cache(settings.cache, client)
            leases = open_leases(writer, self.name)
            if leases is not None:
                stack.push_async_callback(leases.close)
            context = BatchContext(
                self.name,
                settings,
                client,
                writer,
                accounts,
                report,
                watch,
                admission,
                RetryBudget(),
                result_cache,
                leases,
            )
            runner = ItemRunner(context, self._builder, self._deadline)
            batch_runner = BatchRunner(
                runner, source, outbox, settings, Tolerance(self._tolerate, source.total), watch, leases
            )
            async with open_task_group() as workers:
                watch.begin(workers, batch_runner.stop)
                workers.start_soon(_work, batch_runner, shared, admission, leases)
                try:
                    yield BatchOutcomes(outbox)
                except BaseException:
                    workers.cancel_scope.cancel()
                    watch.close()
                    raise
                finally:
                    outbox.leave()
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


def _read_deadline(value: Any) -> float | None:
    if value is not None and (problem := problem_of_seconds("deadline", value)) is not None:
        raise DeclarationError(problem)
    return cast("float | None", value)


def _read_tolerate(value: Any, on_error: object) -> float:
    if value is None:
        return 0.0
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= 1:
        raise DeclarationError(f"tolerate= is a share of the items, from 0 to 1, not {value!r}")
    if on_error == "continue":
        raise DeclarationError('tolerate= says when to stop, and on_error="continue" never does: leave one of them out')
    return float(value)
