"""Makes the rows and boxes of a report from a journal, in the same form as from a run.

A journal knows requests and outcomes, not the declaration. Stages are the paths without the keys of their items; a
stage follows another if a request of the one names what came of the other: its address, its id or its text.
"""

from __future__ import annotations

import re
from os import PathLike
from typing import TYPE_CHECKING, Any

import msgspec

from runware_flow.view.request import references_in, references_to, shown_value, summarise_request
from runware_flow.view.shape import Box, Shape, merged
from runware_flow.view.story import Row

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runware_flow.journal import JournalEntry

__all__ = ("JournalLine", "JournalStory", "PathBoxes", "short_path", "stage_of", "summarise_journal")

_KEY = re.compile(r"\[[^\]/]*\](?=/|$)")
_LONGEST_PAUSE = 60.0
"""Seconds of nothing between two runs that are left on the time line."""


class JournalStory(msgspec.Struct):
    """Attributes: began_at: seconds since the epoch; cut_seconds: pauses that the time line leaves out; marks: flow and
    path of each node that is marked to be bought anew."""

    names: list[str]
    shape: Shape
    rows: list[Row]
    receipt: list[JournalLine]
    began_at: float | None
    seconds: float
    cut_seconds: float
    marks: frozenset[tuple[str, str]] = frozenset()


class JournalLine(msgspec.Struct):
    """What one stage bought from one model."""

    stage: str
    task_type: str
    model: str | None
    count: int = 0
    cost: float | None = None
    unknown_count: int = 0

    def add(self, cost: float | None, *, may_be_billed: bool) -> None:
        """Count one more task; `may_be_billed`: without a cost, whether it may have one."""
        self.count += 1
        if cost is not None:
            self.cost = round((self.cost or 0.0) + cost, 6)
        elif may_be_billed:
            self.unknown_count += 1


def summarise_journal(entries: Iterable[JournalEntry]) -> JournalStory:
    """Read all entries; of a node with several requests, the last one counts."""
    builder = _JournalStoryBuilder()
    for entry in entries:
        builder.take(entry)
    return builder.build()


_STATES = {"done": "ok", "redo": "ok", "failed": "failed", "open": "abandoned", "abandoned": "abandoned"}


class PathBoxes:
    """The boxes that paths of nodes stand for, where the declaration is not known; `all`: by flow and stage."""

    def __init__(self) -> None:
        self.all: dict[tuple[str, str], Box] = {}

    def box(self, flow: str, path: str) -> Box:
        """Find the box of a path, and make it and those around it if they are new."""
        parts = path.split("/")
        inside: str | None = None
        for place, part in enumerate(parts):
            is_last = place == len(parts) - 1
            label = part if is_last else _KEY.sub("", part)
            stage = _KEY.sub("", "/".join(parts[: place + 1])) + ("" if is_last else "/")
            box = self.all.get((flow, stage))
            if box is None:
                kind = "function" if is_last else "fan"
                box = Box(id=f"n{len(self.all)}", label=label, kind=kind, inside=inside, paths=(f"{flow}\0{stage}",))
                self.all[flow, stage] = box
            inside = box.id
        return self.all[flow, _KEY.sub("", path)]


class _JournalStoryBuilder:
    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], Row] = {}
        self._path_boxes = PathBoxes()
        self._boxes = self._path_boxes.all
        self._receipt: dict[tuple[str, str, str | None], JournalLine] = {}
        self._origin: dict[str, tuple[str, str]] = {}
        self._marks: set[tuple[str, str]] = set()
        self._requests: dict[tuple[str, str], dict[str, Any]] = {}

    def take(self, entry: JournalEntry) -> None:
        name = (entry.flow, entry.path)
        box = self._path_boxes.box(entry.flow, entry.path)
        before = self._rows.get(name)
        row = _row_of(entry, box.id)
        if before is not None:
            row.began = before.began
        self._rows[name] = row
        (self._marks.add if entry.state == "redo" else self._marks.discard)(name)
        self._requests[name] = entry.request
        if entry.task_uuid is not None:
            box.kind = "task"
            self._add_cost(entry, box)
        for value in entry.results:
            for reference in references_to(value):
                self._origin.setdefault(reference, name)

    def _add_cost(self, entry: JournalEntry, box: Box) -> None:
        task_type = entry.task_type or ""
        line = self._receipt.setdefault(
            (box.id, task_type, entry.model), JournalLine(stage_of(entry.path), task_type, entry.model)
        )
        line.add(entry.cost, may_be_billed=entry.state != "failed")

    def build(self) -> JournalStory:
        rows = list(self._rows.values())
        numbers = {name: number for number, name in enumerate(self._rows)}
        self._link(rows, numbers)
        began_at, cut = _set_clock(rows)
        for row in rows:
            _make_ready(row, rows)
        shape = merged(list(self._boxes.values()))
        into = shape.by_path()
        by_id = {box.id: into[box.paths[0]] for box in self._boxes.values()}
        for row in rows:
            row.box = by_id[row.box]
        seconds = max((row.settled or row.started or 0.0 for row in rows), default=0.0)
        names = list(dict.fromkeys(flow for flow, _ in self._rows))
        return JournalStory(
            names, shape, rows, list(self._receipt.values()), began_at, seconds, cut, frozenset(self._marks)
        )

    def _link(self, rows: list[Row], numbers: dict[tuple[str, str], int]) -> None:
        order = {box.id: place for place, box in enumerate(self._boxes.values())}
        after: dict[str, dict[str, None]] = {}
        for name, request in self._requests.items():
            row = rows[numbers[name]]
            found = {self._origin[text] for text in references_in(request) if text in self._origin}
            row.after = sorted(numbers[one] for one in found if one != name)
            for number in row.after:
                if order[rows[number].box] < order[row.box]:
                    after.setdefault(row.box, {})[rows[number].box] = None
        for box in self._boxes.values():
            box.after = tuple(after.get(box.id, ()))


def _row_of(entry: JournalEntry, box: str) -> Row:
    request = summarise_request({**entry.request, "taskType": entry.task_type, "model": entry.model})
    row = Row(
        box=box,
        flow=entry.flow,
        path=entry.path,
        place=short_path(entry.path),
        state=_STATES[entry.state],
        settled=entry.settled_at,
        attempts=entry.attempt,
        cost=entry.cost,
        may_be_billed=entry.cost is None and entry.task_uuid is not None and entry.state != "failed",
        task_uuid=entry.task_uuid,
        fingerprint=entry.fingerprint,
        task_type=entry.task_type,
        model=entry.model,
        prompt=request.prompt,
        error=entry.error,
    )
    if entry.task_uuid is not None:
        row.began = row.started = entry.asked_at
    if entry.state == "open":
        row.because = "it is open in the journal: `runware-flow collect JOURNAL` asks for it and buys nothing"
    value = entry.results[0] if len(entry.results) == 1 else entry.results
    row.text, row.media = shown_value(value)
    row.uses = frozenset(references_in(entry.request))
    if isinstance(value, PathLike):
        row.saved = row.text
    return row


def stage_of(path: str) -> str:
    """A path without the keys of its items."""
    return _KEY.sub("", path)


def short_path(path: str) -> str:
    """Cut the hashes that name items to a length that people can read."""
    return re.sub(r"\[([0-9a-f]{8})[0-9a-f]{8}(-\d+)?\](?=/|$)", r"[\1\2]", path)


def _set_clock(rows: list[Row]) -> tuple[float | None, float]:
    """Turn the times of all rows into seconds from the first one, less the pauses between runs."""
    spans = sorted((row.began, row.settled or row.began) for row in rows if row.began is not None)
    if not spans:
        for row in rows:
            row.settled = None
        return None, 0.0
    start, cut = spans[0][0], 0.0
    latest = start
    cuts: list[tuple[float, float]] = []
    for begun, ended in spans:
        if begun - latest > _LONGEST_PAUSE:
            cut += begun - latest - _LONGEST_PAUSE
            cuts.append((begun, cut))
        latest = max(latest, ended)

    def moved(time: float | None) -> float | None:
        if time is None:
            return None
        left_out = 0.0
        for since, so_far in cuts:
            if time < since:
                break
            left_out = so_far
        return max(0.0, time - start - left_out)

    for row in rows:
        row.began, row.started, row.settled = moved(row.began), moved(row.started), moved(row.settled)
    return start, cut


def _make_ready(row: Row, rows: list[Row]) -> None:
    if row.began is None or not row.after:
        return
    times = [rows[number].settled for number in row.after]
    known = [time for time in times if time is not None and time <= row.began]
    if len(known) == len(times):  # otherwise what it uses was bought in a later run than itself
        row.ready = max(known)
