"""Spans of OpenTelemetry for runs and for the attempts of their nodes; those of tasks stand inside them.

As in `client.tracing`, nothing is imported and nothing is paid unless the program has imported OpenTelemetry.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from runware_flow.client.tracing import find_tracer, mark_failed
from runware_flow.graph.declaration import NodeKind
from runware_flow.graph.outcomes import Failed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from opentelemetry.trace import Span, Tracer

    from runware_flow.graph.machine import FlowMachine
    from runware_flow.graph.plan import Step
    from runware_flow.graph.scope_run import ScopeRun
    from runware_flow.runner.accounts import Accounts
    from runware_flow.runner.context import RunContext

    Perform = Callable[[ScopeRun, Step, RunContext], Awaitable[None]]

__all__ = ("trace_run", "traced")

_TRACED = frozenset({NodeKind.TASK, NodeKind.BUILD, NodeKind.CALL})


@contextmanager
def trace_run(name: str) -> Generator[Callable[[FlowMachine, Accounts], None]]:
    """A span around a run, current for what it starts; yields what writes the run's end into it."""
    tracer = find_tracer()
    if tracer is None:
        yield _note_nothing
        return
    from opentelemetry.trace import use_span

    span = tracer.start_span(f"flow {name}", attributes={"runware.flow": name})
    with use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        yield lambda machine, accounts: _note_end(span, machine, accounts)


def _note_nothing(machine: FlowMachine, accounts: Accounts) -> None:
    pass


def _note_end(span: Span, machine: FlowMachine, accounts: Accounts) -> None:
    span.set_attributes(
        {
            "runware.ok": machine.ok_count,
            "runware.failed": machine.failed_count,
            "runware.skipped": machine.skipped_count,
            "runware.abandoned": machine.abandoned_count,
        }
    )
    cost = accounts.total()
    if cost is not None:
        span.set_attribute("runware.cost", cost)
    if machine.failure is not None:
        mark_failed(span, machine.failure[-1], "FlowFailed")


def traced(perform: Perform) -> Perform:
    """The same function with a span around each attempt of a node; the function itself without tracing."""
    tracer = find_tracer()
    if tracer is None:
        return perform

    async def perform_traced(run: ScopeRun, step: Step, context: RunContext) -> None:
        if step.kind not in _TRACED:
            await perform(run, step, context)
            return
        await _perform_in_span(tracer, perform, run, step, context)

    return perform_traced


async def _perform_in_span(tracer: Tracer, perform: Perform, run: ScopeRun, step: Step, context: RunContext) -> None:
    from opentelemetry.trace import use_span

    failed_before = run.failed_attempts(step.slot)
    attributes: dict[str, Any] = {
        "runware.flow": context.flow,
        "runware.node": run.path(step),
        "runware.attempt": failed_before + 1,
    }
    span = tracer.start_span(f"node {step.spec.name}", attributes=attributes)
    with use_span(span, end_on_exit=False, record_exception=False, set_status_on_exception=False):
        try:
            await perform(run, step, context)
        except BaseException:
            span.set_attributes({"runware.abandoned": True})
            span.end()
            raise
    outcome: Any = run.outcome(step.slot)
    if outcome is None and run.failed_attempts(step.slot) == failed_before:
        return  # it waits for a place, and has not begun: a span that never ends is not told
    if isinstance(outcome, Failed):
        mark_failed(span, outcome.error)
    elif outcome is None:
        mark_failed(span, None, "tried again")
    record = run.record(step.slot)
    if record is not None:
        span.set_attribute("runware.restored", record.is_restored)
        if record.cost is not None:
            span.set_attribute("runware.cost", record.cost)
    span.end()
