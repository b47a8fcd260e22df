"""`progress=True`: a plain line to standard error now and then."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from runware_flow.view.progress import ProgressBoard

if TYPE_CHECKING:
    from runware_flow.graph.events import Event

__all__ = ("PlainProgress",)

_SECONDS_A_LINE = 2.0


class PlainProgress:
    """Follows a run and writes where it is: a line at most every two seconds, and one at the end."""

    def __init__(self, flow: str) -> None:
        self._flow = flow
        self._board = ProgressBoard()
        self._written = 0.0

    def __call__(self, event: Event) -> None:
        self._board.take(event)
        if self._board.is_finished or event.time - self._written >= _SECONDS_A_LINE:
            self._written = event.time
            print(f"{self._flow}: {self._board.line()}", file=sys.stderr)  # noqa: T201
