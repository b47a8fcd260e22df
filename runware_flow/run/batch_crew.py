"""The workers of one run of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio.abc import TaskGroup

    from runware_flow.graph.batches import Tolerance
    from runware_flow.run.batch_item import BatchItem, ItemRunner
    from runware_flow.run.batch_report import Outbox
    from runware_flow.run.batch_source import BatchSource
    from runware_flow.run.batch_watch import BatchWatch
    from runware_flow.run.settings import Settings

__all__ = ("Crew",)

_ITEMS_A_TURN = 16
"""Items that a worker finishes before it lets others in, should none of them wait for anything."""


class Crew:
    """As many workers as there is work for, `concurrency` at most. Each pulls an item and runs it to its outcome."""

    def __init__(
        self,
        runner: ItemRunner,
        source: BatchSource,
        outbox: Outbox[Any, Any],
        settings: Settings,
        tolerance: Tolerance,
        watch: BatchWatch,
    ) -> None:
        self._runner = runner
        self._source = source
        self._outbox = outbox
        self._settings = settings
        self._tolerance = tolerance
        self._watch = watch
        self._count = 0
        self._is_stopped = False

    async def run(self, shared: Callable[..., Any] | None) -> None:
        """Make what is shared, then work through the source."""
        outbox = self._outbox
        try:
            if shared is not None and not await self._share(shared):
                await self._watch.finish("failed")
                return
            async with anyio.create_task_group() as workers:
                self._hire(workers)
            last = outbox.report.failures[-1:]
            if self._settings.on_error != "continue" and last and self._tolerance.is_past():
                self._fail(last[0])
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

    def _hire(self, workers: TaskGroup) -> None:
        if self._count < self._settings.concurrency and not self._is_stopped:
            self._count += 1
            workers.start_soon(self._work, workers)

    async def _work(self, workers: TaskGroup) -> None:
        report = self._outbox.report
        turn = _ITEMS_A_TURN
        while not self._is_stopped:
            await self._outbox.room()
            await self._watch.admitted()
            pulled = None if self._is_stopped else await self._source.pull()
            if pulled is None:
                return
            report.begin()
            self._hire(workers)
            with self._watch.item() as told:
                item = await self._runner.run(pulled)
                told.append(item.outcome)
            self._settle(item, workers)
            turn -= 1
            if not turn:
                turn = _ITEMS_A_TURN
                await anyio.lowlevel.checkpoint()

    def _settle(self, item: BatchItem[Any, Any], workers: TaskGroup) -> None:
        self._outbox.report.count(item)
        self._outbox.put(item)
        is_past = self._tolerance.add(is_failed=item.is_failed)
        if not is_past or self._settings.on_error == "continue" or self._is_stopped:
            return
        self._fail(item)
        self.stop()
        if self._settings.on_error == "cancel":
            workers.cancel_scope.cancel()

    def _fail(self, item: BatchItem[Any, Any]) -> None:
        error = item.error
        assert error is not None
        told = f"item {item.index} failed: {str(error) or type(error).__name__}"
        if self._tolerance.share:
            report = self._outbox.report
            told = f"{report.failed_count} items failed, more than tolerate={self._tolerance.share} allows; {told}"
        self._outbox.fail(told, error)
