"""`Node` stands for one future result, `Many` for one of each item; their methods declare the nodes that follow."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, TypeVarTuple, Unpack, cast, overload

from runware_flow.errors import DeclarationError
from runware_flow.flow.checks import (
    call_name,
    caller,
    check_call,
    check_task,
    read_options,
    warn_of_loop_variables,
)
from runware_flow.flow.parsing import make_parser
from runware_flow.flow.saving import label_of, make_saver
from runware_flow.graph.declaration import Declaration, Fallback, NodeKind, NodeSpec, Where, is_node
from runware_flow.graph.outcomes import Ok, Outcome
from runware_flow.runner.reference import ManyReference, NodeReference, Placeholder
from runware_flow.tracebacks import bordered
from runware_flow.types import Task

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from os import PathLike
    from pathlib import Path

    from runware_flow.flow.options import PolicyOptions, WireTask, Work
    from runware_flow.graph.declaration import ScopeSpec
    from runware_flow.types import MediaResult, Result

__all__ = ("Join", "Many", "ManyJoin", "Node")

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
T_co = TypeVar("T_co", covariant=True)
Ts = TypeVarTuple("Ts")

if TYPE_CHECKING:
    from typing import Never

    from typing_extensions import TypeVar as TypeVarWithDefault

    R = TypeVarWithDefault("R", default=Result)
    S = TypeVarWithDefault("S", default=Never)
else:
    R = TypeVar("R")
    S = TypeVar("S")


@bordered
class Node(NodeReference[T_co]):
    """One step of a flow, and the key to its result: after a run, `result[node]` is a `T_co`.

    Methods of `Flow` and of other nodes make nodes. A node is not its result: to use it as a text, as a truth value or
    as an iterable raises a `TypeError` that names it; a task that holds one raises an error that says to use `then`.
    """

    __slots__ = ()

    def then(
        self,
        builder: Callable[[T_co], Work[R]],
        /,
        *,
        fallback: Callable[[T_co], Work[S]] | None = None,
        **policy: Unpack[PolicyOptions],
    ) -> Node[R | S]:
        """Add a node that follows this one.

        Args:
            builder: called with this node's result; a plain function returns the task to send (without side effects,
                because a retry or a plan calls it again), an `async def` does the work itself.
            fallback: called when all attempts have failed; see `Flow.then`.
            **policy: see `PolicyOptions`.
        """
        return declare_call(self.declaration, (self,), builder, policy, fallback)

    @overload
    def map(
        self: Node[Iterable[A]],
        /,
        *,
        key: Callable[[A], str] | None = None,
        tolerate: float | None = None,
        label: str = ...,
    ) -> Many[A]: ...
    @overload
    def map(
        self: Node[Iterable[A]],
        builder: Callable[[A], Work[R]],
        /,
        *,
        fallback: Callable[[A], Work[S]] | None = None,
        key: Callable[[A], str] | None = None,
        tolerate: float | None = None,
        **policy: Unpack[PolicyOptions],
    ) -> Many[R | S]: ...
    def map(
        self,
        *builder: Any,
        fallback: Any = None,
        key: Any = None,
        tolerate: float | None = None,
        **policy: Unpack[PolicyOptions],
    ) -> Many[Any]:
        """Fan out over this node's result, whose length is known only at run time; see `Flow.map`."""
        require(self.declaration, (self,), caller())
        return declare_map(self.declaration, self.spec, builder, key, tolerate, policy, fallback)

    def each(
        self,
        builder: Callable[[T_co], Work[R]],
        /,
        *,
        fallback: Callable[[T_co], Work[S]] | None = None,
        tolerate: float | None = None,
        **policy: Unpack[PolicyOptions],
    ) -> Many[R | S]:
        """Send one task of several results, made from this node's result, and fan out over its results.

        Inside a `pipe` they are the results of that item alone: `n.each(variants).gather().pick(choose)` picks the best
        of each item. Arguments and rules are those of `then` and of `Flow.each`.
        """
        where = caller()
        require(self.declaration, (self,), where, verb="each")
        spec = declare_each(self.declaration, self.spec, builder, tolerate, policy, fallback, where)
        return Many(self.declaration, spec)

    def parse(self, type: type[R], /, *, label: str | None = None) -> Node[R]:  # noqa: A002 - the contract's name
        """Add a node that decodes this one's text, a `TextResult` or a `str`, as JSON.

        A code fence around the JSON is removed.

        Args:
            type: a dataclass, a TypedDict, a msgspec `Struct`, a pydantic model, or what is made of one: `list[Scene]`.
            label: the name of the new node.

        Raises:
            DeclarationError: nothing can decode into the type. At run time, a text that does not fit fails the
                node with a `RunwareFlowError` that shows the text.
        """
        where = caller()
        require(self.declaration, (self,), where, verb="parse")
        return Node(self.declaration, declare_parse(self.declaration, self.spec, type, label, where))

    def pick(self, function: Callable[[T_co], R], /, *, label: str | None = None) -> Node[R]:
        """Add a step whose result is `function(result)`: a plain function that is fast and has no side effects.

        Nothing is sent. An exception in `function` fails the new node.
        """
        where = caller()
        check_call(function, 1, where, verb="pick", may_be_async=False)
        require(self.declaration, (self,), where)
        return Node(self.declaration, declare_pick(self.declaration, (self.spec,), function, label, where))

    @overload
    def fallback(self, task: Task[B], /) -> Node[T_co | B]: ...
    @overload
    def fallback(self, task: WireTask, /) -> Node[T_co | Result]: ...
    def fallback(self, task: Any, /) -> Node[Any]:
        """Add a node whose value is this one's or, if this one failed, a fixed task's.

        The task also answers if this node was skipped because of a failure before it. This node keeps its own outcome.
        A failure is handled if every path from the failed node leads to a fallback, a race or a `first`: it does not
        stop the run, and `tolerate=` does not count it. Declaration, budget and journal errors trigger no fallback.
        **After a timeout of yours it is a second purchase**, see `Flow.then`.

        Raises:
            DeclarationError: `task` is not a task, or is one of several results.
        """
        where = caller()
        require(self.declaration, (self,), where, verb="fallback")
        spec = declare_fallback(self.declaration, self.spec, task, where)
        return Node(self.declaration, spec)

    def save(self: Node[MediaResult], template: str | PathLike[str], /, **policy: Unpack[PolicyOptions]) -> Node[Path]:
        """Add a node that writes this one's medium to a file; its result is the file's path.

        The file is written in one piece or not at all, and gets the extension of its content if the template has none.
        An existing file is replaced. With a journal, the next run does not download a file again that is still there.
        A save counts towards `concurrency`, costs nothing, and can be repeated with `retry=`. A cancel leaves no part
        of a file.

        Args:
            template: a path; `{label}` is this node's name, `{index}` the item's position in its fan-out or batch
                (`{index:04}` with zeros), `{key}` its key, `{uuid}` the result's UUID, `{flow}` the flow's name.
                Missing folders are made.
            **policy: see `PolicyOptions`.

        Raises:
            DeclarationError: the template cannot work, or gives every item the same file. Two nodes that would write
                one file fail when they run.
        """
        where = caller()
        require(self.declaration, (self,), where, verb="save")
        return Node(self.declaration, declare_save(self.declaration, self.spec, template, policy, where))

    def branch(
        self,
        when: Callable[[T_co], bool],
        then: Callable[[Node[T_co]], Node[B]],
        otherwise: Callable[[Node[T_co]], Node[C]],
        /,
        *,
        label: str | None = None,
    ) -> Node[B | C]:
        """Take one of two paths, chosen by this node's result.

        The nodes of the other path are skipped: nothing of it is sent, and this is not a failure. Nodes that a path
        declares without using its argument belong to the path too; only in a branch inside a fan-out do such nodes
        belong to the flow, because they are made once for all items.

        Args:
            when: a pure, synchronous function of the result.
            then, otherwise: sub-pipelines, as for `many.pipe`. Each is called once, during the declaration, with a node
                that has this node's result on that path. The result of the node that it returns is the branch's.
            label: the name of the branch.
        """
        return Node(self.declaration, declare_branch(self, when, then, otherwise, label, caller()))


@bordered
class Join(Generic[*Ts]):
    """Several nodes whose results one builder is given; made by `flow.join`."""

    __slots__ = ("_nodes", "declaration")

    def __init__(self, declaration: Declaration, nodes: tuple[Node[Any], ...]) -> None:
        self.declaration = declaration
        self._nodes = nodes

    def then(
        self,
        builder: Callable[[Unpack[Ts]], Work[R]],
        /,
        *,
        fallback: Callable[[Unpack[Ts]], Work[S]] | None = None,
        **policy: Unpack[PolicyOptions],
    ) -> Node[R | S]:
        """Add a node that follows all of them; the builder is called with their results, in order. See `Node.then`."""
        return declare_call(self.declaration, self._nodes, builder, policy, fallback)

    def pick(self, function: Callable[[Unpack[Ts]], R], /, *, label: str | None = None) -> Node[R]:
        """Add a step whose result is `function(...)` of their results, in order; see `Node.pick`."""
        where = caller()
        check_call(function, len(self._nodes), where, verb="pick", may_be_async=False)
        require(self.declaration, self._nodes, where, verb="pick")
        specs = [node.spec for node in self._nodes]
        return Node(self.declaration, declare_pick(self.declaration, specs, function, label, where))


@bordered
class Many(ManyReference[T_co]):
    """One result for each item of a fan-out: `result[many]` is a `list[T_co]` in the order of the items.

    Items do not wait for each other between one step and the next.
    """

    __slots__ = ()

    _instead_of_items: ClassVar[str] = "use many.then for each item, or many.gather() for the list of them"

    def then(
        self,
        builder: Callable[[T_co], Work[R]],
        /,
        *,
        fallback: Callable[[T_co], Work[S]] | None = None,
        **policy: Unpack[PolicyOptions],
    ) -> Many[R | S]:
        """Add a step that follows for each item; see `Node.then`."""
        where = caller()
        require(self.declaration, (self,), where, verb="many")
        return self._with(add_call(self.declaration, (self.spec,), builder, policy, fallback, where, verb="then"))

    @overload
    def join(self, other: Node[A], /) -> ManyJoin[T_co, A]: ...
    @overload
    def join(self, other: Many[A], /) -> ManyJoin[T_co, A]: ...
    def join(self, other: Any, /) -> Any:
        """Combine each item with a second result: `many.join(other).then(builder)`.

        `other` is a node, whose result is the same for all items, or another step of the same items. For the results of
        a `many.each` it may also be a step before it: then each result is combined with that of the item it came from.
        """
        where = caller()
        if not is_node(other):
            raise DeclarationError(f"join, declared at {where}, takes a node or a Many, not {type(other).__name__}")
        require(self.declaration, (self, other), where, verb="many")
        scope: ScopeSpec = other.spec.scope
        if not scope.holds(self.spec.scope) or (_is_many(other) and other.fans[0] is not self.fans[0]):
            raise DeclarationError(
                f"join, declared at {where}, pairs {self!r} with {other!r}, which has other items: use gather() on"
                " one of them"
            )
        return ManyJoin[T_co, Any](self, other)

    def pipe(self, subpipeline: Callable[[Node[T_co]], Node[R]], /) -> Many[R]:
        """Put each item through a sub-pipeline.

        Args:
            subpipeline: called once, during the declaration, with a node that stands for one item. The nodes that it
                declares from that node are made for each item. The results of the node that it returns are the results
                of the new `Many`.
        """
        where = caller()
        require(self.declaration, (self,), where, verb="many")
        check_call(subpipeline, 1, where, verb="pipe", may_be_async=False)
        with self._opened():
            last: object = subpipeline(Node[T_co](self.declaration, self.spec))
        if type(last) is Node and last.declaration is self.declaration and last.spec.scope is self.spec.scope:
            return self._with(last.spec)
        if isinstance(last, Many):
            raise DeclarationError(
                f"pipe, declared at {where}, got {last!r} from its sub-pipeline: return many.gather()"
            )
        what = repr(last) if is_node(last) else type(last).__name__
        raise DeclarationError(
            f"pipe, declared at {where}, got {what} from its sub-pipeline: return a node that was made from the item"
        )

    def each(
        self,
        builder: Callable[[T_co], Work[R]],
        /,
        *,
        fallback: Callable[[T_co], Work[S]] | None = None,
        tolerate: float | None = None,
        **policy: Unpack[PolicyOptions],
    ) -> Many[R | S]:
        """Send one task of several results for each item, and fan out over the results of all items together.

        `result[many]` and `gather()` have them item by item, in the order of the items. For the best of each item use
        `many.pipe(lambda n: n.each(variants).gather().pick(choose))`. A failed task is one failed item; `tolerate` is
        a share of the results of each item. See `Flow.each`.
        """
        where = caller()
        require(self.declaration, (self,), where, verb="many")
        spec = declare_each(self.declaration, self.spec, builder, tolerate, policy, fallback, where)
        return Many(self.declaration, spec, self.levels + 1)

    def parse(self, type: type[R], /, *, label: str | None = None) -> Many[R]:  # noqa: A002 - the contract's name
        """Add a step that decodes each item's text as JSON; see `Node.parse`.

        A code fence around the JSON is removed.

        Args:
            type: a dataclass, a TypedDict, a msgspec `Struct`, a pydantic model, or what is made of one: `list[Scene]`.
            label: the name of the new node.

        Raises:
            DeclarationError: nothing can decode into the type. At run time, a text that does not fit fails the
                node with a `RunwareFlowError` that shows the text.
        """
        where = caller()
        require(self.declaration, (self,), where, verb="many")
        return self._with(declare_parse(self.declaration, self.spec, type, label, where))

    @overload
    def fallback(self, task: Task[B], /) -> Many[T_co | B]: ...
    @overload
    def fallback(self, task: WireTask, /) -> Many[T_co | Result]: ...
    def fallback(self, task: Any, /) -> Many[Any]:
        """Add a step whose value is this one's or, if this one failed, a fixed task's; see `Node.fallback`."""
        where = caller()
        require(self.declaration, (self,), where, verb="many")
        spec = declare_fallback(self.declaration, self.spec, task, where)
        return self._with(spec)

    def pick(self, function: Callable[[T_co], R], /, *, label: str | None = None) -> Many[R]:
        """Add a step for each item whose result is `function(result)`; see `Node.pick`."""
        where = caller()
        require(self.declaration, (self,), where, verb="many")
        check_call(function, 1, where, verb="pick", may_be_async=False)
        return self._with(declare_pick(self.declaration, (self.spec,), function, label, where))

    def save(self: Many[MediaResult], template: str | PathLike[str], /, **policy: Unpack[PolicyOptions]) -> Many[Path]:
        """Add a step that writes each item's medium to a file, see `Node.save`.

        The template must give each item a file of its own.

        ```python
        paths = art.save("out/{label}-{index:04}")
        ```
        """
        where = caller()
        require(self.declaration, (self,), where, verb="many")
        return self._with(declare_save(self.declaration, self.spec, template, policy, where))

    def branch(
        self,
        when: Callable[[T_co], bool],
        then: Callable[[Node[T_co]], Node[B]],
        otherwise: Callable[[Node[T_co]], Node[C]],
        /,
        *,
        label: str | None = None,
    ) -> Many[B | C]:
        """Take one of two paths for each item, chosen by its result; see `Node.branch`."""
        where = caller()
        require(self.declaration, (self,), where, verb="many")
        with self._opened():
            return self._with(declare_branch(self, when, then, otherwise, label, where))

    def gather(self, *, label: str | None = None) -> Node[list[T_co]]:
        """Add a node whose result is the list of all items' results of this step, in the order of the items.

        If an item fails, the node is skipped at once.
        """
        return Node(self.declaration, self._collect(NodeKind.GATHER, label))

    def settled(self, *, label: str | None = None) -> Node[list[Outcome[T_co]]]:
        """Add a node whose result is the list of all items' outcomes of this step, failed and skipped ones included.

        Use it with `on_error="continue"`, because a failure otherwise stops the run.
        """
        return Node(self.declaration, self._collect(NodeKind.SETTLED, label))

    def first(self, count: int, /, *, label: str | None = None) -> Node[list[T_co]]:
        """Add a node whose result is the list of the first `count` results of this step, in the order of completion.

        Then no item is pulled or begun any more, unless another node needs it, such as a `gather()` or a `settled()`.
        Tasks in flight are collected, because they are billed; the nodes that follow do not wait for them.

        A failed item does not fail the run unless another node needs it. If fewer than `count` succeed, this
        node fails with `TooFewSucceeded`.
        """
        where = caller()
        if type(count) is not int or count < 1:
            raise DeclarationError(f"first, declared at {where}, takes a whole number from 1, not {count!r}")
        spec = self._collect(NodeKind.FIRST, label)
        spec.work = count
        return Node(self.declaration, spec)

    def _collect(self, kind: NodeKind, label: str | None) -> NodeSpec:
        where = caller()
        require(self.declaration, (self,), where, verb="many")
        name = label or f"{self.spec.name}.{kind.value}"
        if self.levels == 1:
            return self.declaration.add_gather(kind, self.spec, name=name, where=where)
        if kind is NodeKind.FIRST:
            raise DeclarationError(
                f"first, declared at {where}, counts items, and {self!r} has the results of several items together: use"
                " first before each, or gather()"
            )
        spec = self.spec
        for _ in range(self.levels):
            spec = self.declaration.add_gather(kind, spec, name=f"{self.spec.name}.{kind.value}", where=where)
        for _ in range(self.levels - 1):
            spec = self.declaration.add(NodeKind.PICK, _FLATTEN[kind], (spec,), name=name, where=where)
        return spec

    def _with(self, spec: NodeSpec) -> Many[Any]:
        return Many(self.declaration, spec, self.levels)

    @contextmanager
    def _opened(self) -> Generator[None]:
        """Let a sub-pipeline use the nodes of the items."""
        scopes = [fan.item_scope for fan in self.fans if fan.item_scope is not None]
        for scope in scopes:
            scope.open_count += 1
        try:
            yield
        finally:
            for scope in scopes:
                scope.open_count -= 1


def _flat_values(values: list[list[Any]]) -> list[Any]:
    return [value for inner in values for value in inner]


def _flat_outcomes(outcomes: list[Outcome[list[Outcome[Any]]]]) -> list[Outcome[Any]]:
    """List the outcomes of inner items in order; an item without inner items is there with its own outcome."""
    flat: list[Outcome[Any]] = []
    for outcome in outcomes:
        if isinstance(outcome, Ok):
            flat.extend(outcome.value)
        else:
            flat.append(outcome)
    return flat


_FLATTEN: dict[NodeKind, Callable[[Any], Any]] = {NodeKind.GATHER: _flat_values, NodeKind.SETTLED: _flat_outcomes}


def _is_many(value: object) -> bool:
    """Tell whether `value` is a `Many`; unlike `isinstance`, leaves its type as it was declared."""
    return isinstance(value, Many)


@bordered
class ManyJoin(Generic[A, B]):
    """Two results of each item that one builder is given; made by `many.join`."""

    __slots__ = ("_many", "_other")

    def __init__(self, many: Many[A], other: Node[B] | Many[B]) -> None:
        self._many = many
        self._other = other

    def then(
        self,
        builder: Callable[[A, B], Work[R]],
        /,
        *,
        fallback: Callable[[A, B], Work[S]] | None = None,
        **policy: Unpack[PolicyOptions],
    ) -> Many[R | S]:
        """Add a step for each item; the builder is called with both results. See `Node.then`."""
        declaration = self._many.declaration
        specs = (self._many.spec, self._other.spec)
        spec = add_call(declaration, specs, builder, policy, fallback, caller(), verb="then")
        return Many(declaration, spec, self._many.levels)

    def pick(self, function: Callable[[A, B], R], /, *, label: str | None = None) -> Many[R]:
        """Add a step for each item whose result is `function(...)` of both results; see `Node.pick`."""
        where = caller()
        check_call(function, 2, where, verb="pick", may_be_async=False)
        declaration = self._many.declaration
        specs = (self._many.spec, self._other.spec)
        return Many(declaration, declare_pick(declaration, specs, function, label, where), self._many.levels)


# What follows adds nodes to a declaration; `Flow`, `Node` and `Many` call it.


def declare_call(
    declaration: Declaration, nodes: tuple[Any, ...], work: Any, policy: PolicyOptions, fallback: Any
) -> Node[Any]:
    """Add a node that is called with the results of `nodes`: what `then` does, of a flow, a node or several nodes."""
    where = caller()
    if is_node(work):
        raise DeclarationError(f"then, declared at {where}, got nodes only: give a builder as the last argument")
    if len(nodes) > 6:
        raise DeclarationError(f"then, declared at {where}, takes up to 6 nodes, not {len(nodes)}: use map and gather")
    require(declaration, nodes, where, verb="then")
    specs = [node.spec for node in nodes]
    return Node(declaration, add_call(declaration, specs, work, policy, fallback, where, verb="then"))


def add_call(
    declaration: Declaration,
    deps: Sequence[NodeSpec],
    work: Any,
    policy: PolicyOptions,
    fallback: Any,
    where: Where,
    *,
    verb: str,
) -> NodeSpec:
    """Add the spec of a builder or an async function."""
    kind = check_call(work, len(deps), where, verb=verb)
    label, checked = read_options(policy, where, kind)
    name = label or call_name(work)
    chosen = read_fallback(fallback, len(deps), where)
    warn_of_loop_variables(declaration, work, where)
    spec = declaration.add(kind, work, deps, name=name, where=where, policy=checked)
    spec.fallback = chosen
    return spec


def declare_map(
    declaration: Declaration,
    source: Any,
    builders: tuple[Any, ...],
    key: Any,
    tolerate: float | None,
    policy: PolicyOptions,
    fallback: Any,
) -> Many[Any]:
    """Add a fan-out and the first step of its items, if `builders` has one."""
    where = caller()
    if key is not None:
        check_call(key, 1, where, verb="map(key=)", may_be_async=False)
    if not builders:
        return _declare_items(declaration, source, key, tolerate, policy, fallback, where)
    builder, *more = builders
    if more:
        raise DeclarationError(f"map, declared at {where}, takes the items and one builder, not {len(builders)}")
    read_options(policy, where, check_call(builder, 1, where, verb="map"))
    name = policy.get("label") or call_name(builder)
    item = declaration.add_fan(source, name=name, where=where, key=key)
    tolerate_in(item, tolerate, where)
    return Many(declaration, add_call(declaration, (item,), builder, policy, fallback, where, verb="map"))


def _declare_items(
    declaration: Declaration,
    source: Any,
    key: Any,
    tolerate: float | None,
    policy: PolicyOptions,
    fallback: Any,
    where: Where,
) -> Many[Any]:
    """Add a fan-out whose items have no step yet: nothing is sent for them, so no policy applies but a label."""
    label, _ = read_options(policy, where, NodeKind.PICK)
    given = [f"{name}=" for name in policy if name != "label"] + ["fallback="] * (fallback is not None)
    if given:
        raise DeclarationError(
            f"map, declared at {where}, has no builder, so {', '.join(given)} has nothing to apply to: give it to the"
            " step that follows"
        )
    item = declaration.add_fan(source, name=label or "item", where=where, key=key)
    tolerate_in(item, tolerate, where)
    return Many(declaration, item)


def add_task(
    declaration: Declaration, task: Any, policy: PolicyOptions, where: Where, fallback: Any, *, several: bool
) -> NodeSpec:
    """Add the spec of a fixed task."""
    name, copied = check_task(task, where, several=several)
    label, checked = read_options(policy, where, NodeKind.TASK)
    chosen = read_fallback(fallback, 0, where)
    spec = declaration.add(NodeKind.TASK, copied, (), name=label or name, where=where, policy=checked)
    spec.fallback = chosen
    return spec


def require(declaration: Declaration, nodes: tuple[Any, ...], where: Where, *, verb: str = "then") -> None:
    """Refuse a value that is not a node of this flow, and an item's node outside the fan-out that it belongs to."""
    for node in nodes:
        if not isinstance(node, Placeholder) or (_is_many(node) and verb != "many"):
            what = "use many.then, many.gather() or many.join" if isinstance(node, Many) else "nodes come first"
            raise DeclarationError(f"{verb}, declared at {where}, was given {node!r} where a node belongs: {what}")
        if node.declaration is not declaration:
            raise DeclarationError(f"{verb}, declared at {where}, uses {node!r}, which belongs to another flow")
        scope: ScopeSpec = node.fans[0].scope if isinstance(node, Many) else node.spec.scope
        while (parent := scope.parent) is not None:
            if not scope.open_count:
                raise DeclarationError(
                    f"{verb}, declared at {where}, uses {node!r}, which is made once for each item, outside of its"
                    " pipe: use gather() to bring all items together"
                )
            scope = parent


def declare_save(
    declaration: Declaration, of: NodeSpec, template: str | PathLike[str], policy: PolicyOptions, where: Where
) -> NodeSpec:
    """Add the node of a `save`, of a node or of each item."""
    saver = make_saver(of, template, where)
    named: PolicyOptions = {"label": f"{label_of(of)}.save", **policy}
    spec = add_call(declaration, (of,), saver, named, None, where, verb="save")
    spec.is_free = True
    return spec


def declare_pick(
    declaration: Declaration, of: Sequence[NodeSpec], function: Any, label: str | None, where: Where
) -> NodeSpec:
    """Add the node of a `pick`, of one or several nodes or of each item."""
    name = label or f"{of[0].name}.pick"
    return declaration.add(NodeKind.PICK, function, of, name=name, where=where)


def declare_branch(of: Placeholder, when: Any, then: Any, otherwise: Any, label: str | None, where: Where) -> NodeSpec:
    """Add the decision, the two paths and the node that joins them; return the last."""
    declaration, spec = of.declaration, of.spec
    require(declaration, (of,), where, verb="many" if _is_many(of) else "branch")
    check_call(when, 1, where, verb="branch(when)", may_be_async=False)
    name = label or f"{spec.name}.branch"
    add = declaration.add
    decision = add(NodeKind.PICK, _as_bool(when), (spec,), name=f"{name}.when", where=where)
    ends = [
        _declare_way(of, decision, way, bool(place), f"{name}.{verb}", where)
        for place, verb, way in ((1, "then", then), (0, "otherwise", otherwise))
    ]
    return add(NodeKind.BRANCH, None, (decision, *ends), name=name, where=where)


def _declare_way(of: Placeholder, decision: NodeSpec, way: Any, is_taken_if: bool, name: str, where: Where) -> NodeSpec:
    declaration = of.declaration
    check_call(way, 1, where, verb=f"branch({name.rpartition('.')[2]})", may_be_async=False)
    start = declaration.add(NodeKind.WAY, is_taken_if, (decision,), name=name, where=where)
    since = len(declaration.order)
    end: Any = way(Node[Any](declaration, start))
    if type(end) is not Node or end.declaration is not declaration:
        given = cast("object", end)
        what = repr(given) if is_node(given) else type(given).__name__
        raise DeclarationError(
            f"branch, declared at {where}, got {what} from its path {name!r}: return one node, for many results"
            " many.gather()"
        )
    declaration.guard(start, since)
    spec: NodeSpec = end.spec
    return spec


def _as_bool(when: Callable[[Any], Any]) -> Callable[[Any], bool]:
    def decide(value: Any) -> Any:
        answer = when(value)
        return answer if inspect.iscoroutine(answer) else bool(answer)  # the former is refused as of any function

    return decide


def read_fallback(work: Any, count: int, where: Where) -> Fallback | None:
    """Check a `fallback=`, which is called with the same results as the work that it stands in for."""
    if work is None:
        return None
    if isinstance(work, (Task, Mapping)):
        raise DeclarationError(
            f"fallback=, declared at {where}, takes a builder with the same arguments as the one it stands in for: wrap"
            " the task in a lambda, or use node.fallback(task)"
        )
    return Fallback(check_call(work, count, where, verb="fallback="), work)


def declare_fallback(declaration: Declaration, of: NodeSpec, task: Any, where: Where) -> NodeSpec:
    """Add a task that stands in for a node, and the node that has the value of either."""
    if not isinstance(task, (Task, Mapping)):
        raise DeclarationError(
            f"fallback, declared at {where}, takes a task, not {type(task).__name__}: for a builder use"
            " then(..., fallback=)"
        )
    if of.kind is NodeKind.ITEM:
        raise DeclarationError(
            f"fallback, declared at {where}, is for a node that does some work, which {of.describe()}, does not: give"
            " the fallback to the step before it, as in each(..., fallback=)"
        )
    task_name, copied = check_task(cast("Task[Any]", task), where, several=False)
    return declaration.add_fallback(of, copied, name=f"{of.name}.fallback", task_name=task_name, where=where)


def declare_each(
    declaration: Declaration,
    of: NodeSpec,
    builder: Any,
    tolerate: float | None,
    policy: PolicyOptions,
    fallback: Any,
    where: Where,
) -> NodeSpec:
    """Add a builder of a task of several results, and the fan-out over them; returns the node of one result."""
    spec = add_call(declaration, (of,), builder, policy, fallback, where, verb="each")
    if spec.kind is NodeKind.CALL:
        raise DeclarationError(
            f"each, declared at {where}, takes a builder of a task, not the async function {call_name(builder)!r}: use"
            " then(...).map for a list that a function returns"
        )
    spec.keeps_all = True
    item = declaration.add_fan(spec, name=f"{spec.name}.each", where=where)
    tolerate_in(item, tolerate, where)
    return item


def declare_parse(declaration: Declaration, of: NodeSpec, type: Any, label: str | None, where: Where) -> NodeSpec:  # noqa: A002
    """Add the node of a `parse`, of a node or of each item."""
    try:
        parse = make_parser(type)
    except TypeError as error:
        raise DeclarationError(f"parse, declared at {where}, cannot decode into {type!r}: {error}") from None
    return declaration.add(NodeKind.PICK, parse, (of,), name=label or f"{of.name}.parse", where=where)


def tolerate_in(item: NodeSpec, share: object, where: Where) -> None:
    """Note the share of its items that the fan-out of `item` tolerates to fail."""
    if share is None:
        return
    if not isinstance(share, (int, float)) or isinstance(share, bool) or not 0 <= share <= 1:
        raise DeclarationError(f"tolerate= is a share from 0 to 1, not {share!r} (declared at {where})")
    assert item.scope.fan is not None
    item.scope.fan.tolerate = float(share)
