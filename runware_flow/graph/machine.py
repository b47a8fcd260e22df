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

How races, branches, fallbacks and `first` are decided: they send nothing and need no worker; each looks at the nodes
before it whenever one of those has settled. What only a decided node needed is let go. What has not begun is skipped.
What runs is cancelled for a race, which is why a race is decided, and collected for a `first`, since it is paid for.
Whatever another node needs as well, or is wanted for itself because nothing follows it, is left alone.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from runware_flow.errors import TooFewSucceeded
from runware_flow.graph.choice_records import ChoiceRecord, Contestant, winner_of
from runware_flow.graph.declaration import CHOOSING, RECORDED, SENDERS, SENDS, NodeKind
from runware_flow.graph.fingerprint import Ordinals, item_key
from runware_flow.graph.outcomes import Abandoned, Failed, Skipped
from runware_flow.graph.plan import MAX_WAITS, NO_ROLE, OPEN
from runware_flow.graph.policies import may_fall_back
from runware_flow.graph.scope_run import (
    ABANDONED,
    FAILED,
    OK,
    READY,
    RUNNING,
    SETTLED,
    SKIPPED,
    WAITING,
    FanRun,
    ScopeRun,
    because_of,
    why_not,
)

if TYPE_CHECKING:
    from runware_flow.graph.choice_records import ChoiceKind
    from runware_flow.graph.declaration import NodeSpec
    from runware_flow.graph.outcomes import Outcome
    from runware_flow.graph.plan import Contest, ScopePlan, Step

__all__ = ("Chosen", "Decision", "FlowMachine")

_KEPT_ERRORS = 16

# In Python 3.11 a look at a member of an Enum takes a call, and these are looked at for each node.
_FAN = NodeKind.FAN
_FIRST = NodeKind.FIRST
_GATHER = NodeKind.GATHER


class Decision(NamedTuple):
    """A choice that was made and is not recorded yet.

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


class FlowMachine:
    """The state of one run.

    Attributes:
        watch: collect settled nodes in `settled`, for a shell that has readers.
        settled: nodes that settled since the shell last emptied it, in order; filled only while `watch` is set.
        dropped: what the shell is to end since nothing needs it any more: running nodes to cancel, which are abandoned
            as in any cancel, fan-outs whose sources to close, and nodes that were parked or ready and are skipped.
        failure: the first node that failed for good, while failures stop the run.
        stopped: why nothing new is started any more, or `None`.
        waiting: the nodes that are parked, with what they end as if they are not sent any more: the error of their last
            attempt, or `Abandoned` if the service may have their request; without either they are skipped.
        tried: the same for nodes that are ready or running again.
        is_recorded: choices are written down before their nodes settle; `decisions` are those that wait for that.
        has_past: an earlier run may have made them: none is made before the shell has looked. `inquiries` are those
            that it has still to look up, beside those that it looks up as it sends something for them.
        chosen: what is known of choices whose nodes have not settled, from the journal or being written down.
        recalled: the fallbacks that have answered in an earlier run.
        held: the nodes that wait since another one was chosen, with how they ended in an earlier run.
        leads: the fingerprints of the first requests of contestants.
        excused: what failed and may be answered apart from its own scope, in a run whose choices are recorded; see
            `answered.py`.
        ok_count, failed_count, skipped_count, abandoned_count: settled nodes by outcome; items and fan-outs do not
            count.
    """

    __slots__ = (
        "_lookups",
        "_ready",
        "_sources",
        "_todo",
        "abandoned_count",
        "active",
        "chosen",
        "concurrency",
        "decisions",
        "dropped",
        "excused",
        "failed_count",
        "failure",
        "has_past",
        "held",
        "in_flight",
        "inquiries",
        "is_recorded",
        "leads",
        "ok_count",
        "on_error",
        "recalled",
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
        self.waiting: dict[tuple[ScopeRun, Step], Exception | Abandoned | None] = {}
        self.tried: dict[tuple[ScopeRun, Step], Exception | Abandoned] = {}
        self.is_recorded = False
        self.chosen: dict[tuple[ScopeRun, Step], Chosen] = {}
        self.decisions: list[Decision] = []
        self.has_past = False
        self.inquiries: list[tuple[ScopeRun, Step]] = []
        self.recalled: set[tuple[ScopeRun, Step]] = set()
        self._lookups: dict[tuple[ScopeRun, Step], bool] = {}
        """For each choice that is not made: the choice of an earlier run is known, or is being looked up."""
        self.held: dict[tuple[ScopeRun, Step], Failed | Abandoned | None] = {}
        self.leads: dict[tuple[ScopeRun, Step], dict[int, str | None]] = {}
        self.excused: list[tuple[ScopeRun, Step]] = []
        self._ready: list[tuple[ScopeRun, Step]] = []
        self._sources: list[deque[FanRun]] = []
        self._todo: list[tuple[ScopeRun, Step, int, Any]] = []
        self.root = ScopeRun(plan)
        for step in plan.first:
            if step.kind is not _FAN:
                self._make_ready(self.root, step)
        for step in reversed(plan.first):
            if step.kind is _FAN:
                self._make_ready(self.root, step)

    @property
    def is_finished(self) -> bool:
        """Whether every node has its outcome."""
        return self.root.open_count == 0

    @property
    def has_changes(self) -> bool:
        """Whether the shell has something to do besides running nodes."""
        if self.settled or self.dropped or self.decisions or self.inquiries or self.stopped is not None:
            return True
        return self.root.open_count == 0

    @property
    def has_work(self) -> bool:
        """Whether `take` or `next_source` would give something to a free worker."""
        return any(self._sources) or self._has_ready()

    @property
    def ready_count(self) -> int:
        """How many nodes are ready, whether there is room for them or not."""
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

    def park(self, run: ScopeRun, step: Step, last: Exception | Abandoned | None = None) -> None:
        """A running node has to wait for something other than a value, such as a limit, and gives its slot back.

        Args:
            last: how its last attempt failed, if that is why it waits; or that the service may have its request. If
                nothing is sent for it any more, that is its outcome; a node that was never tried is skipped then. In
                a run that has stopped already, that is so at once.
        """
        self.in_flight -= 1
        if self.tried:
            tried = self.tried.pop((run, step), None)
            last = tried if last is None else last
        if self.stopped is not None:
            self._settle(run, step, *_end_of(last, self.stopped))
            return
        run.cells[step.slot] = WAITING
        self.waiting[run, step] = last
        if step.role.serves_choice:
            self._let_go_parked(run, step)

    def unpark(self, run: ScopeRun, step: Step) -> None:
        """A parked node need not wait any more: it is ready again. Does nothing if it has settled meanwhile."""
        if (run, step) in self.waiting:
            last = self.waiting.pop((run, step))
            if last is not None:
                self.tried[run, step] = last
            run.cells[step.slot] = READY
            self._ready.append((run, step))

    def begin_hedge(self) -> bool:
        """Take a slot for a second request of a running node; `False` if none is free, or the run has stopped."""
        if self.stopped is not None or self.in_flight >= self.concurrency:
            return False
        self.in_flight += 1
        return True

    def end_hedge(self) -> None:
        """The second request is over."""
        self.in_flight -= 1

    def item_pulled(self, fan: FanRun, item: Any, key: str | None = None) -> ScopeRun | None:
        """A source gave an item, or a `Failed` instead of one; returns its run, or `None` if the run has stopped."""
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
        """A source raised. The items that it gave before go on; the fan-out counts as a failed node."""
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
                if cell < SETTLED and step.kind is not _FAN:
                    if cell == RUNNING:
                        self.in_flight -= 1
                    self._settle(run, step, SKIPPED, self.stopped)
        for fan in list(self.active):
            self._finish_fan(fan)

    # Looking in

    def may_send(self, run: ScopeRun, step: Step) -> bool:
        """Tell whether a running node may still send: the run goes on, and something needs the node."""
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

    # What follows from an outcome

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
            self._update_inner_waiters(run, step)
        if step.gathers:
            self._count(run, step)
        run.open_count -= 1
        if run.open_count == 0:
            self._close(run)

    def _make_ready(self, run: ScopeRun, step: Step) -> None:
        if step.kind is not _FAN:
            if self.stopped is None or step.is_pure:
                run.cells[step.slot] = READY
                self._ready.append((run, step))
            else:
                self._settle(run, step, SKIPPED, self.stopped)
        elif step.spec.deps and step.spec.deps[0].keeps_all:
            self._give_all(run, step)
        elif self.stopped is not None:
            self._settle(run, step, SKIPPED, self.stopped)
        else:
            assert step.inner is not None
            run.cells[step.slot] = RUNNING
            fan = run.values[step.slot] = FanRun(run, step, step.inner)
            self.active[fan] = None
            self._offer(fan)

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
        return not role.needs_fallback or may_fall_back(error, sends=step.kind in SENDS)

    def stop(self, because: str, error: Exception | None = None) -> None:
        """Start nothing new that could send; wait for what runs, and still compute pure steps."""
        if self.stopped is not None:
            return
        self.stopped = skipped = Skipped(because, error)
        ready, self._ready = self._ready, []
        for run, step in ready:
            if step.is_pure and run.cells[step.slot] == READY:
                self._ready.append((run, step))
            else:
                self._settle(run, step, *_end_of(self.tried.pop((run, step), None), skipped))
        waiting, self.waiting = self.waiting, {}
        for (run, step), last in waiting.items():
            self._settle(run, step, *_end_of(self.held.pop((run, step), None) if last is None else last, skipped))
        for fan in list(self.active):
            if not fan.is_ended:
                fan.problem_outcome = skipped
                self._end_fan(fan)

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
                del todo[1:done]  # the first entry stays: it says that this loop is running
                done = 1
        todo.clear()

    def _settle_one(self, run: ScopeRun, step: Step, cell: int, outcome: Any) -> None:
        slot = step.slot
        if run.cells[slot] >= SETTLED:
            return
        if cell == OK:
            self._settle_ok(run, step, outcome)
            if step.kind in RECORDED:
                self.chosen.pop((run, step), None)
                self.leads.pop((run, step), None)
                self._lookups.pop((run, step), None)
            if step.kind in CHOOSING:
                self._let_go(run, step)
            return
        run.cells[slot] = cell
        if not isinstance(run.values[slot], FanRun):
            run.values[slot] = outcome
        if cell in (FAILED, ABANDONED) or not step.is_silent:
            self._count_outcome(run, step, cell)
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
                    self._skip_gather(run, gather, skipped)
        if self._lookups.pop((run, step), None) is False and step.kind is NodeKind.FALLBACK:
            self._decide_unless_of(run, step)  # it was left out while it was looked up: what waited for that goes on

    def _skip_gather(self, run: ScopeRun, gather: Step, skipped: Skipped) -> None:
        """Settle what collects the items of a fan-out that has none, since something before it failed or was skipped.

        A `first` fails, as a race does whose nodes were all skipped: it is what excuses the failure before it, so a run
        in which it was only skipped would end as if nothing had failed.
        """
        if gather.kind is _FIRST and skipped.error is not None and skipped is not self.stopped:
            told = f"{run.place(gather)} wants the first {gather.work}, but there are no items: {skipped.because}"
            error = TooFewSucceeded(told, errors=[skipped.error])
            error.__cause__ = skipped.error
            self._fail(run, gather, error)
        else:
            self._settle(run, gather, SKIPPED, skipped)

    def _skip(self, run: ScopeRun, waiting: Step, skipped: Skipped) -> None:
        cell = run.cells[waiting.slot]
        if cell < MAX_WAITS:
            self._settle(run, waiting, SKIPPED, skipped)
        elif cell == OPEN:
            self._decide(run, waiting)

    def _count_outcome(self, run: ScopeRun, step: Step, cell: int) -> None:
        if cell == FAILED:
            self.failed_count += 1
            if step.role.is_excused_apart and self.is_recorded and step.kind in SENDERS:
                self.excused.append((run, step))
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

    def _update_inner_waiters(self, run: ScopeRun, step: Step) -> None:
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
        run.values[0] = item  # its key may be worked out before its node settles
        if fan.plan.outer:
            self._wait_outside(run)
        step = fan.plan.steps[0]
        if not isinstance(item, (Failed, Abandoned)):
            self._settle_ok(run, step, item)
        elif isinstance(item, Failed):
            self._fail(run, step, item.error)
        else:
            self._settle(run, step, ABANDONED, item)
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
            if gather.kind is _FIRST:
                self._count_first(fan, place, run)
            elif skipped is not None and gather.kind is _GATHER:
                if fan.around.cells[gather.slot] < MAX_WAITS:
                    self._settle(fan.around, gather, SKIPPED, skipped)
            elif fan.is_ended and fan.counts[place] == fan.pulled_count:
                self._finish_gather(fan, gather)

    def _finish_gather(self, fan: FanRun, gather: Step) -> None:
        if fan.around.cells[gather.slot] >= SETTLED or fan.problem_outcome is not None:
            return
        assert gather.spec.of is not None
        slot = gather.spec.of.slot
        if gather.kind is _GATHER:
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
            if gather.kind is _FIRST:
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

    def _close(self, run: ScopeRun) -> None:
        fan = run.fan
        if fan is None:
            return
        fan.open_count -= 1
        del fan.live[run.index]
        if fan.is_ended:
            self._finish_fan(fan)
        elif not fan.is_queued:
            self._offer(fan)

    # Nodes that choose

    def _decide(self, run: ScopeRun, step: Step) -> None:
        """Settle a race, a way or a branch if it can be by now."""
        if run.cells[step.slot] >= SETTLED:
            return
        if step.kind is NodeKind.RACE:
            self._decide_race(run, step)
        elif step.kind is NodeKind.WAY:
            self._decide_way(run, step)
        elif step.kind is NodeKind.UNLESS:
            self._decide_unless(run, step)
        elif step.kind is NodeKind.FALLBACK:
            self._decide_fallback(run, step)
        else:
            self._decide_branch(run, step)

    def _decide_way(self, run: ScopeRun, step: Step) -> None:
        around, choice = _before(run, step)[0]
        cell = around.cells[choice.slot]
        if cell != OK:
            if cell >= SETTLED:
                self._settle(run, step, SKIPPED, why_not(around, choice))
        elif around.values[choice.slot] is step.work:
            self._settle(run, step, OK, around.values[choice.spec.deps[0].slot])
        else:
            self._settle(run, step, SKIPPED, Skipped(f"{around.place(choice)} took the other path"))

    def _decide_branch(self, run: ScopeRun, step: Step) -> None:
        before = _before(run, step)
        around, end = before[0]
        if around.cells[end.slot] == OK:
            around, end = before[1 if around.values[end.slot] else 2]
            if around.cells[end.slot] == OK:
                self._settle(run, step, OK, around.values[end.slot])
                return
        if around.cells[end.slot] >= SETTLED:
            self._settle(run, step, SKIPPED, why_not(around, end))

    def _decide_unless(self, run: ScopeRun, step: Step) -> None:
        [(around, one)] = _before(run, step)
        cell, outcome = around.cells[one.slot], around.values[one.slot]
        fallback = _fallback_after(step)
        chosen = self._chosen(run, fallback)
        if chosen is not None and cell == OK and self._has_changed(run, fallback, chosen):
            self._void(run, fallback, chosen)
            chosen = None
        if cell >= SETTLED and chosen is not None and outcome is not self.stopped:
            self._settle(run, step, OK, outcome)  # the fallback has answered in an earlier run
        elif cell == OK:
            if self._has_looked(run, fallback):
                self._settle(run, step, SKIPPED, Skipped(f"{around.place(one)} succeeded"))
        elif cell == FAILED and may_fall_back(outcome.error, sends=one.kind in SENDS):
            self._settle(run, step, OK, outcome)
        elif cell == SKIPPED and outcome.error is not None and may_fall_back(outcome.error, sends=False):
            self._settle(run, step, OK, outcome)  # it was skipped because of a failure before it
        elif cell >= SETTLED:
            self._settle(run, step, SKIPPED, why_not(around, one))

    def _decide_fallback(self, run: ScopeRun, step: Step) -> None:
        (around, one), (_, other) = _before(run, step)
        chosen = self._chosen(run, step)
        if around.cells[one.slot] == OK and chosen is None:
            if self._has_looked(run, step):
                self._settle(run, step, OK, around.values[one.slot])
        elif around.cells[one.slot] >= SETTLED and run.cells[other.slot] >= SETTLED:
            cell, outcome = run.cells[other.slot], run.values[other.slot]
            if cell == OK:
                if chosen is None and self.is_recorded:
                    self._propose_one(run, step, "node_fallback", 1)
                elif chosen is None or chosen.is_durable:
                    self._settle(run, step, OK, outcome)
                return
            if chosen is not None and outcome is not self.stopped and cell != ABANDONED:
                self._void(run, step, chosen)
            if around.cells[one.slot] == OK:
                self._settle(run, step, OK, around.values[one.slot])
            else:
                self._end_fallback(run, step)

    def _end_fallback(self, run: ScopeRun, step: Step) -> None:
        """Let a fallback fail, or be skipped: neither of its nodes has a value."""
        (around, one), (_, other) = _before(run, step)
        cell, outcome = run.cells[other.slot], run.values[other.slot]
        if cell == FAILED:
            first = getattr(around.values[one.slot], "error", None) or _describe_outcome(around.values[one.slot])
            outcome.error.add_note(f"this is the fallback's error; before it: {str(first) or type(first).__name__}")
            self._fail(run, step, outcome.error)
        elif isinstance(outcome, Skipped) and outcome is not self.stopped and around.cells[one.slot] == FAILED:
            self._fail(run, step, around.values[one.slot].error)  # of a kind that no fallback answers
        else:
            self._settle(run, step, SKIPPED, why_not(run, other))

    def _decide_race(self, run: ScopeRun, step: Step) -> None:
        before = _before(run, step)
        cells = [around.cells[one.slot] for around, one in before]
        chosen = self._chosen(run, step)
        if chosen is not None and not self._may_choose_anew(run, step, chosen, cells):
            return
        if OK in cells:
            place = cells.index(OK)
            around, one = before[place]
            if self.is_recorded:
                self._propose_one(run, step, "race", place)
            else:
                self._settle(run, step, OK, around.values[one.slot])
        elif all(cell >= SETTLED for cell in cells):
            ends = [(around, one, around.values[one.slot]) for around, one in before]
            for around, one, end in ends:
                if isinstance(end, Abandoned) or end is self.stopped:  # by the run, not by what it did
                    self._settle(run, step, SKIPPED, why_not(around, one))
                    return
            errors = [end.error for _, _, end in ends if isinstance(end, (Failed, Skipped)) and end.error is not None]
            if not errors:
                self._settle(run, step, SKIPPED, why_not(*before[0]))
                return
            told = "; ".join(f"{around.place(one)}: {_describe_outcome(end)}" for around, one, end in ends)
            error = TooFewSucceeded(f"all nodes of {run.place(step)!r} failed: {told}", errors=errors)
            error.__cause__ = errors[-1]
            self._fail(run, step, error)

    def _may_choose_anew(self, run: ScopeRun, race: Step, chosen: Chosen, cells: list[int]) -> bool:
        """Settle a race as it was chosen if that can be by now; `True` if what was chosen has not succeeded."""
        place = self._winning_place(run, race, chosen)
        cell = min(cells) if place is None else cells[place]
        if cell < SETTLED or (cell == OK and not chosen.is_durable):
            return False
        if cell == OK and place is not None:
            around, one = _before(run, race)[place]
            self._settle(run, race, OK, around.values[one.slot])
            return False
        self._void(run, race, chosen)
        return True

    # The first few of many

    def _count_first(self, fan: FanRun, place: int, item: ScopeRun) -> None:
        """Count an item that has settled the node which a `first` collects."""
        first = fan.plan.gathers[place]
        assert first.spec.of is not None
        if fan.around.cells[first.slot] < SETTLED:
            chosen = self._chosen(fan.around, first)
            if item.cells[first.spec.of.slot] == OK:
                fan.winners.setdefault(place, []).append(item)
            elif chosen is not None and _key(item) in chosen.record.winning_keys(first.work):
                self._void(fan.around, first, chosen)
            self._decide_first(fan, place)
        if fan.is_ended:
            self._end_first(fan, place)

    def _decide_first(self, fan: FanRun, place: int) -> None:
        """Settle a `first` if it can be by now."""
        first = fan.plan.gathers[place]
        assert first.spec.of is not None
        slot, count = first.spec.of.slot, first.work
        winners: list[ScopeRun] = fan.winners.get(place, [])
        chosen = self._chosen(fan.around, first)
        if chosen is not None:
            found = {_key(item): item for item in winners}
            keys = chosen.record.winning_keys(count)
            if len(keys) == count and all(key in found for key in keys) and chosen.is_durable:
                self._settle(fan.around, first, OK, [found[key].values[slot] for key in keys])
        elif len(winners) >= count:
            won = winners[:count]
            if self.is_recorded:
                known = self.leads.get((fan.around, first), {})
                places = sorted({*known, *(item.index for item in won)})
                contestants = [Contestant(_key(fan.items[one]), known.get(one)) for one in places]
                self._propose(fan.around, first, "first", contestants, tuple(places.index(item.index) for item in won))
            else:
                self._settle(fan.around, first, OK, [item.values[slot] for item in won])

    def _end_first(self, fan: FanRun, place: int) -> None:
        """Fail a `first` if no item is left that it could wait for; the source has ended."""
        first = fan.plan.gathers[place]
        if fan.counts[place] < fan.pulled_count or fan.around.cells[first.slot] >= SETTLED:
            return
        found = fan.winners.get(place, [])
        problem = fan.problem_outcome
        if len(found) >= first.work:
            return  # its value is among what is still to be done, or being written down
        if isinstance(problem, Skipped):
            self._skip_gather(fan.around, first, problem)
            return
        if isinstance(problem, Abandoned):
            self._settle(fan.around, first, SKIPPED, problem)
            return
        assert first.spec.of is not None
        errors = _errors(fan, first.spec.of.slot)
        told = f"; the last error: {errors[-1]}" if errors else ""
        error = TooFewSucceeded(
            f"{fan.around.place(first)} wants the first {first.work}, but only {len(found)} of {fan.pulled_count}"
            f" succeeded{told}",
            errors=errors,
        )
        error.__cause__ = errors[-1] if errors else None
        self._fail(fan.around, first, error)

    # What was chosen, in an earlier run or in this one

    def note_lead(self, run: ScopeRun, step: Step, place: int, fingerprint: str | None) -> None:
        """The first request of a contestant is known, by which a journal knows the choice."""
        if run.cells[step.slot] >= SETTLED:
            return
        self.leads.setdefault((run, step), {})[place] = fingerprint
        chosen = self._chosen(run, step) if step.kind is NodeKind.FALLBACK else None
        if chosen is not None and place == 1 and chosen.record.contestants[1].fingerprint != fingerprint:
            self._void(run, step, chosen)  # what had answered is not there any more
            self._decide_fallback(run, step)

    def note_fallback_before(self, run: ScopeRun, step: Step, contest: Contest, fingerprint: str) -> None:
        """The request of a node before a fallback is known.

        If it is none of those that the fallback has answered, nothing before the fallback has failed in this run, and
        the fallback has been changed since, it is decided anew: what had answered is not there, and nothing needs it.
        """
        around, fallback = run.above(contest.hops), contest.step
        chosen = self._chosen(around, fallback)
        if chosen is None or not self._has_changed(around, fallback, chosen):
            return
        answered = chosen.record.answered
        if answered is not None and fingerprint not in answered and self._may_succeed(around, fallback, (run, step)):
            self._void(around, fallback, chosen)

    def _has_changed(self, run: ScopeRun, fallback: Step, chosen: Chosen) -> bool:
        """Tell whether a fallback is known to be another one than that which answered."""
        before, now = chosen.record.contestants[1].fingerprint, self.leads.get((run, fallback), {}).get(1)
        return before is not None and now is not None and before != now

    def _may_succeed(self, run: ScopeRun, fallback: Step, place: tuple[ScopeRun, Step]) -> bool:
        """Tell whether all before a fallback has succeeded but what waits for a node at this place."""
        todo = _before(run, fallback)[:1]
        while todo:
            around, one = todo.pop()
            cell = around.cells[one.slot]
            if cell != OK and (around, one) != place:
                if cell > MAX_WAITS:
                    return False
                todo += _before(around, one)
        return True

    def know_choice(self, run: ScopeRun, step: Step, record: ChoiceRecord | None) -> None:
        """The shell has looked up whether an earlier run made this choice."""
        if run.cells[step.slot] >= SETTLED or (run, step) in self.chosen:
            return
        was_asked = self.waits_for_lookup(run, step)
        self._lookups[run, step] = True
        if record is not None:
            chosen = self.chosen[run, step] = Chosen(record, is_durable=True)
            if step.kind is NodeKind.FALLBACK:
                self.recalled.add((run, step))
            if step.kind is _FIRST:
                fan = _fan_of(run, step)
                if len(record.winning_keys(step.work)) < step.work:
                    self._void(run, step, chosen)
                elif fan.is_ended:
                    self._check_winners(fan, step, chosen)
        if was_asked:
            self._decide_again(run, step)

    def _has_looked(self, run: ScopeRun, step: Step) -> bool:
        """Tell whether it is known what an earlier run chose; if not, the choice is made once the shell has looked."""
        if not self.has_past or run.cells[step.slot] >= SETTLED:
            return True
        if (run, step) not in self._lookups:
            self._lookups[run, step] = False
            self.inquiries.append((run, step))
        return self._lookups[run, step]

    def waits_for_lookup(self, run: ScopeRun, step: Step) -> bool:
        """Tell whether a choice waits for the shell to look up what an earlier run chose."""
        return self._lookups.get((run, step)) is False

    def _decide_again(self, run: ScopeRun, step: Step) -> None:
        if step.kind is NodeKind.RACE:
            self._decide_race(run, step)
        elif step.kind is NodeKind.FALLBACK:
            self._decide_unless_of(run, step)
            self._decide(run, step)
        else:
            fan = _fan_of(run, step)
            self._decide_first(fan, fan.plan.gathers.index(step))

    def _decide_unless_of(self, run: ScopeRun, fallback: Step) -> None:
        for unless in run.plan.steps:
            if unless.kind is NodeKind.UNLESS and _fallback_after(unless) is fallback:
                self._decide(run, unless)

    def confirm(self, decision: Decision) -> None:
        """A choice is durable: its node settles."""
        run, step, _ = decision
        chosen = self.chosen.get((run, step))
        if chosen is None or chosen.record is not decision.choice or run.cells[step.slot] >= SETTLED:
            return
        chosen.is_durable = True
        self._decide_again(run, step)

    def reject(self, run: ScopeRun, step: Step, error: Exception) -> None:
        """A choice could not be looked up or recorded."""
        self._lookups.pop((run, step), None)
        if run.cells[step.slot] < SETTLED:
            self._fail(run, step, error)

    @property
    def is_deciding(self) -> bool:
        """Whether a choice is being looked up or recorded."""
        return False in self._lookups.values() or any(
            not chosen.is_durable and not chosen.is_void for chosen in self.chosen.values()
        )

    def is_held(self, run: ScopeRun, step: Step) -> bool:
        """Tell whether all choices that need a node were made without it, so that it sends nothing."""
        role = step.role
        if role is NO_ROLE:
            return False
        if not role.is_optional or not (self.chosen or self.recalled):
            return role.serves_choice and not self._is_wanted(run, step)
        is_held = role.serves_choice or self._has_recalled_fallback(run, step)
        todo = [(run, step)]
        while todo:
            place = todo.pop()
            needing = self._needing(*place)
            if needing is None:
                return False
            is_held = is_held or self._is_answered(*place)
            todo += needing
        return is_held

    def _has_recalled_fallback(self, run: ScopeRun, step: Step) -> bool:
        """Tell whether a fallback after this node has answered in an earlier run, in which this one may have failed.

        So of several nodes that a join waits for: after the first of them that has failed nothing waits for the others.
        """
        return any(
            one.step.kind is NodeKind.FALLBACK and one.place == 0 and (run.above(one.hops), one.step) in self.recalled
            for one in step.role.contests
        )

    def _is_answered(self, run: ScopeRun, step: Step) -> bool:
        """Tell whether a fallback of this very node has answered in an earlier run."""
        return step.role.may_be_answered and any(
            one.kind is NodeKind.FALLBACK and run.cells[one.slot] < SETTLED and not self._may_choose(run, one, step)
            for one in step.next
        )

    def _needing(self, run: ScopeRun, step: Step) -> list[tuple[ScopeRun, Step]] | None:
        """Find what may still come to need a node and serves a choice itself; `None` if the node is needed anyway."""
        cells, role, fan = run.cells, step.role, run.fan
        if role.is_end or not role.is_optional or any(cells[one.slot] < SETTLED for one in role.fans):
            return None
        found = [(run, one) for one in step.next if cells[one.slot] < SETTLED and self._may_choose(run, one, step)]
        if step.inner is not None:
            if step.inner.has_ends:
                return None
            found += [(run, one) for one in step.inner.gathers if cells[one.slot] < SETTLED]
        if fan is not None:
            gathers = [fan.plan.gathers[place] for place in step.gathers]
            open_ones = [one for one in gathers if fan.around.cells[one.slot] < SETTLED]
            found += [(fan.around, one) for one in open_ones if self._may_win(fan, one, run)]
        return None if any(not one.role.is_optional for _, one in found) else found

    def hold(self, run: ScopeRun, step: Step, outcome: Failed | Abandoned | None) -> None:
        """A running node is held: it waits for what was chosen, and goes on only if that does not succeed this time.

        Args:
            outcome: how it ended in an earlier run, which is how it ends in this one, too.
        """
        self.in_flight -= 1
        self.tried.pop((run, step), None)
        if self.stopped is None and not self._must_make_room(run, step):
            run.cells[step.slot] = WAITING
            self.waiting[run, step] = None
            self.held[run, step] = outcome
            if not self._is_wanted(run, step):  # the choice was made meanwhile
                self._leave_out(run, step, Skipped(f"{run.place(step)} was not chosen"))
        else:
            otherwise = self.stopped or Skipped(f"{run.place(step)} was not chosen")
            self._settle(run, step, *_end_of(outcome, otherwise))

    def _must_make_room(self, run: ScopeRun, step: Step) -> bool:
        """Tell whether a held node ends at once: others wait for that, among which the chosen ones may be."""
        return any(
            one.step.kind is _FIRST
            or (one.step.kind is NodeKind.FALLBACK and self._chosen(run.above(one.hops), one.step) is not None)
            for one in step.role.contests
        )

    def has_lost(self, run: ScopeRun, step: Step) -> bool:
        """Tell whether a node that runs is cancelled because a race was decided without it."""
        return step.role.may_lose and not self._is_wanted(run, step)

    def _chosen(self, run: ScopeRun, step: Step) -> Chosen | None:
        chosen = self.chosen.get((run, step))
        return None if chosen is None or chosen.is_void else chosen

    def _winning_place(self, run: ScopeRun, step: Step, chosen: Chosen) -> int | None:
        if chosen.place is not None:
            return chosen.place
        return winner_of(chosen.record, self.leads.get((run, step), {}), len(step.args))

    def _may_choose(self, run: ScopeRun, following: Step, step: Step) -> bool:
        if following.kind is NodeKind.UNLESS:
            return self._chosen(run, _fallback_after(following)) is None
        chosen = self._chosen(run, following) if following.kind in (NodeKind.RACE, NodeKind.FALLBACK) else None
        if chosen is None:
            return True
        if following.kind is NodeKind.FALLBACK:
            return following.args[1] == (0, step.slot)
        place = self._winning_place(run, following, chosen)
        return place is None or following.args[place] == (0, step.slot)

    def _may_win(self, fan: FanRun, gather: Step, item: ScopeRun) -> bool:
        chosen = self._chosen(fan.around, gather) if gather.kind is _FIRST else None
        return chosen is None or _key(item) in chosen.record.winning_keys(gather.work)

    def _propose(
        self, run: ScopeRun, step: Step, kind: ChoiceKind, contestants: list[Contestant], winners: tuple[int, ...]
    ) -> None:
        """Have a choice written down, unless an earlier run may have made it; its node settles once it is durable."""
        if not self._has_looked(run, step):
            return
        void = self.chosen.get((run, step))
        number = 0 if void is None else void.record.number
        record = ChoiceRecord(number, kind, run.path(step), tuple(contestants), winners)
        self.chosen[run, step] = Chosen(record, is_durable=False, place=winners[0] if kind == "race" else None)
        self.decisions.append(Decision(run, step, record))

    def _propose_one(self, run: ScopeRun, step: Step, kind: ChoiceKind, place: int) -> None:
        known = self.leads.get((run, step), {})
        contestants = [Contestant(None, known.get(one)) for one in range(len(step.args))]
        self._propose(run, step, kind, contestants, (place,))

    def _void(self, run: ScopeRun, step: Step, chosen: Chosen) -> None:
        """Decide anew, since what had won has not succeeded this time, or is not there any more."""
        chosen.is_void = True
        self.recalled.discard((run, step))
        for held_run, held_step in list(self.held):
            if not self.is_held(held_run, held_step):
                del self.held[held_run, held_step]
                self.unpark(held_run, held_step)
        if step.kind is _FIRST:
            fan = _fan_of(run, step)
            # What was left out stays so in this run; the next one decides anew.
            record = ChoiceRecord(chosen.record.number, "first", run.path(step), chosen.record.contestants, ())
            if self.is_recorded:
                self.decisions.append(Decision(run, step, record))
            self._decide_first(fan, fan.plan.gathers.index(step))
        elif step.kind is NodeKind.FALLBACK and self.is_recorded:
            record = ChoiceRecord(chosen.record.number, "node_fallback", run.path(step), chosen.record.contestants, ())
            self.decisions.append(Decision(run, step, record))

    def _check_winners(self, fan: FanRun, first: Step, chosen: Chosen) -> None:
        """No more items come: a choice of items that are not among them is void."""
        keys = {_key(item) for item in fan.items}
        if not keys.issuperset(chosen.record.winning_keys(first.work)):
            self._void(fan.around, first, chosen)

    # What is not needed any more

    def _let_go(self, run: ScopeRun, step: Step) -> None:
        """Skip, or drop, what only `step` needed, which is decided now."""
        because = Skipped(f"{run.place(step)} was decided without it")
        todo = self._needed_by(run, step)
        while todo:
            around, one = todo.pop()
            cell = around.cells[one.slot]
            if cell >= SETTLED or one.kind is NodeKind.ITEM or self._is_wanted(around, one):
                continue  # an item that is not there yet is about to be
            fan_run = around.values[one.slot]
            if isinstance(fan_run, FanRun):
                self._drop_items(fan_run, because, is_race=step.kind is NodeKind.RACE)
            elif cell != RUNNING:
                self._leave_out(around, one, because)
            elif step.kind is NodeKind.RACE:
                self.dropped.append((around, one))
            todo.extend(self._needed_by(around, one))

    def _needed_by(self, run: ScopeRun, step: Step) -> list[tuple[ScopeRun, Step]]:
        """Return what a step waited for; of a fan-out that something else collects too, the nodes in its items."""
        found = _before(run, step)
        if step.spec.of is None:
            return found
        fan_run = run.values[found[0][1].slot]
        if not isinstance(fan_run, FanRun) or not self._is_wanted(*found[0]):
            return found
        return [(item, item.plan.steps[step.spec.of.slot]) for item in fan_run.live.values()]

    def _is_wanted(self, run: ScopeRun, step: Step) -> bool:
        cells = run.cells
        if step.inner is not None:
            return step.inner.has_ends or any(cells[one.slot] < SETTLED for one in step.inner.gathers)
        if step.role.is_end or any(_still_waits(cells, one) for one in (*step.next, *step.role.fans)):
            return True
        fan = run.fan
        return fan is not None and any(
            fan.around.cells[fan.plan.gathers[place].slot] < SETTLED for place in step.gathers
        )

    def _drop_items(self, fan: FanRun, because: Skipped, *, is_race: bool) -> None:
        fans = [fan]
        while fans:
            fan = fans.pop()
            if not fan.is_ended:
                fan.problem_outcome = because
                self.dropped.append(fan)
                self._end_fan(fan)
            for item in list(fan.live.values()):
                for step in item.plan.steps:
                    cell, inner = item.cells[step.slot], item.values[step.slot]
                    if cell < SETTLED and isinstance(inner, FanRun):
                        fans.append(inner)
                    elif cell == RUNNING:
                        if is_race:
                            self.dropped.append((item, step))
                    elif cell < SETTLED and step.kind is not NodeKind.ITEM:
                        self._leave_out(item, step, because)

    def _let_go_parked(self, run: ScopeRun, step: Step) -> None:
        """End a node that has just been parked if nothing needs it any more."""
        if self._is_wanted(run, step):
            return
        skipped = Skipped(f"nothing needs {run.place(step)} any more")
        self._settle(run, step, *_end_of(self.waiting.pop((run, step)), skipped))

    def _leave_out(self, run: ScopeRun, step: Step, because: Skipped) -> None:
        if run.cells[step.slot] in (READY, WAITING):
            self.dropped.append((run, step))
        # How the last attempt of one that is between two ended: an exception may count as false.
        ends = [known.pop((run, step), None) for known in (self.held, self.waiting, self.tried)]
        self._settle_one(run, step, *_end_of(next((end for end in ends if end is not None), None), because))


def _end_of(last: Exception | Failed | Abandoned | None, otherwise: Skipped) -> tuple[int, Outcome[Any]]:
    """Return how a node ends that is not sent any more: as it was before it waited, else as skipped."""
    if last is None:
        return SKIPPED, otherwise
    if isinstance(last, Abandoned):
        return ABANDONED, last
    return FAILED, last if isinstance(last, Failed) else Failed(last)


def _before(run: ScopeRun, step: Step) -> list[tuple[ScopeRun, Step]]:
    if step.spec.of is not None:
        fan = step.spec.of.scope.fan
        assert fan is not None
        return [(run, run.plan.steps[fan.slot])]
    found: list[tuple[ScopeRun, Step]] = []
    for hops, slot in step.args:
        around = run.above(hops)
        found.append((around, around.plan.steps[slot]))
    return found


def _still_waits(cells: bytearray, step: Step) -> bool:
    # What lets a fallback begin is not needed once that has its outcome.
    one = _fallback_after(step) if step.kind is NodeKind.UNLESS else step
    return cells[one.slot] < SETTLED


def _fallback_after(unless: Step) -> Step:
    return next(one for work in unless.next for one in work.next if _stands_for(one, unless, work))


def _stands_for(following: Step, unless: Step, work: Step) -> bool:
    return following.kind is NodeKind.FALLBACK and following.spec.deps == (unless.spec.deps[0], work.spec)


def _key(item: ScopeRun) -> str:
    return item.key if item.key is not None else str(item.index)


def _fan_of(run: ScopeRun, first: Step) -> FanRun:
    assert first.spec.of is not None
    assert first.spec.of.scope.fan is not None
    fan: FanRun = run.values[first.spec.of.scope.fan.slot]
    return fan


def _describe_outcome(outcome: Any) -> str:
    if isinstance(outcome, Failed):
        return str(outcome.error) or type(outcome.error).__name__
    return outcome.because if isinstance(outcome, Skipped) else type(outcome).__name__


def _errors(fan: FanRun, slot: int) -> list[Exception]:
    found: list[Exception] = []
    for item in fan.items:
        end = item.values[slot] if item.cells[slot] in (FAILED, SKIPPED) else None
        if isinstance(end, (Failed, Skipped)) and end.error is not None:
            found.append(end.error)
        if len(found) == _KEPT_ERRORS:
            return found
    if isinstance(fan.problem_outcome, Failed):
        found.append(fan.problem_outcome.error)
    return found
