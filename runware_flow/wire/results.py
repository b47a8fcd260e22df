"""Decodes items to results, the typed form of what a task returned."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from runware_flow.types import Result, attach_item
from runware_flow.wire import salvage

if TYPE_CHECKING:
    from runware_flow.wire.items import Item

__all__ = ("decode_result",)

R = TypeVar("R", bound=Result)


@lru_cache(maxsize=256)
def _decoder(result_type: type[Result]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(result_type)


@lru_cache(maxsize=256)
def _fields(result_type: type[Result]) -> tuple[tuple[str, str, Any], ...]:
    return tuple((field.name, field.encode_name, field.type) for field in msgspec.structs.fields(result_type))


def decode_result(item: Item, result_type: type[R]) -> R:
    """Decode an item as `result_type`; never raises.

    A member of an unexpected type costs that field alone: it keeps its default (`None`) and `result.raw` has what came.
    Integers that came as floats (`5.0`) or as text (`"5"`) are integers all the same.
    """
    try:
        result: R = _decoder(result_type).decode(item.raw)
    except salvage.UNREADABLE:
        members, raw = salvage.mapping(item.raw) or ({}, b"{}")
        return attach_item(_decode_fields(members, result_type), raw)
    return attach_item(result, item.raw)


def _decode_fields(members: dict[str, Any], result_type: type[R]) -> R:
    values: dict[str, Any] = {}
    for name, wire_name, kind in _fields(result_type):
        if wire_name not in members:
            continue
        member = members[wire_name]
        if isinstance(member, float) and member.is_integer() and kind == int | None:
            member = int(member)
        try:
            values[name] = msgspec.convert(member, kind, strict=False)
        except salvage.UNREADABLE:
            continue
    return result_type(**values)
