"""`runware-flow export` and `journal flows`, `ls` and `show`: the items of a journal as rows."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runware_flow.cli.program import UsageError
from runware_flow.cli.terminal import echo
from runware_flow.files import local_path
from runware_flow.journal import Journal
from runware_flow.runner.journal_report import read_story
from runware_flow.view.gallery import gallery_of
from runware_flow.view.progress import cost_text
from runware_flow.view.table import COLUMNS, key_of, table_of
from runware_flow.view.terminal import visible

if TYPE_CHECKING:
    from runware_flow.journal.address import JournalAddress

__all__ = ("export_command", "flows_command", "list_command", "show_command")

_INPUT_LETTERS = 60


def export_command(journal: JournalAddress, *, kind: str, out: Path | None, flow: str | None) -> None:
    """Write a row for each item as CSV or JSON lines, to a file or to standard output."""
    rows = _table(journal, flow)
    text = _as_csv(rows) if kind == "csv" else "".join(json.dumps(row) + "\n" for row in rows)
    if out is None:
        echo(text.removesuffix("\n"), is_laid_out=True)
        return
    path = local_path(out)
    if isinstance(journal, Path) and path.resolve() == local_path(journal).resolve():
        raise UsageError(f"the export and the journal cannot both be {out}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("utf-8"))
    echo(f"{len(rows)} items: {out}")


def flows_command(journal: JournalAddress) -> None:
    """Print a line for each flow and batch of a journal."""
    with Journal(journal) as reader:
        summaries = [(name, reader.summary(flow=name)) for name in reader.flows()]
    for name, summary in summaries:
        counts = f"{summary.done_count} done, {summary.failed_count} failed, {summary.open_count} open"
        echo(visible(f"{name}  {counts}, {cost_text(summary.cost)}"))


def list_command(journal: JournalAddress, *, failed: bool, flow: str | None) -> None:
    """Print a line for each item; where there are several flows, with the name of its flow before it."""
    rows = _table(journal, flow)
    has_several = len({row["flow"] for row in rows}) > 1
    for row in rows:
        if failed and row["state"] != "failed":
            continue
        about = " ".join(row["input"].split())
        about = about if len(about) <= _INPUT_LETTERS else about[: _INPUT_LETTERS - 3] + "..."
        why = f"  {row['error']}" if row["error"] else ""
        of = f"{row['flow']}  " if has_several else ""
        echo(visible(f"{of}{row['key']}  {row['state']}  {cost_text(row['cost'])}  {about}{why}"))


def show_command(journal: JournalAddress, key: str, *, flow: str | None) -> None:
    """Print what became of each node of one item.

    Raises:
        UsageError: the journal has no item of that key, or several flows have one.
    """
    with Journal(journal) as reader:
        story = read_story(reader, flow)
    items = [item for item in gallery_of(story.rows, story.shape) if key in (key_of(item.name), item.name)]
    if not items:
        raise UsageError(f"{journal} has no item {key!r}: `runware-flow journal ls {journal}` lists them")
    flows = list(dict.fromkeys(story.rows[item.rows[0]].flow for item in items))
    if len(flows) > 1:
        raise UsageError(f"several flows have an item {key!r}: name one of {', '.join(map(repr, flows))} with --flow")
    for number in items[0].rows:
        row = story.rows[number]
        cost = "" if row.task_uuid is None else f", {cost_text(row.cost)}"
        model = f", {row.model}" if row.model else ""
        echo(visible(f"{row.place}: {row.state}{cost}{model}"))
        for name, text in (
            ("taskUUID", row.task_uuid or ""),
            ("asked", row.prompt),
            ("came", row.text),
            ("media", " ".join(str(getattr(result, "reference", result))[:300] for _, result in row.media)),
            ("file", row.saved),
            ("error", str(row.error or row.because or "") if row.state != "ok" else ""),
        ):
            if text:
                echo(visible(f"    {name}: {' '.join(text.split())}"))


def _table(journal: JournalAddress, flow: str | None) -> list[dict[str, Any]]:
    with Journal(journal) as reader:
        story = read_story(reader, flow)
    return table_of(story.rows, story.shape)


def _as_csv(rows: list[dict[str, Any]]) -> str:
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    columns = (*COLUMNS, "flow")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row[name]) for name in columns])
    return file.getvalue()


def _cell(value: Any) -> str:
    """A cell as text; what a spreadsheet would take for a formula is kept from that by an apostrophe."""
    if isinstance(value, list):
        value = "\n".join(value)  # pyright: ignore[reportUnknownArgumentType] - texts, by the table
    text = "" if value is None else str(value)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
