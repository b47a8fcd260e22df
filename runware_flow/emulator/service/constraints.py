"""Checks the value of a parameter, and the values inside it: type, choices, range.

Ranges come from the catalog's limits, which are those of a task type; models of other providers than Runware may take
more (`loose`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runware_flow.emulator.jsonvalues import as_list, as_object, is_list, is_object
from runware_flow.emulator.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ("bounds", "check_choice", "check_nested", "check_providers", "check_range", "check_type", "invalid", "tree")

_NAMED_CODES = frozenset({"positivePrompt", "width", "height", "model", "duration", "prompt", "steps"})

_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": dict,
}


def invalid(name: str, message: str, **details: Any) -> Problem:
    """Return the problem of a parameter whose value is wrong; a few have a code of their own [3p]."""
    code = f"invalid{name[0].upper()}{name[1:]}" if name in _NAMED_CODES else "invalidParameter"
    return Problem(code, f"Invalid value for '{name}' parameter. {message}", parameter=name, **details)


def check_type(name: str, value: Any, type_: str) -> None:
    """Refuse a value of another type; a float without a fraction is an integer too, a bool never a number."""
    if type_ not in _TYPES or (name == "outputType" and isinstance(value, list)):
        return
    expected = _TYPES[type_]
    integral = type_ == "integer" and isinstance(value, float) and value.is_integer()
    wrong_bool = isinstance(value, bool) and type_ in {"integer", "number"}
    if wrong_bool or not (isinstance(value, expected) or integral):
        raise invalid(name, f"It must be of type {type_}.", type=type_)


def check_choice(name: str, value: Any, choices: Any) -> None:
    """Refuse a value that is not among the choices, if there are any."""
    if not choices or not isinstance(value, str | int | float) or value in choices:
        return
    if isinstance(value, str) and name in {"outputFormat", "outputType"} and value.upper() in choices:
        return  # older pages show lower case [doc]
    if name.endswith(("scheduler", ".model")):
        return  # more names are taken than any list shows
    listed = ", ".join(map(str, choices))
    raise invalid(name, f"It must be one of: {listed}.", allowedValues=list(choices))


def bounds(name: str, limit: Mapping[str, Any], *, loose: bool) -> tuple[Any, Any, Any]:
    """Return the least and the greatest value (or length) and its step; None where everything is taken."""
    if name in {"width", "height"}:
        return (64, 8192, None) if loose else (128, 2048, 16)
    if name == "seed":
        return 0, 2**63 - 1, None
    if name in {"positivePrompt", "negativePrompt"}:
        return 2, 45_000 if loose else limit.get("max"), None
    if name in {"CFGScale", "duration"} and loose:
        return limit.get("min"), None, None  # providers document a CFGScale of 60 and films of 12 seconds [doc]
    if name.endswith(".startStep"):
        return 0, limit.get("max"), None  # examples begin at step 0, the schemas at 1 [doc]
    return limit.get("min"), limit.get("max"), limit.get("multipleOf")


def check_range(name: str, value: Any, limit: Mapping[str, Any], *, loose: bool) -> None:
    """Refuse a number, a text or a list beyond the limits."""
    low, high, step = bounds(name, limit, loose=loose)
    if isinstance(value, str):
        _check_length(name, value, low, high)
    elif isinstance(value, bool):
        return
    elif isinstance(value, int | float):
        _check_number(name, value, limit, (low, high, step))
    elif is_list(value) and not loose:
        if low is not None and len(value) < low:
            message = f"Invalid value for '{name}' parameter. It must have at least {low} elements."
            raise Problem("arrayTooSmall", message, parameter=name, type="array")
        if high is not None and len(value) > high:
            message = f"Invalid value for '{name}' parameter. It must have at most {high} elements."
            raise Problem("arrayTooLarge", message, parameter=name, type="array")


def _check_number(name: str, value: float, limit: Mapping[str, Any], span: tuple[Any, Any, Any]) -> None:
    low, high, step = span
    limits = [f"at least {low}"] if low is not None else []
    limits += [f"at most {high}"] if high is not None else []
    if (low is not None and value < low) or (high is not None and value > high):
        raise invalid(name, f"It must be {' and '.join(limits)}.", type=limit.get("type", "number"))
    if step and value % step:
        raise invalid(name, f"It must be a multiple of {step}.", type=limit.get("type", "number"))


def _check_length(name: str, value: str, low: Any, high: Any) -> None:
    if name in {"positivePrompt", "negativePrompt"}:
        _check_prompt(name, value, high)
    elif high is not None and len(value) > high:
        raise invalid(name, f"It must have at most {high} characters.", type="string")
    elif low is not None and len(value) < low:
        raise invalid(name, f"It must have at least {low} characters.", type="string")


def _check_prompt(name: str, value: str, high: Any) -> None:
    if value == "__BLANK__":
        return
    if len(value) < 2 or (high is not None and len(value) > high):
        code = "invalidPositivePromptLength" if name == "positivePrompt" else "invalidParameter"
        message = f"The length of '{name}' must be between 2 and {high} characters; it is {len(value)}."
        raise Problem(code, message, parameter=name, type="string")


def check_nested(name: str, value: Any, limit: Mapping[str, Any], *, loose: bool) -> None:
    """Refuse what is wrong inside of an object, or of the objects of a list; names that no list shows pass.

    The parameter is named by its path: `settings.temperature`, `lora.0.weight`.
    """
    inner = tree(limit)
    if not inner or name == "messages":
        return
    if is_object(value):
        _check_members(name, value, inner, loose=loose or name == "inputs")
        return
    for number, one in enumerate(as_list(value)):
        if is_object(one):
            _check_members(f"{name}.{number}", one, inner, loose=loose)


def _check_members(path: str, value: dict[str, Any], inner: Mapping[str, Any], *, loose: bool) -> None:
    for name, rule in inner.items():
        at = f"{path}.{name}"
        if name not in value or value[name] is None:
            is_older = name == "guideImages" and "guideImage" in value  # one image, flat, in the API of 2025 [doc]
            if rule.get("required") and not loose and not path.startswith("inputs") and not is_older:
                message = f"Missing value for '{at}' parameter."
                raise Problem("missingParameter", message, parameter=at, type=rule.get("type"))
            continue
        check_type(at, value[name], str(rule.get("type") or ""))
        check_choice(at, value[name], None if loose else rule.get("enum"))
        check_range(at, value[name], rule, loose=loose)
        check_nested(at, value[name], rule, loose=loose)


def tree(limit: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the rules of what is inside of a parameter, by name; dotted names of the catalog become objects."""
    items = as_object(limit.get("items"))
    return _unfold(items) if any("." in name for name in items) else items


def _unfold(items: dict[str, Any]) -> dict[str, Any]:
    unfolded: dict[str, Any] = {}
    for path, rule in items.items():
        place = unfolded
        *parents, last = path.split(".")
        for parent in parents:
            kind = "array" if parent.endswith("[]") else "object"
            found = place.setdefault(parent.removesuffix("[]"), {"type": kind, "items": {}})
            place = found["items"]
        place[last] = rule
    return unfolded


def check_providers(value: Any, model: str, sources: frozenset[str]) -> None:
    """Refuse settings of a provider that does not exist, or that is not the model's [sdk]."""
    for provider in as_object(value):
        name = f"providerSettings.{provider}"
        if provider not in sources:
            message = f"There is no provider '{provider}'."
            raise Problem("unknownProviderSettingsProvider", message, parameter=name)
        if model.partition(":")[0] in sources - {"runware"} and provider != model.partition(":")[0]:
            message = f"The model '{model}' is not of the provider '{provider}'."
            raise Problem("mismatchProviderSettingsProvider", message, parameter=name)
