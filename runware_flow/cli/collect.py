"""`runware-flow collect`: a line for each request that was open, and a sum."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from runware_flow.cli.terminal import echo
from runware_flow.graph.outcomes import Failed, Ok
from runware_flow.interrupts import run_interruptible
from runware_flow.journal import Collected, Journal, collect
from runware_flow.runner.journal_report import check_flow
from runware_flow.types import MediaResult, Result
from runware_flow.view.progress import money
from runware_flow.view.terminal import visible

if TYPE_CHECKING:
    from runware_flow.journal.address import JournalAddress

__all__ = ("collect_command",)


def collect_command(path: JournalAddress, *, timeout: float, backend: str, flow: str | None = None) -> int:
    """Ask for what is open in a journal and say what came; 0 if nothing is left open, else 1."""
    if flow is not None:
        with Journal(path) as journal:
            check_flow(journal, flow)
    ask = functools.partial(collect, path, timeout=timeout, flow=flow, on_collected=lambda one: echo(_line(one)))
    collected: list[Collected] = run_interruptible(ask, backend=backend)
    with Journal(path) as journal:
        summary = journal.summary(flow=flow)
    cost = "an unknown cost" if summary.cost is None else money(summary.cost)
    came = sum(isinstance(one.outcome, Ok) for one in collected)
    what = "the journal" if flow is None else visible(flow)
    echo(f"{came} of {len(collected)} collected; {what} has {summary.done_count} finished requests, for {cost}")
    return 0 if summary.open_count == 0 else 1


def _line(one: Collected) -> str:
    outcome = one.outcome
    if isinstance(outcome, Ok):
        what = ", ".join(_show(result) for result in outcome.value)
    elif isinstance(outcome, Failed):
        what = f"failed: {outcome.error}"
    elif outcome.may_be_billed:
        what = f"still runs, task {outcome.task_uuid}"
    else:
        what = "never reached the service"
    return f"{visible(one.entry.path)}: {visible(what)}"


def _show(result: Result) -> str:
    if isinstance(result, MediaResult):
        return result.reference[:200]
    text = getattr(result, "text", None)
    return text if isinstance(text, str) else result.task_type
