"""The story of a run, node by node, as plain data from which pages and diagrams are made.

A run keeps little: outcomes, and of each request a record. The rest is worked out here, on demand: a node was
ready when the last thing it waited for was there, and what it asked for is what its builder returns once more. What
cannot be known is `None`.
"""

from __future__ import annotations

from os import PathLike
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import msgspec

from runware_flow.graph.declaration import PURE, NodeKind
from runware_flow.graph.outcomes import Abandoned, Failed, Skipped
from runware_flow.graph.scope_run import ABANDONED, FAILED, OK, RUNNING, SKIPPED, FanRun
from runware_flow.view.request import RequestSummary, references_in, references_to, shown_value, summarise_request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runware_flow.graph.declaration import Where
    from runware_flow.graph.machine import FlowMachine
    from runware_flow.graph.plan import Step
    from runware_flow.graph.scope_run import ScopeRun
    from runware_flow.view.shape import Shape

__all__ = ("Row", "rows_of")

_STATES = {OK: "ok", FAILED: "failed", SKIPPED: "skipped", ABANDONED: "abandoned", RUNNING: "running"}


class Row(msgspec.Struct, kw_only=True):
    """One node of a run.

    Attributes:
        box: what of the shape it belongs to.
        flow: the name of its flow or batch; given for a journal, which may have several.
        path: its identity, items' keys included; `place`: the same for people, items by position.
        state: one of `view.figures.STATES`.
        ready: when all that it waited for was there. All times are seconds from the start of the run.
        began: when its first attempt was begun; `started`: when its last one was.
        processing: when the service last said that it still works on it.
        settled: when its outcome was here.
        cost: USD; `may_be_billed`: without a cost, whether it may have one.
        restored: an earlier run's outcome, from the journal.
        fingerprint: of the request, by which a cache knows its answer; `""` where that is not known.
        prompt, text: what was asked and what was answered, in words.
        media: what came, as (kind, result): pictures, films, sounds.
        uses: what its request names of what came before: addresses and ids of media; of a step that passes a value on,
            those of the value.
        saved: the file that its save wrote.
        error: why it failed; `because`: why it was skipped.
        after: the rows whose values it was given, by position.
    """

    box: str
    path: str
    place: str
    state: str
    flow: str = ""
    ready: float | None = None
    began: float | None = None
    started: float | None = None
    processing: float | None = None
    settled: float | None = None
    attempts: int = 0
    cost: float | None = None
    may_be_billed: bool = False
    restored: bool = False
    task_uuid: str | None = None
    fingerprint: str = ""
    task_type: str | None = None
    model: str | None = None
    prompt: str = ""
    text: str = ""
    media: list[tuple[str, Any]] = []
    uses: frozenset[str] = frozenset()
    saved: str = ""
    error: Exception | None = None
    because: str = ""
    where: str = ""
    after: list[int] = []


def rows_of(machine: FlowMachine, shape: Shape) -> list[Row]:
    """Tell what became of every node that the run has made, item by item; of a run that goes on, so far."""
    return _StoryBuilder(machine, shape).build()


class _StoryBuilder:
    def __init__(self, machine: FlowMachine, shape: Shape) -> None:
        self._machine = machine
        self._boxes = shape.by_path()
        self._numbers: dict[tuple[int, int], int] = {}
        self._finished: dict[tuple[int, int], float | None] = {}

    def build(self) -> list[Row]:
        places = [
            (run, step)
            for run, step in _walk(self._machine.root)
            if step.kind not in (NodeKind.ITEM, NodeKind.FAN) or run.cells[step.slot] == FAILED
        ]
        self._numbers = {(id(run), step.slot): number for number, (run, step) in enumerate(places)}
        return [self._row(run, step) for run, step in places]

    def _row(self, run: ScopeRun, step: Step) -> Row:
        spec = step.spec
        cell = run.cells[step.slot]
        row = Row(
            box=self._box(step),
            path=run.path(step),
            place=run.place(step),
            state=_STATES.get(cell, "waiting"),
            where=_near(spec.where),
            ready=self._ready(run, step),
            after=sorted(set(self._before(run, step))),
        )
        _take_times(row, run, step)
        outcome = run.outcome(step.slot)
        if cell == OK:
            row.text, row.media = shown_value(run.values[step.slot], is_own=step.kind not in PURE)
            if isinstance(run.values[step.slot], PathLike):
                row.saved = row.text  # `node.save`, say
            if spec.of is not None:
                row.text, row.media = f"{len(run.values[step.slot])} values", []
        elif isinstance(outcome, Failed):
            row.error = outcome.error
        elif isinstance(outcome, Skipped):
            row.because, row.error = outcome.because, None
        elif isinstance(outcome, Abandoned):
            row.may_be_billed = outcome.may_be_billed
            row.task_uuid = row.task_uuid or outcome.task_uuid
        request, row.uses = self._summary(run, step)
        row.prompt = request.prompt
        row.task_type = row.task_type or request.task_type
        row.model = row.model or request.model
        return row

    def _box(self, step: Step) -> str:
        spec = step.spec
        path = spec.scope.path if spec.kind is NodeKind.ITEM else spec.path
        return self._boxes.get(path, "")

    def _summary(self, run: ScopeRun, step: Step) -> tuple[RequestSummary, frozenset[str]]:
        """What a node asks for, and what of that it was given."""
        if step.kind is NodeKind.TASK:
            return summarise_request(step.work), frozenset(references_in(step.work))
        if not self._has_arguments(run, step):
            return RequestSummary(), frozenset()
        if step.is_pure:
            return RequestSummary(), frozenset(
                references_to(run.values[step.slot]) if run.cells[step.slot] == OK else ()
            )
        arguments = self._machine.arguments(run, step)
        if step.kind is not NodeKind.BUILD:
            return RequestSummary(), frozenset(references_to(arguments))
        try:  # builders are pure: a plan and a retry call them again too
            task = step.work(*arguments)
        except Exception:  # noqa: BLE001 - a builder that fails is how this node failed, and its row says so
            return RequestSummary(), frozenset()
        return summarise_request(task), frozenset(references_in(task))

    def _has_arguments(self, run: ScopeRun, step: Step) -> bool:
        return all(run.above(hops).cells[slot] == OK for hops, slot in step.args)

    # What a node waited for, and when that was there

    def _before(self, run: ScopeRun, step: Step) -> Iterator[int]:
        of = step.spec.of
        # What gathers items follows what they were made of: of the items themselves there may be any number.
        args = step.args if of is None or of.scope.fan is None else run.plan.steps[of.scope.fan.slot].args
        for hops, slot in args:
            yield from self._origins(run.above(hops), slot)

    def _origins(self, run: ScopeRun, slot: int) -> Iterator[int]:
        number = self._numbers.get((id(run), slot))
        if number is not None:
            yield number
        elif run.plan.steps[slot].kind is NodeKind.ITEM and run.fan is not None:
            for hops, source in run.fan.step.args:
                yield from self._origins(run.fan.around.above(hops), source)

    def _ready(self, run: ScopeRun, step: Step) -> float | None:
        if step.spec.of is not None:
            return self._gathered(run, step)
        if not step.args:
            return 0.0 if run.parent is None else None
        return _latest([self._finish(run.above(hops), slot) for hops, slot in step.args])

    def _finish(self, run: ScopeRun, slot: int) -> float | None:
        key = (id(run), slot)
        if key not in self._finished:
            self._finished[key] = None
            self._finished[key] = self._work_out(run, run.plan.steps[slot])
        return self._finished[key]

    def _work_out(self, run: ScopeRun, step: Step) -> float | None:
        if run.cells[step.slot] != OK:
            return None
        record = run.record(step.slot)
        if record is not None:
            settled: float | None = record.settled
            return settled
        times = run.times_of(step.slot)
        if times is not None:
            return times[1]
        if step.kind is NodeKind.ITEM and run.fan is not None:
            fan = run.fan.step
            return _latest([self._finish(run.fan.around.above(hops), slot) for hops, slot in fan.args])
        return self._ready(run, step) if step.is_pure else None

    def _gathered(self, run: ScopeRun, step: Step) -> float | None:
        of = step.spec.of
        fan = None if of is None or of.scope.fan is None else run.values[of.scope.fan.slot]
        if of is None or not isinstance(fan, FanRun):
            return None
        return _latest([self._finish(item, of.slot) for item in fan.items])


def _near(where: Where) -> str:
    """Name a line without the folders that say where its writer lives: reports are sent around."""
    return f"{'/'.join(PurePath(where.file).parts[-2:])}:{where.line}"


def _latest(times: list[float | None]) -> float | None:
    known = [time for time in times if time is not None]
    return max(known) if known and len(known) == len(times) else None


def _take_times(row: Row, run: ScopeRun, step: Step) -> None:
    record = run.record(step.slot)
    if record is not None:
        row.began, row.started, row.settled = record.began, record.started, record.settled
        row.processing, row.attempts, row.cost = record.processing, record.attempts, record.cost
        row.task_uuid, row.task_type, row.model = record.task_uuid, record.task_type, record.model
        row.restored = record.is_restored
        row.may_be_billed = record.cost is None and row.state in ("ok", "running")
        return
    times = run.times_of(step.slot)
    if times is not None:
        row.began, row.settled = times
        row.started, row.attempts = row.began, 1 + run.failed_attempts(step.slot)


def _walk(root: ScopeRun) -> Iterator[tuple[ScopeRun, Step]]:
    stack: list[tuple[ScopeRun, int]] = [(root, 0)]
    while stack:
        run, slot = stack.pop()
        if slot == run.plan.size:
            continue
        stack.append((run, slot + 1))
        yield run, run.plan.steps[slot]
        fan = run.values[slot]
        if isinstance(fan, FanRun):
            stack.extend((item, 0) for item in reversed(fan.items))
