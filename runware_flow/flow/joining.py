"""`Joining`: how nodes of a flow are declared from others, with a type for each number of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, cast, overload

from runware_flow.errors import DeclarationError
from runware_flow.flow.checks import call_name, caller, check_call, check_task, is_node, read_options, snapshot
from runware_flow.flow.choose import read_fallback, tolerate_in
from runware_flow.flow.many import Many
from runware_flow.flow.node import Join, Node, Placeholder
from runware_flow.graph.declaration import NodeKind
from runware_flow.types import Result, Task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runware_flow.flow.flow import Flow
    from runware_flow.flow.options import PolicyOptions, WireTask, Work
    from runware_flow.graph.declaration import Declaration, NodeSpec, Where

__all__ = ("Joining",)

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")
F = TypeVar("F")
R = TypeVar("R")
S = TypeVar("S")


class Joining:
    """The part of `Flow` that declares nodes from tasks, functions and other nodes."""

    name: str
    declaration: Declaration

    @property
    def _flow(self) -> Flow:
        return cast("Flow", self)

    @overload
    def then(self, task: Task[R], /, **policy: Unpack[PolicyOptions]) -> Node[R]: ...
    @overload
    def then(self, task: WireTask, /, **policy: Unpack[PolicyOptions]) -> Node[Result]: ...
    @overload
    def then(self, function: Callable[[], Work[R]], /, **policy: Unpack[PolicyOptions]) -> Node[R]: ...
    @overload
    def then(self, a: Node[A], builder: Callable[[A], Work[R]], /, **policy: Unpack[PolicyOptions]) -> Node[R]: ...
    @overload
    def then(
        self, a: Node[A], builder: Callable[[A], WireTask], /, **policy: Unpack[PolicyOptions]
    ) -> Node[Result]: ...
    @overload
    def then(
        self, a: Node[A], b: Node[B], builder: Callable[[A, B], Work[R]], /, **policy: Unpack[PolicyOptions]
    ) -> Node[R]: ...
    @overload
    def then(
        self, a: Node[A], b: Node[B], builder: Callable[[A, B], WireTask], /, **policy: Unpack[PolicyOptions]
    ) -> Node[Result]: ...
    @overload
    def then(
        self,
        a: Node[A],
        b: Node[B],
        c: Node[C],
        builder: Callable[[A, B, C], Work[R]],
        /,
        **policy: Unpack[PolicyOptions],
    ) -> Node[R]: ...
    @overload
    def then(
        self,
        a: Node[A],
        b: Node[B],
        c: Node[C],
        d: Node[D],
        builder: Callable[[A, B, C, D], Work[R]],
        /,
        **policy: Unpack[PolicyOptions],
    ) -> Node[R]: ...
    @overload
    def then(
        self,
        a: Node[A],
        b: Node[B],
        c: Node[C],
        d: Node[D],
        e: Node[E],
        builder: Callable[[A, B, C, D, E], Work[R]],
        /,
        **policy: Unpack[PolicyOptions],
    ) -> Node[R]: ...
    @overload
    def then(
        self,
        a: Node[A],
        b: Node[B],
        c: Node[C],
        d: Node[D],
        e: Node[E],
        f: Node[F],
        builder: Callable[[A, B, C, D, E, F], Work[R]],
        /,
        **policy: Unpack[PolicyOptions],
    ) -> Node[R]: ...
    @overload
    def then(
        self, task: Task[R], /, *, fallback: Callable[[], Work[S]], **policy: Unpack[PolicyOptions]
    ) -> Node[R | S]: ...
    @overload
    def then(
        self, function: Callable[[], Work[R]], /, *, fallback: Callable[[], Work[S]], **policy: Unpack[PolicyOptions]
    ) -> Node[R | S]: ...
    @overload
    def then(
        self,
        a: Node[A],
        builder: Callable[[A], Work[R]],
        /,
        *,
        fallback: Callable[[A], Work[S]],
        **policy: Unpack[PolicyOptions],
    ) -> Node[R | S]: ...
    @overload
    def then(
        self,
        a: Node[A],
        b: Node[B],
        builder: Callable[[A, B], Work[R]],
        /,
        *,
        fallback: Callable[[A, B], Work[S]],
        **policy: Unpack[PolicyOptions],
    ) -> Node[R | S]: ...
    @overload
    def then(
        self,
        a: Node[A],
        b: Node[B],
        c: Node[C],
        builder: Callable[[A, B, C], Work[R]],
        /,
        *,
        fallback: Callable[[A, B, C], Work[S]],
        **policy: Unpack[PolicyOptions],
    ) -> Node[R | S]: ...
    @overload
    def then(
        self,
        a: Node[A],
        b: Node[B],
        c: Node[C],
        d: Node[D],
        builder: Callable[[A, B, C, D], Work[R]],
        /,
        *,
        fallback: Callable[[A, B, C, D], Work[S]],
        **policy: Unpack[PolicyOptions],
    ) -> Node[R | S]: ...
    @overload
    def then(
        self,
        a: Node[A],
        b: Node[B],
        c: Node[C],
        d: Node[D],
        e: Node[E],
        builder: Callable[[A, B, C, D, E], Work[R]],
        /,
        *,
        fallback: Callable[[A, B, C, D, E], Work[S]],
        **policy: Unpack[PolicyOptions],
    ) -> Node[R | S]: ...
    @overload
    def then(
        self,
        a: Node[A],
        b: Node[B],
        c: Node[C],
        d: Node[D],
        e: Node[E],
        f: Node[F],
        builder: Callable[[A, B, C, D, E, F], Work[R]],
        /,
        *,
        fallback: Callable[[A, B, C, D, E, F], Work[S]],
        **policy: Unpack[PolicyOptions],
    ) -> Node[R | S]: ...
    def then(self, *given: Any, fallback: Any = None, **policy: Unpack[PolicyOptions]) -> Node[Any]:
        """Add a node.

        `then(task)` sends a fixed task as it is now, a struct or a dict with wire names. `then(a, b, builder)` waits
        for one to six nodes and sends what `builder(result_a, result_b)` returns; with an `async def` in its place,
        awaits that.
        `then(function)` awaits a function without arguments. Dicts as the work of three nodes or more go through
        `join`.

        A task's node has one result: a task of several is declared with `each`.

        Args:
            *given: the nodes, and last the task, the builder or the function.
            fallback: a builder or a function with the same arguments, which has its turn when the work has failed for
                good, its retries included. The node then has the fallback's result. **After a timeout of yours it is a
                second purchase**, since the first may still be made and billed; so it is after a lost connection.
            **policy: see `PolicyOptions`.
        """
        if not given:
            raise DeclarationError(f"then, declared at {caller()}, was given nothing: give it a task or a function")
        *before, work = given
        if not before and isinstance(work, (Task, Mapping)):
            return Node(self._flow, self.add_task(work, policy, caller(), fallback, several=False))
        return self.declare_call(tuple(before), work, policy, fallback, verb="then")

    @overload
    def join(self, a: Node[A], b: Node[B], /) -> Join[A, B]: ...
    @overload
    def join(self, a: Node[A], b: Node[B], c: Node[C], /) -> Join[A, B, C]: ...
    @overload
    def join(self, a: Node[A], b: Node[B], c: Node[C], d: Node[D], /) -> Join[A, B, C, D]: ...
    @overload
    def join(self, a: Node[A], b: Node[B], c: Node[C], d: Node[D], e: Node[E], /) -> Join[A, B, C, D, E]: ...
    @overload
    def join(
        self, a: Node[A], b: Node[B], c: Node[C], d: Node[D], e: Node[E], f: Node[F], /
    ) -> Join[A, B, C, D, E, F]: ...
    def join(self, *nodes: Node[Any]) -> Any:
        """Bring 2 to 6 nodes together: `flow.join(a, b).then(builder)`."""
        where = caller()
        if not 2 <= len(nodes) <= 6:
            raise DeclarationError(f"join, declared at {where}, takes 2 to 6 nodes, not {len(nodes)}")
        self.require(nodes, where, verb="join")
        return Join[Any](self._flow, nodes)

    @overload
    def race(self, a: Node[A], b: Node[B], /, *, label: str | None = None) -> Node[A | B]: ...
    @overload
    def race(self, a: Node[A], b: Node[B], c: Node[C], /, *, label: str | None = None) -> Node[A | B | C]: ...
    @overload
    def race(self, *nodes: Node[R], label: str | None = None) -> Node[R]: ...
    def race(self, *nodes: Node[Any], label: str | None = None) -> Node[Any]:
        """Take the result of whichever node is the first to succeed. Each task in a race is a purchase of its own.

        Once it is decided, what only the race still needed is given up: tasks in flight are cancelled, and so are
        `Abandoned` and may be billed; what has not begun is skipped and costs nothing. A node that something else
        needs as well is left alone.

        The failure of one is no failure of the run if only the race needs it. If all fail, the race fails with
        `TooFewSucceeded`, which names each with its error.
        """
        where = caller()
        if len(nodes) < 2:
            raise DeclarationError(f"race, declared at {where}, takes at least 2 nodes, not {len(nodes)}")
        self.require(nodes, where, verb="race")
        specs = [node.spec for node in nodes]
        return Node(self._flow, self.declaration.add(NodeKind.RACE, None, specs, name=label or "race", where=where))

    # What follows is used by Node and Many; it is no part of the contract.

    def handle_of(self, spec: NodeSpec) -> Node[Any] | Many[Any]:
        """Return the `Node` of a spec, or the `Many` if it is made once for each item."""
        is_one = spec.scope.parent is None and spec.item_scope is None
        return Node(self._flow, spec) if is_one else Many(self._flow, spec)

    def declare_call(
        self, nodes: tuple[Any, ...], work: Any, policy: PolicyOptions, fallback: Any, *, verb: str
    ) -> Node[Any]:
        """Add a node that is called with the results of `nodes`."""
        where = caller()
        if is_node(work):
            raise DeclarationError(f"{verb}, declared at {where}, got nodes only: give a builder as the last argument")
        if len(nodes) > 6:
            raise DeclarationError(
                f"{verb}, declared at {where}, takes up to 6 nodes, not {len(nodes)}: use map and gather"
            )
        self.require(nodes, where, verb=verb)
        specs = [node.spec for node in nodes]
        return Node(self._flow, self.add_call(specs, work, policy, fallback, where, verb=verb))

    def add_call(
        self, deps: Sequence[NodeSpec], work: Any, policy: PolicyOptions, fallback: Any, where: Where, *, verb: str
    ) -> NodeSpec:
        """Add the spec of a builder or an async function."""
        kind = check_call(work, len(deps), where, verb=verb)
        label, checked = read_options(policy, where, kind)
        name = label or call_name(work)
        chosen = read_fallback(fallback, len(deps), where)
        spec = self.declaration.add(kind, work, deps, name=name, where=where, policy=checked)
        spec.fallback = chosen
        return spec

    def declare_map(
        self, source: Any, builder: Any, key: Any, tolerate: float | None, policy: PolicyOptions, fallback: Any
    ) -> Many[Any]:
        """Add a fan-out and the first step of its items."""
        where = caller()
        read_options(policy, where, check_call(builder, 1, where, verb="map"))
        if key is not None:
            check_call(key, 1, where, verb="map(key=)", may_be_async=False)
        name = policy.get("label") or call_name(builder)
        item = self.declaration.add_fan(source, name=name, where=where, key=key)
        tolerate_in(item, tolerate, where)
        return Many(self._flow, self.add_call((item,), builder, policy, fallback, where, verb="map"))

    def add_task(self, task: Any, policy: PolicyOptions, where: Where, fallback: Any, *, several: bool) -> NodeSpec:
        """Add the spec of a fixed task."""
        name = check_task(task, where, several=several)
        label, checked = read_options(policy, where, NodeKind.TASK)
        chosen = read_fallback(fallback, 0, where)
        task = snapshot(task)
        spec = self.declaration.add(NodeKind.TASK, task, (), name=label or name, where=where, policy=checked)
        spec.fallback = chosen
        return spec

    def require(self, nodes: tuple[Any, ...], where: Where, *, verb: str = "then") -> None:
        """Refuse what is no node of this flow, and an item's node outside of the fan-out it belongs to."""
        for node in nodes:
            if not isinstance(node, Placeholder) or (isinstance(node, Many) and verb != "many"):
                what = "use many.then, many.gather() or many.join" if isinstance(node, Many) else "nodes come first"
                raise DeclarationError(f"{verb}, declared at {where}, was given {node!r} where a node belongs: {what}")
            if node.flow is not self:
                raise DeclarationError(f"{verb}, declared at {where}, uses {node!r}, which belongs to another flow")
            scope = node.spec.scope.parent if isinstance(node, Many) else node.spec.scope
            while scope is not None and scope.parent is not None:
                if not scope.open_count:
                    raise DeclarationError(
                        f"{verb}, declared at {where}, uses {node!r}, which is made once for each item, outside of its"
                        " pipe: use gather() to bring all items together"
                    )
                scope = scope.parent
