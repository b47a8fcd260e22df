"""The workers of one run of a batch."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel

from runware_flow.batch.leases import failed_elsewhere, is_lost

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import TaskGroup

    from runware_flow.batch.item import BatchItem, Work
    from runware_flow.batch.item_runner import ItemRunner
    from runware_flow.batch.leases import ItemLeases
    from runware_flow.batch.report import Outbox
    from runware_flow.batch.source import BatchSource, FedSource
    from runware_flow.batch.watch import BatchWatch
    from runware_flow.graph.tolerance import Tolerance
    from runware_flow.runner.settings import Settings

__all__ = ("BatchRunner", "FailurePolicy")

_ITEMS_AT_ONCE = 64
"""Items that are looked up in a journal together, at most."""
_ITEMS_A_TURN = 16
"""Items that a worker finishes before it lets other tasks run, should none of them wait for anything."""
_UNFINISHED = 4
"""The most unfinished items, as a multiple of `concurrency`; those included that wait for a send window."""


class BatchRunner:
    """Starts workers as there is work for them; each works on one item at a time.

    `concurrency` of them are active. A worker whose item waits for a send window is suspended and another one is
    started, up to four times `concurrency` in all, so that a model that refuses tasks does not hold up another one.

    A worker without work pulls an item. With a journal it pulls as many as there is room for, and looks them all up
    before it runs one of those that are not finished and leaves the others to more workers.
    """

    def __init__(
        self,
        runner: ItemRunner,
        source: BatchSource | FedSource,
        outbox: Outbox[Any, Any],
        settings: Settings,
        tolerance: Tolerance,
        watch: BatchWatch,
        leases: ItemLeases | None = None,
    ) -> None:
        self._runner = runner
        self._source = source
        self._outbox = outbox
        self.concurrency = settings.concurrency
        self._settings = settings
        self._policy = FailurePolicy(outbox, settings, tolerance)
        self._watch = watch
        self._leases = leases
        self._leased_elsewhere: list[Work] = []
        """Items that other processes have; there are no more than those processes work on at once."""
        self._is_waiting = False
        self.worker_count = 0
        """How many workers there are, those whose item waits for a send window included."""
        self._active_count = 0
        self._suspended_count = 0
        self._resuming: deque[anyio.Event] = deque()
        self._todo: deque[Work] = deque()
        self._open_count = 0
        self._is_stopped = False
        self._is_over = False
        self._workers: TaskGroup | None = None

    async def run(self, shared: Callable[..., Any] | None) -> None:
        """Make what is shared, then work through the source."""
        outbox = self._outbox
        try:
            if shared is not None and not await self._share(shared):
                await self._watch.finish("failed")
                return
            async with anyio.create_task_group() as self._workers:
                self._start_worker(self._workers)
                await self._source.attend(lambda: self.resize(self.concurrency))
            self._policy.end()
            await self._watch.finish(self._how_it_ended())
        finally:
            outbox.report.tick()
            outbox.close()

    def _how_it_ended(self) -> str:
        if self._outbox.has_failed:
            return "failed"
        return "stopped" if self._is_stopped else "done"

    async def _share(self, shared: Callable[..., Any]) -> bool:
        try:
            await self._runner.share(shared)
        except Exception as error:  # noqa: BLE001 - it is the failure of the batch, raised to its reader
            self._outbox.fail(f"what its items share failed: {str(error) or type(error).__name__}", error)
            return False
        return True

    def stop(self) -> None:
        """Begin no more items. Those that are in flight run to their end."""
        self._is_stopped = True
        self._source.stop()

    def resize(self, concurrency: int) -> None:
        """Work on that many items from now on; where they are more, as they end."""
        self.concurrency = concurrency
        if self._workers is not None:
            self._is_over = self._source.is_over
            self._resume_suspended()
            self._start_worker(self._workers)

    def _start_worker(self, workers: TaskGroup) -> None:
        """Start one more, unless there are as many as there may be."""
        if self.worker_count < self._most_unfinished:
            self.worker_count += 1
            workers.start_soon(self._work, workers)

    async def _work(self, workers: TaskGroup) -> None:
        turn = _ITEMS_A_TURN
        while not self._has_too_many_workers and (self._todo or await self._look_for_work(workers)):
            if self._is_stopped:
                break  # what was not begun is left to the next run
            if not self._todo:
                continue
            if self._active_count >= self.concurrency:
                break  # suspended items come first; their workers go on with this one
            work = self._todo.popleft()
            self._begin(work)
            self._active_count += 1
            try:
                item = await self._run(work)
            finally:
                self._active_count -= 1
                self._resume_suspended()
            if item is not None:
                self._settle(item, work, workers)
            turn -= 1
            if not turn:
                turn = _ITEMS_A_TURN
                await anyio.lowlevel.checkpoint()
        self.worker_count -= 1

    @property
    def _has_too_many_workers(self) -> bool:
        """Whether a worker is to end: `concurrency` is smaller now, or suspended items are active again."""
        return self.worker_count - self._suspended_count > self.concurrency or self._active_count >= self.concurrency

    async def suspend(self, wait: Callable[[], Awaitable[None]]) -> None:
        """Wait for a send window while another item is worked on.

        Returns when `wait` is over and one more worker may be active. A cancel ends either wait.
        """
        self._suspended_count += 1
        self._active_count -= 1
        is_resumed = anyio.Event()
        try:
            self._resume_suspended()
            if self._workers is not None and not self._is_stopped and (self._todo or not self._is_over):
                self._start_worker(self._workers)
            await wait()
            if self._active_count >= self.concurrency:
                self._resuming.append(is_resumed)
                await is_resumed.wait()
        finally:
            self._suspended_count -= 1
            if is_resumed in self._resuming:
                self._resuming.remove(is_resumed)
            if not is_resumed.is_set():
                self._active_count += 1

    def _resume_suspended(self) -> None:
        """Let those whose wait was over first be active, as far as there is room."""
        while self._resuming and self._active_count < self.concurrency:
            self._active_count += 1
            self._resuming.popleft().set()

    async def _run(self, work: Work) -> BatchItem[Any, Any] | None:
        """Run an item to its outcome; `None` if it is another process's before that."""
        with self._watch.item(work.pulled) as outcomes:
            if self._leases is None:
                item = await self._runner.run(work)
                outcomes.append(item.outcome)
                return item
            found: list[BatchItem[Any, Any]] = []
            with self._leases.hold(work):
                found.append(await self._runner.run(work))
            if found and not is_lost(found[0]):
                outcomes.append(found[0].outcome)
                self._leases.end(work, found[0])
                return found[0]
        self._leases.leave(work)
        again = self._runner.declare(work.pulled)
        again.ledger, again.is_begun = work.ledger, True  # the ledger knows which records are this item's
        self._leave(again)
        return None

    def _begin(self, work: Work) -> None:
        if not work.is_begun:
            work.is_begun = True
            self._outbox.report.begin()

    def _leave(self, work: Work) -> None:
        """Leave an item to the process that has it; it is looked at again later."""
        self._open_count -= 1
        self._leased_elsewhere.append(work)

    async def _look_for_work(self, workers: TaskGroup) -> bool:
        """Pull items and restore those that are finished; tells whether there may be more."""
        await self._outbox.room()
        await self._watch.admitted()
        runner = self._runner
        works = self._look_elsewhere()
        await self._pull(works)
        if not works:
            return await self._wait_for_others()
        if self._has_room and not self._is_over:
            self._start_worker(workers)
        if runner.has_journal:
            done, works = await runner.restore(works)
            for item, work in done:
                self._begin(work)
                self._settle(item, work, workers)
        if self._is_stopped:
            return False
        if self._leases is not None and works:
            works = await self._take(self._leases, works, workers)
        self._todo += works
        for _ in works[1:]:
            self._start_worker(workers)
        if works and self._has_room and not self._is_over:  # what was finished on record has left room
            self._start_worker(workers)
        return True

    async def _pull(self, works: list[Work]) -> None:
        """Pull as many items as are looked up, or get their leases, together."""
        most = _ITEMS_AT_ONCE if self._runner.has_journal or self._leases is not None else 1
        while len(works) < most and not self._is_stopped and (not works or self._has_room):
            pulled = await self._source.pull()
            if pulled is None:
                self._is_over = True  # or there will be more, and then this is called off
                break
            self._open_count += 1
            works.append(self._runner.declare(pulled))
            if self._source.is_async:
                break  # others wait for the next one meanwhile

    def _look_elsewhere(self) -> list[Work]:
        """Take up, now and then, the items that other processes had."""
        if self._leases is None or not self._leased_elsewhere or not self._leases.may_look():
            return []
        self._leases.note_look()
        works, self._leased_elsewhere = self._leased_elsewhere, []
        self._open_count += len(works)
        return works

    async def _wait_for_others(self) -> bool:
        """Wait for the items that other processes have, if nothing else is left; tells whether there are any."""
        if self._leases is None or not self._leased_elsewhere or self._is_waiting or self._is_stopped:
            return False
        self._is_waiting = True
        try:
            await self._leases.wait()
        finally:
            self._is_waiting = False
        return not self._is_stopped

    async def _take(self, leases: ItemLeases, works: list[Work], workers: TaskGroup) -> list[Work]:
        """Take what no other process has; what failed in another one is settled."""
        mine: list[Work] = []
        for work, lease in zip(works, await leases.take(works), strict=True):
            if lease.number or work.ledger is None:
                mine.append(work)
            elif lease.has_ended:
                self._begin(work)
                self._settle(work.ended(failed_elsewhere(lease)), work, workers)
            else:
                self._leave(work)
        return mine

    @property
    def _has_room(self) -> bool:
        return self._open_count < self._most_unfinished

    @property
    def _most_unfinished(self) -> int:
        """How many items may be unfinished now, which is also how many workers there may be."""
        return min(self.concurrency + self._suspended_count, _UNFINISHED * self.concurrency)

    def _settle(self, item: BatchItem[Any, Any], work: Work, workers: TaskGroup) -> None:
        self._open_count -= 1
        self._outbox.report.count(item)
        self._outbox.put(item, work.accounts)
        if self._policy.add(item) and not self._is_stopped:
            self.stop()
            if self._settings.on_error == "cancel":
                workers.cancel_scope.cancel()


class FailurePolicy:
    """Decides whether a batch has failed, by `on_error` and `tolerate`."""

    def __init__(self, outbox: Outbox[Any, Any], settings: Settings, tolerance: Tolerance) -> None:
        self._outbox = outbox
        self._may_fail = settings.on_error != "continue"
        self._tolerance = tolerance

    def add(self, item: BatchItem[Any, Any]) -> bool:
        """Take an outcome; tells whether the batch has failed by it."""
        if not self._tolerance.add(is_failed=item.is_failed) or not self._may_fail:
            return False
        self._fail(item)
        return True

    def end(self) -> None:
        """There are no more outcomes."""
        last = self._outbox.report.failures[-1:]
        if self._may_fail and last and self._tolerance.is_past():
            self._fail(last[0])

    def _fail(self, item: BatchItem[Any, Any]) -> None:
        error = item.error
        assert error is not None
        what = f"item {item.index} failed: {str(error) or type(error).__name__}"
        if self._tolerance.share:
            report = self._outbox.report
            what = f"{report.failed_count} items failed, more than tolerate={self._tolerance.share} allows; {what}"
        self._outbox.fail(what, error)
