"""A declaration compiled for a run: arrays and tuples for each scope, instead of objects to search.

Plans are read-only and shared by all runs of a declaration. Each node becomes a `Step` that knows, without looking
anything up, where its arguments stand and what waits for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from runware_flow.graph.declaration import CHOOSING, DECIDED, PURE, RECORDED, SENDERS, STANDING_IN, NodeKind, waits_for

if TYPE_CHECKING:
    from runware_flow.graph.declaration import Declaration, NodeSpec, ScopeSpec

__all__ = ("MAX_WAITS", "OPEN", "Contest", "ScopePlan", "Step", "compile_plan", "senders_before")

MAX_WAITS = 0xEF
"""A cell below this counts what a node still waits for; the states of the machine lie above."""

_MOST_CHOICES = 4
"""How many nested choices are distinguished; chains of any number of them are declared in linear time."""
_MOST_SENDERS = 1000
"""How many of the nodes before a fallback are looked at, to tell what it has answered."""
_SILENT = frozenset({NodeKind.ITEM, NodeKind.FAN, NodeKind.WAY, NodeKind.UNLESS})

OPEN = 0xF4
"""The cell of a race, a way or a branch that is not decided yet: it looks at what it waits for, and counts nothing."""


class Contest(NamedTuple):
    """What a step that sends is to a choice that comes after it.

    Attributes:
        step: the race, `first` or fallback.
        hops: how many scopes up that stands.
        place: which of the contestants of a race or a fallback the step is for; -1 for a `first`, whose contestants are
            items, and for a step that several contestants wait for.
        is_lead: what it sends, if it is of a fan-out for the first item, is the first request of its contestant, by
            which a journal knows the choice.
        has_lead: something is; else the choice is known by its path.
        lead_places: which contestants of a race or a fallback have such a request.
    """

    step: Step
    hops: int
    place: int
    is_lead: bool
    has_lead: bool
    lead_places: tuple[int, ...] = ()


class Role(NamedTuple):
    """What nodes that choose make of a step; only told in a plan that has some.

    Attributes:
        is_end: nothing waits for it, so it is wanted for itself.
        serves_choice: it may turn out not to be needed, since a race or a `first` comes after it.
        may_lose: it may be cancelled because that is a race.
        may_be_answered: a fallback that comes after it may have the value, so that what failed stays failed.
        is_excused: whatever waits for it may do without, so its failure alone is no failure of the run.
        needs_fallback: it would not be excused but for a fallback, which answers only failures of some kinds.
        is_excused_apart: what excuses it is, in part, in the items of a fan-out or behind the outcomes of one, where no
            record of a choice tells that the node has failed. So the journal keeps that its failure was answered.
        fans: the fan-outs of the same scope with steps that wait for this one.
        contests: for a step that sends, the choices among what it is for.
    """

    is_end: bool = False
    serves_choice: bool = False
    may_lose: bool = False
    may_be_answered: bool = False
    is_excused: bool = False
    needs_fallback: bool = False
    is_excused_apart: bool = False
    fans: tuple[Step, ...] = ()
    contests: tuple[Contest, ...] = ()

    @property
    def is_optional(self) -> bool:
        """Whether a choice that is on record may be one without it."""
        return self.serves_choice or self.may_be_answered


NO_ROLE = Role()


class Step:
    """A node in a plan.

    Attributes:
        fallback: the same step with the work of its fallback; only the shell looks at it.
        local: the slot of the only argument, if it stands in the same scope; else -1.
        next: the steps of the same scope that wait for this one, last declared first, once for each argument.
        is_watched: steps of inner scopes wait for this one too.
        gathers: which gathers of this scope's fan-out collect this step.
        has_one_work: no fallback and no end of its attempts after some seconds, so that each attempt is the same.
        is_timed: see `Policy`.
        is_called_at_once: an async function that no limit, fallback or choice holds back once its arguments are there.
        is_silent: it stands for something else, so it is neither counted nor reported.
        role: what nodes that choose make of it.
    """

    __slots__ = (
        "_args",
        "fallback",
        "gathers",
        "has_one_work",
        "inner",
        "is_called_at_once",
        "is_pure",
        "is_silent",
        "is_timed",
        "is_watched",
        "kind",
        "local",
        "next",
        "role",
        "slot",
        "spec",
        "work",
    )

    def __init__(self, spec: NodeSpec) -> None:
        self.spec = spec
        self.slot = spec.slot
        self.kind = spec.kind
        self.work = spec.work
        self.is_pure = spec.kind in PURE
        self.is_silent = spec.kind in _SILENT
        self._args: tuple[tuple[int, int], ...] = ()
        self.local = -1
        self.next: tuple[Step, ...] = ()
        self.is_watched = False
        self.gathers: tuple[int, ...] = ()
        self.inner: ScopePlan | None = None
        self.role = NO_ROLE
        self.fallback: Step | None = None
        self.has_one_work = spec.policy.retry.max_elapsed is None
        self.is_timed = spec.policy.is_timed
        self.is_called_at_once = spec.kind is NodeKind.CALL and self.has_one_work and spec.policy.limit is None

    @property
    def args(self) -> tuple[tuple[int, int], ...]:
        """For each argument, how many scopes up it stands, and in which slot."""
        return ((0, self.local),) if self.local >= 0 else self._args

    def link(self, args: list[tuple[int, int]]) -> None:
        """Note where the arguments stand."""
        if len(args) == 1 and args[0][0] == 0:
            self.local = args[0][1]
        else:
            self._args = tuple(args)


class ScopePlan:
    """The steps of a scope.

    Attributes:
        cells: how many arguments each step waits for, if all those of outer scopes are there.
        outer: for each argument from an outer scope: the step, how many scopes up, and which slot.
        gathers: the steps around this scope that collect one of its steps over all items.
        is_windowed: only so many items are unfinished at a time; not where each waits for a gather of all.
        has_ends: some of its nodes, or of those inside, are wanted for themselves.
        first: the steps that wait for nothing, last declared first.
    """

    __slots__ = ("cells", "first", "gathers", "has_ends", "is_windowed", "outer", "size", "spec", "steps")

    def __init__(self, spec: ScopeSpec) -> None:
        self.spec = spec
        self.steps = tuple(Step(node) for node in spec.nodes)
        self.size = len(self.steps)
        self.cells = bytearray(self.size)
        self.outer: tuple[tuple[Step, int, int], ...] = ()
        self.gathers: tuple[Step, ...] = ()
        self.first: tuple[Step, ...] = ()
        self.is_windowed = True
        self.has_ends = False


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
    for step, waiting in following.items():
        step.next = tuple(reversed(waiting))
    for plan in plans.values():
        fed = {step for step, _, _ in plan.outer}  # they start with their item, once what is outside is there
        plan.first = tuple(
            [
                step
                for step in reversed(plan.steps)
                if plan.cells[step.slot] == 0 and step.kind is not NodeKind.ITEM and step not in fed
            ]
        )
    if declaration.has_choices:
        _judge(declaration, plans)
    return plans[declaration.root]


def _judge(declaration: Declaration, plans: dict[ScopeSpec, ScopePlan]) -> None:
    """Find the nodes that others can do without, and those that may lose a race. What waits was declared later."""
    waiting: dict[NodeSpec, list[NodeSpec]] = {}
    for spec in reversed(declaration.order):
        step = plans[spec.scope].steps[spec.slot]
        after = waiting.pop(spec, [])
        scope: ScopeSpec | None = None if after else spec.scope
        while scope is not None and not plans[scope].has_ends:
            plans[scope].has_ends = True
            scope = scope.parent
        steps = [plans[one.scope].steps[one.slot] for one in after]
        inside = dict.fromkeys(one.spec.scope for one in steps if one.kind is not NodeKind.ITEM)
        # Without its items nothing inside of a fan-out answers: what collects them does, or what follows that.
        excusing = steps if step.inner is None else step.inner.gathers
        is_excused = bool(excusing) and all(_excuses(one, spec) for one in excusing)
        step.role = Role(
            is_end=not after,
            serves_choice=any(one.role.serves_choice or one.kind in CHOOSING for one in steps),
            may_lose=any(one.role.may_lose or one.kind is NodeKind.RACE for one in steps),
            may_be_answered=any(one.role.may_be_answered or _is_first_choice(one, spec) for one in steps),
            is_excused=is_excused and not (step.inner is not None and step.inner.has_ends),
            needs_fallback=any(one.role.needs_fallback or _stands_in(one, spec) for one in excusing),
            is_excused_apart=is_excused and any(_is_apart(one, spec) for one in excusing),
            fans=tuple(_fan_in(spec.scope, scope, plans) for scope in inside if scope.depth > spec.scope.depth),
        )
        step.is_called_at_once = False
        for one in waits_for(spec):
            waiting.setdefault(one, []).append(spec)
    contests: dict[NodeSpec, list[Contest]] = {}
    for spec in declaration.order:
        if spec.kind in RECORDED:
            _note_contests(spec, plans, contests)
    for spec, found in contests.items():
        step = plans[spec.scope].steps[spec.slot]
        step.role = step.role._replace(contests=tuple(found))


def _note_contests(
    choice: NodeSpec, plans: dict[ScopeSpec, ScopePlan], contests: dict[NodeSpec, list[Contest]]
) -> None:
    """Note what is sent for the contestants of a choice: for one of them alone, or for several."""
    step = plans[choice.scope].steps[choice.slot]
    scope = choice.scope if choice.of is None else choice.of.scope
    befores = [_before(one, scope) for one in (choice.deps if choice.of is None else (choice.of,))]
    if choice.kind is NodeKind.FALLBACK:
        befores[1] = {choice.deps[1]}  # it waits for the other one's failure, not for its value
    senders = [
        [
            one
            for one in before
            if one.kind in SENDERS and not any(one in other for other in befores if other is not before)
        ]
        for before in befores
    ]
    # Of a contestant that sends in items alone, what the first item sends first; items of a `first` have their own.
    own = senders if choice.of is None else [[one for one in mine if one.scope is scope] for mine in senders]
    leads = [min(mine, key=lambda one: (one.scope.depth, one.slot, one.path), default=None) for mine in own]
    places = () if choice.of else tuple(place for place, lead in enumerate(leads) if lead is not None)
    for place, (mine, lead) in enumerate(zip(senders, leads, strict=True)):
        for one in mine:
            hops = one.scope.depth - choice.scope.depth
            contest = Contest(step, hops, -1 if choice.of else place, one is lead, lead is not None, places)
            contests.setdefault(one, []).append(contest)
    # What several contestants need tells none of them from the others, but is not sent either if another one won.
    for one in dict.fromkeys(one for before in befores for one in before if one.kind in SENDERS):
        if not any(one in mine for mine in senders):
            hops = one.scope.depth - choice.scope.depth
            contest = Contest(step, hops, -1, is_lead=False, has_lead=True, lead_places=places)
            contests.setdefault(one, []).append(contest)


def senders_before(spec: NodeSpec) -> list[NodeSpec]:
    """Find what sends among a node and all that it waits for, in any scope; of very much, what is nearest."""
    found, todo = dict.fromkeys([spec]), [spec]
    for one in todo:
        if len(todo) > _MOST_SENDERS:
            break
        new = [before for before in waits_for(one) if before not in found]
        found.update(dict.fromkeys(new))
        todo += new
    return [one for one in found if one.kind in SENDERS]


def _before(spec: NodeSpec, scope: ScopeSpec) -> set[NodeSpec]:
    """Find a node and all that it waits for, inside a scope, and not behind more than a few other choices."""
    found: set[NodeSpec] = set()
    todo = [(spec, 0)]
    while todo:
        one, depth = todo.pop()
        if one not in found and scope.holds(one.scope):
            found.add(one)
            deeper = depth + (one.kind in CHOOSING)
            if deeper <= _MOST_CHOICES:
                todo += [(before, deeper) for before in waits_for(one)]
    return found


def _excuses(waiting: Step, spec: NodeSpec) -> bool:
    return waiting.kind in CHOOSING or _stands_in(waiting, spec) or waiting.role.is_excused


def _is_apart(waiting: Step, spec: NodeSpec) -> bool:
    is_elsewhere = waiting.kind is NodeKind.SETTLED or not waiting.spec.scope.holds(spec.scope)
    return is_elsewhere or waiting.role.is_excused_apart


def _stands_in(waiting: Step, spec: NodeSpec) -> bool:
    # What follows a fallback is judged by the node that has the value of either: it fails if both did.
    return waiting.kind in STANDING_IN and spec in waiting.spec.deps


def _is_first_choice(waiting: Step, spec: NodeSpec) -> bool:
    return waiting.kind is NodeKind.FALLBACK and waiting.spec.deps[0] is spec


def _fan_in(around: ScopeSpec, scope: ScopeSpec, plans: dict[ScopeSpec, ScopePlan]) -> Step:
    # Seen from the scope around it: the fan-out in which the scope lies, however deep.
    while scope.parent is not None and scope.parent is not around:
        scope = scope.parent
    assert scope.fan is not None
    return plans[around].steps[scope.fan.slot]


def _link(
    step: Step,
    plan: ScopePlan,
    plans: dict[ScopeSpec, ScopePlan],
    following: dict[Step, list[Step]],
    outer: list[tuple[Step, int, int]],
) -> None:
    spec = step.spec
    args: list[tuple[int, int]] = []
    for dep in (*spec.deps, *spec.after):
        hops = spec.scope.depth - dep.scope.depth
        args.append((hops, dep.slot))
        first = plans[dep.scope].steps[dep.slot]
        if hops:
            outer.append((step, hops, dep.slot))
            first.is_watched = True
        else:
            following.setdefault(first, []).append(step)
            plan.cells[step.slot] += 1
    if step.kind in DECIDED:
        plan.cells[step.slot] = OPEN
    del args[len(spec.deps) :]
    if spec.fallback is not None:
        step.fallback = Step(spec)
        step.fallback.kind, step.fallback.work = spec.fallback.kind, spec.fallback.work
        step.has_one_work = step.is_called_at_once = False
    step.link(args)
    if spec.item_scope is not None:
        step.inner = plans[spec.item_scope]
    if spec.of is not None:
        # A gather is woken by the count of its fan-out, so it waits for one thing that never comes by itself.
        plan.cells[step.slot] = 1
        items = plans[spec.of.scope]
        collected = items.steps[spec.of.slot]
        collected.gathers = (*collected.gathers, len(items.gathers))
        items.gathers = (*items.gathers, step)
