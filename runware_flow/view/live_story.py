"""Makes the rows and boxes of a report from the events of a run, at any time while it runs.

Stages are the paths without the keys of their items, as in a journal's story. It keeps a row for each node, up to
`MOST_ROWS`; of a longer batch the first ones, and counts the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from runware_flow.graph.events import NodeDelta, NodeProgress, NodeRefused, NodeSettled, NodeStarted, RunStarted
from runware_flow.graph.outcomes import Failed, Ok, Skipped
from runware_flow.view.journal_story import JournalLine, PathBoxes, short_path, stage_of
from runware_flow.view.request import TEXT_LIMIT, references_to, shown_value
from runware_flow.view.shape import Shape, merged
from runware_flow.view.story import Row

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runware_flow.graph.events import Event

__all__ = ("MOST_ROWS", "LiveStory")

MOST_ROWS = 40_000


class LiveStory:
    """The rows that the events of a run have given so far.

    Attributes:
        name: the flow's or the batch's.
        state: `waiting` before the run, `running`, then how it ended.
        seconds: the time of the last event.
        left_out: nodes that settled beyond `MOST_ROWS`.
        version: changes whenever there is something new to show.
    """

    def __init__(self) -> None:
        self.version = 0
        self._begin()

    def _begin(self) -> None:
        self.name = "run"
        self.state = "waiting"
        self.seconds = 0.0
        self.left_out = 0
        self.rows: list[Row] = []
        self._numbers: dict[str, int] = {}
        self._boxes = PathBoxes()
        self._origin: dict[str, int] = {}
        self._receipt: dict[tuple[str, str, str | None], JournalLine] = {}

    def take(self, event: Event) -> None:
        """Take the next event; the first event of another run begins anew."""
        if isinstance(event, RunStarted):
            self._begin()
            self.name, self.state = event.flow, "running"
        elif isinstance(event, NodeStarted):
            self._start(event)
        elif isinstance(event, NodeProgress):
            row = self._row(event.path)
            if row is not None:
                row.processing = event.time
        elif isinstance(event, NodeDelta):
            row = self._row(event.path)
            if row is not None and event.kind == "text":
                row.text = (row.text + event.text)[:TEXT_LIMIT]
        elif isinstance(event, NodeRefused):
            row = self._row(event.path)
            if row is not None:
                row.state, row.because = "waiting", event.message
        elif isinstance(event, NodeSettled):
            self._settle(event)
        else:
            self.state = event.end
        self.seconds = event.time if not isinstance(event, RunStarted) else 0.0
        self.version += 1

    def _row(self, path: str) -> Row | None:
        number = self._numbers.get(path)
        if number is not None:
            return self.rows[number]
        if len(self.rows) >= MOST_ROWS:
            return None
        self._numbers[path] = len(self.rows)
        row = Row(box=self._boxes.box(self.name, path).id, path=path, place=short_path(path), state="waiting")
        self.rows.append(row)
        return row

    def _start(self, event: NodeStarted) -> None:
        row = self._row(event.path)
        if row is None:
            return
        row.state, row.because = "running", ""
        row.text = ""
        row.started = event.time
        row.began = event.time if row.began is None else row.began
        row.attempts = event.attempt
        row.task_uuid, row.task_type, row.model = event.task_uuid, event.task_type, event.model
        row.prompt = event.prompt or row.prompt
        row.may_be_billed = event.task_uuid is not None
        if event.task_uuid is not None:
            self._boxes.box(self.name, event.path).kind = "task"

    def _settle(self, event: NodeSettled) -> None:
        row = self._row(event.path)
        self._add_cost(event)
        if row is None:
            self.left_out += 1
            return
        outcome = event.outcome
        row.settled, row.cost, row.restored = event.time, event.cost, event.is_restored
        row.attempts = max(row.attempts, event.attempts)
        row.task_uuid, row.task_type, row.model = event.task_uuid, event.task_type, event.model
        row.prompt = event.prompt or row.prompt
        row.fingerprint = event.fingerprint or ""
        row.uses = event.uses
        before = {self._origin[name] for name in event.uses if name in self._origin}
        row.after = sorted(before - {self._numbers[event.path]})
        row.may_be_billed = event.cost is None and event.task_uuid is not None and not isinstance(outcome, Failed)
        box = self._boxes.box(self.name, event.path)
        box.kind = {"task": "task", "build": "task", "call": "function"}.get(event.kind, event.kind or box.kind)
        for number in row.after:
            name = self.rows[number].box
            if name not in box.after and int(name[1:]) < int(box.id[1:]):
                box.after = (*box.after, name)
        row.text = ""
        if isinstance(outcome, Ok):
            row.state = "ok"
            is_own = box.kind in ("task", "function")
            row.text, row.media = shown_value(outcome.value, is_own=is_own)
            row.saved = row.text if hasattr(outcome.value, "__fspath__") else ""
            for name in references_to(outcome.value) if is_own else ():
                self._origin.setdefault(name, self._numbers[event.path])
        elif isinstance(outcome, Failed):
            row.state, row.error = "failed", outcome.error
        elif isinstance(outcome, Skipped):
            row.state, row.because = "skipped", outcome.because or ""
        else:
            row.state, row.may_be_billed = "abandoned", outcome.may_be_billed

    def _add_cost(self, event: NodeSettled) -> None:
        if event.task_uuid is None or isinstance(event.outcome, Skipped):
            return
        key = (stage_of(event.path), event.task_type or "", event.model)
        line = self._receipt.setdefault(key, JournalLine(*key))
        line.add(event.cost, may_be_billed=not isinstance(event.outcome, Failed))

    def shape(self) -> Shape:
        """The boxes so far; of very many, those that look alike are one."""
        return merged(list(self._boxes.all.values()))

    def placed_rows(self, boxes: Mapping[str, str]) -> list[Row]:
        """The rows, each in its box of a shape, whose boxes are given by path."""
        into = {box.id: boxes[box.paths[0]] for box in self._boxes.all.values()}
        if all(name == other for name, other in into.items()):
            return self.rows
        return [msgspec.structs.replace(row, box=into[row.box]) for row in self.rows]

    def receipt(self) -> list[JournalLine]:
        """What was bought so far."""
        return list(self._receipt.values())
