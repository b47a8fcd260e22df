"""The short way for an item that is finished in the journal: no plan, no machine, no runner.

Its nodes are looked up one after the other, each by the request that it would send now, so an edited pipeline is
noticed. As soon as anything is not plainly on record, the item takes the long way, which looks everything up again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from runware_flow.graph.declaration import NodeKind
from runware_flow.graph.fingerprint import fingerprint
from runware_flow.graph.outcomes import Ok
from runware_flow.run.journal.values import decode_item, decode_value, fingerprint_call
from runware_flow.run.media import media_digests
from runware_flow.types import Task

if TYPE_CHECKING:
    from runware_flow.graph.declaration import Declaration, NodeSpec
    from runware_flow.run.accounts import Accounts
    from runware_flow.run.journal.ledger import Ledger

__all__ = ("recall",)

_UNKNOWN: Any = object()


async def recall(
    declaration: Declaration, last: NodeSpec, client: Any, ledger: Ledger, accounts: Accounts
) -> Ok[Any] | None:
    """Restore the outcome of `last`; `None` if not all that it takes is on record as finished."""
    if len(declaration.scopes) > 1:
        return None
    bought: list[tuple[str, str, str | None, float | None]] = []
    values: list[Any] = []
    try:
        for spec in declaration.root.nodes:  # declared after what it depends on
            args = [values[dep.slot] for dep in spec.deps]
            if spec.kind is NodeKind.PICK:
                value = spec.work(*args)
            elif spec.kind is NodeKind.CALL:
                value = await _call(spec, args, ledger)
            elif spec.kind in (NodeKind.TASK, NodeKind.BUILD):
                value = await _task(spec, args, client, ledger, bought)
            else:
                return None
            if value is _UNKNOWN:
                return None
            values.append(value)
    except Exception:  # noqa: BLE001 - it is raised again on the long way, which says whose it is
        return None
    for stage, task_type, model, cost in bought:
        accounts.add(stage, task_type, model, cost, may_be_billed=True)
    return Ok(values[last.slot])


async def _call(spec: NodeSpec, args: list[Any], ledger: Ledger) -> Any:
    known = fingerprint_call(spec.work, args)
    entry = None if known is None else await ledger.look_up(spec.name, known)
    return decode_value(entry.items[0]) if entry is not None else _UNKNOWN


async def _task(spec: NodeSpec, args: list[Any], client: Any, ledger: Ledger, bought: list[Any]) -> Any:
    task = spec.work if spec.kind is NodeKind.TASK else spec.work(*args)
    if client is None or not isinstance(task, (Task, Mapping)):
        return _UNKNOWN
    request: Any = client.prepare(cast("Any", task), include_cost=True)
    entry = await ledger.look_up(spec.name, fingerprint(request.wire, media_digests(request)))
    if entry is None or entry.error is not None or not entry.items or (request.slots > 1 and not spec.keeps_all):
        return _UNKNOWN
    bought.append((spec.path, request.task_type, request.model, entry.cost))
    results = [decode_item(item, request.result_type) for item in entry.items]
    return results if spec.keeps_all else results[0]
