"""The cache as a run uses it: looks requests up, and sends equal requests that are in flight at once only once.

Of equal requests in flight the first one is sent. The others are parked and hold no worker. When the first has ended,
with a result or without, they look again: they find its result in the cache, or one of them is sent.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import anyio
import anyio.to_thread
import msgspec

from runware_flow.cache.store import Cache, Cached, CacheStore, read_cache
from runware_flow.errors import RunwareError
from runware_flow.graph.caching import seconds_to_live
from runware_flow.graph.scope_run import SETTLED
from runware_flow.journal.values import decode_item, encode_item
from runware_flow.types import MediaResult, attach_file

if TYPE_CHECKING:
    from pathlib import Path

    from runware_flow.graph.machine import FlowMachine
    from runware_flow.graph.plan import Step
    from runware_flow.graph.scope_run import ScopeRun
    from runware_flow.runner.pauses import Pauses
    from runware_flow.types import Result

__all__ = ("ResultCache", "SingleFlight", "open_result_cache")

_LOGGER = logging.getLogger("runware_flow")
_FRESH_SECONDS = 3600.0
"""Seconds after which the files of a cached result are checked at the service before it is used."""
_MARGIN_SECONDS = 60.0
_KEEP_SECONDS = 60.0


@runtime_checkable
class FileClient(Protocol):
    """A client that fetches the files of a result; without one, answers are used unchecked and no files are kept."""

    async def is_available(self, result: Any, /) -> bool:
        """Look whether they are still there."""
        ...

    async def save(self, result: Any, path: Any, /) -> Path:
        """Write one to a path."""
        ...


async def open_result_cache(cache: Any, client: object) -> ResultCache | None:
    """Open what a `cache=` names.

    Raises:
        DeclarationError: the folder cannot be used.
    """
    store = read_cache(cache)
    if store is None:
        return None
    if isinstance(store, Cache):
        await anyio.to_thread.run_sync(store.open)
    return ResultCache(store, client)


class ResultCache:
    """A cache, and which node makes which result, for the machine of a run or for those of a batch's items.

    There is no lock: all of these run in one event loop, and nothing is awaited between finding that no node makes a
    result and noting the node that does (`SingleFlight.find`).
    """

    def __init__(self, store: CacheStore, client: object) -> None:
        self._store = store
        self._client = client
        self._leads: dict[str, _Leader] = {}
        self.kept_count = 0
        """How many results were kept so far; a lookup that found none is repeated if the number has changed."""
        self._has_warned = False

    async def find(self, key: str, result_type: type[Result]) -> list[Any] | None:
        """Return the cached results of a request, unless their files no longer exist."""
        answer = await anyio.to_thread.run_sync(self._store.get, key)
        if answer is None:
            return None
        try:
            results: list[Any] = [decode_item(bytes(item), result_type) for item in answer.items]
        except (msgspec.MsgspecError, ValueError):
            return None
        files = [*answer.files, *[None] * len(results)]
        for result, name in zip(results, files, strict=False):
            path = self._store.media_path(name) if name is not None and isinstance(self._store, Cache) else None
            file = None if path is None else anyio.Path(path)
            has_file = file is not None and await file.is_file() and not await file.is_symlink()
            is_there = await self._is_there(result, answer)
            if path is not None and has_file:
                attach_file(result, path, is_alone=not is_there)
            elif not is_there:
                await anyio.to_thread.run_sync(self._store.drop, key)
                return None
        return results

    async def _is_there(self, result: Any, answer: Cached) -> bool:
        """Tell whether the file that a result names can still be downloaded; yes where that is not known."""
        if not isinstance(result, MediaResult) or result.inline is not None:
            return True
        now = time.time()
        if answer.expires_at is not None and now > answer.expires_at - _MARGIN_SECONDS:
            return False
        if now - answer.made_at < _FRESH_SECONDS or not isinstance(self._client, FileClient):
            return True
        available: bool = await self._client.is_available(result)
        return available

    async def keep(self, key: str, request: Any, results: list[Any], cost: float | None) -> None:
        """Keep the results of a request. A failure to keep them is logged once, and fails no node."""
        if not results:
            return
        with anyio.move_on_after(_KEEP_SECONDS, shield=True):  # it has been paid for, so a cancel waits
            await self._keep(key, request, results, cost)

    async def _keep(self, key: str, request: Any, results: list[Any], cost: float | None) -> None:
        now = time.time()
        ttl = seconds_to_live(request.wire)
        try:
            files = await self._download(key, results)
            answer = Cached(
                key,
                now,
                tuple(msgspec.Raw(encode_item(result)) for result in results),
                task_type=request.task_type,
                model=request.model,
                cost=cost,
                expires_at=None if ttl is None else now + ttl,
                files=files,
            )
            await anyio.to_thread.run_sync(self._store.put, answer)
        except Exception as error:  # noqa: BLE001 - a store of the user's raises what it likes, and this is paid for
            if not self._has_warned:
                self._has_warned = True
                _LOGGER.warning("a result could not be kept in the cache: %s", str(error) or type(error).__name__)
            return
        self.kept_count += 1

    async def _download(self, key: str, results: list[Any]) -> tuple[str | None, ...]:
        if not isinstance(self._store, Cache) or not self._store.keep_media or not isinstance(self._client, FileClient):
            return ()
        files: list[str | None] = []
        for index, result in enumerate(results):
            files.append(None)
            if isinstance(result, MediaResult) and result.inline is None:
                try:
                    path: Path = await self._client.save(result, self._store.media_path(f"{key}-{index}"))
                except RunwareError as error:
                    _LOGGER.warning("a result's file could not be kept in the cache: %s", error)
                else:
                    files[-1] = path.name
                    attach_file(result, path)
        return tuple(files)

    # Equal requests

    def is_made_by_another(self, key: str, who: tuple[ScopeRun, Step]) -> bool:
        """Tell whether an equal request is in flight."""
        lead = self._leads.get(key)
        return lead is not None and lead.who != who

    def lead_of(self, key: str) -> _Leader | None:
        """Return who makes the answer to a request."""
        return self._leads.get(key)

    def begin(self, key: str, who: tuple[ScopeRun, Step]) -> None:
        """Let a node be the first."""
        self._leads.setdefault(key, _Leader(who))

    def take_over(self, key: str, who: tuple[ScopeRun, Step]) -> None:
        """Let a node be the first in place of another; that one continues by itself if it has sent its request."""
        self._leads.setdefault(key, _Leader(who)).who = who

    def end(self, key: str, who: tuple[ScopeRun, Step]) -> None:
        """The first has ended: the nodes that wait for it look again. Does nothing if `who` is not the first."""
        lead = self._leads.get(key)
        if lead is None or lead.who != who:
            return
        del self._leads[key]
        for single_flight, run, step in lead.waiting:
            single_flight.wake(run, step)


class _Leader:
    __slots__ = ("waiting", "who")

    def __init__(self, who: tuple[ScopeRun, Step]) -> None:
        self.who = who
        self.waiting: list[tuple[SingleFlight, ScopeRun, Step]] = []


class SingleFlight:
    """The nodes of one machine that are the first with a request, or wait for the first."""

    def __init__(self, machine: FlowMachine, pauses: Pauses, result_cache: ResultCache) -> None:
        self.result_cache = result_cache
        self._machine = machine
        self._pauses = pauses
        self._keys: dict[tuple[ScopeRun, Step], str] = {}

    async def find(self, run: ScopeRun, step: Step, key: str, result_type: type[Result]) -> list[Any] | bool:
        """Return cached results; `True` if the node is to send the request; `False` if it was parked meanwhile."""
        result_cache = self.result_cache
        me = (run, step)
        if self._keys.get(me) == key and not result_cache.is_made_by_another(key, me):
            return True  # it was parked for something else meanwhile
        self.leave(run, step)
        while not result_cache.is_made_by_another(key, me):
            count = result_cache.kept_count
            found = await result_cache.find(key, result_type)
            if found is not None:
                return found
            if count == result_cache.kept_count and result_cache.lead_of(key) is None:
                result_cache.begin(key, me)
                self._keys[me] = key
                return True
        lead = result_cache.lead_of(key)
        assert lead is not None
        self._machine.park(run, step)
        if (run, step) in self._machine.waiting:  # else it was settled at once, since nothing needs it any more
            lead.waiting.append((self, run, step))
        return False

    def lead(self, run: ScopeRun, step: Step, key: str) -> None:
        """A node collects what was sent in an earlier run: equal requests wait for it."""
        self.result_cache.take_over(key, (run, step))
        self._keys[run, step] = key

    def leave(self, run: ScopeRun, step: Step) -> None:
        """A node has ended, or is not needed any more: the nodes that wait for it look again."""
        key = self._keys.pop((run, step), None)
        if key is not None:
            self.result_cache.end(key, (run, step))

    def close(self, *, is_over: bool = False) -> None:
        """The run has stopped: nodes of other runs that wait for one of its nodes look again. May be called twice.

        Args:
            is_over: its nodes that are in flight are not any more; until then they leave by themselves.
        """
        for run, step in list(self._keys):
            if is_over or run.cells[step.slot] >= SETTLED:
                self.leave(run, step)

    def wake(self, run: ScopeRun, step: Step) -> None:
        """Let a node that waits look again."""
        if (run, step) in self._machine.waiting:
            self._machine.unpark(run, step)
            self._pauses.set()
