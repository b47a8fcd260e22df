"""Checks requests against the JSON schema of their model. jsonschema is imported on first use."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from runware_flow.catalog.data_files import schemas
from runware_flow.errors import RunwareError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ("SchemaUnusable", "Validator", "utility_schema", "validation_error")

_LONGEST_MESSAGE = 200


class SchemaUnusable(Exception):
    """A schema that cannot be used to check anything; the message says why."""


class Validator:
    """Checks requests against one JSON Schema. Nothing is fetched: a reference that leads outside is unusable."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        """Prepare for a schema.

        Raises:
            SchemaUnusable: it is no JSON Schema.
        """
        jsonschema: Any = import_module("jsonschema")
        kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
        try:
            kind.check_schema(schema)
        except jsonschema.SchemaError as error:
            raise SchemaUnusable(f"no JSON Schema: {_shorten(error.message)}") from error
        self._validator: Any = kind(schema, registry=import_module("referencing").Registry())

    def check(self, wire: Mapping[str, Any]) -> list[dict[str, Any]]:
        """List what is wrong with a request as it would be sent, in the order of its parameters; empty if nothing is.

        Each entry has `message`, `parameter` (dotted wire names), `path`, `schema_path`, `validator` (the keyword that
        is not met) and `validator_value` (what it asks for).

        Raises:
            SchemaUnusable: the schema refers to something that is not in it.
        """
        unresolvable: type[Exception] = import_module("referencing.exceptions").Unresolvable
        try:
            found = sorted(self._validator.iter_errors(dict(wire)), key=_place)
        except unresolvable as error:
            raise SchemaUnusable(f"a reference leads outside: {error}") from error
        return [_plain(error) for error in found]


@cache
def utility_schema(task_type: str) -> dict[str, Any] | None:
    """The bundled schema of a utility's request (`modelSearch`, ...); None for other task types. Reads the catalog."""
    found: dict[str, Any] = schemas()["utilityParams"]
    return next((one for one in found.values() if one["properties"]["taskType"].get("const") == task_type), None)


def _place(error: Any) -> list[str]:
    return [str(step) for step in error.absolute_path]


def _plain(error: Any) -> dict[str, Any]:
    path: list[str | int] = list(error.absolute_path)
    return {
        "message": _shorten(error.message),
        "parameter": _parameter(error, path),
        "path": path,
        "schema_path": [str(step) for step in error.absolute_schema_path],
        "validator": error.validator,
        "validator_value": error.validator_value,
    }


def _parameter(error: Any, path: list[str | int]) -> str | None:
    """The offending parameter; the name of one that is missing or unknown stands in the message alone."""
    instance: Any = error.instance
    names: list[str] = []
    if error.validator == "required":
        missing = [name for name in error.validator_value if name not in instance]
        names = [name for name in missing if error.message.startswith(f"'{name}'")]
    elif error.validator in ("additionalProperties", "unevaluatedProperties"):
        names = [name for name in instance if f"'{name}'" in error.message]
    steps = [*path, *names[:1]]
    named = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).removeprefix(".")
    return named or None


def _shorten(message: str) -> str:
    """jsonschema repeats the value that failed, which may be a whole picture; its last words say what was wrong."""
    if len(message) <= _LONGEST_MESSAGE:
        return message
    return f"{message[:60]} ... {message[-80:]}"


def validation_error(
    problems: Sequence[Mapping[str, Any]], *, task_type: str, task_uuid: str | None = None, model: str | None = None
) -> RunwareError:
    """Build the error that tells of what `Validator.check` found."""
    names = tuple(dict.fromkeys(str(one["parameter"]) for one in problems if one["parameter"]))
    first = problems[0]
    place = f"{first['parameter']}: " if first["parameter"] else ""
    more = f" (and {len(problems) - 1} more, see validation_errors)" if len(problems) > 1 else ""
    subject = f"{task_type} with {model}" if model else task_type
    return RunwareError(
        f"this {subject} does not fit the schema of its model: {place}{first['message']}{more}",
        code="validation",
        raw_code="validationFailed",
        parameter=names[0] if len(names) == 1 else names or None,
        task_type=task_type,
        task_uuid=task_uuid,
        validation_errors=[dict(one) for one in problems],
    )
