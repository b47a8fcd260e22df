r"""`FlowMachine`: decides what a run does next. It does nothing itself: no tasks, no clock, no IO.

A run is a tree of `ScopeRun`s: the root, and one for each item of each fan-out. A scope run has a cell for each node:

    waits for n values  ->  READY  <->  RUNNING  ->  OK | FAILED | SKIPPED | ABANDONED
          |                   ^  \        |
          |                   |   \       v
          +---->  SKIPPED  <--+----+--  WAITING

    OPEN (a race, a branch or one of its ways)  ->  OK | FAILED | SKIPPED

Events come in as calls: `succeed`, `fail` and `abandon` (a node settled), `item_pulled`, `source_ended`,
`source_failed`, `stop`, `abort`. What is to be done is taken out: `take` gives the next node to run, `next_source` the
next fan-out to pull an item from. The rules:

* a node runs when all its values are there, at most once a run (attempts are the shell's business);
* at most `concurrency` nodes run, and at most `concurrency` items of one fan-out are unfinished (all of them only
  where items wait for a gather of all items, as for a sum that each is then divided by);
* depth first: what became ready last runs first, and a source is only pulled when nothing is ready, so chains finish
  before new ones begin and what is pending stays small;
* a failure skips what depends on it (`"continue"`), or also stops the run (`"stop"`, `"cancel"`): then nothing that
  could send is started any more, while pure steps are still worked out from what finishes;
* a failure that a race or a `first` can do without stops nothing, nor does one that its fan-out tolerates; once such a
  node is decided, what only it needed is skipped or dropped.

Each call costs O(1) for each node that it settles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runware_flow.graph.choices import Choices
from runware_flow.graph.declaration import NodeKind
from runware_flow.graph.outcomes import Abandoned, Failed, Skipped
from runware_flow.graph.scope_run import ABANDONED, READY, RUNNING, SETTLED, SKIPPED, WAITING, FanRun, ScopeRun

if TYPE_CHECKING:
    from runware_flow.graph.declaration import NodeSpec
    from runware_flow.graph.plan import Step

__all__ = ("FlowMachine",)


class FlowMachine(Choices):
    """The state of one run.

    Attributes:
        watch: collect settled nodes in `settled`, for a shell that tells somebody.
        settled: nodes that settled since the shell last emptied it, in order; filled only while `watch` is set.
        dropped: what the shell is to end since nobody needs it any more: running nodes to cancel, which are abandoned
            as in any cancel, fan-outs whose sources to close, and nodes that were parked or ready and are skipped.
        failure: the first node that failed for good, while failures stop the run.
        stopped: why nothing new is started any more, or `None`.
        waiting: the nodes that are parked, with the error of their last attempt.
        tried: nodes that are ready, or run, after an attempt that failed, with its error.
        is_recorded: choices are written down before their nodes settle; `decisions` are those that wait for that.
        chosen: what is known of choices whose nodes have not settled, from the journal or being written down.
        held: the nodes that wait since another one was chosen, with how they ended in an earlier run.
        leads: the fingerprints of the first requests of contestants.
        ok_count, failed_count, skipped_count, abandoned_count: settled nodes by outcome; items and fan-outs do not
            count.
    """

    __slots__ = ()

    @property
    def is_finished(self) -> bool:
        """Whether every node has its outcome."""
        return self.root.open_count == 0

    @property
    def must_tell(self) -> bool:
        """Whether there is something for the shell to do beside running nodes."""
        return bool(self.settled or self.dropped or self.decisions) or self.stopped is not None or self.is_finished

    @property
    def has_work(self) -> bool:
        """Whether `take` or `next_source` has something, were there a worker for it."""
        return self._has_ready() or any(self._sources)

    @property
    def ready_count(self) -> int:
        """How many nodes could run, were there room for them."""
        return len(self._ready)

    # What is to be done

    def take(self) -> tuple[ScopeRun, Step] | None:
        """Take the next node to run; `None` if none is ready or `concurrency` nodes run already."""
        ready = self._ready
        while ready and self.in_flight < self.concurrency:
            job = ready.pop()
            cells, slot = job[0].cells, job[1].slot
            if cells[slot] == READY:
                cells[slot] = RUNNING
                self.in_flight += 1
                return job
        return None

    def _has_ready(self) -> bool:
        ready = self._ready
        while ready and ready[-1][0].cells[ready[-1][1].slot] != READY:
            ready.pop()  # it was dropped meanwhile
        return bool(ready)

    def next_source(self) -> FanRun | None:
        """Take the fan-out to pull the next item from; `None` if nodes come first or no window has room.

        The innermost fan-outs come first, those of one depth in turn. The fan-out is lent until `item_pulled`,
        `source_ended` or `source_failed` is called for it.
        """
        if self.in_flight >= self.concurrency or self._has_ready():
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
        if self.tried:
            self.tried.pop((run, step), None)
        self._settle_ok(run, step, value)

    def fail(self, run: ScopeRun, step: Step, error: Exception) -> None:
        """A running node failed for good."""
        self.in_flight -= 1
        if self.tried:
            self.tried.pop((run, step), None)
        self._fail(run, step, error)

    def abandon(self, run: ScopeRun, step: Step, task_uuid: str | None, *, may_be_billed: bool) -> None:
        """A running node was cancelled."""
        self.in_flight -= 1
        if self.tried:
            self.tried.pop((run, step), None)
        self._settle(run, step, ABANDONED, Abandoned(task_uuid, may_be_billed))

    def park(self, run: ScopeRun, step: Step, error: Exception | None = None) -> None:
        """A running node has to wait for something that is no value, a limit or a pause say, and gives its place back.

        Args:
            error: how its last attempt failed, if that is why it waits. If the run stops before the next attempt, that
                is its outcome; a node that was never tried is skipped then. In a run that has stopped already, that
                is so at once.
        """
        self.in_flight -= 1
        if self.tried:
            tried = self.tried.pop((run, step), None)
            error = tried if error is None else error
        if self.stopped is not None:
            self._settle_parked(run, step, error)
            return
        run.cells[step.slot] = WAITING
        self.waiting[run, step] = error
        if step.role.serves_choice:
            self._let_go_parked(run, step)

    def unpark(self, run: ScopeRun, step: Step) -> None:
        """What a parked node waited for is there: it is ready again. Nothing happens if it has settled meanwhile."""
        if (run, step) in self.waiting:
            error = self.waiting.pop((run, step))
            if error is not None:
                self.tried[run, step] = error
            run.cells[step.slot] = READY
            self._ready.append((run, step))

    def take_place(self) -> bool:
        """Take a place for a second request of a running node; `False` if none is free, or the run has stopped."""
        if self.stopped is not None or self.in_flight >= self.concurrency:
            return False
        self.in_flight += 1
        return True

    def give_place_back(self) -> None:
        """The second request is over."""
        self.in_flight -= 1

    def item_pulled(self, fan: FanRun, item: Any, key: str | None = None) -> ScopeRun | None:
        """A source gave an item, or a `Failed` in the place of one; returns its run, `None` if the run has stopped."""
        fan.is_lent = False
        if fan.is_ended:
            self._finish_fan(fan)
            return None
        run = self._add_item(fan, item, key)
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

    def may_send(self, run: ScopeRun, step: Step) -> bool:
        """Tell whether a running node may still begin to send something: the run goes on, and somebody needs it."""
        return self.stopped is None and (not step.role.serves_choice or self._is_wanted(run, step))

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
