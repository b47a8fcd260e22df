"""Decides which failures of a run were answered apart from their own scope, so that the next run keeps them.

A fallback or a race in each item of a fan-out may answer the failure of a node outside, and so may a function that uses
the outcomes of `settled()`. No record of a choice in the node's own scope says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runware_flow.graph.declaration import NodeKind
from runware_flow.graph.scope_run import OK, FanRun

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runware_flow.graph.outcomes import Skipped
    from runware_flow.graph.plan import Step
    from runware_flow.graph.scope_run import ScopeRun

__all__ = ("was_answered",)


def was_answered(run: ScopeRun, step: Step, stopped: Skipped | None) -> bool | None:
    """Tell whether all that waited for a node which has failed has done without it, once the run has ended.

    Args:
        stopped: the outcome of what was left out since the run was stopped, if it was.

    Returns:
        `False` if some of that has failed for this reason; `None` if the run ended before that was decided, or if
        the records of the choices in the node's own scope, and around it, tell all of it.
    """
    seen, todo = {(run, step)}, [(run, step)]
    is_apart = False
    verdict: bool | None = True
    while todo:
        place = todo.pop()
        fans = list(_fans_after(*place))
        following = [one for one in _following(*place, fans) if one[1].kind is not NodeKind.UNLESS]
        if place[1].role.fans:
            is_apart = True
            if stopped is not None and any(fan.problem_outcome is stopped for fan in fans):
                verdict = None  # there might have been more items
        elif not following:
            outcome = place[0].values[place[1].slot]
            if outcome is not stopped and getattr(outcome, "error", None) is not None:
                return False
            verdict = None
        for around, one in following:
            if around.cells[one.slot] != OK:
                if (around, one) not in seen:
                    seen.add((around, one))
                    todo.append((around, one))
            elif one.kind is NodeKind.SETTLED or not around.plan.spec.holds(run.plan.spec):
                is_apart = True
    return verdict if is_apart else None


def _following(run: ScopeRun, step: Step, fans: list[FanRun]) -> Iterator[tuple[ScopeRun, Step]]:
    """Iterate over all that waits for a node: in its scope, around it, and in the items of fan-outs in its scope."""
    for one in step.next if step.inner is None else step.inner.gathers:
        yield run, one
    for place in step.gathers:
        assert run.fan is not None
        yield run.fan.around, run.fan.plan.gathers[place]
    for fan in fans:
        inside = [(one, hops) for one, hops, slot in fan.plan.outer if slot == step.slot]
        for item in fan.items if inside else ():
            yield from ((item, one) for one, hops in inside if item.above(hops) is run)


def _fans_after(run: ScopeRun, step: Step) -> Iterator[FanRun]:
    """Iterate over the fan-outs that have begun and whose items may wait for a node around them."""
    todo = [run.values[fan.slot] for fan in step.role.fans]
    while todo:
        fan = todo.pop()
        if isinstance(fan, FanRun):
            yield fan
            slots = [one.slot for one in fan.plan.steps if one.inner is not None]
            todo += [item.values[slot] for item in fan.items for slot in slots] if slots else []
