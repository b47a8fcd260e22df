"""Where the boxes of a shape stand: in layers from top to bottom, each below all that it waits for.

The inside of a fan-out is laid out first and then stands as one thing among those around it. An arrow over several
layers passes through free places in those between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from runware_flow.view.shape import Box  # noqa: TC001  # help() reads the annotations of a struct

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runware_flow.view.shape import Shape

__all__ = ("Arrow", "Layout", "Placed", "lay_out")

WIDTH, HEIGHT = 212.0, 62.0
GAP_X, GAP_Y = 26.0, 38.0
PADDING, TITLE = 16.0, 26.0
_LANE = 14.0


class Placed(msgspec.Struct):
    """A box and where it stands, from its left upper corner."""

    box: Box
    x: float
    y: float
    width: float
    height: float


class Arrow(msgspec.Struct):
    """An arrow through points; `crosses` where it leads into or out of a fan-out, past whatever is there."""

    points: list[tuple[float, float]]
    crosses: bool = False


class Layout(msgspec.Struct):
    """Fan-outs come before what is inside them."""

    placed: list[Placed]
    arrows: list[Arrow]
    width: float
    height: float


def lay_out(shape: Shape) -> Layout:
    """Place every box."""
    children: dict[str | None, list[Box]] = {}
    for box in shape.boxes:
        children.setdefault(box.inside, []).append(box)
    by_id = {box.id: box for box in shape.boxes}
    top = _Level(None, children, by_id)
    placed, arrows = top.placed(0.0, 0.0)
    spots = {spot.box.id: spot for spot in placed}
    arrows += [Arrow(_straight(spots[a], spots[b]), crosses=True) for a, b in _crossing(shape.boxes, by_id)]
    return Layout(placed, arrows, top.width, top.height)


def _chain(box: Box, by_id: dict[str, Box]) -> list[str | None]:
    chain: list[str | None] = [box.id]
    while box.inside is not None:
        chain.append(box.inside)
        box = by_id[box.inside]
    return [*chain, None]


def _crossing(boxes: Iterable[Box], by_id: dict[str, Box]) -> list[tuple[str, str]]:
    """Arrows that lead into or out of a fan-out; the others are routed by their level."""
    return [(before, box.id) for box in boxes for before in box.after if by_id[before].inside != box.inside]


def _straight(a: Placed, b: Placed) -> list[tuple[float, float]]:
    return [(a.x + a.width / 2, a.y + a.height), (b.x + b.width / 2, b.y)]


class _Thing:
    """What a level places: a box, a level of its own, or a lane for an arrow that passes."""

    def __init__(self, box: Box | None, inner: _Level | None = None) -> None:
        self.box = box
        self.inner = inner
        self.width = inner.outer_width if inner else WIDTH if box else _LANE
        self.height = inner.outer_height if inner else HEIGHT if box else 0.0
        self.layer = 0
        self.x = self.y = 0.0
        self.above: list[_Thing] = []

    @property
    def middle(self) -> float:
        return self.x + self.width / 2


class _Level:
    def __init__(self, owner: str | None, children: dict[str | None, list[Box]], by_id: dict[str, Box]) -> None:
        self._owner = owner
        boxes = children.get(owner, [])
        self._things = {
            box.id: _Thing(box, _Level(box.id, children, by_id) if box.kind == "fan" else None) for box in boxes
        }
        self._edges = self._find_edges(children, by_id)
        self._paths: list[list[_Thing]] = []
        self._layers = self._assign()
        self._order()
        self.width, self.height = self._measure()

    @property
    def outer_width(self) -> float:
        return self.width + 2 * PADDING

    @property
    def outer_height(self) -> float:
        return self.height + 2 * PADDING + TITLE

    def _find_edges(
        self, children: dict[str | None, list[Box]], by_id: dict[str, Box]
    ) -> list[tuple[_Thing, _Thing, bool]]:
        """Who stands above whom at this level; `True` where an arrow is drawn between just these two."""
        edges: dict[tuple[str, str], bool] = {}
        for box in _all_inside(self._owner, children):
            chain = _chain(box, by_id)
            here = chain[chain.index(self._owner) - 1]
            for before in box.after:
                above = _chain(by_id[before], by_id)
                if self._owner not in above or here is None:
                    continue
                top = above[above.index(self._owner) - 1]
                if top is not None and top != here:
                    is_drawn = top == before and here == box.id
                    edges[top, here] = edges.get((top, here), False) or is_drawn
        return [(self._things[a], self._things[b], is_drawn) for (a, b), is_drawn in edges.items()]

    def _assign(self) -> list[list[_Thing]]:
        waiting = {id(thing): 0 for thing in self._things.values()}
        below: dict[int, list[_Thing]] = {}
        for a, b, _ in self._edges:
            waiting[id(b)] += 1
            below.setdefault(id(a), []).append(b)
        free = [thing for thing in self._things.values() if not waiting[id(thing)]]
        for thing in free:
            for other in below.get(id(thing), []):
                other.layer = max(other.layer, thing.layer + 1)
                waiting[id(other)] -= 1
                if not waiting[id(other)]:
                    free.append(other)
        layers: list[list[_Thing]] = []
        for thing in self._things.values():
            while len(layers) <= thing.layer:
                layers.append([])
            layers[thing.layer].append(thing)
        for a, b, is_drawn in self._edges:
            path = [a]
            for layer in range(a.layer + 1, b.layer):
                lane = _Thing(None)
                lane.layer = layer
                lane.above = [path[-1]]
                layers[layer].append(lane)
                path.append(lane)
            b.above.append(path[-1])
            if is_drawn:
                self._paths.append([*path, b])
        return layers

    def _order(self) -> None:
        """Put what follows one thing beside each other, below it."""
        for layer in self._layers:
            places = {id(thing): place for other in self._layers for place, thing in enumerate(other)}
            layer.sort(
                key=lambda thing: (
                    sum(places[id(above)] for above in thing.above) / len(thing.above) if thing.above else 0.0
                )
            )

    def _measure(self) -> tuple[float, float]:
        widths = [sum(thing.width for thing in layer) + GAP_X * (len(layer) - 1) for layer in self._layers]
        width = max(widths, default=0.0)
        y = 0.0
        for layer, layer_width in zip(self._layers, widths, strict=True):
            x = (width - layer_width) / 2
            tallest = max(thing.height for thing in layer)
            for thing in layer:
                thing.x, thing.y = x, y
                thing.height = thing.height or tallest
                x += thing.width + GAP_X
            y += tallest + GAP_Y
        return width, max(0.0, y - GAP_Y)

    def placed(self, dx: float, dy: float) -> tuple[list[Placed], list[Arrow]]:
        spots: list[Placed] = []
        arrows: list[Arrow] = []
        for thing in self._things.values():
            assert thing.box is not None
            spots.append(Placed(thing.box, thing.x + dx, thing.y + dy, thing.width, thing.height))
            if thing.inner is not None:
                inside = thing.inner.placed(thing.x + dx + PADDING, thing.y + dy + PADDING + TITLE)
                spots += inside[0]
                arrows += inside[1]
        for path in self._paths:
            first, last = path[0], path[-1]
            points = [(first.middle + dx, first.y + first.height + dy)]
            for lane in path[1:-1]:
                points += [(lane.middle + dx, lane.y + dy), (lane.middle + dx, lane.y + lane.height + dy)]
            arrows.append(Arrow([*points, (last.middle + dx, last.y + dy)]))
        return spots, arrows


def _all_inside(owner: str | None, children: dict[str | None, list[Box]]) -> Iterable[Box]:
    for box in children.get(owner, []):
        yield box
        if box.kind == "fan":
            yield from _all_inside(box.id, children)
