"""The base of objects of the service that are not results: typed fields, and everything that came in `.raw`."""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Any, ClassVar, TypeVar

import msgspec

from runware_flow.wire import salvage

__all__ = ("Entry", "read_entry", "read_list")


class Entry(msgspec.Struct, frozen=True, kw_only=True, dict=True, repr_omit_defaults=True, rename="camel"):
    """One object that the service described. A field that did not come, or came in another type, is `None`."""

    nested: ClassVar[dict[str, type[Entry]]] = {}
    """Fields that hold a list of other entries, by their wire names."""

    @property
    def raw(self) -> dict[str, Any]:
        """Everything that came, by wire names, fields unknown to this library included; a copy."""
        return copy.deepcopy(self.__dict__.get("_plain", {}))

    def __reduce__(self) -> tuple[Any, ...]:
        return read_entry, (type(self), self.raw)


E = TypeVar("E", bound=Entry)


@lru_cache(maxsize=256)
def _fields(kind: type[Entry]) -> tuple[tuple[str, str, Any], ...]:
    return tuple((field.name, field.encode_name, field.type) for field in msgspec.structs.fields(kind))


def read_entry(kind: type[E], plain: dict[str, Any]) -> E:
    """Make an entry of a decoded object; never raises. `plain` belongs to the entry from now on."""
    values: dict[str, Any] = {}
    for name, wire_name, wanted in _fields(kind):
        if wire_name not in plain:
            continue
        value = plain[wire_name]
        inner = kind.nested.get(wire_name)
        if inner is not None:
            values[name] = read_list(inner, value)
            continue
        try:
            values[name] = msgspec.convert(value, wanted)
        except msgspec.ValidationError:
            continue
    entry = kind(**values)
    vars(entry)["_plain"] = plain
    return entry


def read_list(kind: type[E], plain: object) -> list[E]:
    """Make entries of a decoded list; what is no object in it is left out, and what is no list has none."""
    found = plain if salvage.is_array(plain) else []
    return [read_entry(kind, one) for one in found if salvage.is_object(one)]
