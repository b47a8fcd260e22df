"""`runware-flow view` and `run --live`: the served page."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from runware_flow.cli.program import UsageError
from runware_flow.cli.terminal import echo, say

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from runware_flow.journal.address import JournalAddress
    from runware_flow.live import LivePage

__all__ = ("leave_open", "open_live_page", "view_command")


def open_live_page(port: int) -> LivePage:
    """Begin to serve the page of a run, and say where it is."""
    try:
        from runware_flow.live import LivePage

        page = LivePage(port=port)
    except ModuleNotFoundError as error:
        raise UsageError(f"the page needs the extra live: {error}") from error
    say(f"the run's page: {page.url}")
    return page


def leave_open(page: LivePage) -> None:
    """Keep the page of a run that is over for the user at the terminal; elsewhere it ends."""
    if sys.stdin is not None and sys.stdin.isatty():
        say("the run is over; its page stays until Ctrl-C")
        _wait()
    page.close()


def view_command(journal: JournalAddress, *, flow: str | None, files: Sequence[Path], port: int) -> int:
    """Serve the page of a journal until interrupted; prints its address."""
    try:
        from runware_flow.live.journal_page import JournalPage

        page = JournalPage(journal, flow=flow, files=files, port=port)
    except ModuleNotFoundError as error:
        raise UsageError(f"the page needs the extra live: {error}") from error
    page.start()
    echo(page.url)
    say("Ctrl-C ends the page")
    _wait()
    page.close()
    return 0


def _wait() -> None:
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        pass
