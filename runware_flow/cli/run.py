"""`runware-flow run` with a Flow: progress, interrupts, a report, and a summary."""

from __future__ import annotations

import functools
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from runware_flow.cli.pictures import KEPT_PICTURES, PicturesLine, keep_pictures
from runware_flow.cli.program import UsageError, user_traceback
from runware_flow.cli.terminal import echo, echo_json, say
from runware_flow.errors import FlowFailed, RunwareFlowError
from runware_flow.files import local_path
from runware_flow.graph.declaration import SENDS
from runware_flow.interrupts import Interrupts
from runware_flow.journal.store import journal_named
from runware_flow.runner.interrupted import left_behind
from runware_flow.runner.report import check_target
from runware_flow.types import MediaResult
from runware_flow.view.progress import cost_text, duration
from runware_flow.view.terminal import visible

if TYPE_CHECKING:
    from runware_flow.flow.flow import Flow
    from runware_flow.journal.address import JournalAddress
    from runware_flow.runner.handle import Run
    from runware_flow.runner.result import RunResult
    from runware_flow.view.story import Row

__all__ = ("run_command",)

_SHOWN_RESULTS = 20
_SHOWN_FAILURES = 3


class Command:
    """One run from the command line."""

    def __init__(self, flow: Flow, *, report: Path | None, options: dict[str, Any]) -> None:
        self._flow = flow
        self._report = report
        self._options = options
        self._run: Run | None = None
        self.interrupts = Interrupts(signal.SIGINT, signal.SIGTERM)
        self.failure: FlowFailed | None = None
        self.result: RunResult | None = None
        self.missed_report: OSError | None = None

    @property
    def was_interrupted(self) -> bool:
        """Whether the user wanted it to end early."""
        return self.interrupts.presses > 0

    async def main(self) -> None:
        """Run the flow, keep the pictures, write the report."""
        with anyio.CancelScope() as scope, self.interrupts.on_press(functools.partial(self._interrupt, scope)):
            await self._work()
        if self._report is not None and self.result is not None:
            result, report = self.result, self._report
            try:
                await anyio.to_thread.run_sync(functools.partial(result.html, report, pictures=KEPT_PICTURES))
            except OSError as error:  # the results are printed all the same
                self.missed_report = error

    async def _work(self) -> None:
        sends = any(spec.kind in SENDS for spec in self._flow.declaration.specs())
        if self._report is None or not sends:
            await self._execute(None)
            return
        from runware_flow.client.client import Client

        async with Client() as client:  # which is needed a little longer than the run
            await self._execute(client)
            if self.result is not None:
                await keep_pictures(self.result, client, PicturesLine().report)

    async def _execute(self, client: Any) -> None:
        try:
            async with self._flow.start(client, **self._options) as run:
                self._run, self.result = run, run.result
                await run.wait()
        except FlowFailed as failure:
            self.failure = failure

    def _interrupt(self, scope: anyio.CancelScope) -> None:
        """Stop at the first interrupt, leave at the second."""
        if self.interrupts.presses > 1 or self._run is None or self._run.is_finished:
            scope.cancel()
            return
        self._run.stop()
        waiting = self._in_flight()
        say(
            f"stopping: nothing new is sent; {waiting} in flight may be billed and"
            f" {'is' if waiting == 1 else 'are'} waited for. Interrupt again to leave at once"
        )

    def _in_flight(self) -> int:
        assert self.result is not None
        return sum(row.state == "running" for row in self.result.story()[1])


def run_command(
    flow: Flow,
    *,
    report: Path | None,
    journal: JournalAddress | None,
    is_json: bool,
    backend: str,
    options: dict[str, Any],
) -> int:
    """Run a flow and say what came of it; returns the exit code."""
    if journal is not None:
        options["journal"] = journal
    else:
        journal = journal_named(flow.settings.journal)
    if report is not None:
        _check_report(report, journal)
    command = Command(flow, report=report, options=options)
    with command.interrupts:
        anyio.run(command.main, backend=backend)
    result = command.result
    if result is None:
        return 130
    missed = command.missed_report
    report = None if missed is not None else report
    rows = result.story()[1]
    if is_json:
        echo_json(_as_json(flow, result, rows, report, journal))
    else:
        _summarise(flow, result, rows, report)
    if missed is not None:
        say(f"the report could not be written: {missed.filename}: {missed.strerror or missed}")
    if command.was_interrupted:
        say(left_behind(rows, journal))
        return 130
    if command.failure is not None:
        say(_failure_text(command.failure))
        return 1
    failed = [row for row in rows if row.state == "failed"]
    if not is_json:
        _say_why(failed)
    return 1 if failed or missed is not None else 0


def _check_report(report: Path, journal: JournalAddress | None) -> None:
    """Refuse a place for the report before anything is bought."""
    check_target(report)
    if isinstance(journal, Path) and local_path(report).resolve() == local_path(journal).resolve():
        raise UsageError(f"the report and the journal cannot both be {report}")


# Messages


def _failure_text(failure: FlowFailed) -> str:
    text = str(failure)
    cause = failure.__cause__
    if cause is None or isinstance(cause, RunwareFlowError):
        return text
    return f"{text}\n{user_traceback(cause)}"  # the user's own code: its line is what they need


def _say_why(failed: list[Row]) -> None:
    """Say of the first failures that a run bore why they failed."""
    for row in failed[:_SHOWN_FAILURES]:
        say(f"{visible(row.place)} failed: {row.error or row.because}")
    if len(failed) > _SHOWN_FAILURES:
        say(f"{len(failed) - _SHOWN_FAILURES} more failed; --report FILE lists them all")


def _summarise(flow: Flow, result: RunResult, rows: list[Row], report: Path | None) -> None:
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.state] = counts.get(row.state, 0) + 1
    summary = ", ".join(f"{count} {state}" for state, count in counts.items()) or "no nodes"
    restored = sum(row.restored for row in rows)
    summary += f", {restored} of them restored from the journal" if restored else ""
    used = {number for row in rows for number in row.after}
    last = [row for number, row in enumerate(rows) if number not in used and row.state == "ok"]
    for row in last[:_SHOWN_RESULTS]:
        shown = _shown(row)
        if shown:
            echo(f"{visible(row.place)}: {visible(shown)}")
    if len(last) > _SHOWN_RESULTS:
        echo(f"... and {len(last) - _SHOWN_RESULTS} more")
    echo(
        f"{visible(flow.name)}: {result.end} in {duration(result.seconds or 0.0)}; {summary}; {cost_text(result.cost)}"
    )
    if report is not None:
        echo(f"report: {report}")


def _shown(row: Row) -> str:
    addresses = [_address(result) for _, result in row.media]
    return " ".join([address for address in addresses if address] or [" ".join(row.text.split())[:200]])


def _address(result: Any) -> str:
    if not isinstance(result, MediaResult):
        return str(result)
    try:
        return result.reference[:300]
    except ValueError:
        return ""


def _as_json(
    flow: Flow, result: RunResult, rows: list[Row], report: Path | None, journal: JournalAddress | None
) -> dict[str, Any]:
    return {
        "flow": flow.name,
        "end": result.end,
        "seconds": result.seconds,
        "cost": result.cost,
        "report": None if report is None else str(report),
        "journal": None if journal is None else str(journal),
        "nodes": [
            {
                "path": row.path,
                "state": row.state,
                "restored": row.restored,
                "task_uuid": row.task_uuid,
                "task_type": row.task_type,
                "model": row.model,
                "attempts": row.attempts,
                "cost": row.cost,
                "may_be_billed": row.may_be_billed,
                "text": row.text or None,
                "media": [_address(one) for _, one in row.media],
                "error": str(row.error) if row.error is not None else row.because or None,
            }
            for row in rows
        ],
    }
