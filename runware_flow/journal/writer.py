"""`JournalWriter`: sends the changes of many nodes to the store in groups, one group at a time, in a thread."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

from runware_flow.errors import JournalError
from runware_flow.journal.opening import store_of
from runware_flow.journal.store import LeaseLost, StoreAway, is_store
from runware_flow.lifetime import open_task_group

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from runware_flow.journal.store import Change, Entry, JournalStore

R = TypeVar("R")

_LOGGER = logging.getLogger("runware_flow")
_AGAIN_SECONDS = 0.25
_TURNS = 2
"""Turns of the event loop between two groups; trio runs the tasks of one turn in any order."""

__all__ = ("JournalWriter", "open_writer")


class _Group:
    """Changes that are written together; each caller that gave one waits for all."""

    __slots__ = ("answers", "changes", "done", "error", "is_taken")

    def __init__(self) -> None:
        self.changes: list[Change | None] = []
        """`None` instead of a change that was withdrawn."""
        self.is_taken = False
        self.done = anyio.Event()
        self.answers: list[Entry | LeaseLost | None] = []
        self.error: JournalError | None = None

    def take(self, place: int, count: int) -> list[Entry | None]:
        """The answers to the changes from a place on.

        Raises:
            JournalError: the group failed.
            LeaseLost: one of these changes was refused.
        """
        if self.error is not None:
            raise JournalError(str(self.error)) from self.error
        taken: list[Entry | None] = []
        for answer in self.answers[place : place + count]:
            if isinstance(answer, LeaseLost):
                raise LeaseLost(str(answer))
            taken.append(answer)
        return taken


class JournalWriter:
    """Writes changes in the order in which they were given; each is durable when `write` returns.

    While one group is being written, the next one gathers. After a failure of the store nothing is written any more:
    every `write` raises it, so nothing is sent that is not on record.

    Attributes:
        store: what keeps the journal.
        has_past: the journal existed before; so it seems of a store that does not tell by an attribute `is_new`.
    """

    def __init__(self, store: JournalStore) -> None:
        self.store = store
        self._group = _Group()
        self._arrived = anyio.Event()
        self._is_closing = False
        self._failure: JournalError | None = None
        self._limiter = anyio.CapacityLimiter(1)  # a store has one connection, which one thread uses at a time
        self.has_past: bool = not getattr(store, "is_new", False)

    async def write(self, change: Change) -> Entry | None:
        """Make a change durable. A cancel withdraws it before its group is begun; after that it is written.

        Raises:
            JournalError: the store failed, now or before.
            LeaseLost: another process has the item of this change.
        """
        [answer] = await self.write_all((change,))
        return answer

    async def write_all(self, changes: Sequence[Change]) -> list[Entry | None]:
        """Do the same with several changes, in order and in one group."""
        group, place = self._join(changes)
        try:
            await group.done.wait()
        except BaseException:
            if not group.is_taken:
                group.changes[place : place + len(changes)] = [None] * len(changes)
            raise
        return group.take(place, len(changes))

    async def write_surely(self, change: Change) -> None:
        """Make a change durable; a cancel waits for that.

        A shield around each change would double what a step costs, so there is one only when a cancel comes.
        """
        group, place = self._join((change,))
        try:
            await group.done.wait()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await group.done.wait()
            raise
        group.take(place, 1)

    async def call(self, function: Callable[..., R], *args: Any) -> R:
        """Call a method of the store, between two groups.

        Raises:
            JournalError: the store failed, now or before.
        """
        if self._failure is not None:
            raise JournalError(str(self._failure)) from self._failure
        return await anyio.to_thread.run_sync(function, *args, limiter=self._limiter)

    def _join(self, changes: Sequence[Change]) -> tuple[_Group, int]:
        """Put changes into the group that gathers; returns it and where they stand in it."""
        if self._failure is not None:
            raise JournalError(str(self._failure)) from self._failure
        group = self._group
        place = len(group.changes)
        group.changes += changes
        self._arrived.set()
        return group, place

    async def run(self) -> None:
        """Write until closed. Cancels do not reach it: who waits for it may be shielded."""
        with anyio.CancelScope(shield=True):
            while True:
                while not self._group.changes:
                    if self._is_closing:
                        return
                    self._arrived = anyio.Event()
                    await self._arrived.wait()
                group, self._group = self._group, _Group()
                group.is_taken = True
                await self._write_group(group)
                # Those that waited for this group go on first, so that what they write next is in the next group. Else
                # two halves of them would take turns, with a commit for each.
                for _ in range(_TURNS):
                    await anyio.lowlevel.checkpoint()

    async def _write_group(self, group: _Group) -> None:
        try:
            changes = [change for change in group.changes if change is not None]
            answers = iter(await anyio.to_thread.run_sync(self.store.apply, changes, limiter=self._limiter))
            group.answers = [None if change is None else next(answers) for change in group.changes]
        except Exception as error:  # noqa: BLE001 - whatever a store raises, every one who waits is told
            failure = error if isinstance(error, JournalError) else JournalError(f"the journal failed: {error!r}")
            failure.__cause__ = error.__cause__ if failure is error else error
            self._failure = failure
            for told in (group, self._group):
                told.error = failure
                told.done.set()
            self._group = _Group()
            return
        group.done.set()

    def close(self) -> None:
        """Write what waits, and end."""
        self._is_closing = True
        self._arrived.set()


async def _open(store: JournalStore) -> None:
    """Open a store. One that does not answer is tried again for its `patience`, and said so once.

    Where a program and its database are started together, the database may be ready later. A cancel ends the wait.
    """
    patience: float = getattr(store, "patience", 0.0)
    until: float | None = None
    while True:
        try:
            await anyio.to_thread.run_sync(store.open)
            return
        except StoreAway as away:
            if until is None:
                until = anyio.current_time() + patience
                if patience > 0:
                    _LOGGER.warning(
                        "%s: the journal is tried again for %g s, and nothing is sent until it answers", away, patience
                    )
            if anyio.current_time() >= until:
                raise JournalError(f"{away}; it was tried for {patience:g} s, and nothing was sent") from None
        await anyio.sleep(_AGAIN_SECONDS)


@asynccontextmanager
async def open_writer(journal: Any) -> AsyncGenerator[JournalWriter]:
    """Open a journal for the time of a block: a path, the address of a database, or a store.

    Raises:
        JournalError: it cannot be opened, or another run has it.
    """
    store: JournalStore = journal if is_store(journal) else store_of(journal)
    await _open(store)
    try:
        writer = JournalWriter(store)
        async with open_task_group() as workers:
            workers.start_soon(writer.run)
            try:
                yield writer
            finally:
                writer.close()
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(store.close)
