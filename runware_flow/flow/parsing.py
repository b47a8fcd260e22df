"""`parse` of nodes: a pure function that decodes a text as JSON into a type."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from runware_flow.errors import RunwareFlowError
from runware_flow.wire.typed_json import decoder_of

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("make_parser",)

_FENCE = re.compile(r"\A\s*```[\w-]*[ \t]*\n(.*?)\n?\s*```\s*\Z", re.DOTALL)
_SHOWN = 500


def make_parser(kind: Any) -> Callable[[Any], Any]:
    """Make the function that decodes a text, or a result that has one, into a type.

    Raises:
        TypeError: nothing can decode into the type.
    """
    decode = decoder_of(kind)
    name = getattr(kind, "__name__", None) if isinstance(kind, type) else None
    name = name or str(kind)

    def parse(value: Any) -> Any:
        text = value if isinstance(value, str) else getattr(value, "text", None)
        if not isinstance(text, str):
            raise RunwareFlowError(f"parse was given a {type(value).__name__}, which has no text")
        fenced = _FENCE.match(text)
        try:
            return decode(text if fenced is None else fenced[1])
        except ValueError as error:
            shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"
            raise RunwareFlowError(f"the text is not JSON of {name}: {error}; the text: {shown!r}") from error.__cause__

    return parse
