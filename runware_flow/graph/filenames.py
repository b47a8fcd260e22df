"""The template of a file name for `save`, and the values that are put into it.

Whatever is put in is made harmless first, so that no label, key or server chooses a folder.
"""

from __future__ import annotations

import re
from hashlib import sha256
from string import Formatter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ("FIELDS", "Template")

FIELDS = ("flow", "index", "key", "label", "uuid")
"""What a template may name."""

TELLING = frozenset({"index", "key", "uuid"})
"""Those that differ between the items of a fan-out."""

_HARMLESS = re.compile(r"[^\w .=,@+-]")
_LONGEST = 100
"""Bytes of what one field is filled with, because file systems count bytes: 255 a name, of which all fields share"""
_TOGETHER = 210
"""these with their hashes: what stands beside them, an extension and the ending while it is written have room."""
_HASH = 9
_WIDTH = re.compile(r"0?[1-9][0-9]?")
_EXAMPLE = "out/{label}-{index}"


class Template:
    """A path with fields in braces: `out/{label}-{index:04}`.

    Attributes:
        fields: the fields that it names.
    """

    def __init__(self, text: str) -> None:
        """Read a template.

        Raises:
            ValueError: it cannot work; the message says why and what would.
        """
        if not text or text.endswith(("/", "\\")):
            raise ValueError(f"{text!r} names no file: end it with a name, such as {_EXAMPLE!r}")
        if re.split(r"[/\\]", text)[-1] in (".", ".."):
            raise ValueError(f"{text!r} names a folder: end it with the name of a file, such as {_EXAMPLE!r}")
        if "\0" in text:
            raise ValueError(f"{text!r} has a character that no file's name can have")
        try:
            self._parts = [(literal, name, spec or "") for literal, name, spec, _ in Formatter().parse(text)]
        except ValueError as error:
            raise ValueError(
                f"{text!r} is not a template ({error}); braces hold a field, such as {_EXAMPLE!r}"
            ) from None
        named = [name for _, name, _ in self._parts if name is not None]
        self.fields = frozenset(named)
        self._longest = min(_LONGEST, max(1, _TOGETHER // max(1, len(named)) - _HASH))
        unknown = sorted(self.fields - set(FIELDS))
        if unknown:
            known = ", ".join(f"{{{name}}}" for name in FIELDS)
            raise ValueError(f"{text!r} names {{{unknown[0]}}}, which nothing is put into; there are: {known}")
        for _, name, spec in self._parts:
            if spec and (name != "index" or not _WIDTH.fullmatch(spec)):
                raise ValueError(
                    f"{text!r} formats {{{name}:{spec}}}: only a width for the index is known, {{index:04}}"
                )

    @property
    def distinguishes_items(self) -> bool:
        """Whether two items of a fan-out get two names."""
        return bool(self.fields & TELLING)

    def fill(self, *, flow: str, label: str, indexes: Sequence[int], keys: Sequence[str], uuid: str | None) -> str:
        """Put values in; those of nested fan-outs are joined by hyphens, from the outermost. Outside they are 0."""
        values = {
            "flow": harmless(flow, self._longest),
            "key": harmless("-".join(keys) or "0", self._longest),
            "label": harmless(label, self._longest),
            "uuid": harmless(uuid or "0", self._longest),
        }
        filled: list[str] = []
        for literal, name, spec in self._parts:
            filled.append(literal)
            if name == "index":
                width = int(spec or 0)
                filled.append("-".join(str(index).zfill(width) for index in indexes or (0,)))
            elif name is not None:
                filled.append(values[name])
        return "".join(filled)


def harmless(value: str, longest: int = _LONGEST) -> str:
    """Make a part of a file's name of any text: no separators, no leading dots, `longest` bytes and a hash at most.

    A text that has to be changed gets a hash of what it was, so that two different ones stay different.
    """
    plain = _HARMLESS.sub("_", value).strip(" .")
    plain = plain.encode("utf-8", "replace")[:longest].decode("utf-8", "ignore")
    if plain == value:
        return value
    return f"{plain}-{sha256(value.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}".lstrip("-")
