"""Draws a shape as a Mermaid flowchart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runware_flow.view.drawing import fan_title

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from runware_flow.view.figures import Figures
    from runware_flow.view.shape import Box, Shape

__all__ = ("mermaid",)

_LONGEST = 80
_PLAIN_LETTERS = frozenset(" .,:/+-=$·()@")
_CLASSES = {
    "ok": "fill:#dff3e6,stroke:#2e9e5b,color:#10331e",
    "failed": "fill:#fbe0e1,stroke:#d9363e,color:#4a0d10",
    "running": "fill:#dcebfa,stroke:#2f7dd1,color:#0c2a49",
    "waiting": "fill:#eceef1,stroke:#8a8f98,color:#2a2d33",
    "skipped": "fill:#eceef1,stroke:#8a8f98,color:#2a2d33,stroke-dasharray:4 3",
    "abandoned": "fill:#fdebd0,stroke:#c77700,color:#412700",
}


def mermaid(shape: Shape, figures: Mapping[str, Figures] | None = None) -> str:
    """Write a flowchart from top to bottom; fan-outs are subgraphs, and figures colour the nodes by their state."""
    lines = ["flowchart TD"]
    children: dict[str | None, list[Box]] = {}
    for box in shape.boxes:
        children.setdefault(box.inside, []).append(box)
    _write(None, children, figures, lines, 1)
    lines += [f"  {before} --> {box.id}" for box in shape.boxes for before in box.after]
    if figures is not None:
        states: dict[str, list[str]] = {}
        for box in shape.boxes:
            if box.kind != "fan" and box.id in figures:
                states.setdefault(figures[box.id].state, []).append(box.id)
        for state, ids in states.items():
            lines += [f"  classDef {state} {_CLASSES[state]}", f"  class {','.join(ids)} {state}"]
    return "\n".join(lines)


def _write(
    owner: str | None,
    children: dict[str | None, list[Box]],
    figures: Mapping[str, Figures] | None,
    lines: list[str],
    depth: int,
) -> None:
    indent = "  " * depth
    for box in children.get(owner, []):
        if box.kind == "fan":
            lines.append(f'{indent}subgraph {box.id}["{_label([f"{box.label}: {fan_title(box)}"])}"]')
            _write(box.id, children, figures, lines, depth + 1)
            lines.append(f"{indent}end")
            continue
        known = None if figures is None else figures.get(box.id)
        words = [box.label, *(known.words() if known is not None else (box.detail,))]
        text = _label(words)
        opening, closing = ("[", "]") if box.kind in ("task", "function") else ("([", "])")
        lines.append(f'{indent}{box.id}{opening}"{text}"{closing}')


def _label(lines: Sequence[str]) -> str:
    text = "<br/>".join(_safe(line) for line in lines if line)
    # Mermaid takes the semicolon away that ends a number behind such a word and a colon.
    return text.replace(":", "#58;") if "style" in text or "classDef" in text else text


def _safe(text: str) -> str:
    """Write every letter that could mean something to Mermaid, or to HTML, by its number."""
    short = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
    return "".join(
        letter if letter.isalnum() or letter in _PLAIN_LETTERS else " " if letter.isspace() else f"#{ord(letter)};"
        for letter in short
    )
