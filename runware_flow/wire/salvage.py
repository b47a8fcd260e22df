"""Reads JSON that a strict reader refuses, member by member, so that one bad value does not lose the others.

Only called after the fast path has failed. What it forgives inside a well-bracketed text: control characters in a
string, which are kept; escapes of half a character (a lone surrogate) and bytes that are no UTF-8, which become U+FFFD;
unknown escapes; NaN and Infinity; numbers out of range; nesting deeper than any recursion limit. A value that stays
unreadable is kept as the text it was.

Each step looks at each byte a bounded number of times: a pattern that finds no end of a string takes the rest of the
text for it, so that no quote inside is tried again as a beginning.
"""

from __future__ import annotations

import json
import re
from math import isfinite
from typing import Any, TypeGuard

import msgspec
from msgspec import Raw

__all__ = (
    "UNREADABLE",
    "dump",
    "elements",
    "halves",
    "is_array",
    "is_object",
    "mapping",
    "members",
    "to_bytes",
    "value",
    "whole",
)

UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)
"""What a decoder raises on bytes that it cannot read."""

_STRING = rb'"(?:[^"\\]++|\\.?)*+"?'
_STRINGS = re.compile(_STRING, re.DOTALL)
_TOKENS = re.compile(_STRING + rb"|[\[\]{},]", re.DOTALL)
_FLAWS = re.compile(
    rb"(?:\\[\"\\/bfnrt])++|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\.|[\x00-\x1f]",
    re.DOTALL,
)
"""Escapes, the right ones too, so that none is read from its middle; and control characters."""
_SURROGATES = re.compile("[\ud800-\udfff]")
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
        data = _mended(data)
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
        data = _mended(data)
    try:
        return [bytes(raw) for raw in _decode_elements(data)]
    except UNREADABLE:
        return _parts(data, b"[", b"]")


def value(data: bytes) -> Any:
    """Decode one value, forgiving what can be forgiven; what stays unreadable is returned as its text."""
    try:
        return msgspec.json.decode(data)
    except UNREADABLE:
        data = _mended(data)
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
        data = _mended(data)
    else:
        return (plain, data) if is_object(plain) else None
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


def halves(text: str) -> dict[str, Any] | None:
    """Decode an object whose strings may hold halves of characters, which stay as they are; `None` if it is none."""
    try:
        plain = msgspec.json.decode(text)
    except UNREADABLE:
        try:
            plain = json.loads(text, strict=False, parse_constant=_no_number, parse_float=_finite)
        except UNREADABLE:
            found = mapping(to_bytes(text))
            return None if found is None else found[0]
    return plain if is_object(plain) else None


def whole(text: str) -> str:
    """Bring halves of characters together; a half without its other becomes U+FFFD."""
    if text.isascii() or _SURROGATES.search(text) is None:
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def to_bytes(text: str) -> bytes:
    """Encode a text as UTF-8, whatever it holds."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return whole(text).encode()


def _mended(data: bytes) -> bytes:
    """Escape or replace what no JSON string may hold."""
    return _STRINGS.sub(lambda string: _FLAWS.sub(_mend, string[0]), data)


def _mend(match: re.Match[bytes]) -> bytes:
    flaw = match[0]
    if flaw[1:2] in (b'"', b"\\", b"/", b"b", b"f", b"n", b"r", b"t") or len(flaw) == 12:  # both halves of a character
        return flaw
    if len(flaw) == 6:
        return rb"\ufffd" if flaw[2:3] in b"dD" and flaw[3:4] in b"89abcdefABCDEF" else flaw
    if len(flaw) == 1:
        return rb"\u%04x" % flaw[0]
    return rb"\\" + (rb"\u%04x" % flaw[1] if flaw[1] < 0x20 else flaw[1:])


def _finite(digits: str) -> float | None:
    number = float(digits)
    return number if isfinite(number) else None


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
