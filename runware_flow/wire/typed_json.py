"""JSON schemas of Python types, and decoders of texts that follow them, for `json_schema=` and `parse`.

msgspec knows dataclasses, TypedDicts, its own Structs and what is made of them. A type that holds a pydantic model is
left to pydantic, which the program has imported then.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("decoder_of", "schema_of")


def schema_of(kind: Any) -> dict[str, Any]:
    """Give the JSON schema of a type.

    Raises:
        TypeError: neither msgspec nor pydantic knows it.
    """
    schema, adapter = _known_by(kind)
    return schema if adapter is None else adapter.json_schema()


def decoder_of(kind: Any) -> Callable[[str], Any]:
    """Give what decodes a JSON text into a type; it raises a `ValueError` of one line where the text does not fit.

    Raises:
        TypeError: neither msgspec nor pydantic knows the type.
    """
    decoder = msgspec.json.Decoder(kind)
    _, adapter = _known_by(kind)

    def decode(text: str) -> Any:
        try:
            return decoder.decode(text) if adapter is None else adapter.validate_json(text)
        except msgspec.DecodeError as error:
            raise ValueError(str(error)) from error
        except ValueError as error:
            raise ValueError(_in_one_line(error)) from error

    return decode


def _known_by(kind: Any) -> tuple[dict[str, Any], Any]:
    """Give the schema of a type that msgspec knows and `None`, or pydantic's `TypeAdapter` of another one."""
    try:
        return msgspec.json.schema(kind), None
    except TypeError:
        pydantic = sys.modules.get("pydantic")
        try:
            if pydantic is not None:
                return {}, pydantic.TypeAdapter(kind)
        except RuntimeError:  # pydantic's error of a type that it cannot know
            pass
    raise TypeError(
        "give a dataclass, a TypedDict, a msgspec.Struct, a pydantic model, or what is made of one of these kinds, such"
        " as list[Scene]"
    )


def _in_one_line(error: ValueError) -> str:
    """Pydantic's error, as msgspec tells one: what is wrong, and where."""
    told = getattr(error, "errors", None)
    if told is None:
        return str(error)
    places = [
        (one["msg"], "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in one["loc"])) for one in told()
    ]
    return "; ".join(f"{problem} - at `${place}`" if place else problem for problem, place in places)
