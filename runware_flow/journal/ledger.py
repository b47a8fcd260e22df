"""`Ledger`: how a run uses its journal, node by node."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import msgspec

from runware_flow.errors import JournalError
from runware_flow.graph.choice_records import Likeness, find_record, is_equal
from runware_flow.graph.policies import is_verdict
from runware_flow.graph.prices import total_micro_usd
from runware_flow.journal.store import Abandon, Begin, Decide, Entry, Keep, NodeKey, ReadChoices, Settle
from runware_flow.journal.values import (
    decode_error,
    decode_value,
    encode_error,
    encode_item,
    encode_value,
    fingerprint_call,
    has_requests,
    is_still_true,
)
from runware_flow.types import MediaResult
from runware_flow.view.request import references_to
from runware_flow.wire.salvage import UNREADABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from runware_flow.client.cost_tracker import CostTracker
    from runware_flow.errors import RunwareError
    from runware_flow.graph.choice_records import ChoiceKind, ChoiceRecord
    from runware_flow.graph.declaration import NodeSpec
    from runware_flow.journal.store import Change, JournalStore
    from runware_flow.journal.writer import JournalWriter
    from runware_flow.runner.requester import PreparedTask

__all__ = ("Ledger", "settlement")

ChangeT = TypeVar("ChangeT", bound="Change")

_SECRET = frozenset({"uploadEndpoint", "webhookURL"})
"""Parameters whose addresses often carry a token; a journal does without them."""


class Ledger:
    """The journal of one flow's run.

    Args:
        prefix: put before the paths of its nodes, for a flow that is run for each item of a batch.
        item: the key of that item, in brackets.

    Attributes:
        is_fresh: a node was looked up that the journal does not have as finished.
        has_restored: a node was that is.
        has_abandoned: a request was left open by a node that has ended; an equal one may be answered by it.
        lease: the number of the lease on the item; 0 without.
    """

    def __init__(self, writer: JournalWriter, flow: str, prefix: str = "", item: str = "") -> None:
        self._writer = writer
        self._flow = flow
        self._prefix = prefix
        self._item = item
        self._slots: dict[tuple[str, str], int] = {}
        self._choices: dict[str, tuple[ChoiceRecord, ...]] = {}
        self._taken_choices: set[int] = set()
        self.is_fresh = False
        self.has_restored = False
        self.has_abandoned = False
        self.lease = 0

    @property
    def store(self) -> JournalStore:
        """What keeps the journal."""
        return self._writer.store

    @property
    def has_past(self) -> bool:
        """Whether an earlier run may have written in this journal; if not, there is nothing to look up."""
        return self._writer.has_past

    async def begin(
        self, key: NodeKey, request: PreparedTask, *, is_hedge: bool = False, answer: Sequence[Any] = ()
    ) -> Entry:
        """Ask what is known of a request; if it is to be bought, it is durable when this returns.

        A cancel waits for it, to know whether an earlier run may have sent something.

        Args:
            is_hedge: it is sent beside the one that the node has sent already.
            answer: the results that a cache has for it: then it is on record as done in the place of being bought.
        """
        body = msgspec.json.encode(_without_secrets(request.wire))
        begin = Begin(
            key,
            time.time(),
            request.task_id,
            request.task_type,
            request.model,
            body,
            slot=self.slot(key),
            is_hedge=is_hedge,
            answer=tuple(encode_item(result) for result in answer),
        )
        entry = None
        with anyio.CancelScope(shield=True):
            entry = await self._write(begin)
        assert entry is not None
        self._note(entry)
        return entry

    async def knows(self, key: NodeKey) -> bool:
        """Tell whether there are results of a request, or one that may still have some. Sends nothing."""
        return self.has_past and (await self.find(key)).advice.action != "buy"

    async def settle(self, entry: Entry, results: list[Any], error: RunwareError | None = None) -> None:
        """Make the outcome durable; a cancel waits for that, since what came has been paid for."""
        with anyio.CancelScope(shield=True):
            await self._put(settlement(entry.number, results, error))

    async def abandon(
        self, *entries: Entry, is_hedge: bool = False, is_over: bool = False, is_free: bool = False
    ) -> None:
        """Note that nothing waits for these requests any more: see `Abandon`."""
        self.has_abandoned = self.has_abandoned or is_over
        with anyio.CancelScope(shield=True):
            numbers = tuple(entry.number for entry in entries)
            await self._put(Abandon(numbers, time.time(), is_hedge=is_hedge, is_free=is_free, is_over=is_over))

    async def fail(self, entry: Entry, error: RunwareError) -> None:
        """Make a verdict of the service durable. After any other error the request stays open, to be collected."""
        if not is_verdict(error):
            return
        await self.settle(entry, error.results, error)

    async def find(self, key: NodeKey, *, is_own: bool = False, may_adopt: bool = False) -> Entry:
        """Return what is there to restore or to collect; what is to be bought is not written down. Sends nothing.

        Args:
            is_own: only a request that was last made at this very path counts.
            may_adopt: an open request for the same thing may become this node's, whatever its flow and item.
        """
        begin = Begin(key, time.time(), slot=self.slot(key), is_own=is_own, may_adopt=may_adopt)
        entry = await self._write(begin)
        self.has_restored = self.has_restored or entry.advice.action == "restore"
        return entry

    async def choices(self, item: str) -> tuple[ChoiceRecord, ...]:
        """Return the choices that were made for an item."""
        found = self._choices.get(item)
        if found is None:
            if not self.has_past:
                return ()
            entry = await self._put(ReadChoices(self._flow, f"{self._item}{item}"))
            assert entry is not None
            found = self._choices[item] = entry.choices
        return found

    async def decide(self, item: str, choice: ChoiceRecord) -> None:
        """Make a choice durable."""
        await self.decide_all([(item, choice)])

    async def decide_all(self, choices: Sequence[tuple[str, ChoiceRecord]]) -> None:
        """Make several choices durable, each with the item that it was made for."""
        changes: list[Change] = []
        for item, choice in choices:
            moved = msgspec.structs.replace(choice, path=self._whole_path(choice.path))
            changes.append(self._leased(Decide(self._flow, f"{self._item}{item}", time.time(), moved)))
        with anyio.CancelScope(shield=True):
            await self._writer.write_all(changes)

    def record_of_choice(
        self,
        records: tuple[ChoiceRecord, ...],
        kind: ChoiceKind,
        path: str,
        fingerprint: str | None,
        likeness: Likeness,
        rivals: Callable[[], Sequence[tuple[str, Likeness]]] = tuple,
    ) -> ChoiceRecord | None:
        """Find the record of a choice of this run, which no other choice gets then."""
        whole_path, taken = self._whole_path(path), self._taken_choices
        found = find_record(
            records,
            kind,
            whole_path,
            fingerprint,
            taken,
            likeness,
            lambda: [(self._whole_path(where), rival) for where, rival in rivals()],
        )
        if found is not None:
            self._taken_choices.add(found.number)
        return found

    def is_on_record(self, records: tuple[ChoiceRecord, ...], choice: ChoiceRecord) -> bool:
        """Tell whether a choice that was made again is on record as it is; no other choice gets that record then."""
        choice = msgspec.structs.replace(choice, path=self._whole_path(choice.path))
        for one in records:
            if one.number not in self._taken_choices and is_equal(one, choice):
                self._taken_choices.add(one.number)
                return True
        return False

    async def find_call(self, key: NodeKey | None, arguments: list[Any]) -> Call:
        """Ask what is known of a function's call; without a key it cannot be known."""
        if key is None:
            self.is_fresh = True
            return Call(None)
        request = _uses(arguments)
        if not self.has_past:
            self.is_fresh = True
            return Call(key, request=request)
        entry = await self._write(Begin(key, time.time(), slot=self.slot(key)))
        self._note(entry)
        if entry.advice.action != "restore":
            return Call(key, request=request)
        value = self._value_of(entry, key.path)
        if not is_still_true(value):
            self.is_fresh = True
            return Call(key, request=request)
        return Call(key, is_known=True, value=value, has_requests=has_requests(entry.items[0]), cost=entry.cost)

    def _value_of(self, entry: Entry, path: str) -> Any:
        try:
            [item] = entry.items
            return decode_value(item)
        except UNREADABLE as error:
            raise _unreadable(path, error) from error

    def error_of(self, entry: Entry, path: str) -> RunwareError | None:
        """Return the error that is on record of a request.

        Raises:
            JournalError: what is there is none.
        """
        try:
            return None if entry.error is None else decode_error(entry.error)
        except UNREADABLE as error:
            raise _unreadable(path, error) from error

    async def keep_call(self, call: Call, value: Any, cost_tracker: CostTracker | None = None) -> None:
        """Make a function's value durable, if it can be made again from what is written. A cancel waits for it."""
        bought = cost_tracker is not None and cost_tracker.count > 0
        encoded = None if call.key is None else encode_value(value, has_requests=bought)
        if call.key is not None and encoded is not None:
            amount = cost_tracker.micro_usd() if cost_tracker is not None and bought else None
            cost = None if amount is None else amount / 1_000_000
            keep = Keep(call.key, time.time(), encoded, call.request, self.slot(call.key), cost)
            await self._writer.write_surely(self._leased(keep))

    def _note(self, entry: Entry) -> None:
        if entry.advice.action == "restore":
            self.has_restored = True
        else:
            self.is_fresh = True

    async def _write(self, begin: Begin) -> Entry:
        entry = await self._put(begin)
        assert entry is not None
        self.note_slot(begin.key, entry)
        return entry

    def key(self, item: str, path: str, fingerprint: str) -> NodeKey:
        """What a request is known by in the journal."""
        return NodeKey(self._flow, self._whole_path(path), fingerprint, f"{self._item}{item}")

    def call_key(self, item: str, spec: NodeSpec, path: str, function: Any, arguments: list[Any]) -> NodeKey | None:
        """What a function's call is known by; `None` if JSON cannot show all of it, so that it runs each time."""
        fingerprint = fingerprint_call(function, arguments)
        return None if fingerprint is None else self.key(f"{item}/{spec.label}", path, fingerprint)

    def _whole_path(self, path: str) -> str:
        return f"{self._prefix}/{path}" if self._prefix else path

    async def _put(self, change: Change) -> Entry | None:
        return await self._writer.write(self._leased(change))

    def _leased(self, change: ChangeT) -> ChangeT:
        """Name the lease, without which nothing is written of an item that processes share."""
        if not self.lease or isinstance(change, ReadChoices):
            return change
        return msgspec.structs.replace(change, lease=self.lease)

    def note_slot(self, key: NodeKey, entry: Entry) -> None:
        """Remember what the journal gave a node, for a second lookup of the same node."""
        if entry.slot:
            self._slots[key.path, key.fingerprint] = entry.slot

    def slot(self, key: NodeKey) -> int:
        """What the journal gave a node for a request; 0 if it has not asked."""
        return self._slots.get((key.path, key.fingerprint), 0)


class Call(msgspec.Struct, frozen=True):
    """A call of a function; without a key it cannot be known again.

    Attributes:
        has_requests: it bought something through a client when it was called.
        cost: what that cost, in USD; `None` is unknown.
    """

    key: NodeKey | None
    is_known: bool = False
    value: Any = None
    request: bytes | None = None
    has_requests: bool = False
    cost: float | None = None


def _uses(arguments: list[Any]) -> bytes | None:
    """What a function was given, as far as media are concerned, so that a report can tell whose file it wrote."""
    given: list[Any] = []
    for value in arguments:
        given += value if isinstance(value, list) else [value]
    names = [name for one in given if isinstance(one, MediaResult) for name in references_to(one)]
    return msgspec.json.encode({"uses": names}) if names else None


def _unreadable(path: str, error: Exception) -> JournalError:
    what = " ".join(str(error).split())
    return JournalError(f"the journal has a record of {path!r} that cannot be read: {what}")


def settlement(number: int, results: list[Any], error: RunwareError | None = None) -> Settle:
    """Say what came of the request with that number in the journal."""
    amount = total_micro_usd([result.cost for result in results])
    return Settle(
        number,
        time.time(),
        is_done=bool(results),
        items=tuple(encode_item(result) for result in results),
        error=None if error is None else encode_error(error),
        cost=None if amount is None else amount / 1_000_000,
    )


def _without_secrets(wire: Mapping[str, Any]) -> Mapping[str, Any]:
    if _SECRET.isdisjoint(wire):
        return wire
    return {name: value for name, value in wire.items() if name not in _SECRET}
