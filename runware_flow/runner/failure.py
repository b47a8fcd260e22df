"""Writes the message of `FlowFailed`: what failed, why, what is kept, what may be billed, what to do next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runware_flow.errors import BudgetExceeded, FlowFailed, RunwareError, RunwareTimeoutError
from runware_flow.graph.outcomes import Abandoned
from runware_flow.graph.policies import is_verdict
from runware_flow.graph.scope_run import FanRun
from runware_flow.view.progress import money

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runware_flow.graph.declaration import Declaration
    from runware_flow.graph.machine import FlowMachine
    from runware_flow.graph.plan import Step
    from runware_flow.graph.scope_run import ScopeRun
    from runware_flow.runner.accounts import Accounts
    from runware_flow.runner.records import NodeRecord
    from runware_flow.runner.result import RunResult

__all__ = ("flow_failed",)

_SHOWN_TASKS = 3

_NEXT = {
    "auth": "check RUNWARE_API_KEY and the permissions of the key",
    "quota": "add credit to the account",
    "rateLimit": "this may be temporary: send fewer tasks at once (concurrency= or limits=), or give the node a retry=",
    "safety": "change the request: the same request is refused again",
    "notFound": "check the model and the ids in the request",
    "connection": "check the network",
    "validation": "correct the request",
}
_MAY_PASS = "this may be temporary: give the node a retry= or a fallback="
_IN_PART = "the other results of its task are kept, and this one is not asked for again: give the node a fallback="
_REDO = ", or have the whole task bought anew with `runware-flow redo`"


def flow_failed(
    result: RunResult,
    declaration: Declaration,
    machine: FlowMachine,
    accounts: Accounts,
    run: ScopeRun,
    step: Step,
    error: Exception,
    *,
    has_journal: bool,
) -> FlowFailed:
    """Make the error that a run ends with, of the node whose failure ended it."""
    spec = step.spec
    place, said = run.place(step), str(error) or type(error).__name__
    if spec.describe() not in said:
        said = f"{place!r}, declared at {spec.where}, failed: {said}"
    elif place != spec.path:
        said = f"{place!r}: {said}"
    record: NodeRecord | None = run.record(step.slot)
    lines = [f"flow {declaration.name!r}: {said}"]
    if record is not None:
        lines.append(f"request: {_request(record, error)}")
    lines += [f"note: {note}" for note in getattr(error, "__notes__", ())]
    lines.append(f"kept: {_kept(machine, accounts)}")
    lines += [f"may be billed: {told}" for told in _may_be_billed(machine, accounts)]
    lines.append(f"next: {_next(error, has_journal=has_journal)}")
    failed = FlowFailed(
        "\n  ".join(lines),
        result=result,
        node=declaration.reference_of(declaration, spec),
        path=run.path(step),
        where=str(spec.where),
        task_type=record.task_type if record else None,
        model=record.model if record else None,
        task_uuid=record.task_uuid if record else getattr(error, "task_uuid", None),
        attempt=record.attempts if record else 1 + run.failed_attempts(step.slot),
    )
    failed.__cause__ = error
    return failed


def _request(record: NodeRecord, error: Exception) -> str:
    model = "" if record.model is None else f" with {record.model}"
    code = ""
    if isinstance(error, RunwareError):
        code = f", {error.code}" if error.raw_code in (None, error.code) else f", {error.code} ({error.raw_code})"
    return f"{record.task_type}{model}, taskUUID {record.task_uuid}, attempt {record.attempts}{code}"


def _kept(machine: FlowMachine, accounts: Accounts) -> str:
    count = machine.ok_count
    if not count:
        return "no node had finished"
    cost = accounts.total()
    spent = "" if not cost else f", for {money(cost)}"
    return f"{count} finished node{'' if count == 1 else 's'} in .result{spent}"


def _may_be_billed(machine: FlowMachine, accounts: Accounts) -> list[str]:
    """Name the requests that were abandoned; a request that only timed out is counted."""
    left = [place for place in _abandoned(machine.root) if place] if machine.abandoned_count else []
    told = [f"{path}, taskUUID {task_uuid}" for path, task_uuid in left[:_SHOWN_TASKS]]
    if len(left) > _SHOWN_TASKS:
        told.append(f"and {len(left) - _SHOWN_TASKS} more that were abandoned, see the outcomes in .result")
    unknown = sum(line.unknown_count for line in accounts.lines()) - len(left)
    if unknown > 0:
        told.append(f"{unknown} request{'' if unknown == 1 else 's'} whose outcome is not known")
    return told


def _abandoned(root: ScopeRun) -> Iterator[tuple[str, str]]:
    runs = [root]
    while runs:
        run = runs.pop()
        for step in run.plan.steps:
            value = run.values[step.slot]
            if isinstance(value, FanRun):
                runs.extend(value.items)
            elif isinstance(value, Abandoned) and value.may_be_billed and value.task_uuid is not None:
                yield run.place(step), value.task_uuid


def _next(error: Exception, *, has_journal: bool) -> str:
    again = "run it again" if has_journal else "run it again (with journal=, no task is paid twice)"
    if has_journal:
        again += " with the same journal: finished results are not bought again, and what was sent is collected"
    if isinstance(error, BudgetExceeded):
        return f"give a larger budget=; then {again}"
    if isinstance(error, RunwareTimeoutError):
        where = f" as task {error.task_uuid}" if error.task_uuid else ""
        return f"what was sent may still finish{where}; give it more time, then {again}"
    if isinstance(error, RunwareError) and error.results and is_verdict(error):
        return f"{_IN_PART}{_REDO if has_journal else ''}; then {again}"
    if isinstance(error, RunwareError):
        what = _NEXT.get(error.code) or (_MAY_PASS if error.retryable else "see the error")
        return f"{what}; then {again}"
    return f"read its __cause__; then {again}"
