"""The protocol of a store of journals, and the changes and entries that it handles."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast, runtime_checkable

import msgspec

from runware_flow.errors import JournalError
from runware_flow.files import local_path
from runware_flow.graph.choice_records import ChoiceRecord  # noqa: TC001  # help() reads the annotations of a struct
from runware_flow.graph.resume import Advice  # noqa: TC001  # help() reads the annotations of a struct
from runware_flow.journal.address import DatabaseAddress, address_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from runware_flow.graph.budget import Elsewhere
    from runware_flow.journal.address import JournalAddress

__all__ = (
    "Abandon",
    "Begin",
    "Change",
    "ChangedRows",
    "Decide",
    "EndLeases",
    "Entry",
    "JournalStore",
    "JournalWatch",
    "Keep",
    "Lease",
    "LeaseLost",
    "LeasingStore",
    "NoJournal",
    "NodeKey",
    "ReadChoices",
    "Settle",
    "SpendingStore",
    "StoreAway",
    "StoredRows",
    "TakeLeases",
    "is_store",
    "journal_named",
)


class NodeKey(msgspec.Struct, frozen=True):
    """What a request is known by: flow, item and fingerprint. Where it stands only tells it from equal ones.

    Attributes:
        flow: the flow's name.
        path: where its node stands, with the keys of its items.
        fingerprint: of what it asks for.
        item: the chain of the keys of its items, without labels; for a function also the name of its node.
    """

    flow: str
    path: str
    fingerprint: str
    item: str = ""


class Begin(msgspec.Struct, frozen=True):
    """A node is about to run. The answer is an `Entry`; if that says to buy, the request is durable by then.

    The slot that the answer names is taken for this request until the store is closed.

    Attributes:
        task_uuid: for a new request; `None` only looks it up.
        request: the resolved request as JSON.
        at: seconds since the epoch.
        slot: what an earlier answer gave this node for this request; 0 if there was none.
        is_hedge: it is sent beside the request that is open in the slot.
        is_own: only a slot that was its own path's last time is looked at.
        may_adopt: an open request for the same thing, whatever its flow and item, may become this node's.
        answer: the raw items that a cache has for a new request: it is on record as done and free, and never as open.
        lease: the number of the lease on the item, without which nothing is written of it; 0 if there is none.
    """

    key: NodeKey
    at: float
    task_uuid: str | None = None
    task_type: str = ""
    model: str | None = None
    request: bytes = b""
    slot: int = 0
    is_hedge: bool = False
    is_own: bool = False
    may_adopt: bool = False
    answer: tuple[bytes, ...] = ()
    lease: int = 0


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
    lease: int = 0


class Keep(msgspec.Struct, frozen=True):
    """A function has its value, as JSON.

    Attributes:
        request: a JSON object with `uses`: the addresses and ids of the media that it was given, or nothing.
        slot: as in `Begin`.
        cost: what it bought through a client, in USD; `None` is unknown.
    """

    key: NodeKey
    at: float
    value: bytes
    request: bytes | None = None
    slot: int = 0
    cost: float | None = None
    lease: int = 0


class Abandon(msgspec.Struct, frozen=True):
    """Requests that were given up: nothing waits for them any more, until a run asks for one of them again.

    Attributes:
        numbers: of their entries. Those that are open become `abandoned`, others stay what they are.
        is_hedge: the other one is of the same node, so that none of these is its answer.
        is_free: the service has not accepted them, or has no trace of them, so that they cost nothing. One that is
            sent after all is open again.
        is_over: the node that sent them has ended without them: another one that asks for the same may have them.
    """

    numbers: tuple[int, ...]
    at: float
    is_hedge: bool = False
    is_free: bool = False
    is_over: bool = False
    lease: int = 0


class ReadChoices(msgspec.Struct, frozen=True):
    """Read the choices of an item; the answer is an `Entry` with `choices`."""

    flow: str
    item: str


class Decide(msgspec.Struct, frozen=True):
    """A choice was made. It is durable before the node that chose settles.

    Attributes:
        choice: its number is that of the record that it takes the place of; 0 if there is none.
    """

    flow: str
    item: str
    at: float
    choice: ChoiceRecord
    lease: int = 0


class TakeLeases(msgspec.Struct, frozen=True):
    """Take items for this process alone; the answer is an `Entry` with `leases`. Only for a `LeasingStore`."""

    flow: str
    items: tuple[str, ...]


class EndLeases(msgspec.Struct, frozen=True):
    """Give leases back, each with why its item has no result, if it has none. Only for a `LeasingStore`."""

    ended: tuple[tuple[int, bytes | None], ...]


Change: TypeAlias = Begin | Settle | Keep | Abandon | ReadChoices | Decide | TakeLeases | EndLeases


class Lease(msgspec.Struct):
    """An item of a batch, as far as processes that share a journal are concerned.

    Attributes:
        number: of the lease that this process has now; 0 if another one has it, or has finished the item.
        has_ended: another process has finished the item since this one began, without a result.
        error: why; JSON, as in `Settle`.
    """

    number: int = 0
    has_ended: bool = False
    error: bytes | None = None


class Entry(msgspec.Struct):
    """What a journal has of a node, and says to do.

    Attributes:
        advice: restore, collect or buy, and the slot.
        number: the row of the request in question; 0 for a function that is to be called.
        task_uuid: the id to use, whether to collect or to buy.
        items, error, cost: of a restored outcome; the error also of a request that failed and may be bought again.
        choices: of a `ReadChoices`, oldest first.
        leases: of a `TakeLeases`, one for each item.
        is_hedged: the request to collect is one of two that are open: another one was sent beside it.
        is_taken: nothing could be adopted, since another node of this run has the open request for the same thing.
    """

    advice: Advice
    number: int = 0
    task_uuid: str | None = None
    items: tuple[bytes, ...] = ()
    error: bytes | None = None
    cost: float | None = None
    choices: tuple[ChoiceRecord, ...] = ()
    leases: tuple[Lease, ...] = ()
    is_taken: bool = False
    is_hedged: bool = False

    @property
    def slot(self) -> int:
        """The number of the slot, for a second lookup of the same node; 0 if there is none yet."""
        return self.advice.slot or (self.number if self.advice.record is None else 0)


class NoJournal(JournalError):
    """There is no journal where one is to be read."""


class StoreAway(JournalError):
    """What keeps a journal does not answer when it is opened, and may later: `open_writer` tries again for the seconds
    that the store's attribute `patience` says, if it has one."""


class LeaseLost(JournalError):
    """Another process has the item now: this one sends and writes nothing more for it."""


class StoredRows(Protocol):
    """The rows of a journal that is open for reading, of which nothing is changed. Its methods block.

    Attributes:
        paid: SQL for what a request cost, for a sum.
        tells_price: SQL for whether what a request cost says something about the price.
        is_earlier: the rows have neither ordinals nor hedges.
        has_places: it tells where its runs were.
    """

    paid: str
    tells_price: str
    is_earlier: bool
    has_places: bool

    def execute(self, query: str, values: Sequence[Any] = ()) -> Any:
        """Run a statement with `?` for its values."""
        ...

    def bring_back(self, item: bytes) -> bytes:
        """Put large texts back into what is kept without them."""
        ...

    def translated(self) -> AbstractContextManager[None]:
        """A block that turns errors of the database into one sentence, a `JournalError`."""
        ...

    def close(self) -> None:
        """End reading."""
        ...


class JournalWatch(Protocol):
    """Looks whether a journal has changed. Its methods block."""

    def version(self) -> object:
        """Return a value that differs after each change; raises `JournalError` if it cannot be read now."""
        ...

    def close(self) -> None:
        """End it."""
        ...


class ChangedRows(Protocol):
    """The rows of a journal inside a transaction.

    Attributes:
        pairs: SQL for the pairs of texts in a JSON array of arrays, which is its one value.
        has_choices: there is a table of choices.
    """

    @property
    def pairs(self) -> str: ...
    @property
    def has_choices(self) -> bool: ...

    def execute(self, query: str, values: Sequence[Any] = ()) -> Any:
        """Run a statement with `?` for its values."""
        ...


class JournalStore(Protocol):
    """Keeps journals. Its methods block, are called from one thread at a time, and raise `JournalError`."""

    def open(self) -> None:
        """Take the journal for this process; an error if another one has it."""
        ...

    def apply(self, changes: Sequence[Change]) -> Sequence[Entry | LeaseLost | None]:
        """Carry out all changes in order, or none; when it returns they are durable. `Begin` gives an `Entry`.

        A store with leases gives a `LeaseLost` in the place of the answer to a change whose lease another process has;
        the others are carried out.
        """
        ...

    def close(self) -> None:
        """Give the journal back."""
        ...


@runtime_checkable
class LeasingStore(JournalStore, Protocol):
    """A store that several processes may use at once. It knows `EndLeases` and `TakeLeases`, which takes the items that
    no other process has, or whose owner has not renewed its lease in time.

    Attributes:
        lease_seconds: how long a lease lasts after it was taken or renewed.
    """

    lease_seconds: float

    def renew_leases(self, numbers: Sequence[int]) -> list[int]:
        """Renew leases; returns the numbers of those that are lost. It is called as `apply` is."""
        ...


@runtime_checkable
class SpendingStore(JournalStore, Protocol):
    """A store that knows what other processes spend.

    Attributes:
        address: where it is.
        elsewhere: what they have spent and have in flight, of the flow that is followed, as of the last group.
    """

    address: DatabaseAddress
    elsewhere: Elsewhere

    def follow_spending(self, flow: str) -> None:
        """Keep `elsewhere` up to date for a flow, from here on with each group; called again, do so now."""
        ...


def is_store(value: object) -> bool:
    """Tell whether `value` has the methods of a `JournalStore`."""
    return all(callable(getattr(value, name, None)) for name in ("open", "apply", "close"))


def journal_named(journal: str | os.PathLike[str] | JournalStore | None) -> JournalAddress | None:
    """Return the file or the database that a `journal=` names, if any; a store may have a `path` or an `address`."""
    named: Any = journal
    if is_store(journal):
        named = getattr(journal, "path", None) or getattr(journal, "address", None)
    if not isinstance(named, DatabaseAddress):
        if not isinstance(named, (str, os.PathLike)):
            return None
        named = os.fspath(cast("str", named))
    address = address_of(named)
    return address if isinstance(address, DatabaseAddress) else local_path(address)
