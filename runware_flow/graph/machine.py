"""`FlowMachine`: decides what a run does next. It does nothing itself: no tasks, no clock, no IO.

A run is a tree of `ScopeRun`s: the root, and one for each item of each fan-out. A scope run has a cell for each node:

    waits for n values  ->  READY  ->  RUNNING  ->  OK | FAILED | SKIPPED | ABANDONED
          |                   |
          +-------------------+---->  SKIPPED

Events come in as calls: `succeed`, `fail` and `abandon` (a node settled), `item_pulled`, `source_ended`,
`source_failed`, `stop`, `abort`. What is to be done is taken out: `take` gives the next node to run, `next_source` the
next fan-out to pull an item from. The rules:

* a node runs when all its values are there, at most once a run (attempts are the shell's business);
* at most `concurrency` nodes run, and at most `concurrency` items of one fan-out are unfinished;
* depth first: what became ready last runs first, and a source is only pulled when nothing is ready, so chains finish
  before new ones begin and what is pending stays small;
* a failure skips what depends on it (`"continue"`), or also stops the run (`"stop"`, `"cancel"`): then nothing that
  could send is started any more, while pure steps are still worked out from what finishes.

Each call costs O(1) for each node that it settles.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from runware_flow.graph.declaration import NodeKind
from runware_flow.graph.outcomes import Abandoned, Failed, Outcome, Skipped
from runware_flow.graph.plan import MAX_WAITS
from runware_flow.graph.scope_run import ABANDONED, FAILED, OK, READY, RUNNING, SETTLED, SKIPPED, FanRun, ScopeRun

if TYPE_CHECKING:
    from runware_flow.graph.declaration import NodeSpec
    from runware_flow.graph.plan import ScopePlan, Step

__all__ = ("FlowMachine",)

_UNCOUNTED = frozenset({NodeKind.ITEM, NodeKind.FAN})


class FlowMachine:
    """The state of one run.

    Attributes:
        watch: collect settled nodes in `settled`, for a shell that tells somebody.
        settled: nodes that settled since the shell last emptied it, in order; filled only while `watch` is set.
        failure: the first node that failed for good, while failures stop the run.
        stopped: why nothing new is started any more, or `None`.
        ok_count, failed_count, skipped_count, abandoned_count: settled nodes by outcome; items and fan-outs do not
            count.
    """

    __slots__ = (
        "_ready",
        "_sources",
        "_todo",
        "abandoned_count",
        "active",
        "concurrency",
        "failed_count",
        "failure",
        "in_flight",
        "ok_count",
        "on_error",
        "root",
        "settled",
        "skipped_count",
        "stopped",
        "watch",
    )

    def __init__(self, plan: ScopePlan, *, concurrency: int, on_error: str) -> None:
        self.concurrency = concurrency
        self.on_error = on_error
        self.in_flight = 0
        self.watch = False
        self.settled: list[tuple[ScopeRun, Step]] = []
        self.failure: tuple[ScopeRun, Step, Exception] | None = None
        self.stopped: Skipped | None = None
        self.ok_count = self.failed_count = self.skipped_count = self.abandoned_count = 0
        self.active: dict[FanRun, None] = {}
        self._ready: list[tuple[ScopeRun, Step]] = []
        self._sources: list[deque[FanRun]] = []
        self._todo: list[tuple[ScopeRun, Step, int, Any]] = []
        self.root = ScopeRun(plan)
        for step in plan.first:
            if step.kind is not NodeKind.FAN:
                self._make_ready(self.root, step)
        for step in reversed(plan.first):
            if step.kind is NodeKind.FAN:
                self._make_ready(self.root, step)

    @property
    def is_finished(self) -> bool:
        """Whether every node has its outcome."""
        return self.root.open_count == 0

    @property
    def has_work(self) -> bool:
        """Whether `take` or `next_source` has something, were there a worker for it."""
        return bool(self._ready) or any(self._sources)

    # What is to be done

    def take(self) -> tuple[ScopeRun, Step] | None:
        """Take the next node to run; `None` if none is ready or `concurrency` nodes run already."""
        if not self._ready or self.in_flight >= self.concurrency:
            return None
        job = self._ready.pop()
        job[0].cells[job[1].slot] = RUNNING
        self.in_flight += 1
        return job

    def next_source(self) -> FanRun | None:
        """Take the fan-out to pull the next item from; `None` if nodes come first or no window has room.

        The innermost fan-outs come first, those of one depth in turn. The fan-out is lent until `item_pulled`,
        `source_ended` or `source_failed` is called for it.
        """
        if self._ready or self.in_flight >= self.concurrency:
            return None
        for queue in reversed(self._sources):
            if queue:
                fan = queue.popleft()
                fan.is_queued = False
                fan.is_lent = True
                return fan
        return None

    # What happened

    def succeed(self, run: ScopeRun, step: Step, value: Any) -> None:
        """A running node has its value."""
        self.in_flight -= 1
        self._settle_ok(run, step, value)

    def fail(self, run: ScopeRun, step: Step, error: Exception) -> None:
        """A running node failed for good."""
        self.in_flight -= 1
        self._fail(run, step, error)

    def abandon(self, run: ScopeRun, step: Step, task_uuid: str | None, *, may_be_billed: bool) -> None:
        """A running node was cancelled."""
        self.in_flight -= 1
        self._settle(run, step, ABANDONED, Abandoned(task_uuid, may_be_billed))

    def item_pulled(self, fan: FanRun, item: Any, key: str | None = None) -> ScopeRun | None:
        """A source gave an item, or a `Failed` in the place of one; returns its run, `None` if the run has stopped."""
        fan.is_lent = False
        if fan.is_ended:
            self._finish_fan(fan)
            return None
        run = ScopeRun(fan.plan, fan.around, fan, fan.pulled_count, key)
        fan.pulled_count += 1
        fan.open_count += 1
        fan.live[run.index] = run
        fan.items.append(run)
        if fan.plan.outer:
            self._wait_outside(run)
        step = fan.plan.steps[0]
        if isinstance(item, Failed):
            self._fail(run, step, item.error)
        else:
            self._settle_ok(run, step, item)
        self._offer(fan)
        return run

    def source_ended(self, fan: FanRun) -> None:
        """A source has no more items."""
        fan.is_lent = False
        self._end_fan(fan)

    def source_failed(self, fan: FanRun, error: Exception) -> None:
        """A source raised. What it gave before goes on; the fan-out counts as a failed node."""
        fan.is_lent = False
        if fan.is_ended:
            self._finish_fan(fan)
            return
        fan.problem_outcome = Failed(error)
        self._end_fan(fan)
        self._failed_for_good(fan.around, fan.step, error)

    def stop(self, because: str, error: Exception | None = None) -> None:
        """Start nothing new that could send; what runs is waited for, pure steps are still worked out."""
        if self.stopped is not None:
            return
        self.stopped = skipped = Skipped(because, error)
        ready, self._ready = self._ready, []
        for run, step in ready:
            if step.is_pure:
                self._ready.append((run, step))
            else:
                self._settle(run, step, SKIPPED, skipped)
        for fan in list(self.active):
            if not fan.is_ended:
                fan.problem_outcome = skipped
                self._end_fan(fan)

    def abort(self, because: str) -> None:
        """Give every node that has no outcome one, now: the run was cancelled and its workers are gone."""
        self.stop(because)
        self._ready.clear()
        assert self.stopped is not None
        stack = [self.root]
        while stack:
            run = stack.pop()
            for step in run.plan.steps:
                cell = run.cells[step.slot]
                fan = run.values[step.slot]
                if cell < SETTLED and isinstance(fan, FanRun):
                    fan.is_lent = False
                    stack.extend(fan.live.values())
                if cell < SETTLED and step.kind is not NodeKind.FAN:
                    if cell == RUNNING:
                        self.in_flight -= 1
                    self._settle(run, step, SKIPPED, self.stopped)
        for fan in list(self.active):
            self._finish_fan(fan)

    # Looking in

    def arguments(self, run: ScopeRun, step: Step) -> list[Any]:
        """Return the values that a node is called with, in order."""
        if step.local >= 0:
            return [run.values[step.local]]
        return [run.above(hops).values[slot] for hops, slot in step.args]

    def fan_run(self, spec: NodeSpec) -> FanRun:
        """Return the state of a fan-out of the root scope; an empty one if it has not begun."""
        found = self.root.values[spec.slot] if spec.slot < self.root.plan.size else None
        if isinstance(found, FanRun):
            return found
        if spec.slot >= self.root.plan.size:
            empty = FanRun(self.root, None, None)
            empty.problem_outcome = Skipped("it was declared after the run had begun")
            return empty
        step = self.root.plan.steps[spec.slot]
        empty = FanRun(self.root, step, step.inner)
        empty.problem_outcome = found
        return empty

    # How outcomes spread

    def _settle_ok(self, run: ScopeRun, step: Step, value: Any) -> None:
        cells = run.cells
        slot = step.slot
        cells[slot] = OK
        run.values[slot] = value
        if step.kind is not NodeKind.ITEM:
            self.ok_count += 1
        if self.watch:
            self.settled.append((run, step))
        for waiting in step.next:
            left = cells[waiting.slot]
            if left == 1:
                self._make_ready(run, waiting)
            elif left < MAX_WAITS:
                cells[waiting.slot] = left - 1
        if step.is_watched:
            self._tell_inside(run, step)
        if step.gathers:
            self._count(run, step)
        run.open_count -= 1
        if run.open_count == 0:
            self._close(run)

    def _make_ready(self, run: ScopeRun, step: Step) -> None:
        if self.stopped is not None and not step.is_pure:
            self._settle(run, step, SKIPPED, self.stopped)
        elif step.kind is NodeKind.FAN:
            assert step.inner is not None
            run.cells[step.slot] = RUNNING
            fan = run.values[step.slot] = FanRun(run, step, step.inner)
            self.active[fan] = None
            self._offer(fan)
        else:
            run.cells[step.slot] = READY
            self._ready.append((run, step))

    def _fail(self, run: ScopeRun, step: Step, error: Exception) -> None:
        self._settle(run, step, FAILED, Failed(error))
        self._failed_for_good(run, step, error)

    def _failed_for_good(self, run: ScopeRun, step: Step, error: Exception) -> None:
        if self.on_error == "continue":
            return
        if self.failure is None and self.stopped is None:
            self.failure = (run, step, error)
        self.stop(f"{run.path(step)} failed and ended the run", error)

    def _settle(self, run: ScopeRun, step: Step, cell: int, outcome: Outcome[Any]) -> None:
        # A failure may skip a chain of any length: a list of what is to be done instead of a recursion.
        todo = self._todo
        todo.append((run, step, cell, outcome))
        if len(todo) > 1:
            return
        done = 0
        while done < len(todo):
            self._settle_one(*todo[done])
            done += 1
            if done > 256:
                del todo[1:done]  # the first entry stays: it says that somebody is at it
                done = 1
        todo.clear()

    def _settle_one(self, run: ScopeRun, step: Step, cell: int, outcome: Any) -> None:
        slot = step.slot
        if run.cells[slot] >= SETTLED:
            return
        run.cells[slot] = cell
        if not isinstance(run.values[slot], FanRun):
            run.values[slot] = outcome
        if cell == FAILED or step.kind not in _UNCOUNTED:
            self._tally(cell)
        if self.watch:
            self.settled.append((run, step))
        skipped = outcome if cell == SKIPPED else _because(run, step, cell, outcome)
        self._skip_after(run, step, skipped)
        if step.gathers:
            self._count(run, step, skipped)
        run.open_count -= 1
        if run.open_count == 0:
            self._close(run)

    def _skip_after(self, run: ScopeRun, step: Step, skipped: Skipped) -> None:
        for waiting in step.next:
            if run.cells[waiting.slot] < MAX_WAITS:
                self._settle(run, waiting, SKIPPED, skipped)
        if step.is_watched and run.waiters is not None:
            for inside, waiting in run.waiters.pop(step.slot, ()):
                if inside.cells[waiting.slot] < MAX_WAITS:
                    self._settle(inside, waiting, SKIPPED, skipped)
        if step.inner is not None:  # a fan-out without items, or without all of them
            for gather in step.inner.gathers:
                if run.cells[gather.slot] < MAX_WAITS:
                    self._settle(run, gather, SKIPPED, skipped)

    def _tally(self, cell: int) -> None:
        if cell == FAILED:
            self.failed_count += 1
        elif cell == SKIPPED:
            self.skipped_count += 1
        else:
            self.abandoned_count += 1

    # Values that cross scopes

    def _wait_outside(self, run: ScopeRun) -> None:
        """Let a new item wait for, or be skipped by, the outer nodes that it uses and that are not there yet."""
        skips: list[tuple[Step, Skipped]] = []
        for step, hops, slot in run.plan.outer:
            outside = run.above(hops)
            cell = outside.cells[slot]
            if cell == OK:
                continue
            if cell >= SETTLED:
                value = outside.values[slot]
                before = outside.plan.steps[slot]
                skips.append((step, value if cell == SKIPPED else _because(outside, before, cell, value)))
                continue
            run.cells[step.slot] += 1
            if outside.waiters is None:
                outside.waiters = {}
            outside.waiters.setdefault(slot, []).append((run, step))
        for step, skipped in skips:
            self._settle(run, step, SKIPPED, skipped)

    def _tell_inside(self, run: ScopeRun, step: Step) -> None:
        if run.waiters is None:
            return
        for inside, waiting in reversed(run.waiters.pop(step.slot, ())):
            left = inside.cells[waiting.slot]
            if left == 1:
                self._make_ready(inside, waiting)
            elif left < MAX_WAITS:
                inside.cells[waiting.slot] = left - 1

    # Fan-outs

    def _offer(self, fan: FanRun) -> None:
        if fan.is_queued or fan.is_lent or fan.is_ended or fan.open_count >= self.concurrency:
            return
        depth = fan.plan.spec.depth
        while len(self._sources) <= depth:
            self._sources.append(deque())
        self._sources[depth].append(fan)
        fan.is_queued = True

    def _count(self, run: ScopeRun, step: Step, skipped: Skipped | None = None) -> None:
        fan = run.fan
        assert fan is not None
        for place in step.gathers:
            fan.counts[place] += 1
            gather = fan.plan.gathers[place]
            if skipped is not None and gather.kind is NodeKind.GATHER:
                if fan.around.cells[gather.slot] < MAX_WAITS:
                    self._settle(fan.around, gather, SKIPPED, skipped)
            elif fan.is_ended and fan.counts[place] == fan.pulled_count:
                self._finish_gather(fan, gather)

    def _finish_gather(self, fan: FanRun, gather: Step) -> None:
        if fan.around.cells[gather.slot] >= SETTLED or fan.problem_outcome is not None:
            return
        assert gather.spec.of is not None
        slot = gather.spec.of.slot
        if gather.kind is NodeKind.GATHER:
            if any(item.cells[slot] != OK for item in fan.items):
                return  # its skip is among what is still to be done
            values = [item.values[slot] for item in fan.items]
        else:
            values = [item.outcome(slot) for item in fan.items]
        self._settle_ok(fan.around, gather, values)

    def _end_fan(self, fan: FanRun) -> None:
        fan.is_ended = True
        if fan.is_queued:
            self._sources[fan.plan.spec.depth].remove(fan)
            fan.is_queued = False
        problem = fan.problem_outcome
        for place, gather in enumerate(fan.plan.gathers):
            if problem is not None and fan.around.cells[gather.slot] < MAX_WAITS:
                skipped = _because(fan.around, fan.step, FAILED, problem) if isinstance(problem, Failed) else problem
                self._settle(fan.around, gather, SKIPPED, skipped)
            elif fan.counts[place] == fan.pulled_count:
                self._finish_gather(fan, gather)
        self._finish_fan(fan)

    def _finish_fan(self, fan: FanRun) -> None:
        if fan.open_count or not fan.is_ended or fan.is_lent or fan not in self.active:
            return
        del self.active[fan]
        run, step = fan.around, fan.step
        problem = fan.problem_outcome
        if isinstance(problem, Failed):
            self._settle(run, step, FAILED, problem)
        elif problem is not None:
            self._settle(run, step, SKIPPED, problem)
        else:
            self.ok_count -= 1  # a fan-out is not counted; _settle_ok will
            self._settle_ok(run, step, fan)

    def _close(self, run: ScopeRun) -> None:
        fan = run.fan
        if fan is None:
            return
        fan.open_count -= 1
        del fan.live[run.index]
        if fan.is_ended:
            self._finish_fan(fan)
        else:
            self._offer(fan)


def _because(run: ScopeRun, step: Step, cell: int, outcome: Any) -> Skipped:
    if cell == ABANDONED:
        return Skipped(f"{run.path(step)} was abandoned")
    error = outcome.error if isinstance(outcome, Failed) else None
    return Skipped(f"{run.path(step)} failed", error)
