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
    return msgspec.json.encode(plan).decode() if is_json else str(plan)
