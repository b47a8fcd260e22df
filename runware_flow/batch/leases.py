"""Leases on the items of a batch whose journal several processes share: one process works on an item at a time.

A lease is renewed while its item runs. A process that dies or hangs does not renew; when its leases have expired,
others take them and go on under the same taskUUIDs. If it wakes up, it stops what it did for these items: each write of
theirs is refused in its own transaction, so that no request of theirs can be put on record, nor sent.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anyio
import msgspec

from runware_flow.errors import JournalError, RunwareError
from runware_flow.graph.outcomes import Failed
from runware_flow.journal.store import EndLeases, LeaseLost, LeasingStore, TakeLeases
from runware_flow.journal.values import decode_error, encode_error

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from runware_flow.batch.item import BatchItem, Work
    from runware_flow.journal.store import Entry, Lease
    from runware_flow.journal.writer import JournalWriter

__all__ = ("ItemLeases", "failed_elsewhere", "is_lost", "open_leases")

_LOGGER = logging.getLogger("runware_flow")
_LOOKS = 0.5
"""Seconds between two looks at the items that other processes have."""


def open_leases(writer: JournalWriter | None, name: str) -> ItemLeases | None:
    """Give the items of a batch leases, if its journal is one that processes share."""
    if writer is None or not isinstance(writer.store, LeasingStore):
        return None
    return ItemLeases(writer, writer.store, name)


class ItemLeases:
    """The leases of a run of a batch."""

    def __init__(self, writer: JournalWriter, store: LeasingStore, name: str) -> None:
        self._writer = writer
        self._store = store
        self._name = name
        self._held: dict[int, anyio.CancelScope] = {}
        self._ended: list[tuple[int, bytes | None]] = []
        self._looked_at = anyio.current_time()

    def has(self, number: int) -> bool:
        """Tell whether a lease is held, as far as this process knows."""
        return number in self._held

    def may_look(self) -> bool:
        """Tell whether it is time to look at the items of others again."""
        return anyio.current_time() - self._looked_at >= _LOOKS

    async def wait(self) -> None:
        """Wait until it is."""
        await anyio.sleep(max(0.0, self._looked_at + _LOOKS - anyio.current_time()))

    def note_look(self) -> None:
        """Remember that they were looked at now."""
        self._looked_at = anyio.current_time()

    async def take(self, works: Sequence[Work]) -> list[Lease]:
        """Take the items that are free; each is this process's until it is ended."""
        take = TakeLeases(self._name, tuple(work.pulled.key for work in works))
        entry = await self._write(take)
        assert entry is not None  # the answer to a `TakeLeases` is one
        leases = [*entry.leases]
        for work, lease in zip(works, leases, strict=True):
            if lease.number and work.ledger is not None:
                self._held[lease.number] = anyio.CancelScope()
                work.ledger.lease = lease.number
        return leases

    @contextmanager
    def hold(self, work: Work) -> Generator[None]:
        """Work on an item as long as its lease is held; what is inside is cancelled when it is lost."""
        number = work.lease
        if not number:
            yield
            return
        scope = self._held.get(number)
        if scope is None:  # it was lost while the item waited for a worker
            scope = anyio.CancelScope()
            scope.cancel()
        try:
            with scope:
                yield
        except LeaseLost:
            self._lose(number)

    def end(self, work: Work, item: BatchItem[Any, Any]) -> None:
        """An item has its outcome: other processes find it in the journal, or are told why it has failed."""
        if self._held.pop(work.lease, None) is not None:
            self._ended.append((work.lease, None if item.error is None else _encoded(item.error)))

    def leave(self, work: Work) -> None:
        """An item is another process's now."""
        self._lose(work.lease)
        if work.ledger is not None:
            work.ledger.lease = 0
        what = f"item {work.pulled.position} ({work.pulled.key}) of batch {self._name!r}"
        _LOGGER.warning(
            "%s: its lease was lost and another process has it; this process sends nothing more for it", what
        )

    async def renew(self) -> None:
        """Renew the leases until cancelled."""
        while True:
            await anyio.sleep(self._store.lease_seconds / 3)
            try:
                await self._give_back()
                if self._held:
                    for number in await self._writer.call(self._store.renew_leases, list(self._held)):
                        self._lose(number)
            except JournalError:
                return  # whatever is written next says so

    async def close(self) -> None:
        """Give back what is ended. What is still held is given back when the store is closed."""
        with anyio.CancelScope(shield=True):
            try:
                await self._give_back()
            except JournalError as error:
                _LOGGER.warning("batch %r: %s", self._name, error)

    async def _give_back(self) -> None:
        if self._ended:
            await self._write()

    async def _write(self, *changes: TakeLeases) -> Entry | None:
        """Write what is ended, and other changes after it; returns the answer to the last one.

        After a cancel or an error, what is ended is written again with the next changes: a lease that ends twice has
        ended.
        """
        ended, self._ended = self._ended, []
        try:
            *_, answer = await self._writer.write_all([*([EndLeases(tuple(ended))] if ended else []), *changes])
        except BaseException:
            self._ended = [*ended, *self._ended]
            raise
        return answer

    def _lose(self, number: int) -> None:
        scope = self._held.pop(number, None)
        if scope is not None:
            scope.cancel()


def is_lost(item: BatchItem[Any, Any]) -> bool:
    """Tell whether an item failed because its lease was lost."""
    error: BaseException | None = item.error
    while error is not None and not isinstance(error, LeaseLost):
        error = error.__cause__
    return error is not None


def failed_elsewhere(lease: Lease) -> Failed:
    """The failure of an item that another process has tried."""
    assert lease.error is not None
    try:
        return Failed(decode_error(lease.error))
    except (msgspec.MsgspecError, TypeError):
        return Failed(RunwareError("the item failed in another process, which recorded no error"))


def _encoded(error: Exception) -> bytes:
    if isinstance(error, RunwareError):
        return encode_error(error)
    return encode_error(RunwareError(f"in another process: {str(error) or type(error).__name__}"))
