"""When to ask for results that are not pushed."""

from __future__ import annotations

import msgspec

__all__ = ("PollPolicy",)


class PollPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When `getResponse` is asked. Times are seconds."""

    initial: float = 0.1
    """The first ask, and the shortest interval, for tasks whose duration is not known yet."""
