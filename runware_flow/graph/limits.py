"""Limits on concurrent requests, and the queue of nodes that wait for permits. A node takes all its permits or none.

A node needs a permit of every limit that its task falls under: its modality, its type, its model, and the one that it
names itself. It gets all of them at once or none, so nodes that need several cannot wait for each other. What is
refused waits in a `Line`; when permits are given back, those that can go now are found in order of arrival, at a cost
that depends on how many different needs there are, not on how many wait.
"""

from __future__ import annotations

from bisect import bisect
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from runware_flow.errors import DeclarationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from runware_flow.graph.plan import ScopePlan

__all__ = (
    "MODALITIES",
    "Limits",
    "Line",
    "Need",
    "Ticket",
    "check_limits",
    "modality_of",
    "read_limits",
    "window_key",
)

T = TypeVar("T")

MODALITIES = ("image", "video", "audio", "text", "3d")
_PREFIXES = ("type:", "model:")

_MAKES = {
    "imageInference": "image",
    "upscale": "image",
    "removeBackground": "image",
    "imageMasking": "image",
    "controlNetPreprocess": "image",
    "vectorize": "image",
    "videoInference": "video",
    "audioInference": "audio",
    "textInference": "text",
    "caption": "text",
    "promptEnhance": "text",
    "3dInference": "3d",
}
"""What a task makes, by its type; an upscaled video is a video. Training and utilities have no modality."""

_SPELT = {name.lower(): name for name in _MAKES}


def modality_of(wire: Mapping[str, Any]) -> str | None:
    """Tell what a task makes: an image, a video, ...; `None` if it is none of the five."""
    made = _MAKES.get(wire["taskType"])
    if made == "image":
        inputs = wire.get("inputs")
        if isinstance(inputs, dict) and "video" in inputs:
            return "video"
    return made


def read_limits(given: Any) -> dict[str, int]:
    """Check what stands in `limits=`, but for its keys that may be names: those are known with the nodes.

    Raises:
        ValueError: one sentence that says what is wrong.
    """
    if not hasattr(given, "items"):
        raise ValueError(f'limits= is a dict such as {{"video": 4}}, not {given!r}')
    limits: dict[str, int] = {}
    for key, value in given.items():
        if not isinstance(key, str) or not key or key in _PREFIXES or (":" in key and not key.startswith(_PREFIXES)):
            raise ValueError(f"{key!r} is not a key of limits=: {_KEYS}")
        meant = _SPELT.get(key.removeprefix("type:").lower()) if key.startswith("type:") else None
        if meant is not None and key != f"type:{meant}":
            raise ValueError(f"{key!r} is not a key of limits=; there is 'type:{meant}'")
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"limits= gives whole numbers from 1, not {value!r} for {key!r}")
        limits[key] = value
    return limits


_KEYS = (
    f"a key is a modality ({', '.join(MODALITIES)}), type:<taskType>, model:<AIR or slug>, or a name that a node gives"
    " with limit="
)


def check_limits(plan: ScopePlan, limits: Mapping[str, int] | None, *, may_be_unused: bool = False) -> None:
    """Check that nodes name only limits that exist and, unless they `may_be_unused`, that each is named by a node.

    Raises:
        DeclarationError: one of them is not.
    """
    names: set[str] = set()
    plans = [plan]
    for scope in plans:
        plans.extend(step.inner for step in scope.steps if step.inner is not None)
        for step in scope.steps:
            name = step.spec.policy.limit
            if name is None:
                continue
            names.add(name)
            if limits is None or name not in limits:
                there = f"there are {', '.join(map(repr, limits))}" if limits else "the flow has none"
                raise DeclarationError(
                    f"{step.spec.describe()}, has limit={name!r}, which is not a key of limits=: {there}"
                )
    if limits is None or may_be_unused:
        return
    for key in limits:
        if key not in MODALITIES and not key.startswith(_PREFIXES) and key not in names:
            raise DeclarationError(f"{key!r} is not a key of limits=: {_KEYS}, and no node gives it")


def window_key(model: str) -> str:
    """Name what a node waits for if its model's send window has no room; no limit has such a key."""
    return f"window:{model}"


class Need:
    """The permits that one kind of node needs, all at once.

    Attributes:
        limits: keys of limits.
        model: the model whose send window is asked too; `None` for a function.
        keys: everything by which a release elsewhere may let it go.
    """

    __slots__ = ("keys", "limits", "model", "waiting")

    def __init__(self, limits: tuple[str, ...], model: str | None = None) -> None:
        self.limits = limits
        self.model = model
        self.keys = limits if model is None else (*limits, window_key(model))
        self.waiting: deque[Ticket[Any]] = deque()

    def __repr__(self) -> str:
        return f"<Need {', '.join(self.keys) or 'nothing'}, {len(self.waiting)} waiting>"


class Ticket(Generic[T]):
    """A place in the queue. `who` is `None` once it was called or left. Waiters with a turn have numbers below 0."""

    __slots__ = ("number", "who")

    def __init__(self, number: int, who: T) -> None:
        self.number = number
        self.who: T | None = who


class Limits:
    """How many permits of each limit are taken."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self.sizes = dict(sizes)
        self.taken = dict.fromkeys(sizes, 0)

    def __repr__(self) -> str:
        return f"<Limits {', '.join(f'{key} {self.taken[key]}/{size}' for key, size in self.sizes.items())}>"

    def keys_of(self, task_type: str | None, model: str | None, modality: str | None, name: str | None) -> Any:
        """Return the limits that hold for a node, as a tuple of keys."""
        candidates = (modality, f"type:{task_type}", f"model:{model}", name)
        return tuple(dict.fromkeys(key for key in candidates if key is not None and key in self.sizes))

    def have_room(self, keys: Iterable[str]) -> bool:
        """Tell whether each of them has a free permit."""
        return all(self.taken[key] < self.sizes[key] for key in keys)

    def take(self, keys: Iterable[str]) -> None:
        """Take a permit of each; the caller has checked `have_room`."""
        for key in keys:
            self.taken[key] += 1

    def give_back(self, keys: Iterable[str]) -> None:
        """Give a permit of each back."""
        for key in keys:
            self.taken[key] -= 1
            assert self.taken[key] >= 0, f"a permit of {key} was given back twice"


_TURNS = 2**62


def _number(ticket: Ticket[Any]) -> int:
    return ticket.number


class Line(Generic[T]):
    """The queue of waiters, by what they need; first come first served among equal needs.

    A waiter whose permits are free passes earlier waiters for others: these would not go any sooner.
    """

    def __init__(self) -> None:
        self._count = 0
        self._by_key: dict[str, dict[Need, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._by_key)

    def add(self, need: Need, who: T, number: int | None = None) -> Ticket[T]:
        """Let a waiter in, at the end or, with a number, before all that have none, in the order of the turns."""
        self._count += 1
        ticket = Ticket(self._count if number is None else number - _TURNS, who)
        if not need.waiting:
            for key in need.keys:
                self._by_key.setdefault(key, {})[need] = None
        if number is None:
            need.waiting.append(ticket)
        else:
            need.waiting.insert(bisect(need.waiting, ticket.number, key=_number), ticket)
        return ticket

    def first_number(self, key: str) -> int | None:
        """The smallest turn of the waiters for `key`; `None` if none of them has one."""
        first = min((need.waiting[0].number for need in self.needs(key)), default=0)
        return first + _TURNS if first < 0 else None

    def count(self, key: str) -> int:
        """How many wait for `key`."""
        return sum(ticket.who is not None for need in self.needs(key) for ticket in need.waiting)

    def call(self, keys: Iterable[str], can_go: Callable[[Need], bool]) -> tuple[Need, T] | None:
        """Take out the first waiter for one of `keys` that can go; `None` if none can."""
        first: Need | None = None
        for key in keys:
            for need in list(self._by_key.get(key, ())):
                if not self._skip_gone(need):
                    continue
                if (first is None or need.waiting[0].number < first.waiting[0].number) and can_go(need):
                    first = need
        if first is None:
            return None
        ticket = first.waiting.popleft()
        who, ticket.who = ticket.who, None
        self._skip_gone(first)
        assert who is not None
        return first, who

    def has(self, need: Need) -> bool:
        """Tell whether a waiter has this need."""
        return bool(need.waiting) and self._skip_gone(need)

    def keys(self) -> list[str]:
        """All keys that are waited for."""
        return list(self._by_key)

    def needs(self, key: str) -> list[Need]:
        """The needs of the waiters for `key`."""
        return [need for need in list(self._by_key.get(key, ())) if self._skip_gone(need)]

    def _skip_gone(self, need: Need) -> bool:
        """Forget those at the head that have left; tell whether any is left."""
        waiting = need.waiting
        while waiting and waiting[0].who is None:
            waiting.popleft()
        if waiting:
            return True
        for key in need.keys:
            needs = self._by_key.get(key, {})
            needs.pop(need, None)
            if not needs:
                self._by_key.pop(key, None)
        return False
