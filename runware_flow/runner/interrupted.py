"""Messages about an interrupted run: what may be billed, and how to collect it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runware_flow.journal.store import journal_named

if TYPE_CHECKING:
    from runware_flow.journal.address import JournalAddress
    from runware_flow.runner.result import RunResult
    from runware_flow.runner.settings import JournalOption
    from runware_flow.view.story import Row

__all__ = ("left_behind", "report_interrupted")

_SHOWN_TASKS = 5


def left_behind(rows: list[Row], journal: JournalAddress | None) -> str:
    """Say after an interrupt what may be billed, and how to get it."""
    left = [row for row in rows if row.state == "abandoned" and row.may_be_billed]
    if not left:
        return "interrupted; nothing was left in flight" + (
            "" if journal is None else f", and {journal} has every result"
        )
    ids = ", ".join(row.task_uuid for row in left[:_SHOWN_TASKS] if row.task_uuid)
    ids += ", ..." if len(left) > _SHOWN_TASKS else ""
    how = f"`runware-flow collect {journal}` collects them" if journal is not None else f"their task ids: {ids}"
    many = "1 request was" if len(left) == 1 else f"{len(left)} requests were"
    return f"interrupted; {many} left in flight and may be billed: {how}"


def report_interrupted(interrupt: KeyboardInterrupt, name: str, result: RunResult, journal: JournalOption) -> None:
    """Add to an interrupt, as a note under its traceback, what the run leaves and how to go on."""
    rows, file = result.story()[1], journal_named(journal)
    finished = sum(row.state == "ok" for row in rows)
    nodes = "1 node had" if finished == 1 else f"{finished} nodes had"
    again = "journal= makes a run continue where it stopped" if file is None else "the same program continues from it"
    interrupt.add_note(f"flow {name!r} was {left_behind(rows, file)}; {nodes} finished; {again}")
