"""Hashes that identify an item by its content, and a request by what it asks for."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import msgspec

from runware_flow.graph.keys import KeySet

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ("Ordinals", "fingerprint", "item_key")

_VOLATILE = frozenset({"taskUUID", "webhookURL", "deliveryMethod", "includeCost"})
"""Parameters that say how a request is handled, not what is made."""

_encoder = msgspec.json.Encoder(order="sorted", enc_hook=lambda value: _content(value))


def fingerprint(wire: Mapping[str, Any], media: Iterable[tuple[str, str]] = ()) -> str:
    """Hash a resolved request: equal for requests that ask for the same thing, in whatever order their keys stand.

    Args:
        wire: the request as it goes to the service.
        media: the media that are not in `wire` yet, as pairs of where they belong and a hash of what they are.

    Returns:
        64 hexadecimal digits (SHA-256 of the canonical JSON).
    """
    asked = {name: value for name, value in wire.items() if name not in _VOLATILE}
    extra = sorted(media) if media else None
    return hashlib.sha256(_encoder.encode([asked, extra] if extra else asked)).hexdigest()


def item_key(item: object) -> str:
    """Hash an item by its content; 16 hexadecimal digits.

    Content is what JSON can show of it. An item that JSON cannot show is known by its type alone, so that such items
    are distinguished only by their order: give `key=`.
    """
    try:
        content = _encoder.encode(item)
    except (TypeError, ValueError, msgspec.MsgspecError, RecursionError):
        content = _named(item).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def _content(value: Any) -> Any:
    """What else than its type an object of a kind unknown to JSON is known by: the members of a pydantic model."""
    return dict(value) if hasattr(value, "model_fields_set") else _named(value)


def _named(value: object) -> str:
    if hasattr(type(value), "__fspath__"):
        return str(value)
    return f"{type(value).__module__}.{type(value).__qualname__}"


class Ordinals:
    """Gives each key that was met before an ordinal: `key`, `key-2`, `key-3`, in the order of the source."""

    __slots__ = ("_counts", "_seen")

    def __init__(self) -> None:
        self._seen = KeySet()
        self._counts: dict[str, int] = {}

    def name(self, key: str) -> str:
        """Return the key, with its ordinal if it is not the first of its kind."""
        name = key
        while not self._seen.add(name):
            count = self._counts.get(key, 1) + 1
            self._counts[key] = count
            name = f"{key}-{count}"
        return name
