"""The base of `Node` and `Many`: references to results that do not exist yet, by which a run is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Generic, NoReturn, TypeVar

from runware_flow.errors import DeclarationError
from runware_flow.tracebacks import bordered

if TYPE_CHECKING:
    from runware_flow.graph.declaration import Declaration, NodeSpec

__all__ = ("ManyReference", "NodeReference", "Placeholder")

T_co = TypeVar("T_co", covariant=True)


@bordered
class Placeholder:
    """The base of `Node` and `Many`: it stands for a value that does not exist yet and cannot be used as that value."""

    __slots__ = ("declaration", "spec")

    __runware_node__: ClassVar[bool] = True
    """How the lower floors recognise a node that was left inside a task."""

    _instead_of_items: ClassVar[str] = "use node.map, or flow.each for a task of many results"

    def __init__(self, declaration: Declaration, spec: NodeSpec) -> None:
        self.declaration = declaration
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
        what = f"{type(self).__name__} {self.spec.path!r} of flow {self.declaration.name!r}"
        return f"<{what}, declared at {self.spec.where}>"

    def _repr_html_(self) -> str:
        from runware_flow.view.notebook import node_html

        return node_html(type(self).__name__, self.declaration.name, self.spec)

    def __bool__(self) -> NoReturn:
        self._refuse("has no truth value before the run; decide inside a builder, which is given the result")

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

        def __getitem__(self, key: object) -> Any:
            read = f"result[{type(self).__name__.lower()}]"
            self._refuse(f"is not its result, so it has no [{key!r}]; a builder is given the result, a run has {read}")

        def __contains__(self, item: object) -> bool:
            self._refuse("holds nothing before the run; use node.then, whose builder is given the result")

        def __len__(self) -> int:
            self._refuse(f"has no length before the run; {self._instead_of_items}")

        def __await__(self) -> Any:
            self._refuse("cannot be awaited; run the flow with `await flow.execute()` and read result[node]")

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_"):  # asked by copy, pickle and notebooks, who know what to do without it
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            if name in ("join", "race"):
                raise AttributeError(
                    f"{type(self).__name__} {self.spec.path!r}, declared at {self.spec.where}, has no {name!r}: use"
                    f" flow.{name}(a, b)"
                )
            raise AttributeError(
                f"{type(self).__name__} {self.spec.path!r}, declared at {self.spec.where}, has no {name!r}; if the"
                " result has it, use node.then, whose builder is given the result"
            )


class NodeReference(Placeholder, Generic[T_co]):
    """A reference to one result: `result[node]` is a `T_co`. `Node` is a subclass."""

    __slots__ = ()


class ManyReference(Placeholder, Generic[T_co]):
    """A reference to one result for each item: `result[many]` is a `list[T_co]`. `Many` is a subclass.

    Attributes:
        levels: how many fan-outs, one inside the other, its items come from: 2 for `many.each`, whose items are the
            results of all items together.
    """

    __slots__ = ("levels",)

    def __init__(self, declaration: Declaration, spec: NodeSpec, levels: int = 1) -> None:
        super().__init__(declaration, spec)
        self.levels = levels

    @property
    def fans(self) -> list[NodeSpec]:
        """The fan-outs that its items come from, outermost first."""
        found: list[NodeSpec] = []
        scope = self.spec.scope
        for _ in range(self.levels):
            assert scope.fan is not None
            found.append(scope.fan)
            scope = scope.fan.scope
        return found[::-1]
