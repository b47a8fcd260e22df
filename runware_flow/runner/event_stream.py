"""The streams that users read: the events of a run, and the outcomes of one `Many`.

They are objects with `__anext__`, not async generators, so they may be read from inside any frame.

Each reader has a queue. What settled is never dropped; instead, while a reader has too much unread, the run starts
nothing new (what is in flight goes on). See `EventBus` for when it goes on all the same.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import anyio
import anyio.lowlevel
import msgspec

from runware_flow.graph.events import Event, NodeDelta, NodeProgress
from runware_flow.graph.outcomes import Failed, Ok
from runware_flow.graph.scope_run import FanRun
from runware_flow.tracebacks import bordered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from runware_flow.graph.declaration import NodeSpec
    from runware_flow.graph.outcomes import Outcome
    from runware_flow.graph.scope_run import ScopeRun
    from runware_flow.runner.reference import ManyReference

__all__ = ("Completed", "CompletionStream", "EventStream", "RunStream", "items_of")

T = TypeVar("T")

EVENT_BOUND = 1024
"""Unread events above which a run starts nothing new, until half of them are read."""

_READS_A_TURN = 16
"""Reads after which a reader that never has to wait lets others in."""


class Completed(NamedTuple, Generic[T]):
    """One item of a `Many` that has its outcome: its position and how it ended."""

    index: int  # type: ignore[assignment] # pyright: ignore[reportIncompatibleMethodOverride] - hides tuple.index
    outcome: Outcome[T]


@bordered
class RunStream:
    """The queue of one reader and its place in the run."""

    is_own = False
    """It is read by a task of the run itself, which does nothing else."""

    def __init__(self, bound: int, on_change: Callable[[], None]) -> None:
        self.queue: deque[Any] = deque()
        self.bound = bound
        self.is_closed = False
        self.is_over = False
        """The run has ended, so nothing more is put in."""
        self.is_waiting = False
        self.is_holding = False
        """It has so much unread that the run should wait until half of it is read."""
        self._on_change = on_change
        self._turn = _READS_A_TURN
        self._arrival = anyio.Event()

    def put(self, thing: Any) -> None:
        """Append without waiting; the bound works on what the run admits, not here."""
        self.queue.append(thing)
        if self.is_waiting:
            self._arrival.set()
        if not self.is_holding and len(self.queue) >= self.bound:
            self.is_holding = True
            self._on_change()

    def wake(self) -> None:
        """Let a waiting reader look again."""
        if self.is_waiting:
            self._arrival.set()

    def close(self) -> None:
        """End the reading; what is unread is dropped, and the run is not held up any more."""
        self.is_closed = True
        self.is_holding = False
        self.queue.clear()
        self.wake()
        self._on_change()

    def _has_ended(self) -> bool:
        """Whether nothing more comes; the subclass may know earlier than the run."""
        return self.is_over

    async def _next(self) -> Any:
        if self.is_waiting:
            raise anyio.BusyResourceError("reading from")
        self._turn -= 1
        if self._turn:
            await anyio.lowlevel.checkpoint_if_cancelled()
        else:
            self._turn = _READS_A_TURN
            await anyio.lowlevel.checkpoint()
        while not self.queue:
            if self.is_closed or self._has_ended():
                raise StopAsyncIteration
            self._arrival = anyio.Event()
            self.is_waiting = True
            self._on_change()
            try:
                await self._arrival.wait()
            finally:
                self.is_waiting = False
                self._on_change()
        thing = self.queue.popleft()
        if self.is_holding and len(self.queue) <= self.bound // 2:
            self.is_holding = False
            self._on_change()
        return thing


@bordered
class EventStream(RunStream):
    """The events of a run from the moment when this reader was made, in order, to the last one, `RunFinished`.

    Use `async for`. A cancel while waiting loses nothing.
    """

    def __init__(self, on_change: Callable[[], None]) -> None:
        super().__init__(EVENT_BOUND, on_change)
        self._progress: dict[str, NodeProgress] = {}
        self._texts: dict[tuple[str, int, str], list[str]] = {}

    def put_event(self, event: Event) -> None:
        """Append an event; of a node's progress only the newest is kept, pieces of its text become one."""
        if self.is_closed:
            return
        if isinstance(event, NodeProgress):
            is_new = event.path not in self._progress
            self._progress[event.path] = event
            if not is_new:
                return
        elif isinstance(event, NodeDelta):
            pieces = self._texts.setdefault((event.path, event.attempt, event.kind), [])
            pieces.append(event.text)
            if len(pieces) > 1:
                return
        self.put(event)

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> Event:
        event: Event = await self._next()
        if isinstance(event, NodeProgress):
            return self._progress.pop(event.path, event)
        if isinstance(event, NodeDelta):
            pieces = self._texts.pop((event.path, event.attempt, event.kind), [event.text])
            return msgspec.structs.replace(event, text="".join(pieces))
        return event


@bordered
class CompletionStream(RunStream, Generic[T]):
    """The outcomes of a `Many`, as they come; those that were there already come first.

    Use `async for index, outcome in reader`. It ends when all items of the fan-out have an outcome. If their source
    failed, the last outcome is a `Failed` that stands for the items that it did not give. The results of a `many.each`
    have the index of the item that they belong to; an item whose task failed has one outcome, that failure.
    """

    def __init__(
        self, many: ManyReference[T], bound: int, find: Callable[[], FanRun], on_change: Callable[[], None]
    ) -> None:
        super().__init__(bound, on_change)
        self._find = find
        self._count = 0
        self._has_reported_source = False
        self._slots = {many.spec: many.spec.slot} | {fan.deps[0]: fan.deps[0].slot for fan in many.fans[1:]}
        self._spec = many.spec
        for run in items_of(find(), many.fans[1:]):
            for spec in self._slots:
                if run.plan.spec is spec.scope:
                    self.put_item(run, spec)

    def put_item(self, run: ScopeRun, spec: NodeSpec) -> None:
        """Append the outcome of a node that has settled, if this is what the reader reads."""
        slot = self._slots.get(spec)
        if self.is_closed or slot is None:
            return
        outcome: Any = run.outcome(slot)
        if outcome is not None and (spec is self._spec or not isinstance(outcome, Ok)):
            self._count += 1
            self.put(Completed(_index_of(run), outcome))

    def __aiter__(self) -> CompletionStream[T]:
        return self

    async def __anext__(self) -> Completed[T]:
        try:
            completed: Completed[T] = await self._next()
        except StopAsyncIteration:
            problem = self._find().problem_outcome
            if self.is_closed or self._has_reported_source or not isinstance(problem, Failed):
                raise
            self._has_reported_source = True
            return Completed(self._find().pulled_count, problem)
        return completed

    def _has_ended(self) -> bool:
        if self.is_over:
            return True
        fan = self._find()
        if not fan.is_ended:
            return False
        return self._count >= fan.pulled_count if len(self._slots) == 1 else not fan.live


def items_of(fan: FanRun, inside: Sequence[NodeSpec]) -> Iterator[ScopeRun]:
    """Iterate over the items of a fan-out and of those inside it, in the order of the items."""
    for item in fan.items:
        yield item
        if inside:
            inner = item.values[inside[0].slot]
            if isinstance(inner, FanRun):
                yield from items_of(inner, inside[1:])


def _index_of(run: ScopeRun) -> int:
    while run.parent is not None and run.parent.fan is not None:
        run = run.parent
    return run.index
