"""What a journal is asked to keep, and the protocol of whatever keeps it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias

import msgspec

from runware_flow.graph.resume import Advice  # noqa: TC001  # help() reads the annotations of a struct

if TYPE_CHECKING:
    from collections.abc import Sequence


__all__ = ("Begin", "Change", "Entry", "JournalStore", "Keep", "NodeKey", "Settle", "is_store")


class NodeKey(msgspec.Struct, frozen=True):
    """Which node, by what it is: the flow's name, its path with the keys of its items, and what it asks for."""

    flow: str
    path: str
    fingerprint: str


class Begin(msgspec.Struct, frozen=True):
    """A node is about to run. The answer is an `Entry`; if that says to buy, the request is durable by then.

    Attributes:
        task_uuid: for a new request; `None` for a function, of which nothing is written down now.
        request: the resolved request as JSON.
        at: seconds since the epoch.
    """

    key: NodeKey
    at: float
    task_uuid: str | None = None
    task_type: str = ""
    model: str | None = None
    request: bytes = b""


class Settle(msgspec.Struct, frozen=True):
    """A request has its outcome.

    Attributes:
        number: the entry's.
        is_done: there are results; otherwise the service said that it failed.
        items: the raw items.
        error: of a failure, also of one in part; JSON.
        cost: USD; `None` is unknown.
    """

    number: int
    at: float
    is_done: bool
    items: tuple[bytes, ...] = ()
    error: bytes | None = None
    cost: float | None = None


class Keep(msgspec.Struct, frozen=True):
    """A function has its value, as JSON.

    Attributes:
        request: a JSON object with `uses`: the addresses and ids of the media that it was given, or nothing.
    """

    key: NodeKey
    at: float
    value: bytes
    request: bytes | None = None


Change: TypeAlias = Begin | Settle | Keep


class Entry(msgspec.Struct):
    """What a journal has of a node, and says to do.

    Attributes:
        advice: restore, collect or buy.
        number: the row of the request in question; 0 for a function that is to be called.
        task_uuid: the id to use, whether to collect or to buy.
        items, error, cost: of a restored outcome.
    """

    advice: Advice
    number: int = 0
    task_uuid: str | None = None
    items: tuple[bytes, ...] = ()
    error: bytes | None = None
    cost: float | None = None


class JournalStore(Protocol):
    """Keeps journals. Its methods block, are called from one thread at a time, and raise `JournalError`."""

    def open(self) -> None:
        """Take the journal for this process; an error if another one has it."""
        ...

    def apply(self, changes: Sequence[Change]) -> list[Entry | None]:
        """Carry out all changes in order, or none; when it returns they are durable. `Begin` gives an `Entry`."""
        ...

    def close(self) -> None:
        """Give the journal back."""
        ...


def is_store(value: object) -> bool:
    """Tell whether `value` has the methods of a `JournalStore`."""
    return all(callable(getattr(value, name, None)) for name in ("open", "apply", "close"))
