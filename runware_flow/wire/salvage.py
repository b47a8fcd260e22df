"""Read JSON that a strict reader refuses, member by member, so that one bad value never takes its neighbours along.

Only called after the fast path has failed. What it forgives inside a well-bracketed text: bytes that are no UTF-8,
NaN and Infinity, numbers out of range, nesting deeper than any recursion limit, lone surrogates. A value that stays
unreadable is kept as the text it was.
"""

from __future__ import annotations

import json
import re
from typing import Any, TypeGuard

import msgspec
from msgspec import Raw

__all__ = ("UNREADABLE", "dump", "elements", "is_array", "is_object", "mapping", "members", "value")

UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)
"""What a decoder raises on bytes that it cannot read."""

_TOKENS = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[\]{},]', re.DOTALL)
_MEMBER = re.compile(rb'\s*("(?:[^"\\]++|\\.)*+")\s*:(.*)', re.DOTALL)

_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_elements = msgspec.json.Decoder(list[Raw]).decode


def is_object(value: object) -> TypeGuard[dict[str, Any]]:
    """Tell whether a decoded value is an object."""
    return isinstance(value, dict)


def is_array(value: object) -> TypeGuard[list[Any]]:
    """Tell whether a decoded value is an array."""
    return isinstance(value, list)


def members(data: bytes) -> dict[str, bytes] | None:
    """Split an object into its members; `None` if `data` is no object. Of members with the same name the last wins."""
    try:
        return {name: bytes(raw) for name, raw in _decode_members(data).items()}
    except UNREADABLE:
        pass
    parts = _parts(data, b"{", b"}")
    if parts is None:
        return None
    found: dict[str, bytes] = {}
    for part in parts:
        match = _MEMBER.fullmatch(part)
        if match is not None:
            found[str(value(match[1]))] = match[2].strip()
    return found


def elements(data: bytes) -> list[bytes] | None:
    """Split an array into its elements; `None` if `data` is no array."""
    try:
        return [bytes(raw) for raw in _decode_elements(data)]
    except UNREADABLE:
        return _parts(data, b"[", b"]")


def value(data: bytes) -> Any:
    """Decode one value, forgiving what can be forgiven; what stays unreadable is returned as its text."""
    try:
        return msgspec.json.decode(data)
    except UNREADABLE:
        pass
    text = data.decode("utf-8", "replace")
    try:
        plain = json.loads(text, parse_constant=_no_number)
        return msgspec.json.decode(msgspec.json.encode(plain))
    except UNREADABLE:
        return text


def mapping(data: bytes) -> tuple[dict[str, Any], bytes] | None:
    """Decode an object and give JSON that any reader accepts for it; `None` if `data` is no object."""
    try:
        plain = msgspec.json.decode(data)
    except UNREADABLE:
        pass
    else:
        return (plain, data) if is_object(plain) else None
    split = members(data)
    if split is None:
        return None
    found = {name: value(raw) for name, raw in split.items()}
    try:
        return found, msgspec.json.encode(found)
    except UNREADABLE:  # it could just be read, but not one level deeper
        found = {name: raw.decode("utf-8", "replace") for name, raw in split.items()}
        return found, msgspec.json.encode(found)


def dump(plain: object) -> bytes:
    """Encode what was decoded; never raises."""
    try:
        return msgspec.json.encode(plain)
    except UNREADABLE:
        return b"{}"


def _no_number(_: str) -> None:
    return None


def _parts(data: bytes, opening: bytes, closing: bytes) -> list[bytes] | None:
    """Cut the bracketed `data` at its outermost commas, without recursion; `None` if its brackets do not match."""
    text = data.strip()
    if text[:1] != opening or text[-1:] != closing:
        return None
    parts: list[bytes] = []
    depth, start = 0, 1
    for match in _TOKENS.finditer(text):
        token = match[0]
        if token in (b"[", b"{"):
            depth += 1
        elif token in (b"]", b"}"):
            depth -= 1
            if depth == 0:
                if match.end() != len(text):
                    return None
                parts.append(text[start : match.start()].strip())
                return [part for part in parts if part]
        elif token == b"," and depth == 1:
            parts.append(text[start : match.start()].strip())
            start = match.end()
    return None
