"""What `runware-flow plan` does: a table, JSON, or a diagram."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec

from runware_flow.catalog import load_registry
from runware_flow.interrupts import run_interruptible

if TYPE_CHECKING:
    from runware_flow.flow.flow import Flow
    from runware_flow.graph.forecast import Plan
    from runware_flow.journal.address import JournalAddress

__all__ = ("plan_command",)


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
        lines.append("what is unknown can be asked for with --prices; nothing is billed")
    return "\n".join(lines)


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
