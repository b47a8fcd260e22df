"""Tasks to bytes: one pass builds the wire dict, puts media in place, and refuses anything else by name.

The wire dict holds plain JSON types alone, so encoding it cannot fail and nothing is encoded silently that was never
meant to be: a struct, a node of a flow, NaN.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from math import isfinite
from os import PathLike, fspath
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard, cast

import msgspec
from msgspec import UNSET, Struct

from runware_flow.errors import RunwareError
from runware_flow.types import Delivery, MediaResult, Result, Task, stand_in_of
from runware_flow.wire.pixels import Pixels, array_problem, is_array, is_pillow_image
from runware_flow.wire.typed_json import schema_of

__all__ = ("LocalMedia", "delivery_of", "encode", "is_mapping", "place", "slots_of", "to_wire")

Keys: TypeAlias = tuple[str | int, ...]

_NEVER_MEDIA = frozenset(
    {
        "deliveryMethod",
        "model",
        "negativePrompt",
        "outputFormat",
        "outputType",
        "positivePrompt",
        "prompt",
        "role",
        "scheduler",
        "systemPrompt",
        "taskType",
        "taskUUID",
        "text",
        "uploadEndpoint",
        "voice",
        "webhookURL",
    }
)
_MEDIA_NAME = re.compile(r"(?:image|video|audio|media|\w+(?:Image|Video|Audio))s?")
_PATH = re.compile(r"(?:~|\.{1,2})?[/\\]|[A-Za-z]:[/\\]|.*[^/\\]\.[A-Za-z0-9]{2,5}$", re.DOTALL)
_NO_PATH = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:|/9j/")  # a scheme, or a JPEG in base64
_LONGEST_PATH = 4096

_ASYNC_BY_DEFAULT = frozenset({"videoInference", "3dInference", "training"})
_ASYNC_FOR_VIDEO = frozenset({"caption", "upscale", "removeBackground"})


class LocalMedia(Struct, frozen=True):
    """A medium that needs IO before it can be sent."""

    path: Keys
    """Where in the wire dict it belongs; see `place`."""
    source: Any
    """A path, the bytes, a picture in memory, or an open file."""


def to_wire(task: Task[Any] | Mapping[str, Any]) -> tuple[dict[str, Any], list[LocalMedia]]:
    """Build the wire dict of a task, and list the local media that belong into it.

    Results given as media become their `reference`; bytes and paths are left out (in a list: `None` keeps their place)
    until `place` puts a reference there. `extra` is merged and wins. Members of nested dicts keep their names. The dict
    is new, down to its leaves.

    Raises:
        RunwareError: code `validation`, with the `parameter` that holds what cannot be sent.
    """
    local: list[LocalMedia] = []
    try:
        if isinstance(task, Task):
            return _from_struct(task, local), local
        if is_mapping(task):
            return _put_all({}, task.items(), (), local), local
    except RecursionError:
        raise _reject((), "is nested too deeply, or holds itself") from None
    raise _reject((), f"is {_name(task)}, not a task or a dict with wire names")


def _from_struct(task: Task[Any], local: list[LocalMedia]) -> dict[str, Any]:
    wire: dict[str, Any] = {"taskType": task.task_type} if task.task_type else {}
    values = msgspec.structs.astuple(task)
    _put_all(wire, [(wire_name, values[place]) for place, wire_name in _plan(type(task))], (), local)
    extra = task.extra
    if extra is not UNSET:
        if not isinstance(cast("object", extra), Mapping):
            raise _reject(("extra",), f"is {_name(extra)}, not a dict with wire names")
        wire.update(_convert_mapping(extra, (), local))
    return wire


@lru_cache(maxsize=1024)
def _plan(task_type: type[Task[Any]]) -> tuple[tuple[int, str], ...]:
    """The fields of a task, by their places, and their wire names; ids first, `extra` left out."""
    fields = task_type.__struct_fields__
    named = [pair for pair in enumerate(task_type.__struct_encode_fields__) if fields[pair[0]] != "extra"]
    return tuple(sorted(named, key=lambda pair: fields[pair[0]] != "task_uuid"))


def _put_all(
    target: dict[str, Any], members: Iterable[tuple[Any, Any]], path: Keys, local: list[LocalMedia]
) -> dict[str, Any]:
    for key, value in members:
        if type(key) is str and _takes_plain_values(key):  # most do, and most values are plain
            if type(value) is int or type(value) is bool or (type(value) is str and value.isascii()):
                target[key] = value
                continue
        elif isinstance(key, str):
            key = _convert_text(key, path)
        else:
            raise _reject(path, f"has the key {key!r}; wire names are strings")
        converted = UNSET if value is UNSET else _convert(value, (*path, key), local)
        if converted is not UNSET:
            target[key] = converted
    return target


def _convert_mapping(mapping: Mapping[Any, Any], path: Keys, local: list[LocalMedia]) -> dict[str, Any]:
    return _put_all({}, mapping.items(), path, local)


def _convert(value: Any, path: Keys, local: list[LocalMedia]) -> Any:
    """Give the JSON form of `value`; `UNSET` for what is not sent, or not yet."""
    if value is None or value is UNSET or isinstance(value, bool):
        return value
    if isinstance(value, str):
        is_file = bool(path) and _looks_like_file(value) and _holds_media(path)
        return _convert_local(Path(value), path, local) if is_file else _convert_text(value, path)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return _convert_float(value, path)
    if hasattr(value, "__runware_node__"):
        raise _reject(
            path,
            "holds a node of a flow, not its result; use node.then(lambda result: ...), or, where it needs the results"
            " of several, flow.then(a, b, lambda a, b: ...)",
        )
    if is_mapping(value):
        return _convert_mapping(value, path, local)
    if _is_local(value):
        return _convert_local(value, path, local)
    if _is_sequence(value):
        elements = [_convert(element, (*path, index), local) for index, element in enumerate(value)]
        return [None if element is UNSET else element for element in elements]
    return _convert_object(value, path, local)


def _convert_float(value: float, path: Keys) -> float:
    if not isfinite(value):
        raise _reject(path, f"is {value}, which JSON cannot carry")
    return float(value)


@lru_cache(maxsize=1024)
def _takes_plain_values(key: str) -> bool:
    return key.isascii() and not _names_medium(key)


@lru_cache(maxsize=1024)
def _names_medium(key: str) -> bool:
    return _MEDIA_NAME.fullmatch(key) is not None


def _holds_media(path: Keys) -> bool:
    """Whether the parameter at this place, or the list around it, takes media."""
    return _names_medium(next((key for key in reversed(path) if isinstance(key, str)), ""))


def _looks_like_file(text: str) -> bool:
    """Tell the path of a local file from a URL, a UUID, a data URI and base64."""
    return len(text) <= _LONGEST_PATH and _PATH.match(text) is not None and _NO_PATH.match(text) is None


def _convert_object(value: Any, path: Keys, local: list[LocalMedia]) -> Any:
    """Give the JSON form of an object of another library, or of a result."""
    if isinstance(value, (type, Struct)):
        return _convert_result(value, path, local)
    if is_pillow_image(value) or hasattr(value, "read"):
        return _convert_local(value, path, local)
    if is_array(value):
        return _convert_array(value, path, local)
    if isinstance(value, Enum):
        return _convert(value.value, path, local)
    if hasattr(value, "urn"):  # a uuid.UUID
        return str(value)
    if hasattr(value, "model_fields_set"):
        return _convert_mapping(_pydantic_members(value), path, local)
    if is_dataclass(value):
        return _convert_mapping({field.name: getattr(value, field.name) for field in fields(value)}, path, local)
    number = _number(value)
    return _convert_result(value, path, local) if number is None else _convert(number, path, local)


def _convert_array(value: Any, path: Keys, local: list[LocalMedia]) -> Any:
    """A scalar or a row of numbers is plain JSON; what has more dimensions is a picture."""
    if value.ndim < 2:
        return _convert(value.tolist(), path, local)
    problem = array_problem(value)
    if problem is not None:
        raise _reject(path, problem)
    return _convert_local(value, path, local)


def _number(value: Any) -> int | float | None:
    kind = cast("Any", type(value))
    if hasattr(kind, "__index__"):
        return int(kind.__index__(value))
    if isinstance(value, Decimal) and value.is_finite() and value == value.to_integral_value():
        return int(value)
    return float(value) if hasattr(kind, "__float__") else None


def _pydantic_members(model: Any) -> dict[str, Any]:
    """The members of a pydantic model that were set, by the names that it gives them in JSON."""
    members: dict[str, Any] = dict(model.model_extra or {})
    declared: Mapping[str, Any] = cast("Any", type(model)).model_fields
    for name, field in declared.items():
        if name in model.model_fields_set:
            members[field.serialization_alias or field.alias or name] = getattr(model, name)
    return members


def _schema_of(kind: Any, path: Keys) -> dict[str, Any]:
    """The JSON schema of a type."""
    try:
        return schema_of(kind)
    except TypeError as error:
        raise _reject(path, f"is {kind!r}, which is neither a JSON schema nor a type that has one: {error}") from None


def is_mapping(value: object) -> TypeGuard[Mapping[Any, Any]]:
    """Tell whether something is a dict, or like one; of dicts, which most are, the abstract class need not be asked."""
    return isinstance(value, (dict, Mapping))


def _is_sequence(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence)


def _is_local(value: object) -> TypeGuard[bytes | PathLike[str]]:
    return isinstance(value, (bytes, bytearray, memoryview, PathLike))


def _is_task(value: object) -> TypeGuard[Task[Any]]:
    return isinstance(value, Task)


def _convert_text(value: str, path: Keys) -> str:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _reject(path, "has a lone surrogate, which UTF-8 cannot carry") from None
    return str.__str__(value)


def _convert_local(value: Any, path: Keys, local: list[LocalMedia]) -> Any:
    _expect_media(value, path)
    source: Any = value
    if _is_local(value):
        source = Path(fspath(value)) if isinstance(value, PathLike) else bytes(value)
    elif is_array(value):
        source = Pixels(value)
    local.append(LocalMedia(path, source))
    return UNSET


def _convert_result(value: Any, path: Keys, local: list[LocalMedia]) -> Any:
    if path[-1:] == ("jsonSchema",):
        return _schema_of(value, path)
    if isinstance(value, MediaResult):
        _expect_media(value, path)
        kept = stand_in_of(value)
        if kept is not None:
            return _convert_local(kept, path, local)
        try:
            return value.reference
        except ValueError as error:
            raise _reject(path, f"cannot be given: {error}") from None
    if _is_task(value):
        raise _reject(path, f"holds {_name(value)}, a task and not its result; make it a node and use node.then")
    if isinstance(value, Result):
        raise _reject(path, f"holds {_name(value)}, which is not a medium; give one of its fields, such as its text")
    raise _reject(path, f"holds {_name(value)}, which cannot be sent")


def _expect_media(value: object, path: Keys) -> None:
    if path and path[-1] in _NEVER_MEDIA:
        raise _reject(path, f"holds {_name(value)}, but takes a plain value, not a medium")


def _reject(path: Keys, problem: str) -> RunwareError:
    parameter = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).removeprefix(".")
    return RunwareError(
        f"{parameter or 'the task'} {problem}",
        code="validation",
        raw_code="invalidParameter",
        parameter=parameter or None,
    )


def _name(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


def place(wire: dict[str, Any], path: Keys, value: Any) -> None:
    """Put `value`, the reference of a local medium, where `to_wire` left it out."""
    holder: Any = wire
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value


encode: Callable[[Mapping[str, Any]], bytes] = msgspec.json.Encoder().encode
"""Encodes one task; the wire dict holds plain JSON types alone."""


def slots_of(wire: Mapping[str, Any]) -> int:
    """How many results a task will have: its `promptVersions` for a prompt's enhancement, else its `numberResults`."""
    name = "promptVersions" if wire.get("taskType") == "promptEnhance" else "numberResults"
    if name not in wire:
        return 1
    count = wire[name]
    if isinstance(count, float) and count.is_integer():
        count = int(count)
    return count if isinstance(count, int) and count > 0 else 1


def delivery_of(wire: Mapping[str, Any]) -> Delivery:
    """How the results will come: `deliveryMethod`, else the service's default for such a task (section 2)."""
    method: object = wire.get("deliveryMethod")
    if method in ("sync", "async", "stream"):
        return method
    task_type, inputs = wire.get("taskType"), wire.get("inputs")
    takes_video = isinstance(inputs, Mapping) and "video" in inputs and task_type in _ASYNC_FOR_VIDEO
    return "async" if takes_video or task_type in _ASYNC_BY_DEFAULT else "sync"
