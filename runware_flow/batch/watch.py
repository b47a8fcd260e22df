"""What a batch tells while it runs: counts for its progress, or the events of its items' nodes for a callable."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anyio
import msgspec

from runware_flow.graph.events import (
    Event,
    NodeDelta,
    NodeProgress,
    NodeRefused,
    NodeSettled,
    NodeStarted,
    RunFinished,
    RunStarted,
)
from runware_flow.graph.outcomes import Abandoned, Failed, Ok
from runware_flow.graph.scope_run import OK
from runware_flow.runner.event_stream import EventStream
from runware_flow.view.progress import ProgressBoard, Stage, is_shown

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from anyio.abc import TaskGroup

    from runware_flow.batch.source import Pulled
    from runware_flow.graph.declaration import ScopeSpec
    from runware_flow.graph.outcomes import Outcome
    from runware_flow.graph.plan import Step
    from runware_flow.graph.scope_run import ScopeRun
    from runware_flow.runner.accounts import Accounts
    from runware_flow.runner.event_bus import EventBus
    from runware_flow.runner.progress import ProgressDisplay
    from runware_flow.runner.settings import Settings

__all__ = ("BatchWatch",)


class BatchWatch:
    """Stands where a run of a flow has its `EventBus`: it has the time, and what watches the batch."""

    def __init__(self, name: str, settings: Settings, items: Any, accounts: Accounts) -> None:
        self._name = name
        self._settings = settings
        self._accounts = accounts
        self._start = anyio.current_time()
        self._begun: set[tuple[ScopeRun, Step]] = set()
        self._gate: anyio.Event | None = None
        self._board: ProgressBoard | None = None
        self.refused_count: Callable[[], int] = int
        """Tells how many nodes wait because the service refuses to take their tasks."""
        self._display: ProgressDisplay | None = None
        self._reader: EventStream | None = None
        self._over = anyio.Event()
        self._items = Stage("items", len(items) if hasattr(items, "__len__") else None)
        progress = settings.progress
        if callable(progress):
            self._reader = EventStream(self._admit)
        elif progress:
            self._board = ProgressBoard(name, settings.concurrency)
            self._board.items = self._items
            self._board.budget = getattr(settings.budget, "usd", settings.budget)

    def begin(self, workers: TaskGroup, stop: Callable[[], None]) -> None:
        """Start what shows or tells, in `workers`; `stop` ends the batch early."""
        progress: Any = self._settings.progress
        if self._reader is not None:
            from runware_flow.runner.event_bus import attach

            attach(progress, stop)
            self._reader.put_event(RunStarted(self.time(), self._name, self._settings.concurrency))
            workers.start_soon(self._report, self._reader, progress)
        elif self._board is not None:
            from runware_flow.runner.progress import ProgressDisplay

            self._display = ProgressDisplay(self._board, progress, self._look)
            workers.start_soon(self._display.run)

    async def _report(self, stream: EventStream, callback: Any) -> None:
        from runware_flow.runner.event_bus import report

        await report(stream, callback)
        self._over.set()

    def _look(self, board: ProgressBoard) -> None:
        board.refused = self.refused_count()
        board.spend(self._accounts.lines())
        board.tick(self.time())

    async def finish(self, end: str) -> None:
        """All items are over: show that, and wait until the last event was taken."""
        if self._reader is not None:
            items = self._items
            self._reader.put_event(
                RunFinished(
                    self.time(), end, items.ok, items.failed, items.skipped, items.abandoned, self._accounts.total()
                )
            )
            self._reader.is_over = True
            self._reader.wake()
            await self._over.wait()
        if self._display is not None:
            self._display.close(end)
            self._display = None

    def close(self) -> None:
        """The batch is left, whatever became of it."""
        if self._display is not None:
            self._display.close("cancelled")

    # A slow callable holds back new items, as a slow reader of a flow's events holds back new nodes.

    def _admit(self) -> None:
        is_held = self._reader is not None and self._reader.is_holding
        if is_held and self._gate is None:
            self._gate = anyio.Event()
        elif not is_held and self._gate is not None:
            self._gate.set()
            self._gate = None

    async def admitted(self) -> None:
        """Wait until another item may begin."""
        if self._gate is not None:
            await self._gate.wait()

    @contextmanager
    def item(self) -> Generator[list[Any]]:
        """Count an item that runs inside the block, which appends its outcome."""
        self._items.running += 1
        told: list[Any] = []
        try:
            yield told
        finally:
            self._items.running -= 1
            self.settled(told[0] if told else Abandoned(None, may_be_billed=True))

    def settled(self, outcome: Outcome[Any]) -> None:
        """Count an item that has ended."""
        if isinstance(outcome, Ok):
            self._items.ok += 1
        elif isinstance(outcome, Failed):
            self._items.failed += 1
        elif isinstance(outcome, Abandoned):
            self._items.abandoned += 1
        else:
            self._items.skipped += 1

    def note_running(self, count: int) -> None:
        """Show how many items run elsewhere."""
        self._items.running = count

    # Items that are chains, which have no `EventBus`

    @property
    def wants_events(self) -> bool:
        """Whether items need `EventBus` to tell of them."""
        return self._reader is not None

    def time(self) -> float:
        """Seconds since the start of the batch."""
        return anyio.current_time() - self._start

    def node_started(self, run: ScopeRun, step: Step, attempt: int, record: object = None) -> None:
        """An attempt begins."""
        if self._board is not None and (run, step) not in self._begun:
            self._begun.add((run, step))
            self._board.start(step.spec.name)

    def node_refused(self, run: ScopeRun, step: Step, error: Exception) -> None:
        """The service has refused to take a node's task for now; it begins again later."""
        if self._board is not None and (run, step) in self._begun:
            self._begun.discard((run, step))
            self._board.refuse(step.spec.name)

    def node_progress(self, *_: object) -> None:
        """Counts do not change."""

    def node_settled(self, run: ScopeRun, step: Step) -> None:
        """A node has a result; the others are counted when their item is left."""
        if self._board is not None and run.cells[step.slot] == OK:
            self._settle(run, step)

    def restored(self, scope: ScopeSpec) -> None:
        """An item came from the journal, without having begun."""
        self._items.ok += 1
        self._items.restored += 1
        if self._board is not None:
            for spec in scope.nodes:
                if is_shown(spec):
                    self._board.settle(spec.name, Ok(None), was_running=False, is_restored=True)

    def item_left(self, run: ScopeRun) -> None:
        """An item is over: count what has no result."""
        if self._board is not None:
            for step in run.plan.steps:
                if run.cells[step.slot] != OK:
                    self._settle(run, step)

    def _settle(self, run: ScopeRun, step: Step) -> None:
        outcome = run.outcome(step.slot)
        was_running = (run, step) in self._begun
        self._begun.discard((run, step))
        if self._board is not None and outcome is not None and is_shown(step.spec):
            record = run.record(step.slot)
            is_restored = record is not None and record.is_restored
            self._board.settle(step.spec.name, outcome, was_running=was_running, is_restored=is_restored)

    # Items that have

    def follow(self, event_bus: EventBus, pulled: Pulled) -> object:
        """Hear of an item's nodes as long as what this returns is held."""
        if self._board is not None:
            event_bus.count_on(self._board)
        if self._reader is None:
            return None
        teller = _ItemEvents(self._reader, pulled, self.time() - event_bus.time())
        event_bus.add_reader(teller)
        return teller


class _ItemEvents(EventStream):
    """Passes the events of one item's nodes on, as the batch's."""

    def __init__(self, stream: EventStream, pulled: Pulled, started: float) -> None:
        super().__init__(lambda: None)
        self._reader = stream
        self._pulled = pulled
        self._started = started

    def put_event(self, event: Event) -> None:
        if isinstance(event, (NodeStarted, NodeRefused, NodeProgress, NodeDelta, NodeSettled)):
            pulled = self._pulled
            changed: dict[str, Any] = {} if isinstance(event, NodeProgress) else {"key": pulled.key}
            path = f"item[{pulled.key}]/{event.path}"
            self._reader.put_event(
                msgspec.structs.replace(
                    event, time=event.time + self._started, path=path, index=pulled.position, **changed
                )
            )
