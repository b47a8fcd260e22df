"""How races, branches and `first` are decided, and what becomes of that which nobody needs any more.

This is the part of `FlowMachine` for nodes that choose. They send nothing and need no worker: each looks at the nodes
before it whenever one of those has settled.

What only a decided node needed is let go. What has not begun is skipped. What runs is cancelled for a race, which is
why a race is decided, and collected for a `first`, since it is paid for. Whatever another node needs as well, or is
wanted for itself because nothing follows it, is left alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runware_flow.errors import TooFewSucceeded
from runware_flow.graph.declaration import SENDS, NodeKind
from runware_flow.graph.outcomes import Abandoned, Failed, Skipped
from runware_flow.graph.policies import may_fall_back
from runware_flow.graph.scope_run import (
    FAILED,
    OK,
    READY,
    RUNNING,
    SETTLED,
    SKIPPED,
    WAITING,
    FanRun,
    ScopeRun,
    why_not,
)
from runware_flow.graph.spread import Spread

if TYPE_CHECKING:
    from runware_flow.graph.plan import Step

__all__ = ("Choices",)

_KEPT_ERRORS = 16


class Choices(Spread):
    """The decisions of a run."""

    __slots__ = ()

    def _decide(self, run: ScopeRun, step: Step) -> None:
        """Settle a race, a way or a branch if it can be by now."""
        if run.cells[step.slot] >= SETTLED:
            return
        if step.kind is NodeKind.RACE:
            self._decide_race(run, step)
        elif step.kind is NodeKind.WAY:
            self._decide_way(run, step)
        elif step.kind is NodeKind.UNLESS:
            self._decide_unless(run, step)
        elif step.kind is NodeKind.FALLBACK:
            self._decide_fallback(run, step)
        else:
            self._decide_branch(run, step)

    def _decide_way(self, run: ScopeRun, step: Step) -> None:
        around, choice = _before(run, step)[0]
        cell = around.cells[choice.slot]
        if cell != OK:
            if cell >= SETTLED:
                self._settle(run, step, SKIPPED, why_not(around, choice))
        elif around.values[choice.slot] is step.work:
            self._settle(run, step, OK, around.values[choice.spec.deps[0].slot])
        else:
            self._settle(run, step, SKIPPED, Skipped(f"{around.place(choice)} took the other way"))

    def _decide_branch(self, run: ScopeRun, step: Step) -> None:
        before = _before(run, step)
        around, end = before[0]
        if around.cells[end.slot] == OK:
            around, end = before[1 if around.values[end.slot] else 2]
            if around.cells[end.slot] == OK:
                self._settle(run, step, OK, around.values[end.slot])
                return
        if around.cells[end.slot] >= SETTLED:
            self._settle(run, step, SKIPPED, why_not(around, end))

    def _decide_unless(self, run: ScopeRun, step: Step) -> None:
        [(around, one)] = _before(run, step)
        cell, outcome = around.cells[one.slot], around.values[one.slot]
        if cell == OK:
            self._settle(run, step, SKIPPED, Skipped(f"{around.place(one)} succeeded"))
        elif cell == FAILED and may_fall_back(outcome.error, buys=one.kind in SENDS):
            self._settle(run, step, OK, outcome)
        elif cell == SKIPPED and outcome.error is not None and may_fall_back(outcome.error, buys=False):
            self._settle(run, step, OK, outcome)  # it was skipped because of a failure before it
        elif cell >= SETTLED:
            self._settle(run, step, SKIPPED, why_not(around, one))

    def _decide_fallback(self, run: ScopeRun, step: Step) -> None:
        (around, one), (_, other) = _before(run, step)
        if around.cells[one.slot] == OK:
            self._settle(run, step, OK, around.values[one.slot])
        elif around.cells[one.slot] >= SETTLED and run.cells[other.slot] >= SETTLED:
            cell, outcome = run.cells[other.slot], run.values[other.slot]
            if cell == OK:
                self._settle(run, step, OK, outcome)
            elif cell == FAILED:
                first = around.values[one.slot].error
                outcome.error.add_note(f"this is the fallback's error; before it: {str(first) or type(first).__name__}")
                self._fail(run, step, outcome.error)
            elif isinstance(outcome, Skipped) and outcome is not self.stopped and around.cells[one.slot] == FAILED:
                self._fail(run, step, around.values[one.slot].error)  # of a kind that no fallback answers
            else:
                self._settle(run, step, SKIPPED, why_not(run, other))

    def _decide_race(self, run: ScopeRun, step: Step) -> None:
        before = _before(run, step)
        cells = [around.cells[one.slot] for around, one in before]
        if OK in cells:
            around, one = before[cells.index(OK)]
            self._settle(run, step, OK, around.values[one.slot])
        elif all(cell >= SETTLED for cell in cells):
            ends = [(around, one, around.values[one.slot]) for around, one in before]
            for around, one, end in ends:
                if isinstance(end, Abandoned) or end is self.stopped:  # by the run, not by what it did
                    self._settle(run, step, SKIPPED, why_not(around, one))
                    return
            errors = [end.error for _, _, end in ends if isinstance(end, (Failed, Skipped)) and end.error is not None]
            if not errors:
                self._settle(run, step, SKIPPED, why_not(*before[0]))
                return
            told = "; ".join(f"{around.place(one)}: {_said(end)}" for around, one, end in ends)
            error = TooFewSucceeded(f"all nodes of {run.place(step)!r} failed: {told}", errors=errors)
            error.__cause__ = errors[-1]
            self._fail(run, step, error)

    # The first few of many

    def _count_first(self, fan: FanRun, place: int, item: ScopeRun) -> None:
        """Count an item that has settled the node which a `first` collects."""
        first = fan.plan.gathers[place]
        assert first.spec.of is not None
        winners = fan.winners.setdefault(place, [])
        slot = first.spec.of.slot
        if item.cells[slot] == OK and len(winners) < first.work:
            winners.append(item.values[slot])
            if len(winners) == first.work:
                self._settle(fan.around, first, OK, winners)
        if fan.is_ended:
            self._end_first(fan, place)

    def _end_first(self, fan: FanRun, place: int) -> None:
        """Fail a `first` if no item is left that it could wait for; the source has ended."""
        first = fan.plan.gathers[place]
        if fan.counts[place] < fan.pulled_count or fan.around.cells[first.slot] >= SETTLED:
            return
        found = fan.winners.get(place, [])
        problem = fan.problem_outcome
        if len(found) == first.work:
            return  # its value is among what is still to be done
        if isinstance(problem, (Skipped, Abandoned)):
            self._settle(fan.around, first, SKIPPED, problem)
            return
        assert first.spec.of is not None
        errors = _errors(fan, first.spec.of.slot)
        told = f"; the last error: {errors[-1]}" if errors else ""
        error = TooFewSucceeded(
            f"{fan.around.place(first)} wants the first {first.work}, but only {len(found)} of {fan.pulled_count}"
            f" succeeded{told}",
            errors=errors,
        )
        error.__cause__ = errors[-1] if errors else None
        self._fail(fan.around, first, error)

    # What is not needed any more

    def _let_go(self, run: ScopeRun, step: Step) -> None:
        """Skip, or drop, what only `step` needed, which is decided now."""
        because = Skipped(f"{run.place(step)} was decided without it")
        todo = _before(run, step)
        while todo:
            around, one = todo.pop()
            cell = around.cells[one.slot]
            if cell >= SETTLED or one.kind is NodeKind.ITEM or self._is_wanted(around, one):
                continue  # an item that is not there yet is about to be
            fan_run = around.values[one.slot]
            if isinstance(fan_run, FanRun):
                self._drop_items(fan_run, because, is_race=step.kind is NodeKind.RACE)
            elif cell != RUNNING:
                self._leave_out(around, one, because)
            elif step.kind is NodeKind.RACE:
                self.dropped.append((around, one))
            todo.extend(_before(around, one))

    def _is_wanted(self, run: ScopeRun, step: Step) -> bool:
        cells = run.cells
        if step.inner is not None:
            return step.inner.has_ends or any(cells[one.slot] < SETTLED for one in step.inner.gathers)
        if step.role.is_end or any(cells[one.slot] < SETTLED for one in (*step.next, *step.role.fans)):
            return True
        fan = run.fan
        return fan is not None and any(
            fan.around.cells[fan.plan.gathers[place].slot] < SETTLED for place in step.gathers
        )

    def _drop_items(self, fan: FanRun, because: Skipped, *, is_race: bool) -> None:
        fans = [fan]
        while fans:
            fan = fans.pop()
            if not fan.is_ended:
                fan.problem_outcome = because
                self.dropped.append(fan)
                self._end_fan(fan)
            for item in list(fan.live.values()):
                for step in item.plan.steps:
                    cell, inner = item.cells[step.slot], item.values[step.slot]
                    if cell < SETTLED and isinstance(inner, FanRun):
                        fans.append(inner)
                    elif cell == RUNNING:
                        if is_race:
                            self.dropped.append((item, step))
                    elif cell < SETTLED and step.kind is not NodeKind.ITEM:
                        self._leave_out(item, step, because)

    def _let_go_parked(self, run: ScopeRun, step: Step) -> None:
        """End a node that has just been parked if nothing needs it any more."""
        if self._is_wanted(run, step):
            return
        last = self.waiting.pop((run, step))
        if last is None:
            self._settle(run, step, SKIPPED, Skipped(f"nothing needs {run.place(step)} any more"))
        else:
            self._settle(run, step, FAILED, Failed(last))

    def _leave_out(self, run: ScopeRun, step: Step, because: Skipped) -> None:
        if run.cells[step.slot] in (READY, WAITING):
            self.dropped.append((run, step))
        last = self.waiting.pop((run, step), None) or self.tried.pop((run, step), None)  # of one between two attempts
        if last is None:
            self._settle_one(run, step, SKIPPED, because)
        else:
            self._settle_one(run, step, FAILED, Failed(last))


def _before(run: ScopeRun, step: Step) -> list[tuple[ScopeRun, Step]]:
    if step.spec.of is not None:
        fan = step.spec.of.scope.fan
        assert fan is not None
        return [(run, run.plan.steps[fan.slot])]
    found: list[tuple[ScopeRun, Step]] = []
    for hops, slot in step.args:
        around = run.above(hops)
        found.append((around, around.plan.steps[slot]))
    return found


def _said(outcome: Any) -> str:
    if isinstance(outcome, Failed):
        return str(outcome.error) or type(outcome.error).__name__
    return outcome.because if isinstance(outcome, Skipped) else type(outcome).__name__


def _errors(fan: FanRun, slot: int) -> list[Exception]:
    found: list[Exception] = []
    for item in fan.items:
        end = item.values[slot] if item.cells[slot] in (FAILED, SKIPPED) else None
        if isinstance(end, (Failed, Skipped)) and end.error is not None:
            found.append(end.error)
        if len(found) == _KEPT_ERRORS:
            return found
    if isinstance(fan.problem_outcome, Failed):
        found.append(fan.problem_outcome.error)
    return found
