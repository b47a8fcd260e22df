"""Places the boxes of a shape: in layers from top to bottom, each box below all that it waits for.

The inside of a fan-out is laid out first and then stands as one thing among those around it. An arrow passes through
lanes: free places that are kept for it in each layer between its ends. An arrow into a fan-out has lanes from the top
of its inside, an arrow out of one to the bottom, so no arrow lies over a box, unless two fan-outs wait for each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from runware_flow.view.shape import Box  # noqa: TC001  # help() reads the annotations of a struct

if TYPE_CHECKING:
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
    """An arrow through points."""

    points: list[tuple[float, float]]


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
    return Layout(placed, arrows, top.width, top.height)


def _chain(box: Box, by_id: dict[str, Box]) -> list[str | None]:
    """The box, the fan-outs around it from the inside out, and `None` for the flow."""
    chain: list[str | None] = [box.id]
    while box.inside is not None:
        chain.append(box.inside)
        box = by_id[box.inside]
    return [*chain, None]


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


class _Route(NamedTuple):
    """The part of an arrow at one level: between two things, from the top to a thing, or from a thing to the bottom."""

    start: str | None
    end: str | None


class _Level:
    def __init__(self, owner: str | None, children: dict[str | None, list[Box]], by_id: dict[str, Box]) -> None:
        self._owner = owner
        boxes = children.get(owner, [])
        self._things = {
            box.id: _Thing(box, _Level(box.id, children, by_id) if box.kind == "fan" else None) for box in boxes
        }
        self._ends: dict[tuple[str, str], _Route] = {}
        self._find_routes(by_id)
        self._layers = self._assign()
        self._lanes = {route: self._make_lanes(route) for route in dict.fromkeys(self._ends.values())}
        self._order()
        self._bottoms: list[float] = []
        self.width, self.height = self._measure()

    @property
    def outer_width(self) -> float:
        return self.width + 2 * PADDING

    @property
    def outer_height(self) -> float:
        return self.height + 2 * PADDING + TITLE

    def _find_routes(self, by_id: dict[str, Box]) -> None:
        """Which part of each arrow is at this level."""
        for box in by_id.values():
            for before in box.after:
                above, below = _chain(by_id[before], by_id), _chain(box, by_id)
                start = above[above.index(self._owner) - 1] if self._owner in above[1:] else None
                end = below[below.index(self._owner) - 1] if self._owner in below[1:] else None
                if start != end:
                    self._ends[before, box.id] = _Route(start, end)

    def _assign(self) -> list[list[_Thing]]:
        waiting = dict.fromkeys(self._things, 0)
        below: dict[str, list[str]] = {}
        for start, end in dict.fromkeys(self._ends.values()):
            if start is not None and end is not None:
                waiting[end] += 1
                below.setdefault(start, []).append(end)
        free = [name for name, count in waiting.items() if not count]
        for name in free:
            for other in below.get(name, []):
                self._things[other].layer = max(self._things[other].layer, self._things[name].layer + 1)
                waiting[other] -= 1
                if not waiting[other]:
                    free.append(other)
        layers: list[list[_Thing]] = [[] for _ in range(1 + max((t.layer for t in self._things.values()), default=-1))]
        for thing in self._things.values():
            layers[thing.layer].append(thing)
        return layers

    def _make_lanes(self, route: _Route) -> list[_Thing]:
        """One lane in each layer between the ends of a route; arrows with the same ends here share them."""
        last = None if route.start is None else self._things[route.start]
        target = None if route.end is None else self._things[route.end]
        lanes: list[_Thing] = []
        for layer in range(
            0 if last is None else last.layer + 1, len(self._layers) if target is None else target.layer
        ):
            lane = _Thing(None)
            lane.layer = layer
            lane.above = [] if last is None else [last]
            self._layers[layer].append(lane)
            lanes.append(lane)
            last = lane
        if target is not None and last is not None:
            target.above.append(last)
        return lanes

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
            self._bottoms.append(y + tallest)
            y += tallest + GAP_Y
        return width, max(0.0, y - GAP_Y)

    def placed(self, dx: float, dy: float) -> tuple[list[Placed], list[Arrow]]:
        """All boxes, and the arrows of this level and those inside it, moved by so much."""
        spots: list[Placed] = []
        arrows: list[Arrow] = []
        for thing in self._things.values():
            assert thing.box is not None
            spots.append(Placed(thing.box, thing.x + dx, thing.y + dy, thing.width, thing.height))
            if thing.inner is not None:
                inside = thing.inner.placed(*_origin(thing, dx, dy))
                spots += inside[0]
                arrows += inside[1]
        for (before, after), route in self._ends.items():
            if route.start is not None and route.end is not None:
                arrows.append(Arrow(self._points(before, after, dx, dy)))
        return spots, arrows

    def _points(self, before: str, after: str, dx: float, dy: float) -> list[tuple[float, float]]:
        """The part of an arrow that is at this level or deeper in it."""
        route = self._ends[before, after]
        points: list[tuple[float, float]] = []
        if route.start is not None:
            start = self._things[route.start]
            if start.inner is not None and route.start != before:
                points += start.inner._points(before, after, *_origin(start, dx, dy))
            else:
                points.append((start.middle + dx, start.y + start.height + dy))
            # Straight down to the end of the layer, past what is taller in it, before it turns aside.
            points.append((points[-1][0], self._bottoms[start.layer] + dy))
        for lane in self._lanes[route]:
            points += [(lane.middle + dx, lane.y + dy), (lane.middle + dx, self._bottoms[lane.layer] + dy)]
        if route.end is not None:
            end = self._things[route.end]
            if end.inner is not None and route.end != after:
                inside = end.inner._points(before, after, *_origin(end, dx, dy))
                points += [(inside[0][0], end.y + dy), *inside]
            else:
                points.append((end.middle + dx, end.y + dy))
        return points


def _origin(thing: _Thing, dx: float, dy: float) -> tuple[float, float]:
    """Where the inside of a fan-out begins."""
    return thing.x + dx + PADDING, thing.y + dy + PADDING + TITLE
