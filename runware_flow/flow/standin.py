"""Stand-ins for results that are not known before a run; they record what a builder reads of them.

A builder that only passes such a value on does not notice. One that *asks* it something (is this caption empty? does it
contain "cat"?) gets the answer that the `Recorder` has in its script, so that each way it may go can be tried.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, get_args

import msgspec

from runware_flow.types import Result, attach_item

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ("Anything", "Recorder", "stand_in")

_MOST_WAYS = 8
MADE_UP_ID = "00000000-0000-4000-8000-000000000000"
"""The taskUUID of every stand-in, and the UUID of every medium in one."""


class Recorder:
    """Answers what builders ask of made-up values, and notes what they asked."""

    def __init__(self) -> None:
        self.questions: dict[str, None] = {}
        self._script: list[bool] = []
        self._answers: list[bool] = []

    def decide(self, name: str) -> bool:
        """Answer a question about the value of that name: as the script says, then `True`."""
        self.questions[name] = None
        place = len(self._answers)
        answer = self._script[place] if place < len(self._script) else True
        self._answers.append(answer)
        return answer

    def ways(self, call: Callable[[], Any]) -> Iterator[Any]:
        """Call it once for each series of answers that leads somewhere else, eight times at most.

        Yields:
            what each call returned, or the exception that it raised.
        """
        self._script = []
        for _ in range(_MOST_WAYS):
            self._answers = []
            try:
                value: Any = call()
            except Exception as error:  # noqa: BLE001 - user code, on values that do not exist: whatever it is, it is reported
                value = error
            answers = self._answers
            yield value
            while answers and not answers[-1]:
                answers.pop()
            if not answers:
                return
            self._script = [*answers[:-1], False]


class MadeUpText(str):
    """A text that is not known yet."""

    name: str
    recorder: Recorder

    def __new__(cls, name: str, recorder: Recorder, text: str = "") -> Any:
        made = super().__new__(cls, text or f"<{name}>")
        made.name, made.recorder = name, recorder
        return made

    __hash__ = str.__hash__

    def _again(self, text: str) -> Any:
        return type(self)(self.name, self.recorder, text)

    def __getitem__(self, key: Any) -> Any:
        return self._again(str.__getitem__(self, key))

    def split(self, *args: Any, **keywords: Any) -> Any:
        """Return as many parts as the made-up text has."""
        return [self._again(part) for part in str.split(self, *args, **keywords)]

    def splitlines(self, *args: Any, **keywords: Any) -> Any:
        """Return one line."""
        return [self._again(part) for part in str.splitlines(self, *args, **keywords)]


class Anything(MadeUpText):
    """A value of which not even the type is known: an item of a generator, the value of a function."""

    def __getitem__(self, key: Any) -> Any:
        return Anything(f"{self.name}[{key!r}]", self.recorder) if isinstance(key, str) else super().__getitem__(key)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _member(name, self)

    def __call__(self, *_: Any, **__: Any) -> Any:
        return self


class MadeUpWhole(int):
    """A whole number, or a truth, that is not known yet."""

    name: str
    recorder: Recorder

    __hash__ = int.__hash__


class MadeUpNumber(float):
    """A number that is not known yet."""

    name: str
    recorder: Recorder

    __hash__ = float.__hash__


class MadeUpDict(dict[str, Any]):
    """An object whose members are not known."""

    def __init__(self, name: str, recorder: Recorder) -> None:
        super().__init__()
        self.name, self.recorder = name, recorder

    def __missing__(self, key: str) -> Any:
        return Anything(f"{self.name}[{key!r}]", self.recorder)

    def get(self, key: str, default: Any = None) -> Any:
        """Return a made-up member."""
        return self[key]


def _decide(self: Any, *_: Any, **__: Any) -> bool:
    answer: bool = self.recorder.decide(self.name)
    return answer


def _decide_not(self: Any, *_: Any) -> bool:
    return not _decide(self)


def _same_kind(method: Any) -> Any:
    def again(self: Any, *args: Any, **keywords: Any) -> Any:
        return self._again(method(self, *args, **keywords))

    return again


def _member(name: str, of: Anything) -> Any:
    return Anything(f"{of.name}.{name}", of.recorder)


for _kind in (MadeUpText, MadeUpWhole, MadeUpNumber, MadeUpDict):
    for _name in ("__eq__", "__lt__", "__le__", "__gt__", "__ge__", "__bool__"):
        setattr(_kind, _name, _decide)
    setattr(_kind, "__ne__", _decide_not)  # noqa: B010
for _kind in (MadeUpText, MadeUpDict):
    setattr(_kind, "__contains__", _decide)  # noqa: B010
for _name in ("startswith", "endswith", "isdigit", "isdecimal", "isalpha", "isupper", "islower", "isspace"):
    setattr(MadeUpText, _name, _decide)
for _name in ("lower", "upper", "strip", "lstrip", "rstrip", "title", "capitalize", "casefold", "replace"):
    setattr(MadeUpText, _name, _same_kind(getattr(str, _name)))

for _name in ("title", "count", "index", "format"):  # methods of a text, but of an item more likely its fields
    setattr(Anything, _name, property(partial(_member, _name)))


def stand_in(kind: type[Result], task_type: str, name: str, recorder: Recorder) -> Any:
    """Make a result of that type: its media have addresses, its texts say whose they are, its costs are unknown.

    Args:
        name: its name in a plan that lists what was read of it.
    """
    made: dict[str, Any] = {}
    item: dict[str, str] = {}
    for field, wire_name, make in _fields(kind):
        value = made[field] = make(f"{name}.{field}", recorder)
        if isinstance(value, str):
            item[wire_name] = str.__str__(value)
    made |= {"task_type": task_type, "task_uuid": MADE_UP_ID}
    if task_type == "3dInference":
        made["outputs"] = {"files": [{"url": _address(name, recorder), "uuid": MADE_UP_ID}]}
    return attach_item(kind(**made), msgspec.json.encode(item))


@lru_cache(maxsize=64)
def _fields(kind: type[Result]) -> tuple[tuple[str, str, Callable[[str, Recorder], Any]], ...]:
    """List the fields that a stand-in fills, with their wire names and what makes a value from a name."""
    found: list[tuple[str, str, Callable[[str, Recorder], Any]]] = []
    for field in msgspec.structs.fields(kind):
        make = _maker(field)
        if make is not None:
            found.append((field.name, field.encode_name, make))
    return tuple(found)


def _maker(field: Any) -> Callable[[str, Recorder], Any] | None:
    if field.name.endswith(("_data", "_data_uri")) and not field.name.startswith("structured"):
        return None  # the medium is there as an address
    if field.name.endswith("_url"):
        return _address
    if field.name.endswith("_uuid"):
        return lambda name, recorder: MADE_UP_ID
    kinds = {getattr(kind, "__origin__", kind) for kind in (get_args(field.type) or (field.type,))}
    for wanted, make in _MAKERS:
        if wanted in kinds:
            return make
    return None


def _address(name: str, recorder: Recorder) -> Any:
    return MadeUpText(name, recorder, f"https://plan.invalid/{name.replace('.', '/')}")


def _whole(name: str, recorder: Recorder) -> Any:
    return _named(MadeUpWhole(0), name, recorder)


def _number(name: str, recorder: Recorder) -> Any:
    return _named(MadeUpNumber(0.0), name, recorder)


def _named(value: Any, name: str, recorder: Recorder) -> Any:
    value.name, value.recorder = name, recorder
    return value


_MAKERS: tuple[tuple[Any, Callable[[str, Recorder], Any]], ...] = (
    (str, MadeUpText),
    (bool, _whole),
    (int, _whole),
    (float, _number),
    (dict, MadeUpDict),
    (list, lambda name, recorder: [MadeUpDict(name, recorder)]),
)
