"""The report of a journal, made from the journal and the files that it names."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from runware_flow.errors import JournalError
from runware_flow.journal.reader import Journal
from runware_flow.runner.report import date_text
from runware_flow.runner.report_files import Finder, media_files
from runware_flow.view.journal_story import summarise_journal
from runware_flow.view.progress import duration
from runware_flow.view.report import Report

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runware_flow.journal.address import JournalAddress
    from runware_flow.view.journal_story import JournalStory
    from runware_flow.view.story import Row

__all__ = ("check_flow", "finder_of", "journal_notes", "journal_remarks", "journal_report", "read_story")

_EMBEDDED = 500


def journal_report(
    journal: JournalAddress,
    page: Path,
    *,
    flow: str | None = None,
    files: Sequence[Path] | None = (),
    pictures: int = _EMBEDDED,
) -> Report:
    """Read a journal and make thumbnails, for a page that will be at `page`.

    Args:
        journal: its file or database.
        page: where the page will be.
        flow: only this flow or batch.
        files: folders whose files may be shown beside those below the journal's own folder, which for a database is
            the working folder; `None`: any, of a journal that this program has written itself.
        pictures: how many thumbnails are in the page itself at most, see `media_files`.

    Raises:
        JournalError: it cannot be read, or has nothing of `flow`.
    """
    with Journal(journal) as reader:
        story = read_story(reader, flow)
        finder = finder_of(reader, story.rows, files)
    shown = media_files(story.rows, finder, page, most=pictures)
    return Report(
        name=", ".join(story.names) or journal.name,
        state="journal",
        made_at=date_text(time.time()),
        began_at=date_text(story.began_at),
        seconds=story.seconds,
        shape=story.shape,
        rows=story.rows,
        receipt=story.receipt,
        files=shown.files,
        notes=[*journal_notes(journal, story), *shown.notes],
        remarks=journal_remarks(story),
    )


def read_story(reader: Journal, flow: str | None) -> JournalStory:
    """Read what a journal tells of a flow or batch, or of all that it has.

    Raises:
        JournalError: it cannot be read, or has nothing of `flow`.
    """
    if flow is not None:
        check_flow(reader, flow)
    return summarise_journal(reader.entries(flow=flow))


def check_flow(reader: Journal, flow: str) -> None:
    """Check that a journal has something of a flow or batch.

    Raises:
        JournalError: it has not; or it cannot be read.
    """
    flows = reader.flows()
    if flow not in flows:
        there = ", ".join(map(repr, flows))
        raise JournalError(
            f"the journal {reader.path} has nothing of a flow or batch named {flow!r}"
            + (f"; it has {there}" if there else "")
        )


def finder_of(reader: Journal, rows: Sequence[Row], files: Sequence[Path] | None) -> Finder:
    """Find the files that a journal names: below its own folder, and below `files`; with `None`, wherever they are."""
    folder = reader.path.absolute().parent if isinstance(reader.path, Path) else Path.cwd()
    places = reader.places()
    # A relative path is tried where its run was, and where the journal is now: both may have moved together.
    bases = [*(Path(place) for place, _ in places), folder, *(files or ())]
    caches = [Path(cache) for _, cache in places if cache is not None]
    moved = [folder / cache.name for cache in caches]
    return Finder(
        rows,
        bases=list(dict.fromkeys(bases)),
        roots=None if files is None else [folder, *files],
        caches=list(dict.fromkeys([*caches, *moved, *(files or ())])),
    )


def journal_notes(journal: JournalAddress, story: JournalStory) -> list[str]:
    """Say what is open."""
    left = sum(row.state == "abandoned" for row in story.rows)
    if not left:
        return []
    what = f"The outcome of {left} of its requests is not known: `runware-flow collect {journal}` collects them, and so"
    return [f"{what} does the next run with the journal."]


def journal_remarks(story: JournalStory) -> list[str]:
    """Say what a page of a journal cannot know."""
    known = (
        "This page is made from a journal, which holds requests and outcomes. It has an arrow where a request names the"
        " result of another, and only there the time at which a node was ready is known. A journal does not hold the"
        " time at which the service last reported work on a task."
    )
    remarks = [known]
    if story.cut_seconds:
        remarks.append(f"Pauses between runs, {duration(story.cut_seconds)} together, are left out of the time line.")
    return remarks
