"""A slow judge of a finished run: each outcome must follow from those of the nodes before it.

Unlike the `Reference`, it does not say what must come out, since races and `first` depend on the order of events. It
asks of each node whether its outcome is right, given all others. What was let go must be needed by nobody.
"""

from __future__ import annotations

from typing import Any

from flow_world import Driver, plain

from runware_flow.graph.declaration import CHOOSING, DECIDED, SENDS, STANDING_IN, NodeKind, NodeSpec, waits_for
from runware_flow.graph.outcomes import Abandoned, Failed, Ok, Skipped
from runware_flow.graph.policies import may_fall_back
from runware_flow.graph.scope_run import FanRun, ScopeRun

Indices = tuple[int, ...]


def outcome_of(run: ScopeRun, slot: int) -> Any:
    """How a node ended; a fan-out keeps its items where others have their outcome."""
    value = run.values[slot]
    return value.problem_outcome or Ok(None) if isinstance(value, FanRun) else run.outcome(slot)


class Judge:
    """Judges all outcomes of a run that has ended by itself, or was stopped by a failure."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.machine = driver.machine
        self.runs: dict[tuple[Any, Indices], ScopeRun] = {}
        self.waiting: dict[NodeSpec, list[NodeSpec]] = {spec: [] for spec in driver.world.declaration.specs()}
        for spec in self.waiting:
            for before in waits_for(spec):
                self.waiting[before].append(spec)
        todo: list[tuple[ScopeRun, Indices]] = [(self.machine.root, ())]
        while todo:
            run, indices = todo.pop()
            self.runs[run.plan.spec, indices] = run
            for value in run.values:
                if isinstance(value, FanRun):
                    todo += [(item, (*indices, item.index)) for item in value.items]

    def judge(self) -> None:
        for (scope, indices), run in self.runs.items():
            for spec in scope.nodes:
                outcome = outcome_of(run, spec.slot)
                assert outcome is not None, f"{spec.path} {indices} has no outcome"
                if not self.is_right(spec, indices, outcome):
                    raise AssertionError(f"{spec.path} {indices} ended as {outcome}: {self.driver.describe()}")

    def end(self, spec: NodeSpec, indices: Indices) -> Any:
        return outcome_of(self.runs[spec.scope, indices[: spec.scope.depth]], spec.slot)

    def is_right(self, spec: NodeSpec, indices: Indices, outcome: Any) -> bool:
        if isinstance(outcome, (Skipped, Abandoned)) and self.is_spared(spec, indices):
            return True
        if isinstance(outcome, Skipped) and self.machine.stopped is not None:
            return True
        expected = self.expected(spec, indices)
        if callable(expected):
            return bool(expected(outcome))
        return type(outcome) is type(expected) and (
            not isinstance(outcome, Ok) or plain(outcome.value) == plain(expected.value)
        )

    def expected(self, spec: NodeSpec, indices: Indices) -> Any:
        """The only outcome that is right, or a function that tells of one whether it is."""
        kind = spec.kind
        if kind is NodeKind.ITEM:
            return Ok(indices[-1])
        if kind is NodeKind.FAN:
            return lambda outcome: True
        if kind is NodeKind.FIRST:
            return lambda outcome: self.is_right_first(spec, indices, outcome)
        if kind in (NodeKind.GATHER, NodeKind.SETTLED):
            return self.gathered(spec, indices)
        before = [self.end(one, indices) for one in spec.deps]
        if kind in DECIDED:
            return self.decided(spec, indices, before)
        if not all(isinstance(one, Ok) for one in (*before, *(self.end(one, indices) for one in spec.after))):
            return Skipped("")
        place = (spec.path, indices)
        if place in self.driver.world.fails:
            return Failed(Exception())
        if place in self.driver.park_count:  # it may have failed while it waited for another attempt
            value = self.driver.world.value(place, spec, [one.value for one in before])
            return lambda outcome: (
                isinstance(outcome, Failed) or (isinstance(outcome, Ok) and plain(outcome.value) == plain(value))
            )
        return Ok(self.driver.world.value(place, spec, [one.value for one in before]))

    def decided(self, spec: NodeSpec, indices: Indices, before: list[Any]) -> Any:
        if spec.kind is NodeKind.RACE:
            return lambda outcome: self.is_right_race(before, outcome)
        if spec.kind is NodeKind.UNLESS:
            kind = Ok if may_answer(before[0], spec.deps[0]) else Skipped
            return lambda outcome: isinstance(outcome, kind)
        if spec.kind is NodeKind.FALLBACK:
            return self.fallback(before)
        return self.way(spec, indices, before)

    def fallback(self, before: list[Any]) -> Any:
        if isinstance(before[0], Ok) or isinstance(before[1], Ok):
            return before[0] if isinstance(before[0], Ok) else before[1]
        has_failed = isinstance(before[1], Failed) or isinstance(before[0], Failed)
        return lambda outcome: isinstance(outcome, Skipped) or (has_failed and isinstance(outcome, Failed))

    def way(self, spec: NodeSpec, indices: Indices, before: list[Any]) -> Any:
        decision = before[0]
        if not isinstance(decision, Ok):
            return Skipped("")
        if spec.kind is NodeKind.BRANCH:
            end = before[1 if decision.value else 2]
            return end if isinstance(end, Ok) else Skipped("")
        return self.end(spec.deps[0].deps[0], indices) if decision.value is spec.work else Skipped("")

    def is_right_race(self, before: list[Any], outcome: Any) -> bool:
        values = [one.value for one in before if isinstance(one, Ok)]
        if values:
            return isinstance(outcome, Ok) and outcome.value in values
        has_failed = any(isinstance(one, (Failed, Skipped)) and one.error is not None for one in before)
        return isinstance(outcome, Failed if has_failed else Skipped) or any(
            isinstance(one, Abandoned) for one in before
        )

    def items(self, spec: NodeSpec, indices: Indices) -> tuple[FanRun | None, list[Any]]:
        of = spec.of
        assert of is not None
        assert of.scope.fan is not None
        fan = self.runs[spec.scope, indices].values[of.scope.fan.slot]
        if not isinstance(fan, FanRun):
            return None, []
        return fan, [item.outcome(of.slot) for item in fan.items]

    def gathered(self, spec: NodeSpec, indices: Indices) -> Any:
        fan, ends = self.items(spec, indices)
        if fan is None or fan.problem_outcome is not None:
            return Skipped("")
        if spec.kind is NodeKind.SETTLED:
            return Ok(ends)
        return Ok([one.value for one in ends]) if all(isinstance(one, Ok) for one in ends) else Skipped("")

    def is_right_first(self, spec: NodeSpec, indices: Indices, outcome: Any) -> bool:
        fan, ends = self.items(spec, indices)
        values = [plain(one.value) for one in ends if isinstance(one, Ok)]
        if not isinstance(outcome, Ok):
            problem = self.end(spec.of.scope.fan, indices)
            # Left out with its fan-out; if a failure is the reason, it has failed by it.
            is_given_up = (fan is None or isinstance(problem, Skipped)) and problem.error is None
            return isinstance(outcome, Skipped if is_given_up else Failed) and len(values) < spec.work
        order = [index[-1] for path, index in self.driver.succeeded if path == spec.of.path and index[:-1] == indices]
        of = spec.of
        completed = [ends[index].value for index in order if isinstance(ends[index], Ok)]
        if of.kind in (NodeKind.CALL, NodeKind.PICK) and plain(outcome.value) != plain(completed[: spec.work]):
            return False
        return len(outcome.value) == spec.work and all(plain(value) in values for value in outcome.value)

    # Who needs what

    def instances(self, waiting: NodeSpec, indices: Indices) -> list[Indices]:
        """Where nodes of a spec that waits for a node with these indices stand."""
        depth = min(waiting.scope.depth, len(indices))
        return [other for scope, other in self.runs if scope is waiting.scope and other[:depth] == indices[:depth]]

    def followers(self, spec: NodeSpec, indices: Indices) -> list[tuple[NodeSpec, Indices]]:
        """All nodes that wait for this one, in all items; for a fan-out, those that collect its items."""
        found: list[tuple[NodeSpec, Indices]] = []
        for waiting in self.waiting:
            if spec.item_scope is not None and waiting.of is not None and waiting.of.scope is spec.item_scope:
                found.append((waiting, indices))
        for waiting in self.waiting[spec]:
            if waiting.kind is not NodeKind.ITEM:
                found += [(waiting, other) for other in self.instances(waiting, indices)]
                if waiting.scope.depth > len(indices):  # of items that may never have been pulled
                    scope = waiting.scope
                    while scope.depth > len(indices) + 1:
                        scope = scope.parent
                    found.append((scope.fan, indices))
        return found

    def is_spared(self, spec: NodeSpec, indices: Indices) -> bool:
        """Nothing needs it: all that waits for it has ended without it, because one of those was decided."""
        todo: list[tuple[NodeSpec, Indices]] = [(spec, indices)]
        seen: set[tuple[NodeSpec, Indices]] = set()
        is_decided = (
            spec.path,
            indices,
        ) in self.driver.park_count  # who has to wait is asked whether anything needs it
        while todo:
            place = todo.pop()
            if place in seen:
                continue
            seen.add(place)
            for waiting, other in self.followers(*place):
                if not isinstance(self.end(waiting, other), Ok):
                    todo.append((waiting, other))
                elif waiting.kind in CHOOSING:
                    is_decided = True
                elif waiting.kind not in (NodeKind.BRANCH, NodeKind.FAN):
                    return False
        return is_decided

    # What stops a run

    def is_tolerated(self, spec: NodeSpec, indices: Indices) -> bool:
        """Whether a failure does not end the run: all that waits can do without, or a fan-out around tolerates it."""
        return self.is_answered(spec, self.end(spec, indices).error) or any(
            scope.fan is not None and scope.fan.tolerate is not None for scope in self.around(spec)
        )

    def is_answered(self, spec: NodeSpec, error: Exception) -> bool:
        """Whether all that waits can do without a node that failed like this."""
        return self.is_excused(spec) and (
            not self.needs_fallback(spec) or may_fall_back(error, sends=spec.kind in SENDS)
        )

    def around(self, spec: NodeSpec) -> list[Any]:
        scopes, scope = [], spec.scope
        while scope is not None:
            scopes.append(scope)
            scope = scope.parent
        return scopes

    def is_excused(self, spec: NodeSpec) -> bool:
        waiting = self.excusing(spec)
        return (
            bool(waiting)
            and not (spec.kind is NodeKind.FAN and self.has_ends(spec))
            and all(one.kind in CHOOSING or one.kind in STANDING_IN or self.is_excused(one) for one in waiting)
        )

    def needs_fallback(self, spec: NodeSpec) -> bool:
        return any(one.kind in STANDING_IN or self.needs_fallback(one) for one in self.excusing(spec))

    def excusing(self, spec: NodeSpec) -> list[NodeSpec]:
        """What may do without a node: of a fan-out, which has no items then, only what collects those."""
        if spec.kind is not NodeKind.FAN:
            return self.waiting[spec]
        return [one for one in self.waiting if one.of is not None and one.of.scope is spec.item_scope]

    def has_ends(self, fan: NodeSpec) -> bool:
        assert fan.item_scope is not None
        return any(fan.item_scope.holds(one.scope) and not waiting for one, waiting in self.waiting.items())

    def failures(self) -> list[tuple[NodeSpec, Indices]]:
        return [
            (spec, indices)
            for (scope, indices), run in self.runs.items()
            for spec in scope.nodes
            if isinstance(outcome_of(run, spec.slot), Failed)
        ]


def may_answer(outcome: Any, spec: NodeSpec) -> bool:
    """Whether a fallback may stand in for a node that ended like this."""
    if isinstance(outcome, Failed):
        return may_fall_back(outcome.error, sends=spec.kind in SENDS)
    return isinstance(outcome, Skipped) and outcome.error is not None and may_fall_back(outcome.error, sends=False)
