"""How an outcome spreads: what becomes ready, what is skipped, which gathers and fan-outs are complete.

This is the inner half of `FlowMachine`: the state and its consequences, without the events from outside.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from runware_flow.graph.declaration import CHOOSING, SENDS, NodeKind
from runware_flow.graph.fingerprint import Ordinals, item_key
from runware_flow.graph.outcomes import Abandoned, Failed, Skipped
from runware_flow.graph.plan import MAX_WAITS, OPEN
from runware_flow.graph.policies import may_fall_back
from runware_flow.graph.scope_run import (
    ABANDONED,
    FAILED,
    OK,
    READY,
    RUNNING,
    SETTLED,
    SKIPPED,
    FanRun,
    ScopeRun,
    because_of,
    why_not,
)

if TYPE_CHECKING:
    from runware_flow.graph.choice_records import ChoiceRecord
    from runware_flow.graph.plan import ScopePlan, Step

__all__ = ("Chosen", "Decision", "Spread")


class Decision(NamedTuple):
    """A choice that was made and waits for being written down.

    Attributes:
        run, step: the node that chose.
        choice: how the journal knows it.
    """

    run: ScopeRun
    step: Step
    choice: ChoiceRecord


class Chosen:
    """What is known of a choice before its node settles.

    Attributes:
        record: that of the journal, or what is being written down.
        place: which contestant of a race it was, in this run.
        is_durable: it is in the journal.
        is_void: what had won did not succeed this time, so that it is decided anew.
    """

    __slots__ = ("is_durable", "is_void", "place", "record")

    def __init__(self, record: ChoiceRecord, *, is_durable: bool, place: int | None = None) -> None:
        self.record = record
        self.place = place
        self.is_durable = is_durable
        self.is_void = False


class Spread:
    """The state of a run and what follows from a node's outcome; see `FlowMachine` for the attributes."""

    __slots__ = (
        "_ready",
        "_sources",
        "_todo",
        "abandoned_count",
        "active",
        "chosen",
        "concurrency",
        "decisions",
        "dropped",
        "failed_count",
        "failure",
        "held",
        "in_flight",
        "is_recorded",
        "leads",
        "ok_count",
        "on_error",
        "root",
        "settled",
        "skipped_count",
        "stopped",
        "tried",
        "waiting",
        "watch",
    )

    def __init__(self, plan: ScopePlan, *, concurrency: int, on_error: str) -> None:
        self.concurrency = concurrency
        self.on_error = on_error
        self.in_flight: int = 0
        self.watch = False
        self.settled: list[tuple[ScopeRun, Step]] = []
        self.dropped: list[tuple[ScopeRun, Step] | FanRun] = []
        self.failure: tuple[ScopeRun, Step, Exception] | None = None
        self.stopped: Skipped | None = None
        self.ok_count = self.failed_count = self.skipped_count = self.abandoned_count = 0
        self.active: dict[FanRun, None] = {}
        self.waiting: dict[tuple[ScopeRun, Step], Exception | None] = {}
        self.tried: dict[tuple[ScopeRun, Step], Exception] = {}
        self.is_recorded = False
        self.chosen: dict[tuple[ScopeRun, Step], Chosen] = {}
        self.decisions: list[Decision] = []
        self.held: dict[tuple[ScopeRun, Step], Failed | Abandoned | None] = {}
        self.leads: dict[tuple[ScopeRun, Step], dict[int, str | None]] = {}
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

    def _settle_ok(self, run: ScopeRun, step: Step, value: Any) -> None:
        cells = run.cells
        slot = step.slot
        cells[slot] = OK
        run.values[slot] = value
        if not step.is_silent:
            self.ok_count += 1
        if self.watch:
            self.settled.append((run, step))
        for waiting in step.next:
            left = cells[waiting.slot]
            if left == 1:
                self._make_ready(run, waiting)
            elif left < MAX_WAITS:
                cells[waiting.slot] = left - 1
            elif left == OPEN:
                self._decide(run, waiting)
        if step.is_watched:
            self._tell_inside(run, step)
        if step.gathers:
            self._count(run, step)
        run.open_count -= 1
        if run.open_count == 0:
            self._close(run)

    def _make_ready(self, run: ScopeRun, step: Step) -> None:
        if step.kind is NodeKind.FAN and step.spec.deps and step.spec.deps[0].keeps_all:
            self._give_all(run, step)
        elif self.stopped is not None and not step.is_pure:
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
        """Stop the run, unless whatever waits for the node can do without it, or its fan-out tolerates it."""
        if self.on_error == "continue" or self._is_handled(step, error):
            return
        around = run
        while around.fan is not None:
            fan = around.fan
            if fan.step.spec.tolerate is not None:
                fan.failed.add(around.index)
                fan.failure = fan.failure or (run, step, error)
                if not fan.is_past_tolerance:
                    return
            around = fan.around
        if self.failure is None and self.stopped is None:
            self.failure = (run, step, error)
        self.stop(f"{run.place(step)} failed and ended the run", error)

    def _is_handled(self, step: Step, error: Exception) -> bool:
        role = step.role
        if not role.is_excused:
            return False
        return not role.needs_fallback or may_fall_back(error, buys=step.kind in SENDS)

    def stop(self, because: str, error: Exception | None = None) -> None:
        """Start nothing new that could send; what runs is waited for, pure steps are still worked out."""
        if self.stopped is not None:
            return
        self.stopped = skipped = Skipped(because, error)
        ready, self._ready = self._ready, []
        for run, step in ready:
            if step.is_pure and run.cells[step.slot] == READY:
                self._ready.append((run, step))
            else:
                self._settle_parked(run, step, self.tried.pop((run, step), None))
        waiting, self.waiting = self.waiting, {}
        for (run, step), last in waiting.items():
            self._settle_parked(run, step, last)
        for fan in list(self.active):
            if not fan.is_ended:
                fan.problem_outcome = skipped
                self._end_fan(fan)

    def _settle_parked(self, run: ScopeRun, step: Step, last: Exception | None) -> None:
        assert self.stopped is not None
        if last is None:
            self._settle(run, step, SKIPPED, self.stopped)
        else:
            self._settle(run, step, FAILED, Failed(last))

    def _settle(self, run: ScopeRun, step: Step, cell: int, outcome: Any) -> None:
        """Give a node its outcome, or if `cell` is OK, its value, and do everything that follows from it."""
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
        if cell == OK:
            self._settle_ok(run, step, outcome)
            if step.kind in CHOOSING:
                self.chosen.pop((run, step), None)
                self.leads.pop((run, step), None)
                self._let_go(run, step)
            return
        run.cells[slot] = cell
        if not isinstance(run.values[slot], FanRun):
            run.values[slot] = outcome
        if cell in (FAILED, ABANDONED) or not step.is_silent:
            self._tally(cell)
        if self.watch:
            self.settled.append((run, step))
        skipped = outcome if cell == SKIPPED else because_of(run, step, cell, outcome)
        self._skip_after(run, step, skipped)
        if step.gathers:
            self._count(run, step, skipped)
        run.open_count -= 1
        if run.open_count == 0:
            self._close(run)

    def _skip_after(self, run: ScopeRun, step: Step, skipped: Skipped) -> None:
        for waiting in step.next:
            self._skip(run, waiting, skipped)
        if step.is_watched and run.waiters is not None:
            for inside, waiting in run.waiters.pop(step.slot, ()):
                self._skip(inside, waiting, skipped)
        if step.inner is not None:  # a fan-out without items, or without all of them
            for gather in step.inner.gathers:
                if run.cells[gather.slot] < MAX_WAITS:
                    self._settle(run, gather, SKIPPED, skipped)

    def _skip(self, run: ScopeRun, waiting: Step, skipped: Skipped) -> None:
        cell = run.cells[waiting.slot]
        if cell < MAX_WAITS:
            self._settle(run, waiting, SKIPPED, skipped)
        elif cell == OPEN:
            self._decide(run, waiting)

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
        decided: list[Step] = []
        for step, hops, slot in run.plan.outer:
            outside = run.above(hops)
            cell = outside.cells[slot]
            is_open = run.cells[step.slot] == OPEN
            if cell >= SETTLED:
                if is_open:
                    decided.append(step)
                elif cell != OK:
                    skips.append((step, why_not(outside, outside.plan.steps[slot])))
                continue
            if not is_open:
                run.cells[step.slot] += 1
            if outside.waiters is None:
                outside.waiters = {}
            outside.waiters.setdefault(slot, []).append((run, step))
        for step, skipped in skips:
            self._settle(run, step, SKIPPED, skipped)
        for step in decided:
            self._decide(run, step)

    def _tell_inside(self, run: ScopeRun, step: Step) -> None:
        if run.waiters is None:
            return
        for inside, waiting in reversed(run.waiters.pop(step.slot, ())):
            left = inside.cells[waiting.slot]
            if left == 1:
                self._make_ready(inside, waiting)
            elif left < MAX_WAITS:
                inside.cells[waiting.slot] = left - 1
            elif left == OPEN:
                self._decide(inside, waiting)

    # Fan-outs

    def _give_all(self, run: ScopeRun, step: Step) -> None:
        """Make items of the results of one task, at once: they have been paid for, so no stop may come between."""
        assert step.inner is not None
        run.cells[step.slot] = RUNNING
        fan = run.values[step.slot] = FanRun(run, step, step.inner)
        self.active[fan] = None
        fan.is_lent = True
        fan.length = len(run.values[step.spec.deps[0].slot])
        ordinals = Ordinals()
        for item in run.values[step.spec.deps[0].slot]:
            self._add_item(fan, item, ordinals.name(item_key(item)))
        fan.is_lent = False
        self._end_fan(fan)

    def _add_item(self, fan: FanRun, item: Any, key: str | None) -> ScopeRun:
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
        elif isinstance(item, Abandoned):
            self._settle(run, step, ABANDONED, item)
        else:
            self._settle_ok(run, step, item)
        return run

    def _offer(self, fan: FanRun) -> None:
        if fan.is_queued or fan.is_lent or fan.is_ended:
            return
        if fan.open_count >= self.concurrency and fan.plan.is_windowed:
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
            if gather.kind is NodeKind.FIRST:
                self._count_first(fan, place, run)
            elif skipped is not None and gather.kind is NodeKind.GATHER:
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
            if gather.kind is NodeKind.FIRST:
                chosen = self.chosen.get((fan.around, gather))
                if chosen is not None and not chosen.is_void:
                    self._check_winners(fan, gather, chosen)
                self._end_first(fan, place)
            elif problem is not None and fan.around.cells[gather.slot] < MAX_WAITS:
                skipped = because_of(fan.around, fan.step, FAILED, problem) if isinstance(problem, Failed) else problem
                self._settle(fan.around, gather, SKIPPED, skipped)
            elif fan.counts[place] == fan.pulled_count:
                self._finish_gather(fan, gather)
        if fan.failure is not None and fan.is_past_tolerance:
            self._failed_for_good(*fan.failure)
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
            self._settle_ok(run, step, fan)

    # What `Choices` decides

    def _decide(self, run: ScopeRun, step: Step) -> None:
        raise NotImplementedError

    def _count_first(self, fan: FanRun, place: int, item: ScopeRun) -> None:
        raise NotImplementedError

    def _end_first(self, fan: FanRun, place: int) -> None:
        raise NotImplementedError

    def _check_winners(self, fan: FanRun, first: Step, chosen: Chosen) -> None:
        raise NotImplementedError

    def _let_go(self, run: ScopeRun, step: Step) -> None:
        raise NotImplementedError

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
