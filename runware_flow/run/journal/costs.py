"""What a journal has seen models cost, for plans and budgets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runware_flow.graph.prices import Price
from runware_flow.run.journal.sqlite import STATES, connect, items_of, translated

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ("seen_prices",)

_LATEST = 10_000


def seen_prices(path: Path) -> dict[tuple[str, str | None], Price]:
    """Return what one result cost, by task type and model, over the last 10,000 finished requests of a journal.

    Blocks, as any file does. A journal that is not there yet has seen nothing.

    Raises:
        JournalError: the file is no journal, or is damaged.
    """
    if not path.is_file():
        return {}
    found: dict[tuple[str, str | None], Price] = {}
    with translated(path):
        connection = connect(path, is_read_only=True)
        try:
            rows = connection.execute(
                f"""SELECT task_type, model, micro_usd, items FROM node WHERE state = {STATES.index("done")}
                    AND micro_usd IS NOT NULL ORDER BY id DESC LIMIT {_LATEST}"""
            )
            for task_type, model, micro_usd, items in rows:
                each = micro_usd / max(1, len(items_of(items))) / 1_000_000
                known = found.get((task_type, model), Price(each, each, "journal"))
                found[task_type, model] = Price(min(known.low, each), max(known.high, each), "journal")
        finally:
            connection.close()
    return found
