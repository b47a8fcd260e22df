"""What `runware-flow report` does: the page of a journal."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from runware_flow.errors import JournalError
from runware_flow.journal import Journal
from runware_flow.runner.report import date_text, pictures_of, write_report
from runware_flow.view.journal_story import tell_journal
from runware_flow.view.progress import duration
from runware_flow.view.report import Report

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ("report_command",)


def report_command(journal: Path, out: Path, *, flow: str | None) -> Path:
    """Write the page of a journal, or of one flow in it, and return where it is."""
    with Journal(journal) as reader:
        story = tell_journal(reader.entries(flow=flow))
        if flow is not None and not story.rows:
            raise JournalError(f"the journal {journal} has nothing of a flow or batch named {flow!r}")
    pictures, notes = pictures_of(story.rows, most=500)
    notes.insert(
        0,
        "This page is made from a journal, which knows requests and outcomes: an arrow is drawn where a request names"
        " what came of another, and only there it is known when a node was ready. When the service last said that it"
        " works on a task is not in a journal.",
    )
    left = sum(row.state == "abandoned" for row in story.rows)
    if left:
        notes.append(
            f"What came of {left} of its requests is not known: `runware-flow collect {journal}` asks for them, and so"
            " does the next run with the journal."
        )
    if story.cut_seconds:
        notes.append(f"Pauses between runs, {duration(story.cut_seconds)} together, are left out of the time line.")
    return write_report(
        Report(
            name=", ".join(story.names) or journal.name,
            state="journal",
            made_at=date_text(time.time()),
            began_at=date_text(story.began_at),
            seconds=story.seconds,
            shape=story.shape,
            rows=story.rows,
            receipt=story.receipt,
            pictures=pictures,
            notes=notes,
        ),
        out,
    )
