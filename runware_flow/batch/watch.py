"""The progress of a batch: counts for the progress display, or the events of its items' nodes for a callable."""

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
from runware_flow.graph.outcomes import Abandoned, Ok
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
    from runware_flow.view.progress import StageCounts

__all__ = ("BatchWatch",)

_NO_VALUE = Ok(None)
"""Stands for the outcome of what is restored, where only its kind is counted."""


class BatchWatch:
    """What an `EventBus` is for the run of a flow: the clock of the batch, and the readers of its progress."""

    def __init__(
        self, name: str, settings: Settings, items: Any, accounts: Accounts, *, counts_items: bool = False
    ) -> None:
        """Args: counts_items: the nodes of each item are also counted by themselves, for `take_item_counts`."""
        self._name = name
        self._settings = settings
        self._accounts = accounts
        self._start = anyio.current_time()
        self._begun: set[tuple[ScopeRun, Step]] = set()
        self._gate: anyio.Event | None = None
        self._board: ProgressBoard | None = None
        self.refused_count: Callable[[], int] = int
        """Tells how many nodes wait because the service refuses to take their tasks."""
        self.look: Callable[[ProgressBoard], None] | None = None
        """Sets what is counted elsewhere."""
        self._by_item: dict[int, ProgressBoard] | None = {} if counts_items else None
        self._display: ProgressDisplay | None = None
        self._reader: EventStream | None = None
        self._over = anyio.Event()
        self._items = Stage("items", len(items) if hasattr(items, "__len__") else None)
        progress = settings.progress
        if callable(progress):
            self._reader = EventStream(self._admit)
        elif progress or counts_items:
            self._board = ProgressBoard(name, settings.concurrency)
            self._board.items = self._items
            self._board.budget = getattr(settings.budget, "usd", settings.budget)

    def begin(self, workers: TaskGroup, stop: Callable[[], None]) -> None:
        """Start the display, or the calls of the callable, in `workers`; `stop` ends the batch early."""
        progress: Any = self._settings.progress
        if self._reader is not None:
            from runware_flow.runner.event_bus import attach

            attach(progress, stop)
            self._reader.put_event(RunStarted(self.time(), self._name, self._settings.concurrency))
            workers.start_soon(self._report, self._reader, progress)
        elif self._board is not None and progress:
            from runware_flow.runner.progress import ProgressDisplay

            self._display = ProgressDisplay(self._board, progress, self._look)
            workers.start_soon(self._display.run)

    async def _report(self, stream: EventStream, callback: Any) -> None:
        from runware_flow.runner.event_bus import report

        await report(stream, callback)
        self._over.set()

    def _look(self, board: ProgressBoard) -> None:
        board.refused = self.refused_count()
        if self.look is not None:
            self.look(board)
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
    def item(self, pulled: Pulled) -> Generator[list[Any]]:
        """Count an item that runs inside the block, which appends its outcome."""
        self._items.running += 1
        outcomes: list[Any] = []
        try:
            yield outcomes
        finally:
            self._items.running -= 1
            if not outcomes and self._by_item is not None:
                self._by_item.pop(pulled.position, None)
            self.settled(outcomes[0] if outcomes else Abandoned(None, may_be_billed=True))

    def settled(self, outcome: Outcome[Any], *, is_restored: bool = False) -> None:
        """Count an item that has ended."""
        self._items.settle(outcome, is_restored=is_restored)

    def note_running(self, count: int) -> None:
        """Show how many items run elsewhere."""
        self._items.running = count

    # What other processes are told of this one's items, and are told by them

    def counts(self) -> dict[str, StageCounts]:
        """The counts of the stages; may be called from another thread."""
        return {} if self._board is None else self._board.counts()

    def take_item_counts(self, position: int) -> dict[str, StageCounts]:
        """The counts of one item that is over; they are forgotten here."""
        board = None if self._by_item is None else self._by_item.pop(position, None)
        return {} if board is None else board.counts()

    @property
    def has_unread(self) -> bool:
        """Whether the callable was not yet given all events; may be called from another thread."""
        reader = self._reader
        return reader is not None and not self._over.is_set() and (not reader.is_waiting or bool(reader.queue))

    @property
    def is_held(self) -> bool:
        """Whether the callable is behind, so that no more items begin."""
        return self._gate is not None

    def notify(self, event: Event) -> None:
        """Give an event that comes from elsewhere to the callable."""
        if self._reader is not None:
            self._reader.put_event(event)

    # Items that are chains, which have no `EventBus`

    @property
    def wants_events(self) -> bool:
        """Whether the callable is given the events of nodes, for which each item needs an `EventBus`."""
        return self._reader is not None

    @property
    def counts_nodes(self) -> bool:
        """Whether the starts and ends of nodes are counted."""
        return self._board is not None

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

    def restored(self, scope: ScopeSpec, pulled: Pulled) -> None:
        """An item came from the journal, without having begun."""
        self._items.settle(_NO_VALUE, is_restored=True)
        if self._board is not None:
            board = self._board_of(pulled)
            for spec in scope.nodes:
                if is_shown(spec):
                    board.settle(spec.name, _NO_VALUE, was_running=False, is_restored=True)

    def item_left(self, run: ScopeRun, pulled: Pulled) -> None:
        """An item is over: count what has no result."""
        if self._board is None:
            return
        for step in run.plan.steps:
            if run.cells[step.slot] != OK:
                self._settle(run, step)
        if self._by_item is not None and pulled.position >= 0:
            own = self._by_item[pulled.position] = ProgressBoard("", 0)
            for step in run.plan.steps:
                _count(own, run, step, was_running=False)

    def _settle(self, run: ScopeRun, step: Step) -> None:
        was_running = (run, step) in self._begun
        self._begun.discard((run, step))
        if self._board is not None:
            _count(self._board, run, step, was_running=was_running)

    def _board_of(self, pulled: Pulled) -> ProgressBoard:
        """The board on which an item is counted."""
        assert self._board is not None
        if self._by_item is None:
            return self._board
        own = self._by_item[pulled.position] = _ItemBoard(self._board)
        return own

    # Items that are run by a `Runner`, which has one

    def follow(self, event_bus: EventBus, pulled: Pulled) -> object:
        """Watch an item's nodes for as long as what this returns is held."""
        if self._board is not None:
            event_bus.count_on(self._board_of(pulled))
        if self._reader is None:
            return None
        teller = _ItemEvents(self._reader, pulled, self.time() - event_bus.time())
        event_bus.add_reader(teller)
        return teller


def _count(board: ProgressBoard, run: ScopeRun, step: Step, *, was_running: bool) -> None:
    outcome = run.outcome(step.slot)
    if outcome is not None and is_shown(step.spec):
        record = run.record(step.slot)
        is_restored = record is not None and record.is_restored
        board.settle(step.spec.name, outcome, was_running=was_running, is_restored=is_restored)


class _ItemBoard(ProgressBoard):
    """Counts the nodes of one item, and passes the counts on to the batch's board."""

    def __init__(self, whole: ProgressBoard) -> None:
        super().__init__("", 0)
        self._whole = whole

    def start(self, label: str) -> None:
        super().start(label)
        self._whole.start(label)

    def refuse(self, label: str) -> None:
        super().refuse(label)
        self._whole.refuse(label)

    def settle(self, label: str, outcome: Outcome[Any], *, was_running: bool, is_restored: bool = False) -> None:
        super().settle(label, outcome, was_running=was_running, is_restored=is_restored)
        self._whole.settle(label, outcome, was_running=was_running, is_restored=is_restored)


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
