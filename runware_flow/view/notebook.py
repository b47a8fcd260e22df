"""What notebooks show: bundles of HTML and text, with everything that users or servers wrote escaped."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from runware_flow.view.drawing import draw
from runware_flow.view.progress import duration, money
from runware_flow.view.shape import shape_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runware_flow.graph.declaration import Declaration, NodeSpec
    from runware_flow.view.figures import Figures
    from runware_flow.view.progress import ProgressBoard
    from runware_flow.view.shape import Shape

__all__ = ("board_bundle", "flow_html", "node_html", "result_html")


def flow_html(name: str, declaration: Declaration) -> str:
    """Give a flow as a drawing; it consumes no source."""
    return _scrolling(draw(shape_of(declaration), title=f"flow {name}"))


def node_html(kind: str, flow: str, spec: NodeSpec) -> str:
    """Give a node as a line."""
    return (
        f"<b>{escape(kind)}</b> <code>{escape(spec.path)}</code> of flow <b>{escape(flow)}</b>, declared at"
        f" <code>{escape(str(spec.where))}</code>"
    )


def result_html(name: str, shape: Shape, figures: Mapping[str, Figures], cost: float | None) -> str:
    """Give what came of a run as a drawing."""
    spent = "cost unknown" if cost is None else money(cost)
    drawn = _scrolling(draw(shape, figures, title=f"run of flow {name}"))
    return f"<p><b>{escape(name)}</b> {spent}; <code>result.html(path)</code> writes the whole report</p>{drawn}"


def _scrolling(svg: str) -> str:
    return f"<div style='overflow:auto;max-height:48em'>{svg}</div>"


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
