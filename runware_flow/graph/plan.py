"""A declaration made ready to run: per scope, arrays and tuples instead of objects to search.

Plans are read-only and shared by all runs of a declaration. Each node becomes a `Step` that knows, without looking
anything up, where its arguments stand and what waits for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runware_flow.graph.declaration import PURE, NodeKind

if TYPE_CHECKING:
    from runware_flow.graph.declaration import Declaration, NodeSpec, ScopeSpec

__all__ = ("MAX_WAITS", "ScopePlan", "Step", "compile_plan")

MAX_WAITS = 0xEF
"""A cell below this counts what a node still waits for; the states of the machine lie above."""


class Step:
    """A node in a plan.

    Attributes:
        args: for each argument, how many scopes up it stands, and in which slot.
        local: the slot of the only argument, if it stands in the same scope; else -1.
        next: the steps of the same scope that wait for this one, last declared first, once for each argument.
        is_watched: steps of inner scopes wait for this one too.
        gathers: which gathers of this scope's fan-out collect this step.
    """

    __slots__ = ("args", "gathers", "inner", "is_pure", "is_watched", "kind", "local", "next", "slot", "spec", "work")

    def __init__(self, spec: NodeSpec) -> None:
        self.spec = spec
        self.slot = spec.slot
        self.kind = spec.kind
        self.work = spec.work
        self.is_pure = spec.kind in PURE
        self.args: tuple[tuple[int, int], ...] = ()
        self.local = -1
        self.next: tuple[Step, ...] = ()
        self.is_watched = False
        self.gathers: tuple[int, ...] = ()
        self.inner: ScopePlan | None = None


class ScopePlan:
    """The steps of a scope.

    Attributes:
        cells: how many arguments each step waits for, if all those of outer scopes are there.
        outer: for each argument from an outer scope: the step, how many scopes up, and which slot.
        gathers: the steps around this scope that collect one of its steps over all items.
        is_windowed: only so many items are unfinished at a time; not where each waits for a gather of all.
        first: the steps that wait for nothing, last declared first.
    """

    __slots__ = ("cells", "first", "gathers", "is_windowed", "outer", "size", "spec", "steps")

    def __init__(self, spec: ScopeSpec) -> None:
        self.spec = spec
        self.steps = tuple(Step(node) for node in spec.nodes)
        self.size = len(self.steps)
        self.cells = bytearray(self.size)
        self.outer: tuple[tuple[Step, int, int], ...] = ()
        self.gathers: tuple[Step, ...] = ()
        self.first: tuple[Step, ...] = ()
        self.is_windowed = True


def compile_plan(declaration: Declaration) -> ScopePlan:
    """Check a declaration and compile it; returns the plan of the root scope.

    Raises:
        DeclarationError: the declaration has a cycle.
    """
    declaration.check()
    plans = {scope: ScopePlan(scope) for scope in declaration.scopes}
    for scope in declaration.two_pass_scopes():
        plans[scope].is_windowed = False
    following: dict[Step, list[Step]] = {}
    for plan in plans.values():
        outer: list[tuple[Step, int, int]] = []
        for step in plan.steps:
            _link(step, plan, plans, following, outer)
        plan.outer = tuple(outer)
    for plan in plans.values():
        for step in plan.steps:
            step.next = tuple(reversed(following.get(step, ())))
        plan.first = tuple(
            step
            for step in reversed(plan.steps)
            if plan.cells[step.slot] == 0 and step.kind is not NodeKind.ITEM and not _is_fed(step, plan)
        )
    return plans[declaration.root]


def _is_fed(step: Step, plan: ScopePlan) -> bool:
    # All its arguments come from outer scopes: it starts with its item, once those are there.
    return any(waiting is step for waiting, _, _ in plan.outer)


def _link(
    step: Step,
    plan: ScopePlan,
    plans: dict[ScopeSpec, ScopePlan],
    following: dict[Step, list[Step]],
    outer: list[tuple[Step, int, int]],
) -> None:
    spec = step.spec
    args: list[tuple[int, int]] = []
    for dep in spec.deps:
        hops = spec.scope.depth - dep.scope.depth
        args.append((hops, dep.slot))
        before = plans[dep.scope].steps[dep.slot]
        if hops:
            outer.append((step, hops, dep.slot))
            before.is_watched = True
        else:
            following.setdefault(before, []).append(step)
            plan.cells[step.slot] += 1
    step.args = tuple(args)
    step.local = args[0][1] if len(args) == 1 and args[0][0] == 0 else -1
    if spec.item_scope is not None:
        step.inner = plans[spec.item_scope]
    if spec.of is not None:
        # A gather is woken by the count of its fan-out, so it waits for one thing that never comes by itself.
        plan.cells[step.slot] = 1
        items = plans[spec.of.scope]
        collected = items.steps[spec.of.slot]
        collected.gathers = (*collected.gathers, len(items.gathers))
        items.gathers = (*items.gathers, step)
