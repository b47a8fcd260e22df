"""Opens a journal, in a file or in a database: the one place that chooses between them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from runware_flow.journal.address import DatabaseAddress, address_of
from runware_flow.journal.sqlite import FileRows, FileWatch, SqliteStore, changed_file, file_of_journal

if TYPE_CHECKING:
    from collections.abc import Generator
    from os import PathLike

    from runware_flow.journal.store import ChangedRows, JournalStore, JournalWatch, StoredRows

__all__ = ("open_rows", "open_to_change", "store_of", "watch_journal")


def open_rows(journal: str | PathLike[str] | DatabaseAddress) -> StoredRows:
    """Open a journal for reading. Nothing is made, changed or locked; blocks.

    Raises:
        NoJournal: there is none.
        JournalError: it cannot be read.
    """
    address = address_of(journal)
    if isinstance(address, DatabaseAddress):
        from runware_flow.journal.postgres import DatabaseRows  # not needed by a file

        return DatabaseRows(address)
    return FileRows(file_of_journal(address))


@contextmanager
def open_to_change(journal: str | PathLike[str] | DatabaseAddress) -> Generator[ChangedRows]:
    """Open a journal for a transaction that changes its rows, at the end of the block or not at all; blocks.

    Raises:
        NoJournal: there is none.
        JournalError: a run has its file, or it cannot be changed.
    """
    address = address_of(journal)
    if isinstance(address, DatabaseAddress):
        from runware_flow.journal.postgres import changed_database  # not needed by a file

        with changed_database(address) as rows:
            yield rows
        return
    with changed_file(file_of_journal(address)) as rows:
        yield rows


def watch_journal(journal: str | PathLike[str] | DatabaseAddress) -> JournalWatch:
    """Watch for changes of a journal, whether it is there or not."""
    address = address_of(journal)
    if isinstance(address, DatabaseAddress):
        from runware_flow.journal.postgres import DatabaseWatch  # not needed by a file

        return DatabaseWatch(address)
    return FileWatch(file_of_journal(address))


def store_of(journal: str | PathLike[str] | DatabaseAddress) -> JournalStore:
    """Make the store that keeps a journal; it is not open yet."""
    address = address_of(journal)
    if isinstance(address, DatabaseAddress):
        from runware_flow.journal.postgres import PostgresStore  # not needed by a file

        return PostgresStore(address)
    return SqliteStore(address)
