"""Makes text from elsewhere safe for a terminal.

Captions, errors of a service, labels, and names of files may hold control characters, with which a text could set the
title or the clipboard of a terminal, or write over other lines.
"""

from __future__ import annotations

import unicodedata

__all__ = ("visible", "visible_lines")


def visible(text: object) -> str:
    """Return a text on one line, in which every character that a terminal would obey is written as an escape.

    These are the control characters of Unicode (C0, C1 and DEL), line and paragraph separators, what changes the
    direction of text, and surrogates.
    """
    shown = str(text)
    return shown if shown.isprintable() else "".join(map(_visible, shown))


def visible_lines(text: object, *, indents: bool = True) -> str:
    """Do the same with a text of several lines, which keeps its line feeds and tabs.

    Args:
        indents: the lines after the first are indented, so that none of them passes for a message of the program.
    """
    first, *others = str(text).split("\n")
    lines = [_with_tabs(first)]
    lines += [_with_tabs(line if not indents or not line or line[0] in " \t" else f"  {line}") for line in others]
    return "\n".join(lines)


def _with_tabs(line: str) -> str:
    return "\t".join(map(visible, line.split("\t")))


def _visible(character: str) -> str:
    if character.isprintable():
        return character
    category = unicodedata.category(character)
    is_bidi = unicodedata.bidirectional(character) in _DIRECTIONS
    if category not in ("Cc", "Cs", "Zl", "Zp") and not is_bidi:
        return character  # spaces of all widths, joiners of emoji, what Unicode has not assigned yet
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


_DIRECTIONS = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})
