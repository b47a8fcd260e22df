"""Restores items that are finished in the journal, many at once, without a plan, a machine or a runner for each.

An item's nodes are looked up one after the other, each by the request that it would send now, so an edited pipeline is
noticed. As soon as anything is not plainly on record, the item takes the long way, which looks everything up again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from runware_flow.graph.declaration import SENDS, NodeKind
from runware_flow.graph.fingerprint import fingerprint
from runware_flow.graph.prices import micro_usd
from runware_flow.journal.store import Begin
from runware_flow.journal.values import decode_item, decode_value, is_still_true
from runware_flow.runner.media_digests import has_local_media, media_digests, read_media
from runware_flow.types import Task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runware_flow.flow.node import Node
    from runware_flow.graph.declaration import NodeSpec
    from runware_flow.journal.ledger import Ledger
    from runware_flow.journal.store import Entry, NodeKey
    from runware_flow.journal.writer import JournalWriter
    from runware_flow.runner.accounts import Accounts
    from runware_flow.runner.requester import Requester

__all__ = ("Restorer", "restore")


async def restore(items: Sequence[Restorer], writer: JournalWriter) -> None:
    """Follow all items as far as the journal knows them, a node of each at a time. Writes nothing."""
    waiting = [(item, key) for item in items if (key := await item.advance()) is not None]
    while waiting:
        now = time.time()
        entries = await writer.write_all([Begin(key, now, slot=item.slot(key)) for item, key in waiting])
        followed = [item for (item, _), entry in zip(waiting, entries, strict=True) if item.take(entry)]
        waiting = [(item, key) for item in followed if (key := await item.advance()) is not None]


class Restorer:
    """How far one item is on record.

    Attributes:
        is_known: all of it is, and `value` is that of its last node.
    """

    __slots__ = (
        "_at",
        "_client",
        "_costs",
        "_last",
        "_ledger",
        "_nodes",
        "_request",
        "_values",
        "_wanted",
        "is_known",
        "value",
    )

    def __init__(self, node: Node[Any], client: Requester | None, ledger: Ledger) -> None:
        declaration = node.declaration
        self.is_known = False
        self.value: Any = None
        self._last = node.spec.slot
        # Each is declared after what it depends on. An item that fans out has no short way.
        self._nodes: list[NodeSpec] = declaration.root.nodes if len(declaration.scopes) == 1 else []
        self._at = 0
        self._client = client
        self._ledger = ledger
        self._wanted: NodeKey | None = None
        self._request: Any = None
        self._values: list[Any] = []
        self._costs: list[tuple[str, str, str | None, float | None]] = []

    async def advance(self) -> NodeKey | None:
        """Go on to the next node that has to be looked up; `None` if there is none, or the item is not on record."""
        try:
            while self._at < len(self._nodes):
                spec = self._nodes[self._at]
                args = [self._values[dep.slot] for dep in spec.deps]
                if spec.kind is not NodeKind.PICK:
                    self._wanted = await self._key(spec, args)
                    return self._wanted
                self._put(spec.work(*args))
        except Exception:  # noqa: BLE001 - it is raised again on the long way, which says whose it is
            return None
        if self._nodes:
            self.is_known, self.value = True, self._values[self._last]
        return None

    def take(self, entry: Entry | None) -> bool:
        """Take what the journal has of the node; tells whether that is its outcome, so that the next can be asked."""
        if entry is not None and (key := self._wanted) is not None:
            self._ledger.note_slot(key, entry)
        if entry is None or entry.advice.action != "restore" or entry.error is not None or not entry.items:
            return False
        spec, request = self._nodes[self._at], self._request
        try:
            if request is None:
                value = decode_value(entry.items[0])
                if not is_still_true(value):
                    return False
                self._put(value)
            else:
                results = [decode_item(item, request.result_type) for item in entry.items]
                self._costs.append((spec.path, request.task_type, request.model, entry.cost))
                self._put(results if spec.keeps_all else results[0])
        except Exception:  # noqa: BLE001 - as above
            return False
        self._ledger.has_restored = True
        return True

    def slot(self, key: NodeKey) -> int:
        """What the journal gave this item for a request when it was looked up before."""
        return self._ledger.slot(key)

    def book(self, accounts: Accounts) -> None:
        """Count what the item bought in earlier runs."""
        for stage, task_type, model, cost in self._costs:
            accounts.add(stage, task_type, model, micro_usd(cost), may_be_billed=True)

    def _put(self, value: Any) -> None:
        self._values.append(value)
        self._at += 1

    async def _key(self, spec: NodeSpec, args: list[Any]) -> NodeKey | None:
        self._request = None
        if spec.kind is NodeKind.CALL:
            return self._ledger.call_key("", spec, spec.name, spec.work, args)
        task = spec.work if spec.kind is NodeKind.TASK else spec.work(*args)
        if spec.kind not in SENDS or self._client is None or not isinstance(task, (Task, Mapping)):
            return None
        self._request = request = self._client.prepare(cast("Any", task), include_cost=True)
        if request.slots > 1 and not spec.keeps_all:
            return None
        if has_local_media(request):
            await read_media(request)
        return self._ledger.key("", spec.name, fingerprint(request.wire, media_digests(request)))
