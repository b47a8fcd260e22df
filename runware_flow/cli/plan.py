"""`runware-flow plan`: a table, JSON, or a diagram; for a Batch, a plan of a sample of its items."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec

from runware_flow.catalog import load_registry
from runware_flow.cli.batch import read_items
from runware_flow.interrupts import run_interruptible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from runware_flow.batch.batch import Batch
    from runware_flow.flow.flow import Flow
    from runware_flow.graph.forecast import Plan
    from runware_flow.journal.address import JournalAddress

__all__ = ("plan_batch_command", "plan_command")


def plan_command(flow: Flow, *, journal: JournalAddress | None, prices: bool, mermaid: bool, is_json: bool) -> str:
    """Return what is to be printed."""
    if mermaid:
        return flow.mermaid()
    known = run_interruptible(flow.look_up_prices) if prices else None
    option: Any = journal
    plan = flow.plan(journal=option, prices=known)
    if is_json:
        return json.dumps(msgspec.to_builtins(plan))
    lines = [str(plan), *_unknown_models(plan)]
    if plan.unpriced and not prices:
        lines.append("--prices asks the service for unknown prices; nothing is billed")
    return "\n".join(lines)


def plan_batch_command(
    batch: Batch[Any, Any, Any], items: Path, *, limit: int | None, journal: JournalAddress | None, is_json: bool
) -> str:
    """Return what is to be printed of a batch and a file of items."""
    made, _ = read_items(items, key=None, limit=limit)
    found = batch if journal is None else batch.overridden(None, journal=journal)
    plan = found.plan(_CountedItems(made))
    if is_json:
        more = {"cost": plan.cost, "estimate": plan.estimate}
        return json.dumps(msgspec.to_builtins({**msgspec.structs.asdict(plan), **more}))
    return str(plan)


class _CountedItems:
    """The items of a file, which is read anew each time and never held, and how many there are."""

    def __init__(self, read: Callable[[], Iterator[Any]]) -> None:
        self._read = read
        self._count = sum(1 for _ in read())

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Any]:
        return self._read()


def _unknown_models(plan: Plan) -> list[str]:
    """Tell of each model that the catalog lacks: it may be misspelt, newer, or one of the community."""
    registry = load_registry()
    named = dict.fromkeys(stage.model for stage in plan.stages if stage.model)
    lines: list[str] = []
    for model in named:
        if model in registry.models or model in registry.airs:
            continue
        like = registry.suggest(model)
        meant = f", which has {' and '.join(like)}" if like else ""
        lines.append(f"{model} is not in the catalog of this package{meant}")
    return lines
