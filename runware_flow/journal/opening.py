"""Opening a journal, in a file or in a database: the one place that tells them apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runware_flow.journal.address import DatabaseAddress, address_of
from runware_flow.journal.sqlite import FileRows, SqliteStore, file_of_journal

if TYPE_CHECKING:
    from os import PathLike

    from runware_flow.journal.store import JournalStore, StoredRows

__all__ = ("open_rows", "store_of")


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


def store_of(journal: str | PathLike[str] | DatabaseAddress) -> JournalStore:
    """Make the store that keeps a journal; it is not open yet."""
    address = address_of(journal)
    if isinstance(address, DatabaseAddress):
        from runware_flow.journal.postgres import PostgresStore  # not needed by a file

        return PostgresStore(address)
    return SqliteStore(address)
