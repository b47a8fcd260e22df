"""The diagrams of docs/explanation/session.md are those of the transition tables.

`python tests/session/test_session_docs.py` writes them anew.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from runware_flow.session import inflight, link

if TYPE_CHECKING:
    from enum import Enum

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "session.md"


def diagram(transitions: dict[tuple[Enum, str], Enum], first: Enum, last: list[tuple[str, str]]) -> str:
    """A Mermaid state diagram of a transition table, arrows between the same states joined."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for (state, happening), target in transitions.items():
        arrows.setdefault((state.name, target.name), []).append(happening)
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {first.name}"]
    lines += [f"    {source} --> {target}: {' / '.join(labels)}" for (source, target), labels in arrows.items()]
    lines += [f"    {state} --> [*]: {happening}" for state, happening in last]
    return "\n".join([*lines, "```"])


DIAGRAMS = {
    "link": diagram(link.TRANSITIONS, link.LinkState.IDLE, [("REJECTED", "for good")]),
    "task": diagram(
        inflight.TRANSITIONS,
        inflight.TaskState.WAITING,
        [("WAITING", "settled"), ("SENT", "settled"), ("POLLED", "settled")],
    ),
}


def written(page: str) -> str:
    for name, picture in DIAGRAMS.items():
        mark = f"<!-- diagram: {name} -->"
        page = re.sub(rf"{mark}\n(\n```mermaid\n.*?```)?", lambda _, new=f"{mark}\n\n{picture}": new, page, flags=re.S)
    return page


@pytest.mark.parametrize("name", DIAGRAMS)
def test_session_page_has_the_diagram_of_the_table(name: str) -> None:
    assert DIAGRAMS[name] in PAGE.read_text()


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
