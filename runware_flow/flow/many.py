"""`Many`, a typed promise of one result for each item of a fan-out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, Unpack, overload

from runware_flow.errors import DeclarationError
from runware_flow.flow.checks import caller, check_call, is_node
from runware_flow.flow.choose import declare_branch
from runware_flow.flow.node import Node, Placeholder, declare_pick, declare_save
from runware_flow.graph.declaration import NodeKind

if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike
    from pathlib import Path

    from runware_flow.flow.options import PolicyOptions, WireTask, Work
    from runware_flow.graph.declaration import NodeSpec, ScopeSpec
    from runware_flow.graph.outcomes import Outcome
    from runware_flow.types import MediaResult, Result

__all__ = ("Many", "ManyJoin", "is_many")

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
R = TypeVar("R")
S = TypeVar("S")
T_co = TypeVar("T_co", covariant=True)


class Many(Placeholder, Generic[T_co]):
    """One result for each item of a fan-out: `result[many]` is a `list[T_co]` in the order of the items.

    Each item goes through the steps at its own pace: there is no barrier between one step and the next.
    """

    __slots__ = ()

    _instead_of_items: ClassVar[str] = "use many.then for each item, or many.gather() for the list of them"

    @overload
    def then(self, builder: Callable[[T_co], Work[R]], /, **policy: Unpack[PolicyOptions]) -> Many[R]: ...
    @overload
    def then(self, builder: Callable[[T_co], WireTask], /, **policy: Unpack[PolicyOptions]) -> Many[Result]: ...
    @overload
    def then(
        self,
        builder: Callable[[T_co], Work[R]],
        /,
        *,
        fallback: Callable[[T_co], Work[S]],
        **policy: Unpack[PolicyOptions],
    ) -> Many[R | S]: ...
    def then(self, builder: Any, /, *, fallback: Any = None, **policy: Unpack[PolicyOptions]) -> Many[Any]:
        """Add a step that follows for each item; see `Node.then`."""
        where = caller()
        self.flow.require((self,), where, verb="many")
        return Many(self.flow, self.flow.add_call((self.spec,), builder, policy, fallback, where, verb="then"))

    @overload
    def join(self, other: Node[A], /) -> ManyJoin[T_co, A]: ...
    @overload
    def join(self, other: Many[A], /) -> ManyJoin[T_co, A]: ...
    def join(self, other: Any, /) -> Any:
        """Bring a second value to each item: a node's, the same for all, or that of another step of the same items."""
        where = caller()
        if not is_node(other):
            raise DeclarationError(f"join, declared at {where}, takes a node or a Many, not {type(other).__name__}")
        self.flow.require((self, other), where, verb="many")
        scope: ScopeSpec = other.spec.scope
        if scope is not self.spec.scope and (is_many(other) or not scope.holds(self.spec.scope)):
            raise DeclarationError(
                f"join, declared at {where}, pairs {self!r} with {other!r}, which has other items: use gather() on"
                " one of them"
            )
        return ManyJoin[T_co, Any](self, other)

    def pipe(self, subpipeline: Callable[[Node[T_co]], Node[R]], /) -> Many[R]:
        """Put each item through a sub-pipeline.

        Args:
            subpipeline: called once, now, with a node that stands for any one item; the nodes that it declares from
                it are made once for each item. It returns the one whose results are the new `Many`'s.
        """
        where = caller()
        self.flow.require((self,), where, verb="many")
        check_call(subpipeline, 1, where, verb="pipe", may_be_async=False)
        scope = self.spec.scope
        scope.open_count += 1
        try:
            last: object = subpipeline(Node[T_co](self.flow, self.spec))
        finally:
            scope.open_count -= 1
        if type(last) is Node and last.flow is self.flow and last.spec.scope is scope:
            return Many(self.flow, last.spec)
        if isinstance(last, Many):
            raise DeclarationError(
                f"pipe, declared at {where}, got {last!r} from its sub-pipeline: return many.gather()"
            )
        what = repr(last) if is_node(last) else type(last).__name__
        raise DeclarationError(
            f"pipe, declared at {where}, got {what} from its sub-pipeline: return a node that was made from the item"
        )

    def pick(self, function: Callable[[T_co], R], /, *, label: str | None = None) -> Many[R]:
        """Add a pure, synchronous step for each item; see `Node.pick`."""
        where = caller()
        self.flow.require((self,), where, verb="many")
        check_call(function, 1, where, verb="pick", may_be_async=False)
        return Many(self.flow, declare_pick(self.flow, self.spec, function, label, where))

    def save(self: Many[MediaResult], template: str | PathLike[str], /, **policy: Unpack[PolicyOptions]) -> Many[Path]:
        """Add a step that writes each item's medium to a file, see `Node.save`; the template tells the items apart.

        ```python
        paths = art.save("out/{label}-{index:04}")
        ```
        """
        where = caller()
        self.flow.require((self,), where, verb="many")
        return Many(self.flow, declare_save(self.flow, self.spec, template, policy, where))

    def branch(
        self,
        when: Callable[[T_co], bool],
        then: Callable[[Node[T_co]], Node[B]],
        otherwise: Callable[[Node[T_co]], Node[C]],
        /,
        *,
        label: str | None = None,
    ) -> Many[B | C]:
        """Let each item go one of two ways, as its result decides; see `Node.branch`."""
        where = caller()
        self.flow.require((self,), where, verb="many")
        self.spec.scope.open_count += 1
        try:
            return Many(self.flow, declare_branch(self, when, then, otherwise, label, where))
        finally:
            self.spec.scope.open_count -= 1

    def gather(self, *, label: str | None = None) -> Node[list[T_co]]:
        """Wait for this step of all items: the node of the list of their results, in the order of the items.

        It has a result only if every item has one; otherwise it is skipped, as soon as one item fails.
        """
        return Node(self.flow, self._collect(NodeKind.GATHER, label))

    def settled(self, *, label: str | None = None) -> Node[list[Outcome[T_co]]]:
        """Wait for this step of all items: the node of the list of their outcomes, failed and skipped ones included.

        What a failure does to the run is the business of `on_error`: use it with `"continue"`.
        """
        return Node(self.flow, self._collect(NodeKind.SETTLED, label))

    def first(self, count: int, /, *, label: str | None = None) -> Node[list[T_co]]:
        """Wait for the first `count` items of this step that succeed: their results, in the order of completion.

        After that nothing more is pulled or begun for the items, unless something else needs them: another step that
        leads elsewhere, a `gather()`, a `settled()`. What is in flight is collected, since it is paid for; what follows
        the `first` does not wait for that.

        A failed item is no failure of the run as long as nothing else needs it. If fewer than `count` succeed, this
        node fails with `TooFewSucceeded`.
        """
        where = caller()
        if type(count) is not int or count < 1:
            raise DeclarationError(f"first, declared at {where}, takes a whole number from 1, not {count!r}")
        spec = self._collect(NodeKind.FIRST, label)
        spec.work = count
        return Node(self.flow, spec)

    def _collect(self, kind: NodeKind, label: str | None) -> NodeSpec:
        where = caller()
        self.flow.require((self,), where, verb="many")
        name = label or f"{self.spec.name}.{kind.value}"
        return self.flow.declaration.add_gather(kind, self.spec, name=name, where=where)


def is_many(value: object) -> bool:
    """Tell whether `value` is a `Many`; unlike `isinstance`, leaves its type as it was declared."""
    return isinstance(value, Many)


class ManyJoin(Generic[A, B]):
    """Two values of each item that a builder waits for, made by `many.join`."""

    __slots__ = ("_many", "_other")

    def __init__(self, many: Many[A], other: Node[B] | Many[B]) -> None:
        self._many = many
        self._other = other

    @overload
    def then(self, builder: Callable[[A, B], Work[R]], /, **policy: Unpack[PolicyOptions]) -> Many[R]: ...
    @overload
    def then(self, builder: Callable[[A, B], WireTask], /, **policy: Unpack[PolicyOptions]) -> Many[Result]: ...
    @overload
    def then(
        self,
        builder: Callable[[A, B], Work[R]],
        /,
        *,
        fallback: Callable[[A, B], Work[S]],
        **policy: Unpack[PolicyOptions],
    ) -> Many[R | S]: ...
    def then(self, builder: Any, /, *, fallback: Any = None, **policy: Unpack[PolicyOptions]) -> Many[Any]:
        """Add a step for each item; the builder is called with both results."""
        flow = self._many.flow
        specs = (self._many.spec, self._other.spec)
        return Many(flow, flow.add_call(specs, builder, policy, fallback, caller(), verb="then"))
