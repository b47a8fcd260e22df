"""A declared flow: nodes in scopes, as plain data that any number of runs share.

The root scope holds the nodes that are made once. A fan-out (`map`, `each`, `node.map`) is a node of its scope that
owns an *item scope*: the template of the nodes made once for each item. The first node of an item scope is the item
itself. A node belongs to the deepest scope among those of its dependencies, which therefore lie on one line up to the
root; so a node inside an item scope may use nodes of the scopes around it (a broadcast), and the way out is a gather.

Dependencies are given when a node is added, so a cycle cannot be declared through `Flow`; `Declaration.check` finds
one in a declaration made by hand.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import ref

from runware_flow.errors import DeclarationError
from runware_flow.graph.policies import NO_POLICY, Policy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = (
    "Declaration",
    "Fallback",
    "NodeKind",
    "NodeSpec",
    "ScopeSpec",
    "Source",
    "Where",
    "has_method",
    "is_node",
    "waits_for",
)


class NodeKind(enum.Enum):
    """What a node does when its dependencies are there."""

    TASK = "task"  # sends a fixed task
    BUILD = "build"  # calls a builder and sends the task that it returns
    CALL = "call"  # awaits an async function
    PICK = "pick"  # calls a pure function
    ITEM = "item"  # is given: the input of an item scope
    FAN = "fan"  # pulls items and owns their scope; ends when all of them have
    GATHER = "gather"  # the list of one node's values over all items
    SETTLED = "settled"  # the list of one node's outcomes over all items
    FIRST = "first"  # the list of one node's values over the first items that have one
    RACE = "race"  # the value of the first of its nodes that has one
    WAY = "way"  # the node's value on one way of a branch; skipped if the other is taken
    BRANCH = "branch"  # the value at the end of the way that was taken
    UNLESS = "unless"  # lets a fallback begin once the node before it has failed; skipped if that has a value
    FALLBACK = "fallback"  # the value of a node or, if that failed, of its fallback

    __hash__ = object.__hash__  # members are single: Enum's own is a call of Python for each look into a set


SENDS = frozenset({NodeKind.TASK, NodeKind.BUILD})
"""Kinds that send a task to the service."""

SENDERS = SENDS | {NodeKind.CALL}
"""The same, and those that may do so inside a function."""

DECIDED = frozenset({NodeKind.RACE, NodeKind.WAY, NodeKind.BRANCH, NodeKind.UNLESS, NodeKind.FALLBACK})
"""Kinds whose outcome the machine itself finds, whenever one of the nodes before them has settled."""

PURE = frozenset({NodeKind.PICK, NodeKind.GATHER, NodeKind.SETTLED, NodeKind.FIRST}) | DECIDED
"""Kinds that send nothing, and so are still worked out after a run was stopped."""

_UNGUARDED = DECIDED | {NodeKind.ITEM}

RECORDED = (NodeKind.RACE, NodeKind.FIRST, NodeKind.FALLBACK)
"""What they choose is written down in a journal."""

CHOOSING = (NodeKind.RACE, NodeKind.FIRST)
"""Kinds that may do without some of the nodes before them, which are then not needed any more."""

STANDING_IN = (NodeKind.UNLESS, NodeKind.FALLBACK)
"""Kinds that a node and its fallback meet in: the node may fail without this being a failure of the run."""

_OPTIONAL = frozenset({*CHOOSING, *STANDING_IN})


class Where(NamedTuple):
    """The line that declared a node."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Source:
    """Where a fan-out's items come from: something iterable, or a callable that makes it anew for each run."""

    __slots__ = ("is_one_shot", "is_taken", "items", "last_made")

    def __init__(self, items: Any, *, is_one_shot: bool) -> None:
        self.items = items
        self.is_one_shot = is_one_shot
        self.is_taken = False
        self.last_made: Any = None


class Fallback:
    """What a node does in place of its work once that has failed for good."""

    __slots__ = ("kind", "work")

    def __init__(self, kind: NodeKind, work: Any) -> None:
        self.kind = kind
        self.work = work


class NodeSpec:
    """One declared node.

    Attributes:
        slot: its place in its scope.
        work: the task, the builder or the function, by kind.
        deps: the nodes whose values it is called with, in order.
        after: nodes that must have a value too before it begins.
        fallback: what it does once its work has failed for good.
        tolerate: for a fan-out, the share of its items that may fail before the run counts it as failed.
        of: for a gather, the node of the item scope whose values it collects.
        keeps_all: its value is the list of all results of its task, not the one result.
        is_free: nothing that its function does is billed.
        name: its label, or a name made from its work, with an ordinal among equals; `label` is without.
        path: its name below those of the scopes around it; the same in each run of the same declaration.
    """

    __slots__ = (
        "after",
        "deps",
        "fallback",
        "handle",
        "is_free",
        "item_scope",
        "keeps_all",
        "key",
        "kind",
        "label",
        "name",
        "of",
        "path",
        "policy",
        "scope_of",
        "slot",
        "source",
        "tolerate",
        "where",
        "work",
    )

    def __init__(self, scope: ScopeSpec, kind: NodeKind, name: str, where: Where, *, work: Any = None) -> None:
        # Weak, so that a declaration is freed at once when it is not used any more: a batch makes one for each item.
        self.scope_of = ref(scope)
        self.kind = kind
        self.slot = len(scope.nodes)
        self.name = name
        self.label = name
        self.path: str = f"{scope.path}/{name}" if scope.path else name
        self.where = where
        self.work = work
        self.deps: tuple[NodeSpec, ...] = ()
        self.after: tuple[NodeSpec, ...] = ()
        self.fallback: Fallback | None = None
        self.tolerate: float | None = None
        self.policy: Policy = NO_POLICY
        self.keeps_all = False
        self.is_free = False
        self.of: NodeSpec | None = None
        self.source: Source | None = None
        self.key: Callable[[Any], str] | None = None
        self.item_scope: ScopeSpec | None = None
        self.handle: Any = None

    def __repr__(self) -> str:
        return f"<{self.kind.value} {self.path!r} declared at {self.where}>"

    @property
    def scope(self) -> ScopeSpec:
        """The scope that it stands in, which lives as long as its declaration."""
        scope = self.scope_of()
        assert scope is not None
        return scope

    def describe(self) -> str:
        """Name the node in an error: its path and the line that declared it."""
        return f"node {self.path!r}, declared at {self.where}"


class ScopeSpec:
    """The nodes that are made together: once a run, or once an item of `fan`."""

    __slots__ = ("__weakref__", "depth", "fan", "names", "nodes", "open_count", "parent", "path")

    def __init__(self, parent: ScopeSpec | None = None, fan: NodeSpec | None = None) -> None:
        self.parent = parent
        self.fan = fan
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.path: str = "" if fan is None else fan.path
        self.nodes: list[NodeSpec] = []
        self.names: dict[str, int] = {}
        self.open_count = 0

    def holds(self, other: ScopeSpec) -> bool:
        """Tell whether `other` is this scope or one inside it."""
        scope: ScopeSpec | None = other
        while scope is not None and scope.depth > self.depth:
            scope = scope.parent
        return scope is self

    def unique_name(self, wanted: str) -> str:
        """Give `wanted` an ordinal if it is taken here: equal labels are allowed, equal paths are not."""
        count = self.names.get(wanted, 0) + 1
        self.names[wanted] = count
        if count == 1:
            return wanted
        return self.unique_name(f"{wanted}-{count}")


def is_node(value: object) -> bool:
    """Tell whether `value` is a `Node` or a `Many`, whose truth and length must not be asked."""
    return is_node_type(type(value))


def is_node_type(kind: type[object]) -> bool:
    """Tell the same of a type."""
    return getattr(kind, "__runware_node__", False) is True


def has_method(value: object, *names: str) -> bool:
    """Tell whether the type of `value` has one of the methods; a class does not count as one of its instances."""
    return any(hasattr(type(value), name) for name in names)


class Declaration:
    """All nodes of a flow. It only grows; `order` has what was added, in all scopes."""

    __slots__ = ("has_choices", "name", "order", "reference_of", "root", "scopes", "seen")

    def __init__(self, name: str, reference_of: Callable[[Declaration, NodeSpec], Any] = lambda _, spec: spec) -> None:
        """Args: reference_of: makes what the user holds for a node, for errors that name one."""
        self.name = name
        self.reference_of = reference_of
        self.root = ScopeSpec()
        self.scopes = [self.root]
        self.order: list[NodeSpec] = []
        self.has_choices = False
        """Whether some of its nodes can be done without: they serve a race, a `first` or a fallback."""
        self.seen: dict[Where, tuple[Any, tuple[tuple[Any, str, Any], ...]]] = {}
        """For each line that declared a node from a lambda: the code, and the variables that it reads."""

    def add(
        self,
        kind: NodeKind,
        work: Any,
        deps: Sequence[NodeSpec],
        *,
        name: str,
        where: Where,
        policy: Policy = NO_POLICY,
        scope: ScopeSpec | None = None,
    ) -> NodeSpec:
        """Add a node that is called with the values of `deps`.

        Raises:
            DeclarationError: the dependencies belong to scopes that have no item in common.
        """
        found = scope or self.root
        for dep in deps:
            if found.holds(dep.scope):
                found = dep.scope
            elif not dep.scope.holds(found):
                raise DeclarationError(
                    f"{name!r}, declared at {where}, uses {dep.describe()}, which is made once for each item of another"
                    " fan-out: use gather() to bring all items together, or settled()"
                )
        spec = NodeSpec(found, kind, found.unique_name(name), where, work=work)
        spec.label = name
        spec.deps = tuple(deps)
        spec.policy = policy
        self.has_choices = self.has_choices or kind in _OPTIONAL
        found.nodes.append(spec)
        self.order.append(spec)
        return spec

    def add_fan(
        self, source: Source | NodeSpec, *, name: str, where: Where, key: Callable[[Any], str] | None = None
    ) -> NodeSpec:
        """Add a fan-out over a source, or over the value of a node; returns the node that stands for one item."""
        deps = (source,) if isinstance(source, NodeSpec) else ()
        fan = self.add(NodeKind.FAN, None, deps, name=name, where=where)
        fan.source = None if isinstance(source, NodeSpec) else source
        fan.key = key
        fan.item_scope = ScopeSpec(fan.scope, fan)
        self.scopes.append(fan.item_scope)
        return self.add(NodeKind.ITEM, None, (), name="item", where=where, scope=fan.item_scope)

    def add_gather(self, kind: NodeKind, of: NodeSpec, *, name: str, where: Where) -> NodeSpec:
        """Add a node around an item scope that collects one of its nodes over all items."""
        fan = of.scope.fan
        assert fan is not None
        spec = self.add(kind, None, (), name=name, where=where, scope=fan.scope)
        spec.of = of
        return spec

    def add_fallback(self, of: NodeSpec, task: Any, *, name: str, task_name: str, where: Where) -> NodeSpec:
        """Add a node whose value is that of `of` or, if that fails or is skipped because of a failure, of a task."""
        unless = self.add(NodeKind.UNLESS, None, (of,), name=f"{name}.unless", where=where)
        other = self.add(NodeKind.TASK, task, (), name=f"{name}.{task_name}", where=where, scope=of.scope)
        other.after = (unless,)
        return self.add(NodeKind.FALLBACK, None, (of, other), name=name, where=where)

    def guard(self, way: NodeSpec, since: int) -> None:
        """Let what was declared for `way`, from `order[since]` on, and would begin without it, wait for it.

        A sub-pipeline that is one way of a branch may declare nodes that do not use the node it is given, say a fixed
        task. They are not to be bought when the other way is taken. Nodes around the fan-out in which the branch
        stands are left out: they are made once, for all items.
        """
        covered = {way}
        for spec in self.order[since:]:
            if any(one in covered for one in waits_for(spec)):
                covered.add(spec)
            elif spec.of is None and spec.kind not in _UNGUARDED and way.scope.holds(spec.scope):
                spec.after = (*spec.after, way)
                covered.add(spec)

    def specs(self) -> Iterator[NodeSpec]:
        """Iterate over all nodes, scope by scope, in the order of declaration."""
        for scope in self.scopes:
            yield from scope.nodes

    def check(self) -> None:
        """Refuse a declaration that could never finish.

        Raises:
            DeclarationError: there is a cycle; the message names its nodes and the lines that declared them.
        """
        if len(self.scopes) == 1 and all(
            one.slot < spec.slot for spec in self.root.nodes for one in (*spec.deps, *spec.after)
        ):  # as the items of a batch are: each waits for what was declared before it
            return
        stuck = knotted({spec: waits_for(spec) for spec in self.specs()})
        if stuck:
            cycle = _cycle_in(stuck)
            lines = " -> ".join(f"{spec.path!r} (declared at {spec.where})" for spec in [*cycle, cycle[0]])
            raise DeclarationError(f"the nodes of flow {self.name!r} wait for each other: {lines}")

    def two_pass_scopes(self) -> set[ScopeSpec]:
        """Find the item scopes whose items may wait for a gather of all of them, by whatever way.

        The items of such a scope are all unfinished at once, so no window may hold back the last ones.
        """
        if len(self.scopes) == 1:
            return set()
        waits = {spec: waits_for(spec) for spec in self.specs()}
        for gather in waits:
            if gather.of is not None:  # with a window, the last item is pulled only when others have finished
                waits[gather] = [*waits[gather], *_all_inside(gather.of.scope)]
        knot = knotted(waits, both_ways=True)
        return {spec.of.scope for spec in knot if spec.of is not None}


def knotted(waits: dict[NodeSpec, list[NodeSpec]], *, both_ways: bool = False) -> set[NodeSpec]:
    """Find the nodes that wait for each other, and those behind them; with `both_ways`, only those between as well."""
    after: dict[NodeSpec, list[NodeSpec]] = {spec: [] for spec in waits}
    for spec, deps in waits.items():
        for dep in deps:
            after[dep].append(spec)
    left = _without_ends(waits, after)
    if both_ways and left:
        inside = {spec: [other for other in after[spec] if other in left] for spec in left}
        left = _without_ends(inside, {spec: [other for other in waits[spec] if other in left] for spec in left})
    return left


def _without_ends(waits: dict[NodeSpec, list[NodeSpec]], after: dict[NodeSpec, list[NodeSpec]]) -> set[NodeSpec]:
    waiting = {spec: len(deps) for spec, deps in waits.items()}
    free = [spec for spec, count in waiting.items() if count == 0]
    while free:
        for spec in after[free.pop()]:
            waiting[spec] -= 1
            if waiting[spec] == 0:
                free.append(spec)
    return {spec for spec, count in waiting.items() if count > 0}


def _all_inside(scope: ScopeSpec) -> Iterator[NodeSpec]:
    for spec in scope.nodes:
        yield spec
        if spec.item_scope is not None:
            yield from _all_inside(spec.item_scope)


def waits_for(spec: NodeSpec) -> list[NodeSpec]:
    """Return the nodes that must have an outcome before `spec` can have one."""
    nodes = [*spec.deps, *spec.after]
    if spec.kind is NodeKind.ITEM and spec.scope.fan is not None:
        nodes.append(spec.scope.fan)
    if spec.of is not None:
        nodes.append(spec.of)
    return nodes


def _cycle_in(stuck: set[NodeSpec]) -> list[NodeSpec]:
    # Each stuck node has a stuck node before it, so walking backwards must meet its own trail.
    trail: dict[NodeSpec, int] = {}
    spec = min(stuck, key=lambda one: one.path)
    while spec not in trail:
        trail[spec] = len(trail)
        spec = next(dep for dep in waits_for(spec) if dep in stuck)
    return [one for one, place in trail.items() if place >= trail[spec]][::-1]
