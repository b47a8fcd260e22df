"""A page that shows a journal, and follows it while a run writes to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runware_flow.errors import ClientStateError
from runware_flow.journal.opening import watch_journal
from runware_flow.journal.reader import Journal
from runware_flow.journal.redo import mark_nodes
from runware_flow.live.server import LiveServer
from runware_flow.runner.journal_report import finder_of, journal_notes, journal_remarks, read_story
from runware_flow.runner.report import date_text
from runware_flow.runner.report_files import served_files
from runware_flow.view.report import LivePart, Report

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from runware_flow.journal.address import JournalAddress
    from runware_flow.runner.report_files import Finder
    from runware_flow.view.journal_story import JournalStory

__all__ = ("JournalPage",)


class JournalPage(LiveServer):
    """Serves a page that shows a journal; see `runware-flow view`.

    Args:
        journal: the path of its file, or the `postgresql://` URL of its database.
        flow: only this flow or batch.
        files: folders whose files may be shown beside those below the journal's own folder.
        port: the port on 127.0.0.1; 0 takes a free one.

    Raises:
        JournalError: the journal cannot be read.
        OSError: the port is taken.
        ModuleNotFoundError: the extra `live` is not installed.
    """

    def __init__(
        self, journal: JournalAddress, *, flow: str | None = None, files: Sequence[Path] = (), port: int = 0
    ) -> None:
        self._journal_source = source = _JournalSource(journal, flow, files)
        try:
            source.look()
            super().__init__(source, port=port)
        except BaseException:
            source.close()
            raise

    def close(self) -> None:
        """Show the last state on open pages, and stop serving; blocks for a few seconds at most."""
        super().close()
        self._journal_source.close()


class _JournalSource:
    def __init__(self, journal: JournalAddress, flow: str | None, files: Sequence[Path]) -> None:
        self._journal = journal
        self._watch = watch_journal(journal)
        self._flow = flow
        self._files = files
        self._seen: object = None
        self._version = 0
        self._story: JournalStory | None = None
        self._finder: Finder | None = None

    def look(self) -> int:
        seen = self._watch.version()
        if seen != self._seen or self._story is None:
            with Journal(self._journal) as reader:
                story = read_story(reader, self._flow)
                self._finder = finder_of(reader, story.rows, self._files)
            self._story = story
            self._seen = seen
            self._version += 1
        return self._version

    def close(self) -> None:
        self._watch.close()

    def report(self) -> Report:
        story, finder = self._story, self._finder
        assert story is not None
        assert finder is not None
        return Report(
            name=", ".join(story.names) or self._journal.name,
            state="journal",
            made_at="",
            began_at=date_text(story.began_at),
            seconds=story.seconds,
            shape=story.shape,
            rows=story.rows,
            receipt=story.receipt,
            files=served_files(story.rows, finder, may_fetch=False),
            notes=journal_notes(self._journal, story),
            remarks=journal_remarks(story),
            live=LivePart(marks=story.marks),
        )

    def medium(self, row: int, place: int) -> tuple[Path | None, Any]:
        assert self._story is not None
        assert self._finder is not None
        kind, result = self._story.rows[row].media[place]
        return self._finder.find(self._story.rows[row], place, kind).path, result

    async def stop(self) -> None:
        raise ClientStateError("this page shows a journal and controls no run: stop the run where it was started")

    def mark(self, nodes: list[tuple[str, str]], *, is_marked: bool) -> None:
        mark_nodes(self._journal, nodes, is_marked=is_marked)
        self._seen = None
