"""The journal of a run: a request is recorded before it is sent, its outcome before it is used.

What users read journals with is here: `Journal`, `collect` and `salvage`. The names are imported when they are first
used, since SQLite is not needed by a run without a journal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runware_flow.journal.reader import Collected as Collected
    from runware_flow.journal.reader import Journal as Journal
    from runware_flow.journal.reader import JournalEntry as JournalEntry
    from runware_flow.journal.reader import JournalSummary as JournalSummary
    from runware_flow.journal.reader import ModelUse as ModelUse
    from runware_flow.journal.reader import collect as collect
    from runware_flow.journal.reader import salvage as salvage
    from runware_flow.journal.recovery import Salvaged as Salvaged

__all__ = ("Collected", "Journal", "JournalEntry", "JournalSummary", "ModelUse", "Salvaged", "collect", "salvage")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from runware_flow.journal import reader

    return getattr(reader, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
