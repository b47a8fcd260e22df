"""The progress of a run as bars on a terminal, with rich (the extra `cli`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from runware_flow.view.terminal import visible

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

    from runware_flow.view.progress import ProgressBoard, Stage

__all__ = ("bars",)


def bars(board: ProgressBoard, *, height: int = 24) -> RenderableType:
    """Draw a bar for each stage, and a line for the run; stages that are over give way where the height is short.

    Args:
        board: what to show.
        height: lines that there are.
    """
    stages = board.rows()
    room = max(1, height - 4)
    shown = stages
    if len(stages) > room:
        unfinished = [stage for stage in stages if stage.left != 0]
        shown = (unfinished or stages)[: room - 1]
    table = Table.grid(
        Column(max_width=32, no_wrap=True, overflow="ellipsis"),
        Column(ratio=1, min_width=8, max_width=40),
        Column(justify="right", no_wrap=True),
        Column(no_wrap=True, overflow="ellipsis"),
        padding=(0, 1),
        expand=True,
    )
    for stage in shown:
        table.add_row(Text(visible(stage.label)), _bar(stage, board), _count(stage), _notes(board, stage))
    hidden = len(stages) - len(shown)
    more = [Text(f"and {hidden} more stages", style="dim")] if hidden else []
    return Group(table, *more, _Footer(board))


def _bar(stage: Stage, board: ProgressBoard) -> ProgressBar:
    is_over = board.end is not None
    total = stage.total if stage.total is not None else (stage.settled or 1) if is_over else None
    style = "red" if stage.failed else "green"
    return ProgressBar(
        total=total if total != 0 else 1,
        completed=stage.settled if total != 0 else 1,
        pulse=total is None and stage.running > 0,
        animation_time=board.seconds,
        complete_style="yellow" if stage.failed else "cyan",
        finished_style=style,
    )


def _count(stage: Stage) -> Text:
    total = "" if stage.total is None else f" of {stage.total}"
    return Text(f"{stage.ok}{total}")


_STYLES = {"restored": "dim", "running": "cyan", "failed": "bold red", "skipped": "dim", "abandoned": "yellow"}


def _notes(board: ProgressBoard, stage: Stage) -> Text:
    text = Text()
    for count, word in board.notes(stage):
        text.append(f"{count} {word} ", style=_STYLES.get(word, ""))
    return text


class _Footer:
    """The line of the run, as wide as there is room when it is drawn."""

    def __init__(self, board: ProgressBoard) -> None:
        self._board = board

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        name, facts = self._board.footer(options.max_width)
        style = {"done": "green", "failed": "bold red"}.get(self._board.end or "", "bold")
        yield Text.assemble((name, style), "  ", facts, no_wrap=True, overflow="ellipsis")
