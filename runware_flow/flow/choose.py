"""Declaring what the run chooses: branches, fallbacks, and how many failures a fan-out bears."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from runware_flow.errors import DeclarationError
from runware_flow.flow.checks import check_call, check_task, is_node, snapshot
from runware_flow.graph.declaration import Declaration, Fallback, NodeKind, NodeSpec, Where, waits_for
from runware_flow.types import Task

if TYPE_CHECKING:
    from collections.abc import Callable

    from runware_flow.flow.node import Placeholder

__all__ = ("declare_branch", "read_fallback", "set_fallback", "tolerate_in")


def declare_branch(of: Placeholder, when: Any, then: Any, otherwise: Any, label: str | None, where: Where) -> NodeSpec:
    """Add the decision, the two ways and what brings them together again; returns the last."""
    flow, spec = of.flow, of.spec
    flow.require((of,), where, verb="many" if type(of).__name__ == "Many" else "branch")
    check_call(when, 1, where, verb="branch(when)", may_be_async=False)
    name = label or f"{spec.name}.branch"
    add = flow.declaration.add
    decision = add(NodeKind.PICK, _as_bool(when), (spec,), name=f"{name}.when", where=where)
    ends = [
        _declare_way(of, decision, way, bool(place), f"{name}.{verb}", where)
        for place, verb, way in ((1, "then", then), (0, "otherwise", otherwise))
    ]
    return add(NodeKind.BRANCH, None, (decision, *ends), name=name, where=where)


def _declare_way(of: Placeholder, decision: NodeSpec, way: Any, is_taken_if: bool, name: str, where: Where) -> NodeSpec:
    from runware_flow.flow.node import Node

    flow, declaration = of.flow, of.flow.declaration
    check_call(way, 1, where, verb=f"branch({name.rpartition('.')[2]})", may_be_async=False)
    start = declaration.add(NodeKind.WAY, is_taken_if, (decision,), name=name, where=where)
    since = len(declaration.order)
    end: Any = way(Node[Any](flow, start))
    if type(end) is not Node or end.flow is not flow:
        given = cast("object", end)
        what = repr(given) if is_node(given) else type(given).__name__
        raise DeclarationError(
            f"branch, declared at {where}, got {what} from its way {name!r}: return one node, for many results"
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


def set_fallback(spec: NodeSpec, task: Any, declaration: Declaration, where: Where) -> None:
    """Give a node that is declared already a fixed task to fall back on."""
    told = f"fallback, declared at {where},"
    if not isinstance(task, (Task, Mapping)):
        raise DeclarationError(
            f"{told} takes a task, not {type(task).__name__}: for a builder use then(..., fallback=)"
        )
    if spec.kind not in (NodeKind.TASK, NodeKind.BUILD, NodeKind.CALL):
        raise DeclarationError(f"{told} is for a node that does some work, which {spec.describe()}, does not")
    if spec.fallback is not None:
        raise DeclarationError(f"{told} is the second one of {spec.describe()}: a node has one fallback")
    for later in reversed(declaration.order):
        if later is spec:
            break
        if spec in waits_for(later):
            raise DeclarationError(
                f"{told} comes too late: {later.describe()}, follows {spec.path!r} already; give a node its fallback"
                " first"
            )
    check_task(cast("Task[Any]", task), where, several=spec.keeps_all)
    spec.fallback = Fallback(NodeKind.TASK, snapshot(task))


def tolerate_in(item: NodeSpec, share: object, where: Where) -> None:
    """Note the share of its items that the fan-out of `item` tolerates to fail."""
    if share is None:
        return
    if not isinstance(share, (int, float)) or isinstance(share, bool) or not 0 <= share <= 1:
        raise DeclarationError(f"tolerate= is a share from 0 to 1, not {share!r} (declared at {where})")
    assert item.scope.fan is not None
    item.scope.fan.tolerate = float(share)
