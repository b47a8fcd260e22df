"""The items of a run as rows of a table, for spreadsheets, data frames and scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runware_flow.view.gallery import address_of, gallery_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runware_flow.view.shape import Shape
    from runware_flow.view.story import Row

__all__ = ("COLUMNS", "table_of")

COLUMNS = ("key", "input", "state", "error", "cost", "texts", "files", "urls")
"""A journal may have several flows, so there is `flow` too in what is made of one."""


def table_of(rows: Sequence[Row], shape: Shape) -> list[dict[str, Any]]:
    """One row for each item: its key, what was asked, how it ended, and what came of it.

    `texts`, `files` and `urls` are lists, in the order of the stages; `cost` is in USD, `None` if it is not known.
    """
    table: list[dict[str, Any]] = []
    for item in gallery_of(rows, shape):
        mine = [rows[number] for number in item.rows]
        failed = next((row for row in mine if row.state == "failed"), None)
        error = "" if failed is None else str(failed.error or failed.because)
        urls = [address for row in mine for _, result in row.media if (address := address_of(result))]
        table.append(
            {
                "key": key_of(item.name),
                "input": item.title,
                "state": item.state,
                "error": error if item.state != "ok" else "",
                "cost": None if item.unknown_count else item.cost,
                "texts": [row.text for row in mine if row.text and row.task_type is not None],
                "files": [row.saved for row in mine if row.saved],
                "urls": list(dict.fromkeys(urls)),
                **({"flow": mine[0].flow} if mine[0].flow else {}),
            }
        )
    return table


def key_of(name: str) -> str:
    """The key of an item out of its name, `stage[key]`; the name itself of what is outside of fan-outs."""
    return name[name.index("[") + 1 : -1] if name.endswith("]") and "[" in name else name
