"""What a run does with its journal, node by node."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import anyio
import msgspec

from runware_flow.errors import JournalError
from runware_flow.graph.policies import is_verdict
from runware_flow.journal.store import Begin, Entry, Keep, NodeKey, Settle
from runware_flow.journal.values import (
    decode_error,
    decode_value,
    encode_error,
    encode_item,
    encode_value,
    fingerprint_call,
    is_still_true,
)
from runware_flow.types import MediaResult
from runware_flow.view.request import references_to
from runware_flow.wire.salvage import UNREADABLE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runware_flow.errors import RunwareError
    from runware_flow.journal.store import JournalStore
    from runware_flow.journal.writer import JournalWriter
    from runware_flow.runner.requester import PreparedTask

__all__ = ("Ledger", "settlement")

_SECRET = frozenset({"uploadEndpoint", "webhookURL"})
"""Parameters whose addresses often carry a token; a journal does without them."""


class Ledger:
    """The journal of one flow's run.

    Args:
        prefix: put before the paths of its nodes, for a flow that is run for each item of a batch.

    Attributes:
        is_fresh: a node was asked for that is not on record as finished.
        has_restored: a node was that is.
    """

    def __init__(self, writer: JournalWriter, flow: str, prefix: str = "") -> None:
        self._writer = writer
        self._flow = flow
        self._prefix = prefix
        self.is_fresh = False
        self.has_restored = False

    @property
    def store(self) -> JournalStore:
        """What keeps the journal."""
        return self._writer.store

    @property
    def has_past(self) -> bool:
        """Whether an earlier run may have written in this journal; if not, there is nothing to look up."""
        return self._writer.has_past

    async def begin(self, path: str, fingerprint: str, request: PreparedTask) -> Entry:
        """Ask what is known of a node; if it is to be bought, its request is durable when this returns.

        A cancel waits for it, to know whether an earlier run may have sent something.
        """
        body = msgspec.json.encode(_without_secrets(request.wire))
        key = self.key(path, fingerprint)
        begin = Begin(key, time.time(), request.task_id, request.task_type, request.model, body)
        entry = None
        with anyio.CancelScope(shield=True):
            entry = await self._writer.write(begin)
        assert entry is not None
        self._note(entry)
        return entry

    async def knows(self, path: str, fingerprint: str) -> bool:
        """Tell whether there are results of a request, or one that may still have some. Writes nothing."""
        if not self.has_past:
            return False
        entry = await self._writer.write(Begin(self.key(path, fingerprint), time.time()))
        assert entry is not None
        return entry.advice.action != "buy"

    async def settle(
        self, entry: Entry, results: list[Any], error: RunwareError | None = None, *, cost: float | None = None
    ) -> None:
        """Make the outcome durable; a cancel waits for that, since what came has been paid for.

        Args:
            cost: what was paid, where that is not the sum of the results' own costs.
        """
        change = settlement(entry.number, results, error)
        if cost is not None:
            change = msgspec.structs.replace(change, cost=cost)
        with anyio.CancelScope(shield=True):
            await self._writer.write(change)

    async def fail(self, entry: Entry, error: RunwareError) -> None:
        """Make a verdict of the service durable. After any other error the request stays open, to be asked for."""
        if not is_verdict(error):
            return
        await self.settle(entry, error.results, error)

    async def look_up(self, path: str, fingerprint: str) -> Entry | None:
        """Return the outcome of a node that is finished, or `None`. Writes nothing."""
        entry = await self.find(path, fingerprint)
        return None if entry is None or entry.advice.action != "restore" else entry

    async def find(self, path: str, fingerprint: str) -> Entry | None:
        """Return what is there to restore or to collect, or `None`. Writes nothing."""
        entry = await self._writer.write(Begin(self.key(path, fingerprint), time.time()))
        if entry is None or entry.advice.action == "buy":
            return None
        self.has_restored = self.has_restored or entry.advice.action == "restore"
        return entry

    async def recall_call(self, path: str, function: Any, arguments: list[Any]) -> Call:
        """Ask what is known of a function called with these arguments."""
        fingerprint = fingerprint_call(function, arguments)
        if fingerprint is None:
            self.is_fresh = True
            return Call(None)
        key = self.key(path, fingerprint)
        entry = await self._writer.write(Begin(key, time.time()))
        assert entry is not None
        self._note(entry)
        if entry.advice.action != "restore":
            return Call(key, request=_uses(arguments))
        value = self._value_of(entry, path)
        if not is_still_true(value):
            self.is_fresh = True
            return Call(key, request=_uses(arguments))
        return Call(key, is_known=True, value=value)

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

    async def keep_call(self, call: Call, value: Any) -> None:
        """Make a function's value durable, if it can be made again from what is written."""
        encoded = None if call.key is None else encode_value(value)
        if call.key is not None and encoded is not None:
            with anyio.CancelScope(shield=True):
                await self._writer.write(Keep(call.key, time.time(), encoded, call.request))

    def _note(self, entry: Entry) -> None:
        if entry.advice.action == "restore":
            self.has_restored = True
        else:
            self.is_fresh = True

    def key(self, path: str, fingerprint: str) -> NodeKey:
        """What a node is known by in the journal."""
        return NodeKey(self._flow, f"{self._prefix}/{path}" if self._prefix else path, fingerprint)


class Call(msgspec.Struct, frozen=True):
    """A call of a function; without a key it cannot be known again."""

    key: NodeKey | None
    is_known: bool = False
    value: Any = None
    request: bytes | None = None


def _uses(arguments: list[Any]) -> bytes | None:
    """What a function was given, as far as media are concerned, so that a report can tell whose file it wrote."""
    given: list[Any] = []
    for value in arguments:
        given += value if isinstance(value, list) else [value]
    names = [name for one in given if isinstance(one, MediaResult) for name in references_to(one)]
    return msgspec.json.encode({"uses": names}) if names else None


def _unreadable(path: str, error: Exception) -> JournalError:
    what = " ".join(str(error).split())
    return JournalError(f"the journal has something for {path!r} that no run wrote: {what}")


def settlement(number: int, results: list[Any], error: RunwareError | None = None) -> Settle:
    """Say what came of the request with that number in the journal."""
    costs = [result.cost for result in results]
    known = [cost for cost in costs if cost is not None]
    return Settle(
        number,
        time.time(),
        is_done=bool(results),
        items=tuple(encode_item(result) for result in results),
        error=None if error is None else encode_error(error),
        cost=sum(round(one * 1_000_000) for one in known) / 1_000_000 if known and len(known) == len(costs) else None,
    )


def _without_secrets(wire: Mapping[str, Any]) -> Mapping[str, Any]:
    if _SECRET.isdisjoint(wire):
        return wire
    return {name: value for name, value in wire.items() if name not in _SECRET}
