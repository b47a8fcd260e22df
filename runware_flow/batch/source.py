"""The source of a batch: one item at a time, each with its position and its key."""

from __future__ import annotations

import inspect
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio

from runware_flow.flow.checks import caller, read_source
from runware_flow.graph.declaration import has_method
from runware_flow.graph.fingerprint import Ordinals, item_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ("BatchSource", "FedSource", "Pulled")


class Pulled(NamedTuple):
    """One item of a source."""

    position: int
    item: Any
    key: str


class BatchSource:
    """Pulls items from an iterable, an async iterable or a callable that makes one."""

    def __init__(self, items: Any, key: Callable[[Any], str] | None) -> None:
        source = read_source(items, caller())
        given: Any = source.items
        is_made = not source.is_one_shot and not has_method(given, "__iter__", "__aiter__", "__getitem__")
        opened = given() if is_made else given
        self.is_async = has_method(opened, "__aiter__")
        self._iterator: Any = aiter(opened) if self.is_async else iter(opened)
        self._key = key
        self._ordinals = Ordinals()
        self._count = 0
        self.is_over = False
        """Whether there are no more items."""
        self._lock = anyio.Lock()  # an async iterator may not be advanced again before it has given its item
        self._pulling: anyio.CancelScope | None = None
        self.total: int | None = len(given) if has_method(given, "__len__") and not is_made else None
        """How many items there are, where the source has a length."""

    async def attend(self, start_worker: Callable[[], None]) -> None:
        """Start workers as items come. Nothing to do here: the workers that wait for the next item are enough."""

    async def pull(self) -> Pulled | None:
        """Take the next item; `None` if there are no more. What the source raises is raised, once."""
        if not self.is_async:
            return await self._pull()
        async with self._lock:
            with anyio.CancelScope() as self._pulling:
                return await self._pull()
        return None  # stopped meanwhile

    def stop(self) -> None:
        """Give no more items, also to callers that wait for the next one."""
        self.is_over = True
        if self._pulling is not None:
            self._pulling.cancel()

    async def _pull(self) -> Pulled | None:
        if self.is_over:
            return None
        try:
            item = await anext(self._iterator) if self.is_async else next(self._iterator)
            key = self._ordinals.name(str(self._key(item)) if self._key is not None else item_key(item))
        except (StopIteration, StopAsyncIteration):
            self.is_over = True
            return None
        except Exception:
            self.is_over = True
            raise
        self._count += 1
        return Pulled(self._count - 1, item, key)

    async def aclose(self) -> None:
        """Close a generator that was not read to its end."""
        self.is_over = True
        iterator: Any = self._iterator
        if inspect.isgenerator(iterator):
            iterator.close()
        elif inspect.isasyncgen(iterator):
            with anyio.CancelScope(shield=True):
                await iterator.aclose()


class FedSource:
    """A source that is given its items, with their positions and keys, from elsewhere. It is used by a `BatchRunner`.

    No worker waits for the next item: one that finds none ends, and another is started once there are items again.
    """

    is_async = False

    def __init__(self) -> None:
        self._waiting: deque[Pulled] = deque()
        self._is_over = False
        self._fed = anyio.Event()

    @property
    def is_over(self) -> bool:
        """Whether there will be no more items."""
        return self._is_over and not self._waiting

    def feed(self, items: Iterable[Pulled]) -> None:
        """Give it more items."""
        self._waiting += items
        self._fed.set()

    async def pull(self) -> Pulled | None:
        """Take the next item; `None` if there is none now."""
        return self._waiting.popleft() if self._waiting else None

    def stop(self) -> None:
        """Give nothing more."""
        self._waiting.clear()
        self._is_over = True
        self._fed.set()

    async def attend(self, start_worker: Callable[[], None]) -> None:
        """Have a worker started whenever items have come, until the source is stopped."""
        while not self._is_over:
            await self._fed.wait()
            self._fed = anyio.Event()
            start_worker()

    async def aclose(self) -> None:
        """Nothing is to be closed."""
        self.stop()
