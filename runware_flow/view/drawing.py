"""Draws a shape as one self-contained SVG element, for the report and for notebooks."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from runware_flow.view.layout import TITLE, Placed, lay_out

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runware_flow.view.figures import Figures
    from runware_flow.view.layout import Arrow
    from runware_flow.view.shape import Box, Shape

__all__ = ("draw", "fan_title")

_COLORS = {
    "ok": "#2e9e5b",
    "failed": "#d9363e",
    "running": "#2f7dd1",
    "waiting": "#8a8f98",
    "skipped": "#8a8f98",
    "abandoned": "#c77700",
}
_PLAIN = "#6b7fa8"
_MARGIN = 8.0
_LETTERS = 27
"""Letters of the first line that a box has room for."""


def draw(shape: Shape, figures: Mapping[str, Figures] | None = None, *, links: str | None = None, title: str) -> str:
    """Draw a shape, with what came of each box if that is known.

    The text takes the colour of the page around, so it can be read on light and dark ones. The state of a box is in
    words too, not in its colour alone.

    Args:
        shape: what is drawn.
        figures: by box.
        links: makes each box a link to `#{links}{box}`.
        title: what a screen reader calls the picture.
    """
    layout = lay_out(shape)
    width, height = layout.width + 2 * _MARGIN, layout.height + 2 * _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="rwf-flow" width="{width:g}" height="{height:g}" ',
        f'viewBox="{-_MARGIN:g} {-_MARGIN:g} {width:g} {height:g}" role="group" aria-label="{escape(title)}" ',
        'fill="currentColor" font-family="system-ui, sans-serif" font-size="13">',
        '<defs><marker id="rwf-head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" ',
        'orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="#8a8f98"/></marker></defs>',
    ]
    fans = [spot for spot in layout.placed if spot.box.kind == "fan"]
    parts += [_fan(spot) for spot in fans]
    parts += [_arrow(arrow) for arrow in layout.arrows]
    parts += [
        _box(spot, None if figures is None else figures.get(spot.box.id), links)
        for spot in layout.placed
        if spot.box.kind != "fan"
    ]
    return "".join([*parts, "</svg>"])


def fan_title(box: Box) -> str:
    """What stands on a fan-out."""
    return f"for each of {box.width} items" if box.width is not None else "for each item"


def _fan(spot: Placed) -> str:
    title = _cut(f"{spot.box.label}: {fan_title(spot.box)}", int(spot.width / 7))
    return (
        f'<rect x="{spot.x:g}" y="{spot.y:g}" width="{spot.width:g}" height="{spot.height:g}" rx="12" fill="{_PLAIN}"'
        f' fill-opacity="0.06" stroke="{_PLAIN}" stroke-opacity="0.5" stroke-dasharray="5 4"/>'
        f'<text x="{spot.x + 12:g}" y="{spot.y + TITLE - 6:g}" font-size="12" opacity="0.75">{escape(title)}</text>'
    )


def _arrow(arrow: Arrow) -> str:
    (x, y), *rest = arrow.points
    path = [f"M{x:g} {y:g}"]
    for next_x, next_y in rest:
        middle = (y + next_y) / 2
        path.append(f"C{x:g} {middle:g} {next_x:g} {middle:g} {next_x:g} {next_y:g}")
        x, y = next_x, next_y
    return (
        f'<path d="{" ".join(path)}" fill="none" stroke="#8a8f98" stroke-width="1.4" marker-end="url(#rwf-head)"'
        ' aria-hidden="true"/>'
    )


def _box(spot: Placed, figures: Figures | None, links: str | None) -> str:
    box = spot.box
    color = _PLAIN if figures is None else _COLORS[figures.state]
    lines = [box.label, box.detail or box.kind]
    if figures is not None:
        lines = [box.label, *figures.words()]
    spoken = ", ".join(line for line in lines if line)
    corner = 8 if box.kind in ("task", "function") else 22
    texts = "".join(
        f'<text x="{spot.x + 12:g}" y="{spot.y + y:g}"{style}>{escape(_cut(line, room))}</text>'
        for line, y, style, room in zip(
            lines,
            (22, 39, 54),
            (' font-weight="600"', *[' font-size="11.5" opacity="0.85"'] * 2),
            (_LETTERS, 32, 32),
            strict=False,
        )
    )
    drawn = (
        f"<title>{escape(spoken)}</title>"
        f'<rect x="{spot.x:g}" y="{spot.y:g}" width="{spot.width:g}" height="{spot.height:g}" rx="{corner}"'
        f' fill="{color}" fill-opacity="0.13" stroke="{color}" stroke-width="1.5"/>{texts}'
    )
    if links is None:
        return f'<g role="img" aria-label="{escape(spoken)}">{drawn}</g>'
    return f'<a href="#{links}{box.id}" data-box="{box.id}" aria-label="{escape(spoken)}">{drawn}</a>'


def _cut(text: str, letters: int) -> str:
    return text if len(text) <= letters else text[: letters - 1] + "…"
