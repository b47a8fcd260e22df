"""The schemas of `/resolve/<model>`: the catalog's, with the ranges that the emulator itself checks.

A client that validates with them refuses what the emulator would refuse, and sends what it would take.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runware_flow.emulator.jsonvalues import as_object
from runware_flow.emulator.service.constraints import bounds, tree
from runware_flow.emulator.service.kinds import find_kind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runware_flow.emulator.service.models import Models

__all__ = ("request_schema", "response_schema")

_BOUNDS = {
    "integer": ("minimum", "maximum"),
    "number": ("minimum", "maximum"),
    "string": ("minLength", "maxLength"),
    "array": ("minItems", "maxItems"),
}


def request_schema(
    models: Models, air: str, task_type: str | None = None, architecture: str | None = None
) -> dict[str, Any] | None:
    """Return the JSON Schema of a request to a model; None for a model that does not exist.

    A model that the catalog does not have (an older one, a fine-tune, or one of `task_type`) takes what its
    architecture takes, if that is known, else what anything of its task type takes.
    """
    task_type = models.task_type(air) or task_type or ("imageInference" if models.is_fine_tune(air) else "")
    kind = find_kind(task_type)
    schema = models.schema(air) or models.general_schema(task_type, architecture)
    if schema is None or kind is None:
        return None
    limits: dict[str, Any] = models.limits.get(kind.task_type, {})
    loose = models.schema(air) is None or not air.startswith("runware:")
    properties = {
        name: _property(name, rule, as_object(limits.get(name)), loose=loose)
        for name, rule in schema["properties"].items()
    }
    if "deliveryMethod" in properties:
        properties["deliveryMethod"] = {"oneOf": [{"const": one} for one in kind.deliveries]}
    # No `$schema`: validators that know only later drafts fail on one that names draft-07 [sdk].
    return {**{name: rule for name, rule in schema.items() if name != "$schema"}, "properties": properties}


def _property(name: str, rule: Mapping[str, Any], limit: Mapping[str, Any], *, loose: bool) -> dict[str, Any]:
    if name in {"messages", "taskUUID"} or not limit:
        return dict(rule)
    made = {**rule, **_ranges(name, str(rule.get("type")), limit, loose=loose)}
    inner = tree(limit)
    if inner and rule.get("type") == "object":
        made["properties"] = _members(name, inner, loose=loose or name == "inputs")
    elif inner and rule.get("type") == "array" and as_object(rule.get("items")).get("type") == "object":
        made["items"] = {"type": "object", "properties": _members(f"{name}.0", inner, loose=loose)}
    return made


def _members(path: str, inner: Mapping[str, Any], *, loose: bool) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, limit in inner.items():
        type_ = str(limit.get("type"))
        if type_ not in ("string", "integer", "number", "boolean", "array", "object"):
            continue
        made[name] = {"type": type_, **_ranges(f"{path}.{name}", type_, limit, loose=loose)}
        if limit.get("enum") and not loose and name != "scheduler":
            made[name]["enum"] = limit["enum"]
        if type_ == "object" and tree(limit):
            made[name]["properties"] = _members(f"{path}.{name}", tree(limit), loose=loose)
    return made


def _ranges(name: str, type_: str, limit: Mapping[str, Any], *, loose: bool) -> dict[str, Any]:
    if type_ not in _BOUNDS or (type_ == "array" and loose):
        return {}
    low, high, step = bounds(name, limit, loose=loose)
    least, most = _BOUNDS[type_]
    ranges = {least: low, most: high, "multipleOf": step if type_ in ("integer", "number") else None}
    return {key: value for key, value in ranges.items() if value is not None}


def response_schema(models: Models, task_type: str) -> dict[str, Any] | None:
    """Return the JSON Schema of a result of a task type."""
    for schema in models.schemas["results"].values():
        if as_object(as_object(schema.get("properties")).get("taskType")).get("const") == task_type:
            return dict(schema)
    return None
