"""The display of results in notebooks, as HTML and text, with everything from users or servers escaped."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from runware_flow.view.drawing import draw
from runware_flow.view.gallery import NO_FILE, address_of
from runware_flow.view.progress import duration, money
from runware_flow.view.shape import shape_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from runware_flow.graph.declaration import Declaration, NodeSpec
    from runware_flow.view.figures import Figures
    from runware_flow.view.gallery import GalleryItem, MediumFile
    from runware_flow.view.progress import ProgressBoard
    from runware_flow.view.shape import Shape
    from runware_flow.view.story import Row

__all__ = ("MOST_ITEMS", "board_bundle", "flow_html", "node_html", "result_html")

MOST_ITEMS = 24
_SIDE = 144
_CAPTION_LETTERS = 160


def flow_html(name: str, declaration: Declaration) -> str:
    """Give a flow as a drawing; it consumes no source."""
    return _scrolling(draw(shape_of(declaration), title=f"flow {name}"))


def node_html(kind: str, flow: str, spec: NodeSpec) -> str:
    """Give a node as a line."""
    return (
        f"<b>{escape(kind)}</b> <code>{escape(spec.path)}</code> of flow <b>{escape(flow)}</b>, declared at"
        f" <code>{escape(str(spec.where))}</code>"
    )


def result_html(
    name: str,
    shape: Shape,
    figures: Mapping[str, Figures],
    cost: float | None,
    *,
    items: Sequence[GalleryItem],
    rows: Sequence[Row],
    files: Mapping[tuple[int, int], MediumFile],
) -> str:
    """Give what came of a run: its first items as a small gallery, and the drawing.

    Args:
        name: of the flow.
        shape: of the flow.
        figures: of each box.
        cost: USD, `None` if it is not known.
        items: all items; the first `MOST_ITEMS` are shown.
        rows: of the run.
        files: how the media of the shown items are shown, by row and number of the medium in it.
    """
    spent = "cost unknown" if cost is None else money(cost)
    cards = "".join(_small_card(item, rows, files) for item in items[:MOST_ITEMS])
    rest = f"<p>{len(items) - MOST_ITEMS:,} more items</p>" if len(items) > MOST_ITEMS else ""
    gallery = f"<div style='display:flex;flex-wrap:wrap;gap:12px'>{cards}</div>{rest}"
    drawn = _scrolling(draw(shape, figures, title=f"run of flow {name}"))
    return (
        f"<p><b>{escape(name)}</b> {spent}; <code>result.html(path)</code> writes the whole report</p>"
        f"{gallery}<details><summary>The flow</summary>{drawn}</details>"
    )


def _small_card(item: GalleryItem, rows: Sequence[Row], files: Mapping[tuple[int, int], MediumFile]) -> str:
    media: list[str] = []
    text = ""
    for cell in item.cells:
        for number in cell.rows:
            for place, (kind, result) in enumerate(rows[number].media):
                address = files.get((number, place), NO_FILE).thumbnail or address_of(result)
                border = "outline:2px solid #2e7d32" if (number, place) in item.chosen else ""
                media.append(_small_medium(kind, address, f"{cell.label}: {item.title}", border))
            text = rows[number].text if rows[number].state == "ok" and rows[number].text else text
    state = "" if item.state == "ok" else f"<b>{item.state}</b> "
    caption = f"<br/><i>{escape(text[:_CAPTION_LETTERS])}</i>" if text else ""
    return (
        f"<figure style='margin:0;max-width:{_SIDE * 2 + 6}px'><div style='display:flex;flex-wrap:wrap;gap:4px'>"
        f"{''.join(media)}</div><figcaption style='font-size:smaller'>{state}"
        f"{escape(item.title[:_CAPTION_LETTERS])}{caption}</figcaption></figure>"
    )


def _small_medium(kind: str, address: str, alt: str, style: str) -> str:
    if not address:
        return f"<span>{escape(kind)}: not kept</span>"
    target, words = escape(address), escape(alt[:300])
    if kind == "image":
        limits = f"max-width:{_SIDE}px;max-height:{_SIDE}px"
        return f"<img src='{target}' alt='{words}' loading='lazy' style='{limits};{style}'/>"
    if kind in ("video", "audio"):
        size = f"width:{_SIDE}px"
        return f"<{kind} src='{target}' controls='' preload='metadata' aria-label='{words}' style='{size}'></{kind}>"
    return f"<a href='{target}' target='_blank' rel='noreferrer noopener'>{escape(kind)}</a>"


def _scrolling(svg: str) -> str:
    return f"<div style='overflow:auto;max-height:48em'>{svg}</div>"


def board_bundle(board: ProgressBoard) -> dict[str, str]:
    """Give a board as HTML, with a bar for each stage, and as text."""
    rows = "".join(
        f"<tr><td style='text-align:left'>{escape(stage.label)}</td>"
        f"<td><progress max='{max(1, stage.total or 0, stage.settled)}' value='{stage.settled}'></progress></td>"
        f"<td>{stage.ok}{'' if stage.total is None else f' of {stage.total}'}</td>"
        f"<td style='text-align:left'>{', '.join(f'{count} {word}' for count, word in board.notes(stage))}</td></tr>"
        for stage in board.rows()
    )
    head = "".join(f"<th>{word}</th>" for word in ("stage", "", "done", ""))
    facts = escape("  ".join([duration(board.seconds), *board.totals()]))
    caption = f"<caption style='text-align:left'><b>{escape(board.name)}</b> {facts}</caption>"
    return {"text/html": f"<table>{caption}<tr>{head}</tr>{rows}</table>", "text/plain": board.line()}
