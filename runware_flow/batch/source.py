"""The source of a batch: one item at a time, each with its position and its key."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio

from runware_flow.flow.checks import caller, read_source
from runware_flow.graph.declaration import has_method
from runware_flow.graph.fingerprint import Ordinals, item_key

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("BatchSource", "Pulled")


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
        self._is_over = False
        self._lock = anyio.Lock()
        self._pulling: anyio.CancelScope | None = None
        self.total: int | None = len(given) if has_method(given, "__len__") and not is_made else None
        """How many items there are, where the source has a length."""

    async def pull(self) -> Pulled | None:
        """Take the next item; `None` if there are no more. What the source raises is raised, once."""
        if not self.is_async:
            return await self._pull()
        async with self._lock:
            with anyio.CancelScope() as self._pulling:
                return await self._pull()
        return None  # stopped meanwhile

    def stop(self) -> None:
        """Give nothing more, also to those who wait for the next item."""
        self._is_over = True
        if self._pulling is not None:
            self._pulling.cancel()

    async def _pull(self) -> Pulled | None:
        if self._is_over:
            return None
        try:
            item = await anext(self._iterator) if self.is_async else next(self._iterator)
            key = self._ordinals.name(str(self._key(item)) if self._key is not None else item_key(item))
        except (StopIteration, StopAsyncIteration):
            self._is_over = True
            return None
        except Exception:
            self._is_over = True
            raise
        self._count += 1
        return Pulled(self._count - 1, item, key)

    async def aclose(self) -> None:
        """Close a generator that was not read to its end."""
        self._is_over = True
        iterator: Any = self._iterator
        if inspect.isgenerator(iterator):
            iterator.close()
        elif inspect.isasyncgen(iterator):
            with anyio.CancelScope(shield=True):
                await iterator.aclose()
