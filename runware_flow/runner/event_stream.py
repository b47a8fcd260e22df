"""Readers of a run: of its events, and of one `Many`'s outcomes.

They are objects with `__anext__`, not async generators, so they may be read from inside any frame.

Each reader has a queue. What settled is never dropped; instead, while a reader has too much unread, the run starts
nothing new (what is in flight goes on). See `News` for when it goes on all the same.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import anyio
import anyio.lowlevel
import msgspec

from runware_flow.graph.events import Event, NodeDelta, NodeProgress
from runware_flow.graph.outcomes import Failed

if TYPE_CHECKING:
    from collections.abc import Callable

    from runware_flow.graph.outcomes import Outcome
    from runware_flow.graph.scope_run import FanRun, ScopeRun

__all__ = ("Completed", "CompletionStream", "EventStream", "RunStream")

T = TypeVar("T")

EVENT_BOUND = 1024
"""Unread events above which a run starts nothing new, until half of them are read."""

_READS_A_TURN = 16
"""Reads after which a reader that never has to wait lets others in."""


class Completed(NamedTuple, Generic[T]):
    """One item of a `Many` that has its outcome: its position and how it ended."""

    index: int  # type: ignore[assignment] # pyright: ignore[reportIncompatibleMethodOverride] - hides tuple.index
    outcome: Outcome[T]


class RunStream:
    """The queue of one reader and its place in the run."""

    is_own = False
    """It is read by a task of the run itself, which does nothing else."""

    def __init__(self, bound: int, on_change: Callable[[], None]) -> None:
        self.queue: deque[Any] = deque()
        self.bound = bound
        self.is_closed = False
        self.is_waiting = False
        self.is_holding = False
        """It has so much unread that the run should wait until half of it is read."""
        self._on_change = on_change
        self._turn = _READS_A_TURN
        self._event_bus = anyio.Event()

    def put(self, thing: Any) -> None:
        """Append without waiting; the bound works on what the run admits, not here."""
        self.queue.append(thing)
        if self.is_waiting:
            self._event_bus.set()
        if not self.is_holding and len(self.queue) >= self.bound:
            self.is_holding = True
            self._on_change()

    def wake(self) -> None:
        """Let a waiting reader look again."""
        if self.is_waiting:
            self._event_bus.set()

    def close(self) -> None:
        """End the reading; what is unread is dropped, and the run is not held up any more."""
        self.is_closed = True
        self.is_holding = False
        self.queue.clear()
        self.wake()
        self._on_change()

    async def _next(self, is_over: Callable[[], bool]) -> Any:
        if self.is_waiting:
            raise anyio.BusyResourceError("reading from")
        self._turn -= 1
        if self._turn:
            await anyio.lowlevel.checkpoint_if_cancelled()
        else:
            self._turn = _READS_A_TURN
            await anyio.lowlevel.checkpoint()
        while not self.queue:
            if self.is_closed or is_over():
                raise StopAsyncIteration
            self._event_bus = anyio.Event()
            self.is_waiting = True
            self._on_change()
            try:
                await self._event_bus.wait()
            finally:
                self.is_waiting = False
                self._on_change()
        thing = self.queue.popleft()
        if self.is_holding and len(self.queue) <= self.bound // 2:
            self.is_holding = False
            self._on_change()
        return thing


class EventStream(RunStream):
    """The events of a run from the moment when this reader was made, in order, to the last one, `RunFinished`.

    Use `async for`. A cancel while waiting loses nothing.
    """

    def __init__(self, on_change: Callable[[], None]) -> None:
        super().__init__(EVENT_BOUND, on_change)
        self.is_over = False
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
        event: Event = await self._next(lambda: self.is_over)
        if isinstance(event, NodeProgress):
            return self._progress.pop(event.path, event)
        if isinstance(event, NodeDelta):
            pieces = self._texts.pop((event.path, event.attempt, event.kind), [event.text])
            return msgspec.structs.replace(event, text="".join(pieces))
        return event


class CompletionStream(RunStream, Generic[T]):
    """The outcomes of a `Many`, as they come; those that were there already come first.

    Use `async for index, outcome in reader`. It ends when all items of the fan-out have an outcome. If their source
    failed, the last outcome is a `Failed` that stands for the items that it did not give.
    """

    def __init__(self, slot: int, bound: int, find: Callable[[], FanRun], on_change: Callable[[], None]) -> None:
        super().__init__(bound, on_change)
        self.is_over = False
        self._slot = slot
        self._find = find
        self._count = 0
        self._has_told_source = False
        for item in find().items:
            if item.outcome(slot) is not None:
                self.put_item(item)

    def put_item(self, item: ScopeRun) -> None:
        """Append an item that has its outcome."""
        if not self.is_closed:
            self._count += 1
            self.put(item)

    def __aiter__(self) -> CompletionStream[T]:
        return self

    async def __anext__(self) -> Completed[T]:
        try:
            item: ScopeRun = await self._next(self._has_ended)
        except StopAsyncIteration:
            problem = self._find().problem_outcome
            if self.is_closed or self._has_told_source or not isinstance(problem, Failed):
                raise
            self._has_told_source = True
            return Completed(self._find().pulled_count, problem)
        outcome: Any = item.outcome(self._slot)
        return Completed(item.index, outcome)

    def _has_ended(self) -> bool:
        if self.is_over:
            return True
        fan = self._find()
        return fan.is_ended and self._count >= fan.pulled_count
