"""`RunResult`: the results, outcomes, cost and receipt of a run, also while it runs and after a cancel."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

from runware_flow.errors import NodeNotAvailable
from runware_flow.graph.outcomes import Abandoned, Failed, Ok, Outcome, Skipped
from runware_flow.graph.scope_run import OK, FanRun
from runware_flow.runner.event_stream import items_of
from runware_flow.runner.reference import ManyReference, NodeReference
from runware_flow.tracebacks import bordered

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike

    from runware_flow.graph.declaration import Declaration, NodeSpec
    from runware_flow.graph.machine import FlowMachine
    from runware_flow.runner.accounts import Accounts
    from runware_flow.runner.records import NodeRecord, ReceiptLine
    from runware_flow.view.figures import Figures
    from runware_flow.view.shape import Shape
    from runware_flow.view.story import Row

__all__ = ("RunResult",)

T = TypeVar("T")


@bordered
class RunResult:
    """The outcomes and the cost of a run. During the run it shows what has finished so far."""

    def __init__(self, declaration: Declaration, machine: FlowMachine, accounts: Accounts) -> None:
        self._declaration = declaration
        self._machine = machine
        self._accounts = accounts
        self._began_at = time.time()
        self._seconds: float | None = None
        self._end: str | None = None

    def __repr__(self) -> str:
        machine = self._machine
        return (
            f"<RunResult of flow {self._declaration.name!r}: {machine.ok_count} ok, {machine.failed_count} failed,"
            f" {machine.skipped_count} skipped, {machine.abandoned_count} abandoned>"
        )

    if not TYPE_CHECKING:  # hidden, so that type checkers reject it too

        def __getattr__(self, name: str) -> Any:
            hint = (
                "" if name.startswith("_") else ": the result of a node is result[node], with what flow.then() returned"
            )
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{hint}")

    @overload
    def __getitem__(self, node: NodeReference[T], /) -> T: ...
    @overload
    def __getitem__(self, node: ManyReference[T], /) -> list[T]: ...
    def __getitem__(self, node: Any, /) -> Any:
        """Return the result of a node, or the results of all items in the order of the items.

        Raises:
            NodeNotAvailable: there is none; the message says why, and the `__cause__` is the error behind it.
        """
        if not _is_many(node):
            return _value_of(self.outcome(node), node.spec)
        return self._values_of(node)

    def _values_of(self, many: ManyReference[Any]) -> list[Any]:
        fan = self.fan_of(many)
        problem = fan.problem()
        if problem is not None:
            raise _not_available(many.spec, problem)
        slot = many.spec.slot
        if len(many.fans) == 1:
            values = [run.values[slot] for run in fan.items if run.cells[slot] == OK]
            if len(values) == len(fan.items):
                return values
        return [_value_of(outcome, spec, index) for index, spec, outcome in self._items(many, fan)]

    def _items(self, many: ManyReference[Any], fan: FanRun) -> Iterator[tuple[int, NodeSpec, Outcome[Any] | None]]:
        """Iterate over the outcomes of `many`; where a task in between gave no results, its outcome stands for them."""
        inside = many.fans[1:]
        spec = many.spec
        for run in items_of(fan, inside):
            if run.plan.spec is spec.scope:
                yield run.index, spec, run.outcome(spec.slot)
                continue
            inner = next(one for one in inside if one.scope is run.plan.spec)
            if not isinstance(run.values[inner.slot], FanRun):
                source = inner.deps[0]
                outcome = run.outcome(source.slot)
                yield run.index, source, None if isinstance(outcome, Ok) else outcome

    def outcome(self, node: NodeReference[T], /) -> Outcome[T]:
        """Return how a node ended.

        Raises:
            NodeNotAvailable: the node has not ended yet, is of another flow, or is inside a fan-out.
        """
        spec = self._spec_of(node, NodeReference)
        if spec.scope.parent is not None:
            raise NodeNotAvailable(f"{spec.describe()}, has one result for each item: use its Many, or a gather()")
        outcome = self._machine.root.outcome(spec.slot)
        if outcome is None:
            raise NodeNotAvailable(f"{spec.describe()}, has not finished yet")
        return outcome

    def outcomes(self, many: ManyReference[T], /) -> list[Outcome[T]]:
        """Return how each item ended, in the order of the items. A stopped run has those that it had pulled.

        Of a `many.each` there is an outcome for each result, item by item; an item whose task failed has one outcome,
        the failure. If the source of the items failed, there is one more `Failed` at the end, with the error of the
        source.

        Raises:
            NodeNotAvailable: an item has not ended yet, or there were no items because the fan-out was skipped.
        """
        fan = self.fan_of(many)
        problem = fan.problem()
        if problem is not None and not fan.items and not isinstance(problem, Failed):
            raise _not_available(many.spec, problem)
        outcomes: list[Outcome[T]] = []
        for index, spec, outcome in self._items(many, fan):
            if outcome is None:
                raise NodeNotAvailable(f"item {index} of {spec.describe()}, has not finished yet")
            outcomes.append(outcome)
        if isinstance(problem, Failed):
            outcomes.append(problem)
        return outcomes

    @property
    def cost(self) -> float | None:
        """The cost of the run's tasks so far, in USD, summed exactly; `None` if the cost of a billed task is unknown.

        Tasks that functions sent through a client, or by flows and batches that they ran, are included; of a client's
        own task the cost is known only with `include_cost=True`.
        """
        return self._accounts.total()

    def receipt(self) -> list[ReceiptLine]:
        """Return what was billed: a line for each step and model, in the order of the first request."""
        return self._accounts.lines()

    def record(self, node: NodeReference[Any], /) -> NodeRecord | None:
        """Return the record of a node's request, or `None` if it has sent none."""
        record: NodeRecord | None = self._machine.root.record(self._spec_of(node, NodeReference).slot)
        return record

    def records(self, many: ManyReference[Any], /) -> list[NodeRecord | None]:
        """Return the record of each item's request, in the order of the items; `None` for one that has sent none."""
        fan, spec = self.fan_of(many), many.spec
        return [run.record(spec.slot) for run in items_of(fan, many.fans[1:]) if run.plan.spec is spec.scope]

    def mermaid(self) -> str:
        """Draw the run as a Mermaid flowchart: each node with how it ended, how long it took and what it cost."""
        from runware_flow.view.diagram import mermaid

        return mermaid(*self._pictured())

    def html(self, path: str | PathLike[str], *, pictures: int = 500) -> Path:
        """Write a report of the run as one HTML page that needs no network and no other file.

        It has a card for each item with its prompt, pictures, films, sounds and texts, the failures with what to do,
        the flow with state, time and cost of each node, a time line and the receipt. Pictures that were saved, that a
        cache keeps, that came inline, or that `runware-flow run --report` has kept are in it as thumbnails (with the
        extra `report`) that link to their files; other media are links to the service. The report can be written at any
        time, also after a failure or a cancel. This method blocks: in async code, call it in a thread.

        Args:
            path: the file, which is replaced in one piece; missing folders are made.
            pictures: the most thumbnails in the page itself. If there are more, all are files in a folder beside the
                page, with its name and `.files`.

        Raises:
            OSError: the file cannot be written, is a folder, or is a journal.

        Returns:
            The path of the file.
        """
        from runware_flow.runner.report import date_text, write_report
        from runware_flow.runner.report_files import Finder, media_files
        from runware_flow.view.report import Report

        shape, rows = self.story()
        shown = media_files(rows, Finder(rows), Path(path), most=pictures)
        times = [time for row in rows for time in (row.started, row.settled) if time is not None]
        return write_report(
            Report(
                name=self._declaration.name,
                state=self.end,
                made_at=date_text(time.time()),
                began_at=date_text(self._began_at),
                seconds=max(times, default=0.0) if self._seconds is None else self._seconds,
                shape=shape,
                rows=rows,
                receipt=self.receipt(),
                files=shown.files,
                notes=shown.notes,
            ),
            path,
        )

    def to_rows(self) -> list[dict[str, Any]]:
        """Return a row for each item, for a data frame or a spreadsheet.

        Its members are `key`, `input`, `state`, `error`, `cost`, `texts`, `files` and `urls`. One row is one element of
        a fan-out, or a group of connected nodes outside fan-outs. `cost` is in USD, `None` if it is not known; `texts`,
        `files` and `urls` are lists.
        """
        from runware_flow.view.table import table_of

        shape, rows = self.story()
        return table_of(rows, shape)

    @property
    def end(self) -> str:
        """How the run ended: `"done"`, `"failed"`, `"stopped"` or `"cancelled"`; `"running"` while it goes on."""
        return self._end or "running"

    @property
    def seconds(self) -> float | None:
        """How long the run took, in seconds; `None` while it goes on."""
        return self._seconds

    def story(self) -> tuple[Shape, list[Row]]:
        """Return the shape of the flow and what became of each node; for reports and the command line."""
        from runware_flow.view.shape import shape_of
        from runware_flow.view.story import rows_of

        shape = shape_of(self._declaration)
        return shape, rows_of(self._machine, shape)

    def finish(self, end: str, seconds: float) -> None:
        """Note how and when the run ended; for the runner."""
        self._end, self._seconds = end, seconds

    def _repr_html_(self) -> str:
        from runware_flow.runner.report_files import Finder, media_files
        from runware_flow.view.gallery import gallery_of
        from runware_flow.view.notebook import MOST_ITEMS, result_html

        shape, rows = self.story()
        items = gallery_of(rows, shape)
        shown = [number for item in items[:MOST_ITEMS] for cell in item.cells for number in cell.rows]
        found = media_files([rows[number] for number in shown], Finder(rows), Path("cell.html"), most=len(rows) * 20)
        files = {(shown[number], place): file for (number, place), file in found.files.items()}
        figures = self._pictured()[1]
        return result_html(self._declaration.name, shape, figures, self.cost, items=items, rows=rows, files=files)

    def _pictured(self) -> tuple[Shape, dict[str, Figures]]:
        from runware_flow.view.figures import figures_of

        shape, rows = self.story()
        return shape, figures_of(rows, [box.id for box in shape.boxes if box.kind != "fan"])

    def _spec_of(self, node: Any, kind: type[Any]) -> NodeSpec:
        if not isinstance(node, kind):
            if isinstance(node, ManyReference):
                other = "use result[many], result.outcomes(many) or result.records(many)"
            elif isinstance(node, NodeReference):
                other = "use result[node], result.outcome(node) or result.record(node)"
            else:
                other = "use the node that flow.then() or flow.map() returned, not a label"
            wanted = "Many" if kind is ManyReference else "Node"
            raise TypeError(f"expected a {wanted}, got {node!r}: {other}")
        if node.declaration is not self._declaration:
            raise NodeNotAvailable(f"{node!r} does not belong to this run, which is of flow {self._declaration.name!r}")
        spec: NodeSpec = node.spec
        return spec

    def fan_of(self, many: ManyReference[Any], /) -> FanRun:
        """Return the state of the fan-out behind `many`; for the runner."""
        spec = self._spec_of(many, ManyReference)
        fan = many.fans[0]
        if fan.scope.parent is not None:
            raise NodeNotAvailable(
                f"{spec.describe()}, is inside another fan-out and has one list for each item of that: use gather()"
            )
        return self._machine.fan_run(fan)


def _is_many(value: object) -> bool:
    return isinstance(value, ManyReference)  # unlike isinstance in place, this leaves the type as it was declared


def _value_of(outcome: Outcome[T] | None, spec: NodeSpec, index: int | None = None) -> T:
    if isinstance(outcome, Ok):
        return outcome.value
    raise _not_available(spec, outcome, index)


def _not_available(spec: NodeSpec, outcome: object, index: int | None = None) -> NodeNotAvailable:
    name = f"{spec.describe()}," if index is None else f"item {index} of {spec.describe()},"
    cause: Exception | None = None
    match outcome:
        case Failed(error):
            why, cause = f"failed: {error}", error
        case Skipped(because, error):
            why, cause = f"was skipped, because {because}", error
        case Abandoned(task_uuid):
            why = "was abandoned in flight" + (f" (task {task_uuid})" if task_uuid else "")
        case _:
            why = "has not finished yet"
    problem = NodeNotAvailable(f"{name} {why}")
    problem.__cause__ = cause
    return problem
