"""`Node`, a typed promise of one result, and `Join`, several nodes on their way to one builder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Generic, NoReturn, TypeVar, TypeVarTuple, Unpack, overload

from runware_flow.errors import DeclarationError
from runware_flow.flow.checks import caller, check_call
from runware_flow.flow.choose import declare_branch, set_fallback
from runware_flow.flow.saving import label_of, make_saver
from runware_flow.graph.declaration import NodeKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from os import PathLike
    from pathlib import Path

    from runware_flow.flow.flow import Flow
    from runware_flow.flow.many import Many
    from runware_flow.flow.options import PolicyOptions, WireTask, Work
    from runware_flow.graph.declaration import NodeSpec, Where
    from runware_flow.types import MediaResult, Result, Task

__all__ = ("Join", "Node")

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
R = TypeVar("R")
S = TypeVar("S")
T_co = TypeVar("T_co", covariant=True)
Ts = TypeVarTuple("Ts")


class Placeholder:
    """What `Node` and `Many` share: they stand for values that do not exist yet, and refuse to be taken for them."""

    __slots__ = ("flow", "spec")

    __runware_node__: ClassVar[bool] = True
    """How the lower floors recognise a node that was left inside a task."""

    _instead_of_items: ClassVar[str] = "use node.map, or flow.each for a task of many results"

    def __init__(self, flow: Flow, spec: NodeSpec) -> None:
        self.flow = flow
        self.spec = spec

    @property
    def label(self) -> str:
        """Its name in errors, events and reports: the label, or one made from its work."""
        return self.spec.name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Placeholder) and type(other) is type(self) and other.spec is self.spec

    def __hash__(self) -> int:
        return hash((type(self), self.spec))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.spec.path!r} of flow {self.flow.name!r}, declared at {self.spec.where}>"

    def _repr_html_(self) -> str:
        from runware_flow.view.notebook import node_html

        return node_html(type(self).__name__, self.flow.name, self.spec)

    def __bool__(self) -> NoReturn:
        self._refuse("has no truth before the run; decide inside a builder, which is given the result")

    def _refuse(self, what: str) -> NoReturn:
        raise DeclarationError(f"{type(self).__name__} {self.spec.path!r}, declared at {self.spec.where}, {what}")

    if not TYPE_CHECKING:  # hidden, so that type checkers reject `await node`, `for x in node` and `len(node)` too

        def __str__(self) -> str:
            self._refuse(
                "is not its result, so it cannot become text; use node.then, whose builder is given the result"
            )

        def __format__(self, format_spec: str) -> str:
            self._refuse("cannot be formatted into a text; use node.then, whose builder is given the result")

        def __iter__(self) -> Any:
            self._refuse(f"cannot be iterated over before the run; {self._instead_of_items}")

        def __contains__(self, item: object) -> bool:
            self._refuse("holds nothing before the run; use node.then, whose builder is given the result")

        def __len__(self) -> int:
            self._refuse(f"has no length before the run; {self._instead_of_items}")

        def __await__(self) -> Any:
            self._refuse("cannot be awaited; run the flow with `await flow.execute()` and read result[node]")

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_"):  # asked by copy, pickle and notebooks, who know what to do without it
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            raise AttributeError(
                f"{type(self).__name__} {self.spec.path!r}, declared at {self.spec.where}, has no {name!r}; if the"
                " result has it, use node.then, whose builder is given the result"
            )


class Node(Placeholder, Generic[T_co]):
    """One step of a flow and, after the run, its key: `result[node]` is a `T_co`.

    Nodes are made by `Flow` and by other nodes. A node is not its result: used as text, as a truth value or inside a
    task it raises a `TypeError` that names it.
    """

    __slots__ = ()

    @overload
    def then(self, builder: Callable[[T_co], Work[R]], /, **policy: Unpack[PolicyOptions]) -> Node[R]: ...
    @overload
    def then(self, builder: Callable[[T_co], WireTask], /, **policy: Unpack[PolicyOptions]) -> Node[Result]: ...
    @overload
    def then(
        self,
        builder: Callable[[T_co], Work[R]],
        /,
        *,
        fallback: Callable[[T_co], Work[S]],
        **policy: Unpack[PolicyOptions],
    ) -> Node[R | S]: ...
    def then(self, builder: Any, /, *, fallback: Any = None, **policy: Unpack[PolicyOptions]) -> Node[Any]:
        """Add a node that follows this one.

        Args:
            builder: called with this node's result; a plain function returns the task to send (and does nothing else,
                since a retry or a plan calls it again), an `async def` does the work itself.
            fallback: called in its place once that has failed for good; see `Flow.then`.
            **policy: see `PolicyOptions`.
        """
        return self.flow.declare_call((self,), builder, policy, fallback, verb="then")

    @overload
    def map(
        self: Node[Iterable[A]],
        builder: Callable[[A], Work[R]],
        /,
        *,
        key: Callable[[A], str] | None = None,
        tolerate: float | None = None,
        **policy: Unpack[PolicyOptions],
    ) -> Many[R]: ...
    @overload
    def map(
        self: Node[Iterable[A]],
        builder: Callable[[A], WireTask],
        /,
        *,
        key: Callable[[A], str] | None = None,
        tolerate: float | None = None,
        **policy: Unpack[PolicyOptions],
    ) -> Many[Result]: ...
    @overload
    def map(
        self: Node[Iterable[A]],
        builder: Callable[[A], Work[R]],
        /,
        *,
        fallback: Callable[[A], Work[S]],
        key: Callable[[A], str] | None = None,
        tolerate: float | None = None,
        **policy: Unpack[PolicyOptions],
    ) -> Many[R | S]: ...
    def map(
        self,
        builder: Any,
        /,
        *,
        fallback: Any = None,
        key: Callable[[Any], str] | None = None,
        tolerate: float | None = None,
        **policy: Unpack[PolicyOptions],
    ) -> Many[Any]:
        """Fan out over this node's result, whose length is known only at run time; see `Flow.map`."""
        self.flow.require((self,), caller())
        return self.flow.declare_map(self.spec, builder, key, tolerate, policy, fallback)

    def pick(self, function: Callable[[T_co], R], /, *, label: str | None = None) -> Node[R]:
        """Add a pure, synchronous step: the new node's result is what `function` makes of this one's."""
        where = caller()
        check_call(function, 1, where, verb="pick", may_be_async=False)
        self.flow.require((self,), where)
        return Node(self.flow, declare_pick(self.flow, self.spec, function, label, where))

    @overload
    def fallback(self, task: Task[B], /) -> Node[T_co | B]: ...
    @overload
    def fallback(self, task: WireTask, /) -> Node[T_co | Result]: ...
    def fallback(self, task: Any, /) -> Node[Any]:
        """Give this node a fixed task to send once it has failed for good, its retries included.

        It is the same node, with the fallback's result if it comes to that; so this goes before anything that follows
        it. **After a timeout of yours it is a second purchase**, see `Flow.then`.

        Raises:
            DeclarationError: it has a fallback already, nodes that follow it, or nothing that could fail.
        """
        where = caller()
        self.flow.require((self,), where, verb="fallback")
        set_fallback(self.spec, task, self.flow.declaration, where)
        return self

    def save(self: Node[MediaResult], template: str | PathLike[str], /, **policy: Unpack[PolicyOptions]) -> Node[Path]:
        """Add a node that writes this one's medium to a file; its result is the file's path.

        The file is written in one piece or not at all, and gets the extension of its content if the template has none.
        A file that is there already is replaced. With a journal, a file that was saved is not fetched again by the next
        run, as long as it is there. Saving needs a place among `concurrency`, is billed nothing, and can be repeated
        with `retry=`.

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
        self.flow.require((self,), where, verb="save")
        return Node(self.flow, declare_save(self.flow, self.spec, template, policy, where))

    def branch(
        self,
        when: Callable[[T_co], bool],
        then: Callable[[Node[T_co]], Node[B]],
        otherwise: Callable[[Node[T_co]], Node[C]],
        /,
        *,
        label: str | None = None,
    ) -> Node[B | C]:
        """Go one of two ways, as this node's result decides.

        The way that is not taken is skipped, which is no failure: nothing of it is sent. Nodes that a way declares
        without using the node it is given belong to it all the same; only those made once for a whole fan-out, by a
        branch inside of it, do not.

        Args:
            when: a pure, synchronous function of the result.
            then, otherwise: sub-pipelines, as for `many.pipe`: each is called once, now, with a node that has this
                node's result on that way, and returns the node whose result is the branch's.
            label: the name of the branch.
        """
        return Node(self.flow, declare_branch(self, when, then, otherwise, label, caller()))


class Join(Generic[*Ts]):
    """Several nodes that a builder waits for, made by `flow.join`."""

    __slots__ = ("_nodes", "flow")

    def __init__(self, flow: Flow, nodes: tuple[Node[Any], ...]) -> None:
        self.flow = flow
        self._nodes = nodes

    @overload
    def then(self, builder: Callable[[Unpack[Ts]], Work[R]], /, **policy: Unpack[PolicyOptions]) -> Node[R]: ...
    @overload
    def then(self, builder: Callable[[Unpack[Ts]], WireTask], /, **policy: Unpack[PolicyOptions]) -> Node[Result]: ...
    @overload
    def then(
        self,
        builder: Callable[[Unpack[Ts]], Work[R]],
        /,
        *,
        fallback: Callable[[Unpack[Ts]], Work[S]],
        **policy: Unpack[PolicyOptions],
    ) -> Node[R | S]: ...
    def then(self, builder: Any, /, *, fallback: Any = None, **policy: Unpack[PolicyOptions]) -> Node[Any]:
        """Add a node that waits for all of them; the builder is called with their results, in order."""
        return self.flow.declare_call(self._nodes, builder, policy, fallback, verb="then")


def declare_save(
    flow: Flow, of: NodeSpec, template: str | PathLike[str], policy: PolicyOptions, where: Where
) -> NodeSpec:
    """Add the node of a `save`, of a node or of each item."""
    saver = make_saver(of, template, where)
    named: PolicyOptions = {"label": f"{label_of(of)}.save", **policy}
    spec = flow.add_call((of,), saver, named, None, where, verb="save")
    spec.is_free = True
    return spec


def declare_pick(flow: Flow, of: NodeSpec, function: Any, label: str | None, where: Where) -> NodeSpec:
    """Add the node of a `pick`, of a node or of each item."""
    name = label or f"{of.name}.pick"
    return flow.declaration.add(NodeKind.PICK, function, (of,), name=name, where=where)
