"""Delivers the events and outcomes of a run to their readers, and makes the run wait for a slow reader."""

from __future__ import annotations

import inspect
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from runware_flow.graph.declaration import SENDS, NodeKind
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
from runware_flow.graph.scope_run import FAILED, OK
from runware_flow.lifetime import EventLoop
from runware_flow.runner.event_stream import CompletionStream, EventStream, RunStream
from runware_flow.view.progress import is_shown
from runware_flow.view.request import references_in, references_to, summarise_request

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from runware_flow.errors import RunwareError
    from runware_flow.graph.machine import FlowMachine
    from runware_flow.graph.plan import Step
    from runware_flow.graph.scope_run import FanRun, ScopeRun
    from runware_flow.runner.accounts import Accounts
    from runware_flow.runner.records import NodeRecord
    from runware_flow.runner.reference import ManyReference
    from runware_flow.view.progress import ProgressBoard

__all__ = ("EventBus", "attach", "report")

_NOTHING: tuple[str, frozenset[str]] = ("", frozenset())


async def report(reader: EventStream, callback: Callable[[Event], Any]) -> None:
    """Give each event to a callback, sync or async; what it raises ends the run."""
    async for event in reader:
        returned = callback(event)
        if inspect.isawaitable(returned):
            await returned


def attach(callback: Callable[[Event], Any], stop: Callable[[], None]) -> None:
    """Give a callback that can stop its run, such as a live page, the function to stop it with."""
    take = getattr(callback, "attach", None)
    if take is not None:
        take(stop)


class EventBus:
    """The readers of a run. Without readers no event is made or kept.

    The run is held, that is, it starts nothing new, while a reader has too much unread and nothing waits for it: no
    `wait()`, no block that is being left, no reader that has read all it was told. So a reader that is not read any
    more holds up only the code that goes on beside it. The reader of `progress=` is the run's own: it holds
    what waits, and its waiting does not count.

    Attributes:
        is_read: there are readers, or a board that counts.
    """

    def __init__(
        self,
        name: str,
        machine: FlowMachine,
        accounts: Accounts,
        refused_count: Callable[[], int],
        admit: Callable[[bool], None],
    ) -> None:
        """Args: admit: opens or closes the run's gate; refused_count: how many of its requests wait for the service."""
        self._name = name
        self._machine = machine
        self._accounts = accounts
        self._refused_count = refused_count
        self._admit_run = admit
        self._is_finished = False
        self._clock = EventLoop().time
        self._start = self._clock()
        self._events: list[weakref.ref[EventStream]] = []
        self._completions: list[weakref.ref[CompletionStream[Any]]] = []
        self.is_read = False
        self._waiting_count = 0
        self._begun: dict[tuple[ScopeRun, Step], tuple[float, int]] = {}
        self._refused: set[tuple[ScopeRun, Step]] = set()
        self._board: ProgressBoard | None = None
        self._requests: dict[tuple[ScopeRun, Step], tuple[str, frozenset[str]]] = {}

    def count_on(self, board: ProgressBoard) -> None:
        """Count starts and settles on a board, by a direct call for each: nothing is kept or waited for."""
        self._board = board
        self._machine.watch = self.is_read = True

    def time(self) -> float:
        """Seconds since the start of the run."""
        return self._clock() - self._start

    # Readers

    def open_events(self) -> EventStream:
        """Begin a reader of events."""
        reader = EventStream(self._admit)
        self.add_reader(reader)
        if self._is_finished:
            reader.is_over = True
        return reader

    def add_reader(self, reader: EventStream) -> None:
        """Put events into a reader from here on, as long as it is referenced."""
        self._events.append(weakref.ref(reader, self._forget))
        self._machine.watch = self.is_read = True

    def open_completions(self, many: ManyReference[Any], find: Callable[[], FanRun]) -> CompletionStream[Any]:
        """Begin a reader of the outcomes of one step of a fan-out."""
        reader: CompletionStream[Any] = CompletionStream(many, self._machine.concurrency, find, self._admit)
        self._completions.append(weakref.ref(reader, self._forget))
        self._machine.watch = self.is_read = True
        if self._is_finished:
            reader.is_over = True
        return reader

    @property
    def _readers(self) -> list[RunStream]:
        references: list[Any] = [*self._events, *self._completions]
        return [reader for reference in references if (reader := reference()) is not None]

    def _forget(self, _: object) -> None:
        self._events = [reference for reference in self._events if reference() is not None]
        self._completions = [reference for reference in self._completions if reference() is not None]
        if not self._events and not self._completions and self._board is None:
            self._machine.watch = self.is_read = False
            self._machine.settled.clear()
            self._begun.clear()
            self._refused.clear()
            self._requests.clear()
        self._admit()

    def _admit(self) -> None:
        """Open or close the run's gate."""
        readers = self._readers
        is_held = any(reader.is_holding for reader in readers) and not self._machine.is_finished
        if is_held and (self._waiting_count or any(reader.is_waiting and not reader.is_own for reader in readers)):
            is_held = any(reader.is_holding and reader.is_own for reader in readers)
        self._admit_run(not is_held)

    @contextmanager
    def waiting(self) -> Generator[None]:
        """Mark that a task waits for the run."""
        self._waiting_count += 1
        self._admit()
        try:
            yield
        finally:
            self._waiting_count -= 1
            self._admit()

    # Events

    def _put(self, event: Event) -> None:
        for reference in self._events:
            reader = reference()
            if reader is not None:
                reader.put_event(event)

    def run_started(self) -> None:
        """Publish that the run begins."""
        if self._events:
            self._put(RunStarted(self.time(), self._name, self._machine.concurrency))

    def note_request(self, run: ScopeRun, step: Step, wire: Any) -> None:
        """Remember the request of a node until it has settled, if there are readers."""
        if self._events:
            self._requests[run, step] = (summarise_request(wire).prompt, frozenset(references_in(wire)))

    def node_started(self, run: ScopeRun, step: Step, attempt: int, record: NodeRecord | None = None) -> None:
        """Publish that an attempt begins."""
        if not self._events and self._board is None:
            return
        now = self.time()
        begun = self._begun.get((run, step))
        self._begun[(run, step)] = (begun[0] if begun else now, attempt)
        was_refused = (run, step) in self._refused
        self._refused.discard((run, step))
        if self._board is not None and (begun is None or was_refused):
            self._board.start(step.spec.name)
        if not self._events:
            return
        self._put(
            NodeStarted(
                now,
                run.path(step),
                step.spec.name,
                attempt,
                index=None if run.fan is None else run.index,
                key=run.key,
                task_type=record.task_type if record else None,
                model=record.model if record else None,
                task_uuid=record.task_uuid if record else None,
                fingerprint=record.fingerprint if record else None,
                prompt=self._requests.get((run, step), _NOTHING)[0],
            )
        )

    def node_refused(self, run: ScopeRun, step: Step, error: RunwareError) -> None:
        """Publish that the service refused a node's task for now."""
        if not self._events and self._board is None:
            return
        self._refused.add((run, step))
        if self._board is not None:
            self._board.refuse(step.spec.name)
        if not self._events:
            return
        record: NodeRecord | None = run.record(step.slot)
        self._put(
            NodeRefused(
                self.time(),
                run.path(step),
                step.spec.name,
                error.message,
                self._refused_count(),
                index=None if run.fan is None else run.index,
                key=run.key,
                model=record.model if record else None,
                task_uuid=record.task_uuid if record else None,
            )
        )

    def node_progress(self, run: ScopeRun, step: Step, progress: float) -> None:
        """Publish the progress of a node."""
        if self._events:
            index = None if run.fan is None else run.index
            self._put(NodeProgress(self.time(), run.path(step), step.spec.name, progress, index))

    def node_delta(self, run: ScopeRun, step: Step, attempt: int, kind: str, text: str) -> None:
        """Publish the next piece of a text."""
        if self._events:
            index = None if run.fan is None else run.index
            self._put(NodeDelta(self.time(), run.path(step), step.spec.name, text, kind, attempt, index, run.key))

    def publish(self) -> None:
        """Publish the nodes that the machine has settled."""
        settled, self._machine.settled = self._machine.settled, []
        for run, step in settled:
            for reference in self._completions:
                if (reader := reference()) is not None:
                    reader.put_item(run, step.spec)
            begun = self._begun.pop((run, step), None)
            was_refused = (run, step) in self._refused
            self._refused.discard((run, step))
            summary = self._requests.pop((run, step), _NOTHING)
            if self._board is not None and (is_shown(step.spec) or run.cells[step.slot] == FAILED):
                outcome = run.outcome(step.slot)
                assert outcome is not None
                record: NodeRecord | None = run.record(step.slot)
                self._board.settle(
                    step.spec.name,
                    outcome,
                    was_running=begun is not None and not was_refused,
                    is_restored=record is not None and record.is_restored,
                )
            if self._events and (not step.is_silent or run.cells[step.slot] == FAILED):
                self._put(self._settled(run, step, begun, summary))
        if any(step.kind is NodeKind.FAN for _, step in settled):
            self.source_ended()

    def _settled(
        self, run: ScopeRun, step: Step, begun: tuple[float, int] | None, summary: tuple[str, frozenset[str]]
    ) -> NodeSettled:
        now = self.time()
        began, attempts = begun or (now, 0)
        record: NodeRecord | None = run.record(step.slot)
        outcome = run.outcome(step.slot)
        assert outcome is not None
        return NodeSettled(
            now,
            run.path(step),
            step.spec.name,
            outcome,
            attempts=attempts,
            seconds=now - began,
            cost=record.cost if record else None,
            index=None if run.fan is None else run.index,
            key=run.key,
            task_uuid=record.task_uuid if record else None,
            fingerprint=record.fingerprint if record else None,
            is_restored=record.is_restored if record else False,
            is_cached=record.is_cached if record else False,
            kind=step.kind.value,
            task_type=record.task_type if record else None,
            model=record.model if record else None,
            prompt=summary[0],
            uses=summary[1] or self._given(run, step),
        )

    def _given(self, run: ScopeRun, step: Step) -> frozenset[str]:
        """What a function was called with, or a step passes on, as far as it can be named."""
        if run.cells[step.slot] != OK or step.kind in SENDS:
            return frozenset()
        if step.is_pure:
            return frozenset(references_to(run.values[step.slot]))
        return frozenset(references_to(self._machine.arguments(run, step)))

    def source_ended(self) -> None:
        """Wake the readers of outcomes, which look whether there will be more."""
        for reference in self._completions:
            reader = reference()
            if reader is not None:
                reader.wake()

    def run_finished(self, end: str) -> None:
        """Publish the rest, and that there will be no more events."""
        machine = self._machine
        self._is_finished = True
        self.publish()
        self._put(
            RunFinished(
                self.time(),
                end,
                machine.ok_count,
                machine.failed_count,
                machine.skipped_count,
                machine.abandoned_count,
                self._accounts.total(),
            )
        )
        for reader in self._readers:
            reader.is_over = True
            reader.wake()
