"""What a batch gives its caller: the outcomes as they come, and a report of counts and costs."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import anyio
import anyio.lowlevel

from runware_flow.errors import FlowFailed, JournalError
from runware_flow.graph.batches import BatchStatistics
from runware_flow.tracebacks import bordered

if TYPE_CHECKING:
    from os import PathLike

    from runware_flow.batch.item import BatchItem
    from runware_flow.journal.address import JournalAddress
    from runware_flow.runner.accounts import Accounts
    from runware_flow.runner.records import ReceiptLine

__all__ = ("BatchOutcomes", "BatchReport", "Outbox")

A = TypeVar("A")
T = TypeVar("T")

_KEPT = 100
_READS_A_TURN = 16
"""Reads after which a reader that never has to wait lets others in."""


@bordered
class BatchReport:
    """What came of a batch, in numbers.

    Attributes:
        ok_count, failed_count: items by outcome.
        restored_count: items whose outcome is from the journal, without a request; they count as ok, too.
        abandoned_count: items that were in flight when the batch was cancelled.
        failures, abandoned: the first hundred of those that failed, or were abandoned.
    """

    def __init__(
        self,
        accounts: Accounts,
        total: int | None = None,
        *,
        name: str = "batch",
        journal: JournalAddress | None = None,
    ) -> None:
        self._name = name
        self._journal = journal
        self.ok_count = 0
        self.failed_count = 0
        self.restored_count = 0
        self.abandoned_count = 0
        self.failures: list[BatchItem[Any, Any]] = []
        self.abandoned: list[BatchItem[Any, Any]] = []
        self._accounts = accounts
        self._total = total
        self._begun_count = 0
        self._running_count = 0
        self._start = anyio.current_time()
        self._first: float | None = None
        self._last = self._start

    def __repr__(self) -> str:
        return f"<BatchReport: {self.ok_count} ok, {self.failed_count} failed, cost {self.cost}>"

    @property
    def cost(self) -> float | None:
        """USD, what earlier runs on the same journal paid for these items included; `None` if one is unknown."""
        return self._accounts.total()

    def receipt(self) -> list[ReceiptLine]:
        """Return what was bought: a line for each step and model."""
        return self._accounts.lines()

    def html(self, path: str | PathLike[str], *, pictures: int = 500) -> Path:
        """Write a page about the batch out of its journal, see `RunResult.html`; earlier runs of the journal included.

        Saved files are shown from wherever they are, since the batch itself has named them. Blocks: in async code, call
        it in a thread.

        Args:
            path: the file, which is replaced in one piece; missing folders are made.
            pictures: how many thumbnails are in the page itself at most; if there are more, they are files beside it.

        Raises:
            JournalError: the batch has no journal, without which nothing of its items is kept.
        """
        from runware_flow.runner.journal_report import journal_report
        from runware_flow.runner.report import check_target, write_report

        if self._journal is None:
            raise JournalError(
                f"batch {self._name!r} has no journal, so there is nothing to make a page of: give it journal="
            )
        check_target(Path(path))
        report = journal_report(self._journal, Path(path), flow=self._name, files=None, pictures=pictures)
        return write_report(report, path)

    def statistics(self) -> BatchStatistics:
        """Return how the batch stands now."""
        settled = self.ok_count + self.failed_count
        fresh = settled - self.restored_count
        seconds = self._last - (self._last if self._first is None else self._first)
        return BatchStatistics(
            total=self._total,
            begun=self._begun_count + self._running_count,
            in_flight=self._begun_count + self._running_count - settled - self.abandoned_count,
            ok=self.ok_count,
            failed=self.failed_count,
            restored=self.restored_count,
            abandoned=self.abandoned_count,
            seconds=self._last - self._start,
            rate=fresh / seconds if seconds > 0 and fresh > 0 else None,
            cost=self.cost,
        )

    # What follows is used by the batch.

    def begin(self) -> None:
        """Count an item that was pulled."""
        self._begun_count += 1

    def note_running(self, count: int) -> None:
        """Count items that were begun elsewhere; those that come back from there begin and end at once."""
        self._running_count = count

    def work(self) -> None:
        """Note that an item is worked on that the journal does not have; the first one starts the clock of the rate."""
        if self._first is None:
            self._first = anyio.current_time()

    def count(self, item: BatchItem[Any, Any]) -> None:
        """Add an item that has its outcome."""
        self.restored_count += item.is_restored
        if not item.is_failed:
            self.ok_count += 1
            return
        self.failed_count += 1
        if len(self.failures) < _KEPT:
            self.failures.append(item)

    def abandon(self, item: BatchItem[Any, Any]) -> None:
        """Add an item that a cancel met in flight."""
        self.abandoned_count += 1
        if len(self.abandoned) < _KEPT:
            self.abandoned.append(item)

    def tick(self) -> None:
        """Move the clock of the statistics on."""
        self._last = anyio.current_time()


class Outbox(Generic[A, T]):
    """The outcomes that are not read yet, between the workers of a batch and its reader.

    Attributes:
        ended: set once there will be no more.
        has_failed: the batch has failed; its reader gets the failure after the last outcome.
    """

    def __init__(self, report: BatchReport, name: str, bound: int) -> None:
        self.report = report
        self.ended = anyio.Event()
        self.has_failed = False
        self._name = name
        self._bound = bound
        self._unread: deque[BatchItem[A, T]] = deque()
        self._arrived = anyio.Event()
        self._room = anyio.Event()
        self._is_left = False
        self._failure: tuple[str, Exception] | None = None

    async def room(self) -> None:
        """Wait while as many outcomes are unread as may be."""
        while len(self._unread) >= self._bound and not self._is_left:
            if self._room.is_set():
                self._room = anyio.Event()
            await self._room.wait()

    def put(self, item: BatchItem[A, T], accounts: Accounts) -> None:
        """Hand an outcome to the reader; once the reader has left, drop it."""
        if self._is_left:
            return
        self._unread.append(item)
        self._arrived.set()

    async def take(self) -> BatchItem[A, T] | None:
        """Wait for the next outcome; `None` if there will be no more."""
        while not self._unread:
            if self.ended.is_set():
                return None
            await self._arrived.wait()
        item = self._unread.popleft()
        if not self._unread and not self.ended.is_set():
            self._arrived = anyio.Event()
        if 2 * len(self._unread) <= self._bound:  # not at each read, which would wake all workers for one item
            self._room.set()
        return item

    def fail(self, message: str, error: Exception) -> None:
        """Note why the batch has failed; the first reason stays."""
        if not self.has_failed:
            self.has_failed = True
            self._failure = (message, error)

    def raise_failure(self) -> None:
        """Raise `FlowFailed` if the batch failed; once."""
        if self._failure is None:
            return
        (message, error), self._failure = self._failure, None
        raise FlowFailed(f"batch {self._name!r}: {message}", result=self.report, node=None) from error

    def leave(self) -> None:
        """The reader has left."""
        self._is_left = True
        self._unread.clear()
        self._room.set()

    def close(self) -> None:
        """There will be no more outcomes."""
        self.ended.set()
        self._arrived.set()


@bordered
class BatchOutcomes(Generic[A, T]):
    """The outcomes of a batch as they come; use `async for`. Each has `index`, `input`, `key` and `outcome`.

    Attributes:
        report: what came of the batch so far.
    """

    def __init__(self, outbox: Outbox[A, T]) -> None:
        self.report = outbox.report
        self._outbox = outbox
        self._read_count = 0

    def __aiter__(self) -> BatchOutcomes[A, T]:
        return self

    async def __anext__(self) -> BatchItem[A, T]:
        """Wait for the next outcome.

        Raises:
            FlowFailed: after the last one, if an item failed and `on_error` is not `"continue"`.
        """
        self._read_count += 1
        if self._read_count % _READS_A_TURN == 0:
            await anyio.lowlevel.checkpoint()
        item = await self._outbox.take()
        if item is None:
            self._outbox.raise_failure()
            raise StopAsyncIteration
        return item

    def statistics(self) -> BatchStatistics:
        """Return how the batch stands now: items done, in flight, a second; what it cost."""
        if not self._outbox.ended.is_set():
            self.report.tick()
        return self.report.statistics()
