"""What `runware-flow plan` does: a table, JSON, or a diagram."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import msgspec

if TYPE_CHECKING:
    from pathlib import Path

    from runware_flow.run.flow import Flow

__all__ = ("plan_command",)


def plan_command(flow: Flow, *, journal: Path | None, prices: bool, mermaid: bool, is_json: bool) -> str:
    """Return what is to be printed."""
    if mermaid:
        return flow.mermaid()
    known = anyio.run(flow.look_up_prices) if prices else None
    plan = flow.plan(journal=journal, prices=known)
    if is_json:
        return msgspec.json.encode(plan).decode()
    hint = "\nwhat is unknown can be asked for with --prices; nothing is billed" if plan.unpriced and not prices else ""
    return f"{plan}{hint}"
