"""Opens the source of a fan-out, and pulls items from it."""

from __future__ import annotations

import logging
from collections.abc import Sized
from types import GeneratorType
from typing import TYPE_CHECKING, Any, cast

import anyio

from runware_flow.errors import RunwareFlowError
from runware_flow.graph.declaration import has_method
from runware_flow.graph.fingerprint import Ordinals, item_key
from runware_flow.runner.cancels import check_cancel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from runware_flow.graph.declaration import NodeSpec
    from runware_flow.graph.machine import FlowMachine
    from runware_flow.graph.scope_run import FanRun
    from runware_flow.runner.event_bus import EventBus

__all__ = ("SourceIterator",)

_LOGGER = logging.getLogger("runware_flow")
_END: Any = object()
_UNCHANGING = frozenset({str, int, float, bool, bytes, type(None)})
"""Types of items whose keys can be worked out at any time: nothing that a node does changes their content."""

_CLOSING_SECONDS = 5.0
"""How long an async source may take to close when its run is cancelled."""


class SourceError(RunwareFlowError):
    """A fan-out cannot be pulled from; the message names it and the line that declared it."""


class SourceIterator:
    """Pulls items for a run, when a worker has nothing else to do."""

    def __init__(
        self, machine: FlowMachine, event_bus: EventBus, start: Callable[..., None], on_change: Callable[[], None]
    ) -> None:
        """Args: start: starts the task of an async source; on_change: called after each change of the machine."""
        self._machine = machine
        self._event_bus = event_bus
        self._start = start
        self._on_change = on_change
        self._opened: dict[FanRun, Any] = {}
        self._waiting: dict[FanRun, anyio.Event] = {}
        self._scopes: dict[FanRun, anyio.CancelScope] = {}

    @property
    def is_busy(self) -> bool:
        """Whether an async source is being waited for."""
        return bool(self._scopes)

    def pull(self, fan: FanRun) -> None:
        """Pull one item, or let the task of an async source do it."""
        machine = self._machine
        try:
            source = fan.source
            if source is None:
                source = fan.source = _open(fan)
                fan.ordinals = Ordinals()
                self._opened[fan] = source
            if isinstance(source, _AsyncSource):
                self._resume_async(fan, source)
                return
            item = next(source, _END)  # a StopIteration from elsewhere, `key=` say, is not the end but a failure
            key = None if item is _END else _key(fan, item)
        except Exception as error:  # noqa: BLE001 - user code: its failure is the fan-out's
            machine.source_failed(fan, error)
            self._ended(fan)
        else:
            if item is _END:
                machine.source_ended(fan)
                self._ended(fan)
            else:
                machine.item_pulled(fan, item, key)

    def cancel(self) -> None:
        """Stop waiting for async sources: the run takes no more items."""
        for scope in self._scopes.values():
            scope.cancel()

    def drop(self, fan: FanRun) -> None:
        """Stop pulling from one source: nothing needs its items any more."""
        if fan in self._scopes:
            self._scopes[fan].cancel()
        elif fan in self._opened:
            self._ended(fan)

    def close(self) -> None:
        """Close the sources that the run has not come to the end of."""
        for fan in list(self._opened):
            self._ended(fan)

    def _ended(self, fan: FanRun) -> None:
        source = self._opened.pop(fan, None)
        fan.source = None
        if fan.named_count >= fan.pulled_count:
            fan.ordinals = None
        if _is_ours(fan, source):
            try:
                source.close()
            except Exception as error:  # noqa: BLE001 - user code
                _note_closing(fan, error)
        self._event_bus.source_ended()

    def _resume_async(self, fan: FanRun, source: _AsyncSource) -> None:
        asked = self._waiting.pop(fan, None)
        if asked is not None:
            asked.set()
        else:
            self._scopes[fan] = anyio.CancelScope()
            self._start(self._pull_async, fan, source.iterator)

    async def _pull_async(self, fan: FanRun, iterator: AsyncIterator[Any]) -> None:
        machine = self._machine
        try:
            with self._scopes[fan]:
                try:
                    await self._pull_all(fan, iterator)
                except BaseException as error:
                    check_cancel(error, fan.step.spec)
                    raise
        except Exception as error:  # noqa: BLE001 - user code: its failure is the fan-out's
            machine.source_failed(fan, error)
        else:
            machine.source_ended(fan)
        finally:
            self._waiting.pop(fan, None)
            close = getattr(iterator, "aclose", None)
            if close is not None:
                with anyio.move_on_after(_CLOSING_SECONDS, shield=True):
                    try:
                        await close()
                    except Exception as error:  # noqa: BLE001 - user code
                        _note_closing(fan, error)
            del self._scopes[fan]
            self._ended(fan)
            self._on_change()

    async def _pull_all(self, fan: FanRun, iterator: AsyncIterator[Any]) -> None:
        async for item in iterator:
            self._machine.item_pulled(fan, item, _key(fan, item))
            self._on_change()
            if fan.is_ended:
                break
            asked = self._waiting[fan] = anyio.Event()
            await asked.wait()


def _note_closing(fan: FanRun, error: Exception) -> None:
    # Its items are pulled; what its clean-up says concerns no node.
    _LOGGER.warning("the source of %s could not be closed: %r", fan.step.spec.describe(), error)


class _AsyncSource:
    __slots__ = ("iterator",)

    def __init__(self, iterator: AsyncIterator[Any]) -> None:
        self.iterator = iterator


def _is_ours(fan: FanRun, source: Any) -> bool:
    # A generator is only good for the run; of the rest (an open file, say) we close what was made for it.
    declared = fan.step.spec.source
    made_for_us = declared is not None and callable(declared.items) and hasattr(source, "close")
    return isinstance(source, GeneratorType) or made_for_us


def _key(fan: FanRun, item: Any) -> str | None:
    """The identity of an item; `None` if that is worked out when it is needed: most runs need none."""
    name = fan.step.spec.key
    if name is not None:
        return fan.name_next(str(name(item)))
    return None if type(item) in _UNCHANGING else fan.name_next(item_key(item))


def _open(fan: FanRun) -> Iterator[Any] | _AsyncSource:
    spec = fan.step.spec
    source = spec.source
    if source is None:
        [dep] = spec.deps
        items = fan.around.values[dep.slot]
        fan.length = len(items) if isinstance(items, Sized) else None
        if isinstance(items, (str, bytes)):
            raise SourceError(f"{spec.describe()}, fans out over a {type(items).__name__}, not over a list")
        return _iterate(items, spec)
    if source.is_one_shot:
        if source.is_taken:
            raise _second_time(spec)
        source.is_taken = True
        return _iterate(source.items, spec)
    given: Any = source.items
    if has_method(given, "__iter__", "__aiter__", "__getitem__"):
        fan.length = len(given) if isinstance(given, Sized) else None
        return _iterate(given, spec)
    made = given()
    iterated = _iterate(made, spec)
    iterator = iterated.iterator if isinstance(iterated, _AsyncSource) else iterated
    if iterator is made:  # an iterator, so it must be a new one for each run
        if made is source.last_made:
            raise _second_time(spec)
        source.last_made = made
    return iterated


def _iterate(items: Any, spec: NodeSpec) -> Iterator[Any] | _AsyncSource:
    if has_method(items, "__aiter__"):
        return _AsyncSource(aiter(items))
    try:
        return cast("Iterator[Any]", iter(items))
    except TypeError:
        close = getattr(items, "close", None)
        if callable(close):
            close()  # a coroutine, which would otherwise warn
        raise SourceError(
            f"{spec.describe()}, fans out over {type(items).__name__}, which cannot be iterated over: use an"
            " iterable, an async iterable, or a callable that makes one"
        ) from None


def _second_time(spec: NodeSpec) -> SourceError:
    return SourceError(
        f"{spec.describe()}, was given an iterator, which can be gone through only once, and this is the second time:"
        " use a list, or a callable that makes a new one"
    )
