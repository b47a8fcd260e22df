"""The shape of a flow, for drawings of it: boxes with arrows, fan-outs as boxes around others.

A fan-out is drawn around the nodes that are made for each of its items; items themselves are not drawn, and arrows that
lead from one lead from where it came from. Where there are too many nodes to look at, those of one name and kind that
follow the same nodes are drawn as one.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from runware_flow.graph.declaration import NodeKind
from runware_flow.view.request import summarise_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from runware_flow.graph.declaration import Declaration, NodeSpec

__all__ = ("MANY_BOXES", "Box", "Shape", "merged", "shape_of")

MANY_BOXES = 80
"""Above this number, boxes that look alike are drawn as one."""

_ORDINAL = re.compile(r"-\d+$")
_WORDS = {NodeKind.TASK: "task", NodeKind.BUILD: "task", NodeKind.CALL: "function"}


class Box(msgspec.Struct):
    """One thing that is drawn.

    Attributes:
        id: `n0`, `n1`, ... in the order of declaration.
        label: its name.
        kind: `task`, `function`, `fan` for a box around others, else the name of a step that sends nothing.
        detail: what it is, in a few words: its task type and model, as far as the declaration tells.
        inside: the fan-out around it.
        after: what it waits for.
        paths: the declared paths that it stands for; more than one where boxes were merged.
        width: of a fan-out, how many items it has, if that is known.
    """

    id: str
    label: str
    kind: str
    detail: str = ""
    inside: str | None = None
    after: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    width: int | None = None


class Shape(msgspec.Struct):
    """All boxes, each after those it waits for and after the one around it; and which box a declared path is in."""

    boxes: list[Box]

    def by_path(self) -> dict[str, str]:
        """Return the box of each path."""
        return {path: box.id for box in self.boxes for path in box.paths}


def shape_of(declaration: Declaration) -> Shape:
    """Take the shape of a declaration. Consumes no source, calls no builder."""
    ids: dict[NodeSpec, str] = {}
    boxes: list[Box] = []
    for spec in _in_order(declaration):
        if spec.kind is NodeKind.ITEM:
            continue
        ids[spec] = f"n{len(boxes)}"
        before = (spec.of,) if spec.of is not None else spec.deps
        after = [ids[origin] for dep in before for origin in _origins(dep)]
        fan = spec.scope.fan
        boxes.append(
            Box(
                id=ids[spec],
                label=spec.name,
                kind=_WORDS.get(spec.kind, spec.kind.value),
                detail=_detail(spec),
                inside=None if fan is None else ids[fan],
                after=() if spec.kind is NodeKind.FAN else tuple(dict.fromkeys(after)),
                paths=(spec.path,),
                width=_width(spec),
            )
        )
    around = {box.inside for box in boxes}
    boxes = [box for box in boxes if box.kind != "fan" or box.id in around]
    return merged(boxes)


def _in_order(declaration: Declaration) -> Iterable[NodeSpec]:
    """Walk scope by scope, each fan-out followed by its inside, so that what waits comes after what it waits for."""
    late = [spec for spec in declaration.specs() if spec.of is not None]
    seen: set[NodeSpec] = set()
    for spec in declaration.specs():
        if spec.of is None:
            yield from _after_deps(spec, seen)
    for spec in late:
        yield from _after_deps(spec, seen)


def _after_deps(spec: NodeSpec, seen: set[NodeSpec]) -> Iterable[NodeSpec]:
    stack = [spec]
    while stack:
        top = stack[-1]
        fan = top.scope.fan
        before = [*top.deps, *([top.of] if top.of is not None else []), *([fan] if fan is not None else [])]
        waiting = [dep for dep in before if dep not in seen and dep is not top]
        if top in seen:
            stack.pop()
        elif waiting:
            stack.extend(waiting)
        else:
            seen.add(stack.pop())
            yield top


def _origins(spec: NodeSpec) -> Iterable[NodeSpec]:
    """Resolve an item to where it came from."""
    if spec.kind is NodeKind.ITEM and spec.scope.fan is not None:
        for dep in spec.scope.fan.deps:
            yield from _origins(dep)
    else:
        yield spec


def _detail(spec: NodeSpec) -> str:
    if spec.kind is not NodeKind.TASK:
        return "" if spec.kind is NodeKind.BUILD else _WORDS.get(spec.kind, spec.kind.value)
    request = summarise_request(spec.work)
    return " · ".join(part for part in (request.task_type, request.model) if part)


def _width(spec: NodeSpec) -> int | None:
    try:
        return None if spec.source is None else len(spec.source.items)
    except TypeError:
        return None


def merged(boxes: list[Box]) -> Shape:
    """Draw boxes that look alike as one, if there are too many; what counts as alike is widened as far as needed."""
    ways: list[tuple[int, Callable[[Box], Any]]] = [
        (MANY_BOXES, lambda box: (_name(box), box.after)),
        (MANY_BOXES, _name),
        (4 * MANY_BOXES, lambda box: ""),
    ]
    for limit, alike in ways:
        if len(boxes) > limit:
            boxes = _merge(boxes, alike)
    return Shape(boxes)


def _name(box: Box) -> str:
    return _ORDINAL.sub("", box.label)


def _merge(boxes: list[Box], alike: Callable[[Box], Any]) -> list[Box]:
    found: dict[Any, Box] = {}
    into: dict[str, str] = {}
    order: dict[str, int] = {}
    for box in boxes:
        after = tuple(dict.fromkeys(into[name] for name in box.after))
        inside = None if box.inside is None else into[box.inside]
        box = msgspec.structs.replace(box, after=after, inside=inside)
        key = (alike(box), box.kind, inside)
        known = found.get(key)
        if known is None:
            known = found[key] = box
            order[box.id] = len(order)
        else:
            names = _name(known) == _name(box)
            known.label = _name(known) if names else f"{known.kind}s of several names"
            known.paths += box.paths
            known.detail = known.detail if known.detail == box.detail else ""
            known.width = None
            # Of boxes that wait for each other only the way down is drawn.
            before = [name for name in after if order[name] < order[known.id] and name not in known.after]
            known.after = (*known.after, *before)
        into[box.id] = known.id
    return list(found.values())
