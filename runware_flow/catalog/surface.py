"""The parameters of a task type: the union over every model, architecture and operation in the catalog.

The generator turns it into structs, and `runware-flow models show` lists it. Facts about a parameter (bounds, default,
note, source) come from `limits.json`, its types and its allowed values from the schemas as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = (
    "Parameter",
    "members_of",
    "narrow_surface",
    "operation_surface",
    "parameter_from_limits",
    "surface",
    "task_surface",
)

_IDS = frozenset({"taskType", "taskUUID"})
_VIDEO_FORMATS = frozenset({"MP4", "WEBM", "MOV"})


class Parameter(Struct, kw_only=True):
    """One parameter, as the union of everything that is known about it."""

    name: str
    types: set[str] = msgspec.field(default_factory=set[str])
    """JSON types, and `media`; an array of objects is `array`, one of texts `strings`."""
    values: list[Any] = msgspec.field(default_factory=list[Any])
    """The values known to be allowed, those of the limits first; a hint, since models differ."""
    is_required: bool = False
    facts: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    """The entry in `limits.json`; empty if there is none."""
    taken_by: int = 0
    """How many of the models take it."""


def task_surface(task_type: str, schemas: Mapping[str, Any], limits: Mapping[str, Any]) -> list[Parameter]:
    """The union over every schema in the catalog whose `taskType` is `task_type`."""
    models = [schema for schema in schemas["modelParams"].values() if _task_type(schema) == task_type]
    groups = (schemas["architectureParams"], schemas["kindParams"], schemas["utilityParams"])
    others = [schema for group in groups for schema in group.values() if _task_type(schema) == task_type]
    return surface(models, others, limits.get(task_type, {}))


def operation_surface(
    operation: str, task_type: str, schemas: Mapping[str, Any], limits: Mapping[str, Any]
) -> list[Parameter]:
    """The union over the models of one operation, and over the operation's own entry.

    The catalog does not say which models belong to `upscale-video` rather than `upscale-image`; what they put out does.
    Operations on videos are delivered as `async` only (protocol facts, section 2).
    """
    models = [schema for schema in schemas["modelParams"].values() if _task_type(schema) == task_type]
    medium = operation.rpartition("-")[2]
    if medium in ("image", "video"):
        models = [schema for schema in models if _makes_video(schema) == (medium == "video")]
    facts = dict(limits.get(task_type, {}))
    if medium == "video":
        facts["deliveryMethod"] = {**facts["deliveryMethod"], "enum": ["async"], "default": "async"}
    return narrow_surface(models, [schemas["kindParams"][operation]], facts)


def narrow_surface(
    models: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]], limits: Mapping[str, Any]
) -> list[Parameter]:
    """Unite schemas as `surface` does, without the parameters and the values that only the limits know."""
    named = {name for schema in (*models, *others) for name in schema["properties"]}
    known = {name: facts for name, facts in limits.items() if name in named}
    parameters = surface(models, others, known)
    for parameter in parameters:
        allowed = _values(schema["properties"].get(parameter.name, {}) for schema in (*models, *others))
        if allowed:
            parameter.values = [value for value in parameter.values if value in allowed]
            if parameter.facts.get("default") not in allowed:
                parameter.facts["default"] = None
    return parameters


def members_of(parameter: Parameter, creator: str = "") -> list[Parameter]:
    """What is known of the members of an object, or of the objects of a list, each named by its path: `speech.voice`.

    Args:
        parameter: the object or the list.
        creator: of settings under a provider's name, only those of this one are given if the catalog has any.
    """
    members: dict[str, Any] = parameter.facts.get("items") or {}
    own = {name: facts for name, facts in members.items() if creator and name.startswith(f"{creator}.")}
    prefix = f"{parameter.name}{'[]' if 'array' in parameter.types else ''}."
    return [parameter_from_limits(prefix + name, facts) for name, facts in (own or members).items()]


def _values(members: Iterable[Mapping[str, Any]]) -> list[Any]:
    found: list[Any] = []
    for member in members:
        found += member.get("enum", [member["const"]] if "const" in member else [])
    return found


def surface(
    models: Iterable[Mapping[str, Any]], others: Iterable[Mapping[str, Any]], limits: Mapping[str, Any]
) -> list[Parameter]:
    """Unite schemas: first the parameters that `limits` knows, in its order, then the others by name.

    A parameter is required only if all of `models` (of `others`, if there are no models) and the limits say so.
    """
    models, others = list(models), list(others)
    parameters = {name: parameter_from_limits(name, facts) for name, facts in limits.items()}
    for schema in (*models, *others):
        for name, member in schema["properties"].items():
            parameter = parameters.setdefault(name, Parameter(name=name, is_required=True))
            parameter.taken_by += schema in models
            _unite(parameter, member)
    for parameter in parameters.values():
        parameter.is_required &= all(parameter.name in schema["required"] for schema in models or others)
    known = [parameters[name] for name in limits]
    newer = sorted((parameters[name] for name in parameters.keys() - limits.keys()), key=lambda one: one.name)
    return [parameter for parameter in (*known, *newer) if parameter.name not in _IDS]


def _task_type(schema: Mapping[str, Any]) -> str | None:
    found: str | None = schema["properties"].get("taskType", {}).get("const")
    return found


def _makes_video(schema: Mapping[str, Any]) -> bool:
    return bool(_VIDEO_FORMATS & set(schema["properties"].get("outputFormat", {}).get("enum", ())))


def parameter_from_limits(name: str, facts: Mapping[str, Any]) -> Parameter:
    """A parameter, or a member of one, as its entry in `limits.json` has it."""
    return Parameter(
        name=name,
        types=set(facts["type"].split("|")),
        values=list(facts["enum"] or ()),
        is_required=bool(facts["required"]),
        facts=dict(facts),
    )


def _unite(parameter: Parameter, member: Mapping[str, Any]) -> None:
    for variant in member.get("anyOf", (member,)):
        if values := _values([variant]):
            parameter.types.update(map(_json_type, values))
            parameter.values += [value for value in values if value not in parameter.values]
        elif variant["type"] == "array" and variant.get("items", {}).get("type") == "string":
            parameter.types.discard("array")
            parameter.types.add("strings")
        else:
            parameter.types.add(variant["type"])


def _json_type(value: object) -> str:
    names: dict[type, str] = {str: "string", bool: "boolean", int: "integer", float: "number"}
    return names[type(value)]
