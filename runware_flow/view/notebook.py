"""What notebooks show: bundles of HTML and text, with everything that users or servers wrote escaped."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from runware_flow.view.progress import duration

if TYPE_CHECKING:
    from runware_flow.view.progress import ProgressBoard

__all__ = ("board_bundle",)


def board_bundle(board: ProgressBoard) -> dict[str, str]:
    """Give a board as HTML, with a bar for each stage, and as text."""
    rows = "".join(
        f"<tr><td style='text-align:left'>{escape(stage.label)}</td>"
        f"<td><progress max='{max(1, stage.total or 0, stage.settled)}' value='{stage.settled}'></progress></td>"
        f"<td>{stage.ok}{'' if stage.total is None else f'/{stage.total}'}</td>"
        f"<td>{stage.running or ''}</td><td>{stage.failed or ''}</td>"
        f"<td>{stage.skipped + stage.abandoned or ''}</td></tr>"
        for stage in board.rows()
    )
    head = "".join(f"<th>{word}</th>" for word in ("stage", "", "done", "in flight", "failed", "not done"))
    said = escape("  ".join([duration(board.seconds), *board.totals()]))
    caption = f"<caption style='text-align:left'><b>{escape(board.name)}</b> {said}</caption>"
    return {"text/html": f"<table>{caption}<tr>{head}</tr>{rows}</table>", "text/plain": board.line()}
