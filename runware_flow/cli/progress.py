"""Shows a progress board on standard output: in place on a terminal, else as a plain line every second."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runware_flow.view.progress import ProgressBoard

__all__ = ("ProgressLine",)


class ProgressLine:
    """Called whenever the board has changed; prints at most ten times a second (once where there is no terminal)."""

    def __init__(self) -> None:
        self._is_terminal = sys.stdout.isatty()
        self._shown_at = 0.0

    def __call__(self, board: ProgressBoard) -> None:
        now = time.monotonic()
        if now - self._shown_at < (0.1 if self._is_terminal else 1.0) and not board.is_finished:
            return
        self._shown_at = now
        if self._is_terminal:
            print(f"\r\x1b[K{board.line()}", end="\n" if board.is_finished else "", flush=True)
        else:
            print(board.line(), flush=True)
