"""`progress=`: counts the events of a run, and shows the counts on a terminal, in a notebook or as lines.

The run only counts. A task of its own draws now and then, and seldom enough that drawing takes at most a fiftieth of
the time. A screen that fails (its terminal has gone) ends the showing, never the run.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import logging
import sys
import time
from typing import TYPE_CHECKING, Any, Protocol

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable

    from runware_flow.view.progress import ProgressBoard

__all__ = ("ProgressDisplay", "check_progress")

_LOGGER = logging.getLogger("runware_flow")
_DRAWING_SHARE = 50

_bars_in_use = False
"""A terminal has room for the bars of one run; others beside it write lines, which appear above the bars."""


def check_progress(progress: object) -> str | None:
    """Say in one sentence what is wrong with a `progress=`, if anything is."""
    if progress is None or isinstance(progress, bool) or callable(progress) or progress == "json":
        return None
    if progress == "rich":
        if importlib.util.find_spec("rich") is not None:
            return None
        return "progress=\"rich\" needs the package rich: pip install 'runware-flow[cli]', or use progress=True"
    return f'progress= is True, "rich", "json", None or a callable that is given each event, not {progress!r}'


class Screen(Protocol):
    """Where a board is shown. `draw` is called every `seconds` or less often, the last time with `board.end` set."""

    seconds: float

    def draw(self, board: ProgressBoard) -> None: ...
    def close(self) -> None: ...


class ProgressDisplay:
    """Shows a board while something runs."""

    def __init__(self, board: ProgressBoard, progress: bool | str, look: Callable[[ProgressBoard], None]) -> None:
        """Choose the screen.

        Args:
            board: what is shown.
            progress: as users gave it.
            look: sets what the board does not count by itself, the time included.
        """
        self._board = board
        self._look = look
        self._screen: Screen | None = _choose(progress)
        self._closed = anyio.Event()

    async def run(self) -> None:
        """Draw until cancelled or closed."""
        pause = 0.0
        while self._screen is not None:
            with anyio.move_on_after(max(self._screen.seconds, pause)):
                await self._closed.wait()
                return
            started = time.perf_counter()
            self._draw()
            pause = _DRAWING_SHARE * (time.perf_counter() - started)

    def _draw(self) -> None:
        if self._screen is None:
            return
        self._look(self._board)
        try:
            self._screen.draw(self._board)
        except (OSError, ValueError) as error:  # the terminal has gone, the file is closed, its disk is full
            self._screen = None
            _LOGGER.warning("progress is not shown any more: %s", error)

    def close(self, end: str) -> None:
        """Draw the end and release the screen. May be called twice."""
        self._board.end = end
        self._closed.set()
        self._draw()
        screen, self._screen = self._screen, None
        if screen is not None:
            with contextlib.suppress(OSError, ValueError):
                screen.close()


def _choose(progress: bool | str) -> Screen | None:
    if sys.stderr is None:  # a program without a console
        return None
    if progress == "json":
        return _Lines(1.0, lambda board: json.dumps(board.snapshot()))
    if _is_notebook():
        return _Notebook()
    has_rich = progress == "rich" or importlib.util.find_spec("rich") is not None
    if has_rich and not _bars_in_use and _is_terminal():
        return _Bars()
    return _Lines(3.0, lambda board: board.line())


def _is_terminal() -> bool:
    from rich.console import Console

    console = Console(stderr=True)
    return console.is_terminal and not console.is_dumb_terminal


class _Lines:
    """A line now and then, on standard error."""

    def __init__(self, seconds: float, write: Callable[[ProgressBoard], str]) -> None:
        self.seconds = seconds
        self._write = write

    def draw(self, board: ProgressBoard) -> None:
        sys.stderr.write(self._write(board) + "\n")
        sys.stderr.flush()

    def close(self) -> None:
        pass


class _Bars:
    """Bars at the bottom of the terminal; what the program prints meanwhile appears above them."""

    seconds = 0.2

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        global _bars_in_use
        self._live = Live(
            console=Console(stderr=True),
            auto_refresh=False,
            redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),  # a pipe or a file gets what it should
            vertical_overflow="crop",
        )
        self._live.start()
        _bars_in_use = True

    def draw(self, board: ProgressBoard) -> None:
        from runware_flow.view.bars import bars

        self._live.update(bars(board, height=self._live.console.height), refresh=True)

    def close(self) -> None:
        global _bars_in_use
        _bars_in_use = False
        self._live.stop()


class _Notebook:
    """An output of the cell that is replaced in place; needs no widgets."""

    seconds = 0.5

    def __init__(self) -> None:
        self._handle: Any = None

    def draw(self, board: ProgressBoard) -> None:
        from runware_flow.view.notebook import board_bundle

        bundle = board_bundle(board)
        if self._handle is None:
            display: Any = importlib.import_module("IPython.display").display
            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)

    def close(self) -> None:
        pass


def _is_notebook() -> bool:
    ipython: Any = sys.modules.get("IPython")  # not imported yet, so this is no notebook
    shell = ipython.get_ipython() if hasattr(ipython, "get_ipython") else None
    return hasattr(shell, "kernel")
