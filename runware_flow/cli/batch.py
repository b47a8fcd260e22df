"""`runware-flow run` with a Batch: items from a file, outcomes as lines, a summary."""

from __future__ import annotations

import csv
import functools
import json
import signal
from typing import TYPE_CHECKING, Any

import anyio

from runware_flow.cli.program import UsageError
from runware_flow.cli.terminal import echo, echo_json, say
from runware_flow.errors import FlowFailed
from runware_flow.files import local_path
from runware_flow.graph.fingerprint import item_key
from runware_flow.graph.outcomes import Failed, Ok
from runware_flow.interrupts import Interrupts
from runware_flow.types import Result
from runware_flow.view.progress import cost_text
from runware_flow.view.terminal import visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from runware_flow.batch.batch import Batch
    from runware_flow.batch.item import BatchItem
    from runware_flow.batch.report import BatchOutcomes, BatchReport
    from runware_flow.graph.outcomes import Outcome
    from runware_flow.journal.address import JournalAddress

__all__ = ("read_items", "run_batch_command")

_SHOWN_FAILURES = 3


def read_items(path: Path, *, key: str | None, limit: int | None) -> tuple[Callable[[], Iterator[Any]], Any]:
    """Read the items of a batch from a file as they are needed: CSV, JSON lines, or a text with a line for each.

    Args:
        key: the column, or the member, that names an item.
        limit: how many items there are at most.

    Returns:
        What makes the iterator, and the function that names an item or `None`.

    Raises:
        UsageError: there is no such file or column.
    """
    file = local_path(path)
    if not file.is_file():
        raise UsageError(
            f"--items {path} does not exist: name a .csv, a .jsonl, or a text file with a line for each item"
        )
    read = {".csv": _csv_rows, ".tsv": _csv_rows, ".jsonl": _json_lines, ".ndjson": _json_lines}.get(
        file.suffix.lower(), _lines
    )
    if key is not None:
        first: Any = next(read(file), None)
        if read is _lines:
            raise UsageError("--key names a column of a .csv or a member of a .jsonl, and a text file has neither")
        names: list[str] = list(first) if hasattr(first, "keys") else []
        if first is not None and key not in names:
            there = ", ".join(names) or "no names"
            raise UsageError(f"--key {key}: the items of {path} have no {key!r}; they have {there}")

    def items() -> Iterator[Any]:
        for number, item in enumerate(read(file)):
            if limit is not None and number >= limit:
                return
            yield item

    def name(item: Any) -> str:
        return str(item[key])

    return items, None if key is None else name


def _csv_rows(file: Path) -> Iterator[Any]:
    with file.open(newline="", encoding="utf-8-sig") as opened:
        yield from csv.DictReader(opened, delimiter="\t" if file.suffix.lower() == ".tsv" else ",")


def _json_lines(file: Path) -> Iterator[Any]:
    with file.open(encoding="utf-8-sig") as opened:
        for number, line in enumerate(opened, 1):
            if line.strip():
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise UsageError(f"{file}, line {number}, is not JSON: {error}") from None


def _lines(file: Path) -> Iterator[Any]:
    with file.open(encoding="utf-8-sig") as opened:
        for line in opened:
            if line.strip():
                yield line.strip()


class _Command:
    def __init__(self, batch: Batch[Any, Any, Any], items: Any, *, is_json: bool) -> None:
        self._batch = batch
        self._items = items
        self._is_json = is_json
        self._outcomes: BatchOutcomes[Any, Any] | None = None
        self.interrupts = Interrupts(signal.SIGINT, signal.SIGTERM)
        self.report: BatchReport | None = None
        self.failure: FlowFailed | None = None
        self.failures: list[str] = []

    async def main(self) -> None:
        with anyio.CancelScope() as scope, self.interrupts.on_press(functools.partial(self._interrupt, scope)):
            try:
                async with self._batch.run(self._items) as outcomes:
                    self._outcomes, self.report = outcomes, outcomes.report
                    async for item in outcomes:
                        self._report(item)
                        if self.interrupts.presses:
                            break
            except FlowFailed as failure:
                self.failure = failure

    def _interrupt(self, scope: anyio.CancelScope) -> None:
        if self.interrupts.presses > 1 or self._outcomes is None:
            scope.cancel()
            return
        say(
            "stopping: nothing new is sent; what is in flight may be billed and is waited for. Interrupt again to leave"
        )

    def _report(self, item: BatchItem[Any, Any]) -> None:
        outcome, place = item.outcome, _place(item)
        if item.is_failed and len(self.failures) < _SHOWN_FAILURES:
            self.failures.append(visible(f"{place} failed: {item.error}"))
        if self._is_json:
            echo_json({"index": item.index, "key": item.key, "input": _plain(item.input), **_as_json(outcome)})
        else:
            echo(visible(f"{place}: {_text(outcome)}"))


def run_batch_command(
    batch: Batch[Any, Any, Any],
    *,
    items: Path | None,
    key: str | None,
    limit: int | None,
    report: Path | None,
    journal: JournalAddress | None,
    is_json: bool,
    backend: str,
    options: dict[str, Any],
) -> int:
    """Run a batch on the items of a file, and say what came of it; returns the exit code."""
    if items is None:
        raise UsageError(f"the Batch {batch.name!r} needs items: --items FILE, a .csv, a .jsonl or a text")
    read, name = read_items(items, key=key, limit=limit)
    if journal is not None:
        options["journal"] = journal
    command = _Command(batch.overridden(name, **options), read, is_json=is_json)
    with command.interrupts:
        anyio.run(command.main, backend=backend)
    if command.report is None:
        return 130
    result = command.report
    if not is_json:
        echo(
            visible(
                f"{batch.name}: {result.ok_count} ok, {result.restored_count} of them restored from the journal,"
                f" {result.failed_count} failed; {cost_text(result.cost)}"
            )
        )
    if report is not None:
        echo(f"report: {result.html(report)}")
    for line in command.failures:
        say(line)
    if result.failed_count > len(command.failures):
        where = (
            "--report FILE lists them all"
            if journal is None
            else f"`runware-flow journal ls {journal} --failed` lists them"
        )
        say(f"{result.failed_count - len(command.failures)} more failed: {where}")
    if command.interrupts.presses:
        return 130
    if command.failure is not None:
        say(str(command.failure))
        return 1
    return 1 if result.failed_count else 0


def _place(item: BatchItem[Any, Any]) -> str:
    """What its line begins with: its key, or its position if the key is no more than a hash of what it is."""
    return str(item.index) if item.key.startswith(item_key(item.input)) else item.key


def _text(outcome: Outcome[Any]) -> str:
    if isinstance(outcome, Failed):
        return f"failed: {outcome.error}"
    if not isinstance(outcome, Ok):
        return str(outcome)
    value: Any = outcome.value
    if isinstance(value, Result):
        value = getattr(value, "text", None) or getattr(value, "reference", None)
    return " ".join(str(value).split())[:300]


def _as_json(outcome: Outcome[Any]) -> dict[str, Any]:
    if isinstance(outcome, Ok):
        return {"state": "ok", "value": _plain(outcome.value)}
    return {"state": type(outcome).__name__.lower(), "error": _text(outcome)}


def _plain(value: Any) -> Any:
    if isinstance(value, Result):
        return value.raw
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return str(value)
    return value
