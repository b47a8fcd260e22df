"""`runware-flow redo`: marks nodes that the next run makes again, and shows what they cost the last time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runware_flow.cli.program import UsageError
from runware_flow.cli.terminal import echo
from runware_flow.journal import Journal
from runware_flow.journal.redo import find_nodes, mark_nodes, void_answers
from runware_flow.runner.journal_report import check_flow
from runware_flow.view.progress import money
from runware_flow.view.terminal import visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runware_flow.journal.address import JournalAddress

__all__ = ("redo_command",)


def redo_command(
    journal: JournalAddress, keys: Sequence[str], *, node: str | None, is_marked: bool, flow: str | None = None
) -> None:
    """Mark items, or one node of them, and say what they cost the last time; or take the marks back.

    What failed has no mark: the next run tries it again, and no fallback answers for it without that.

    Raises:
        UsageError: a key fits nothing, or several items, or items of several flows; then nothing is marked.
    """
    if flow is not None:
        with Journal(journal) as reader:
            check_flow(reader, flow)
    found = find_nodes(journal, keys, node=node, flow=flow)
    if found.missing:
        of = "" if node is None else f" with a finished node {node!r}"
        raise UsageError(f"the journal {journal} has no finished item{of} of key {', '.join(map(repr, found.missing))}")
    if found.ambiguous:
        raise UsageError(f"several items begin with {', '.join(map(repr, found.ambiguous))}: give more letters")
    for key, flows in found.shared.items():
        raise UsageError(f"several flows have an item {key!r}: name one of {', '.join(map(repr, flows))} with --flow")
    if found.failures:
        count = void_answers(journal, found.failures) if is_marked else 0
        failed = ", ".join(dict.fromkeys(visible(path) for _, path in found.failures))
        anew = f", and decides anew what had answered for that ({count} choices)" if count else ""
        echo(
            f"{failed} failed: the next run with {journal} tries again{anew}. A race or a first that has its winners"
            " does not need it"
        )
        if not found.nodes:
            return
    count = mark_nodes(journal, found.nodes, is_marked=is_marked)
    if not is_marked:
        echo(f"{count} marks are taken back")
        return
    unknown = f" and {found.unknown_count} of unknown cost" if found.unknown_count else ""
    follows = "" if node is None else ", and what follows them"
    tasks, these = ("1 task", "this") if found.tasks == 1 else (f"{found.tasks} tasks", "these")
    echo(
        f"the next run with {journal} buys {tasks} anew{follows}; {these} cost {money(found.cost)}{unknown} the last"
        " time. --back takes the marks back"
    )
