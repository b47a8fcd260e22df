"""`LivePage`: a page that shows a run while it goes on."""

from __future__ import annotations

import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread

from runware_flow.errors import ClientStateError
from runware_flow.live.server import LiveServer
from runware_flow.runner.report import date_text
from runware_flow.runner.report_files import Finder, served_files
from runware_flow.view.live_story import LiveStory
from runware_flow.view.report import LivePart, Report

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Self

    from runware_flow.graph.events import Event

__all__ = ("LivePage",)


class LivePage:
    """A page on 127.0.0.1 that shows a run while it goes on; give it as `progress=` to a flow or a batch.

    Pictures appear as they finish. The button that stops the run does what `Run.stop` does. The page does not affect
    the run: it may be closed, opened again, or never opened. It shows everything since the start, up to 40,000 nodes.
    Pictures that are only at the service are downloaded when the page shows them.

    A thread of its own serves the page until `close`, the end of the `with` block, or the end of the program; after the
    run the page shows how it ended. A second run with the same `LivePage` clears the page.

    Args:
        port: the port on 127.0.0.1; 0 takes a free one.

    Attributes:
        url: the address of the page. The token in it lets anyone on this machine who has it see the run and stop it.

    Raises:
        OSError: the port is taken.
        ModuleNotFoundError: the extra `live` is not installed.
    """

    def __init__(self, *, port: int = 0) -> None:
        self._source = _RunSource()
        self._server = LiveServer(self._source, port=port, fetches=True)
        self.url = self._server.url
        self._server.start()

    def __repr__(self) -> str:
        return "<LivePage>"  # without its address, which is a secret

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self, event: Event, /) -> None:
        """Take an event of the run. This only puts it aside, so it never holds up the run."""
        self._source.events.append(event)

    def attach(self, stop: Callable[[], None]) -> None:
        """Set the function that stops the run that begins now; called by the run."""
        self._source.stopper = partial(anyio.from_thread.run_sync, stop, token=anyio.lowlevel.current_token())

    def close(self) -> None:
        """Show the last state on open pages, and stop serving; blocks for a few seconds at most."""
        self._server.close()


class _RunSource:
    """The events of a run, from its thread to the page's."""

    def __init__(self) -> None:
        self.events: deque[Any] = deque()
        self.stopper: Callable[[], Any] | None = None
        self._story = LiveStory()
        self._began_at: float | None = None
        self._finder: Finder | None = None

    def look(self) -> int:
        while self.events:
            event = self.events.popleft()
            if self._began_at is None:
                self._began_at = time.time() - event.time
            self._story.take(event)
        return self._story.version

    def report(self) -> Report:
        story = self._story
        shape = story.shape()
        into = shape.by_path()
        rows = story.placed_rows(into)
        self._finder = Finder(rows)
        notes: list[str] = []
        if story.left_out:
            notes.append(f"{story.left_out:,} more nodes are not on this page; a journal has all of them.")
        return Report(
            name=story.name,
            state=story.state,
            made_at="",
            began_at=date_text(self._began_at),
            seconds=story.seconds,
            shape=shape,
            rows=rows,
            receipt=story.receipt(),
            files=served_files(rows, self._finder, may_fetch=True),
            notes=notes,
            live=LivePart(can_stop=True),
        )

    def medium(self, row: int, place: int) -> tuple[Path | None, Any]:
        kind, result = self._story.rows[row].media[place]
        finder = self._finder or Finder(self._story.rows)
        return finder.find(self._story.rows[row], place, kind).path, result

    async def stop(self) -> None:
        if self.stopper is None or self._story.state not in ("running", "waiting"):
            raise ClientStateError("the run is over")
        try:
            await anyio.to_thread.run_sync(self.stopper)
        except RuntimeError as error:  # its event loop has ended
            raise ClientStateError("the run is over") from error

    def mark(self, nodes: list[tuple[str, str]], *, is_marked: bool) -> None:
        raise ClientStateError("nodes are marked after the run, in the page of its journal: runware-flow view JOURNAL")
