"""`Batch`: one pipeline for each item of a source of any length, in bounded memory."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import anyio

from runware_flow.errors import FlowFailed
from runware_flow.lifetime import open_task_group
from runware_flow.run.accounts import Accounts
from runware_flow.run.batch_item import BatchItem, ItemRunner
from runware_flow.run.batch_source import BatchSource
from runware_flow.run.batch_watch import BatchWatch
from runware_flow.run.declare import call_name, caller, check_call
from runware_flow.run.settings import Settings, read_settings

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from contextlib import AbstractAsyncContextManager

    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

    from runware_flow.run.flow import Flow
    from runware_flow.run.node import Node
    from runware_flow.run.options import Items, JournalOption, OnError, Progress
    from runware_flow.run.requester import Requester
    from runware_flow.run.result import ReceiptLine

__all__ = ("Batch", "BatchOutcomes", "BatchReport")

A = TypeVar("A")
T = TypeVar("T")

_KEPT_FAILURES = 100


class Batch(Generic[A, T]):
    """A pipeline for each item of a source.

    Args:
        builder: called with a new flow and an item; declares the item's nodes in the flow and returns the last one,
            whose outcome is the item's. It is called again for each item when a batch is resumed, so it is pure.
        concurrency: how many items are unfinished at most, and how many outcomes unread.
        journal: see `Flow`; with it, the same call continues where the last one stopped.
        on_error: `"stop"`: once an item has failed for good nothing new is pulled, what is in flight is collected, and
            `FlowFailed` is raised after the last outcome. `"cancel"`: the same, but what is in flight is abandoned.
            `"continue"`: failures are outcomes like others.
        key: names an item; by default items are known by a hash of what they are. Equal keys get an ordinal.
        name: what the batch is called in its journal; by default the builder's name.
        progress: see `Flow`. The events that a callable is given are those of the items' nodes, with the item's
            `index` and `key`, between one `RunStarted` and one `RunFinished`, whose counts are of items.

    Raises:
        DeclarationError: an argument that makes no sense.
    """

    def __init__(
        self,
        builder: Callable[[Flow, A], Node[T]],
        *,
        concurrency: int = 64,
        journal: JournalOption = None,
        on_error: OnError = "stop",
        key: Callable[[A], str] | None = None,
        name: str | None = None,
        progress: Progress = None,
    ) -> None:
        where = caller()
        check_call(builder, 2, where, verb="Batch", may_be_async=False)
        if key is not None:
            check_call(key, 1, where, verb="Batch(key=)", may_be_async=False)
        self.name = name or call_name(builder)
        self._builder = builder
        self._key = key
        self._settings: Settings = read_settings(
            Settings(), {"concurrency": concurrency, "journal": journal, "on_error": on_error, "progress": progress}
        )

    def __repr__(self) -> str:
        return f"<Batch {self.name!r}, concurrency {self._settings.concurrency}>"

    def run(self, items: Items[A], client: Requester | None = None) -> AbstractAsyncContextManager[BatchOutcomes[A, T]]:
        """Work through `items` beside the body of an `async with`, which reads the outcomes as they come.

        Items are pulled as others finish, so memory does not grow with their number; while outcomes are unread, no
        more are pulled. Leaving the block early abandons what is in flight; with a journal the next run collects it.

        Args:
            items: an iterable, an async iterable, or a callable that makes one. A synchronous one is pulled on the
                event loop, so it must not block.
            client: the client to send tasks with; it stays open. By default one from the environment.
        """
        return self._run(items, client)

    async def collect(self, items: Items[A], client: Requester | None = None) -> BatchReport:
        """Work through `items` to the end and tell what came of them, in numbers; results are not kept.

        A cancel abandons what is in flight, which may be billed; with a journal the same call continues there.

        Raises:
            FlowFailed: an item failed and `on_error` is not `"continue"`.
        """
        async with self.run(items, client) as outcomes:
            async for _ in outcomes:
                pass
        return outcomes.report

    @asynccontextmanager
    async def _run(self, items: Items[A], client: Requester | None) -> AsyncGenerator[BatchOutcomes[A, T]]:
        settings = self._settings
        async with AsyncExitStack() as stack:
            writer = None
            if settings.journal is not None:
                from runware_flow.run.journal.writer import open_writer  # SQLite is not needed without

                writer = await stack.enter_async_context(open_writer(settings.journal))
            if client is None and os.environ.get("RUNWARE_API_KEY"):
                from runware_flow.client.client import Client

                client = await stack.enter_async_context(Client())
            source = BatchSource(items, self._key)
            stack.push_async_callback(source.aclose)
            accounts = Accounts()
            watch = BatchWatch(self.name, settings, items, accounts)
            runner = ItemRunner(self.name, self._builder, settings, client, writer, accounts, watch)
            sender, receiver = anyio.create_memory_object_stream[BatchItem[A, T]](settings.concurrency)
            outcomes = BatchOutcomes(receiver, accounts, self.name)
            crew = _Crew(runner, source, sender, outcomes, settings, watch)
            async with open_task_group() as workers, receiver:
                watch.begin(workers)
                workers.start_soon(crew.run)
                try:
                    yield outcomes
                finally:
                    workers.cancel_scope.cancel()
                    watch.close()


class _Crew:
    """The workers of one run: as many as there is work for, `concurrency` at most."""

    def __init__(
        self,
        runner: ItemRunner,
        source: BatchSource,
        sender: MemoryObjectSendStream[Any],
        outcomes: BatchOutcomes[Any, Any],
        settings: Settings,
        watch: BatchWatch,
    ) -> None:
        self._runner = runner
        self._watch = watch
        self._source = source
        self._sender = sender
        self._outcomes = outcomes
        self._settings = settings
        self._count = 0
        self._is_stopped = False

    async def run(self) -> None:
        async with self._sender:
            async with anyio.create_task_group() as workers:
                self._hire(workers)
            await self._watch.finish("failed" if self._is_stopped else "done")

    def _hire(self, workers: Any) -> None:
        if self._count < self._settings.concurrency and not self._is_stopped:
            self._count += 1
            workers.start_soon(self._work, workers)

    async def _work(self, workers: Any) -> None:
        while not self._is_stopped:
            await self._watch.admitted()
            pulled = await self._source.pull()
            if pulled is None:
                return
            self._hire(workers)
            with self._watch.item() as told:
                item = await self._runner.run(pulled)
                told.append(item.outcome)
            self._outcomes.report.count(item)
            if item.is_failed and self._settings.on_error != "continue":
                self._is_stopped = True
                self._outcomes.stop(item)
            # Paid for, so a cancel of the workers does not take it back; it ends when the reader has left.
            with anyio.CancelScope(shield=True), suppress(anyio.BrokenResourceError):
                await self._sender.send(item)
            if item.is_failed and self._settings.on_error == "cancel":
                workers.cancel_scope.cancel()


class BatchOutcomes(Generic[A, T]):
    """The outcomes of a batch as they come; use `async for`. Each has `index`, `input`, `key` and `outcome`.

    Attributes:
        report: what came of the batch so far.
    """

    def __init__(self, stream: MemoryObjectReceiveStream[BatchItem[A, T]], accounts: Accounts, name: str) -> None:
        self.report = BatchReport(accounts)
        self._stream = stream
        self._name = name
        self._failed: BatchItem[A, T] | None = None

    def __aiter__(self) -> BatchOutcomes[A, T]:
        return self

    async def __anext__(self) -> BatchItem[A, T]:
        """Wait for the next outcome.

        Raises:
            FlowFailed: after the last one, if an item failed and `on_error` is not `"continue"`.
        """
        try:
            return await self._stream.receive()
        except anyio.EndOfStream:
            if self._failed is None:
                raise StopAsyncIteration from None
        failed, self._failed = self._failed, None
        error = failed.error
        told = f"batch {self._name!r}: item {failed.index} failed: {str(error) or type(error).__name__}"
        raise FlowFailed(told, result=self.report, node=None) from error

    def stop(self, item: BatchItem[A, T]) -> None:
        """Note the item whose failure ends the batch."""
        self._failed = self._failed or item


class BatchReport:
    """What came of a batch, in numbers.

    Attributes:
        ok_count, failed_count: items by outcome.
        failures: the first hundred items that failed.
    """

    def __init__(self, accounts: Accounts) -> None:
        self.ok_count = 0
        self.failed_count = 0
        self.failures: list[BatchItem[Any, Any]] = []
        self._accounts = accounts

    def __repr__(self) -> str:
        return f"<BatchReport: {self.ok_count} ok, {self.failed_count} failed, cost {self.cost}>"

    @property
    def cost(self) -> float | None:
        """USD, what earlier runs on the same journal paid for these items included; `None` if one is unknown."""
        return self._accounts.total()

    def receipt(self) -> list[ReceiptLine]:
        """Return what was bought: a line for each step and model."""
        return self._accounts.lines()

    def count(self, item: BatchItem[Any, Any]) -> None:
        """Add an item that has its outcome."""
        if not item.is_failed:
            self.ok_count += 1
            return
        self.failed_count += 1
        if len(self.failures) < _KEPT_FAILURES:
            self.failures.append(item)
