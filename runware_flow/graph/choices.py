"""How races, branches and `first` are decided, and what becomes of that which nobody needs any more.

This is the part of `FlowMachine` for nodes that choose. They send nothing and need no worker: each looks at the nodes
before it whenever one of those has settled.

What only a decided node needed is let go. What has not begun is skipped. What runs is cancelled for a race, which is
why a race is decided, and collected for a `first`, since it is paid for. Whatever another node needs as well, or is
wanted for itself because nothing follows it, is left alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runware_flow.errors import TooFewSucceeded
from runware_flow.graph.choice_records import ChoiceRecord, Contestant, winner_of
from runware_flow.graph.declaration import SENDS, NodeKind
from runware_flow.graph.outcomes import Abandoned, Failed, Skipped
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
    why_not,
)
from runware_flow.graph.spread import Chosen, Decision, Spread

if TYPE_CHECKING:
    from runware_flow.graph.choice_records import ChoiceKind
    from runware_flow.graph.plan import Step

__all__ = ("Choices",)

_KEPT_ERRORS = 16


class Choices(Spread):
    """The decisions of a run."""

    __slots__ = ()

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
            self._settle(run, step, SKIPPED, Skipped(f"{around.place(choice)} took the other way"))

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
        if cell == OK:
            self._settle(run, step, SKIPPED, Skipped(f"{around.place(one)} succeeded"))
        elif cell == FAILED and may_fall_back(outcome.error, buys=one.kind in SENDS):
            self._settle(run, step, OK, outcome)
        elif cell == SKIPPED and outcome.error is not None and may_fall_back(outcome.error, buys=False):
            self._settle(run, step, OK, outcome)  # it was skipped because of a failure before it
        elif cell >= SETTLED:
            self._settle(run, step, SKIPPED, why_not(around, one))

    def _decide_fallback(self, run: ScopeRun, step: Step) -> None:
        (around, one), (_, other) = _before(run, step)
        if around.cells[one.slot] == OK:
            self._settle(run, step, OK, around.values[one.slot])
        elif around.cells[one.slot] >= SETTLED and run.cells[other.slot] >= SETTLED:
            cell, outcome = run.cells[other.slot], run.values[other.slot]
            if cell == OK:
                self._settle(run, step, OK, outcome)
            elif cell == FAILED:
                first = around.values[one.slot].error
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
        if chosen is not None:
            place = self._winning_place(run, step, chosen)
            cell = min(cells) if place is None else cells[place]
            if cell < SETTLED or (cell == OK and not chosen.is_durable):
                return
            if cell == OK and place is not None:
                self._settle(run, step, OK, before[place][0].values[before[place][1].slot])
                return
            self._void(run, step, chosen)
        if OK in cells:
            place = cells.index(OK)
            if self.is_recorded and (run, step) in self.leads:
                known = self.leads[run, step]
                contestants = [Contestant(None, known.get(one)) for one in range(len(before))]
                self._propose(run, step, "race", contestants, (place,))
                return
            around, one = before[place]
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
            told = "; ".join(f"{around.place(one)}: {_said(end)}" for around, one, end in ends)
            error = TooFewSucceeded(f"all nodes of {run.place(step)!r} failed: {told}", errors=errors)
            error.__cause__ = errors[-1]
            self._fail(run, step, error)

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
            if self.is_recorded and (fan.around, first) in self.leads:
                known = self.leads[fan.around, first]
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
        if isinstance(problem, (Skipped, Abandoned)):
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
        if run.cells[step.slot] < SETTLED:
            self.leads.setdefault((run, step), {})[place] = fingerprint

    def know_choice(self, run: ScopeRun, step: Step, record: ChoiceRecord) -> None:
        """An earlier run has made this choice."""
        if run.cells[step.slot] >= SETTLED or (run, step) in self.chosen:
            return
        chosen = self.chosen[run, step] = Chosen(record, is_durable=True)
        if step.kind is NodeKind.RACE:
            return
        fan = _fan_of(run, step)
        if len(record.winning_keys(step.work)) < step.work:
            self._void(run, step, chosen)
        elif fan.is_ended:
            self._check_winners(fan, step, chosen)

    def confirm(self, decision: Decision) -> None:
        """A choice is durable: its node settles."""
        run, step, _ = decision
        chosen = self.chosen.get((run, step))
        if chosen is None or chosen.record is not decision.choice or run.cells[step.slot] >= SETTLED:
            return
        chosen.is_durable = True
        if step.kind is NodeKind.RACE:
            self._decide_race(run, step)
        else:
            fan = _fan_of(run, step)
            self._decide_first(fan, fan.plan.gathers.index(step))

    def reject(self, decision: Decision, error: Exception) -> None:
        """A choice could not be written down."""
        if decision.run.cells[decision.step.slot] < SETTLED:
            self._fail(decision.run, decision.step, error)

    @property
    def is_deciding(self) -> bool:
        """Whether a choice is being written down."""
        return any(not chosen.is_durable and not chosen.is_void for chosen in self.chosen.values())

    def is_held(self, run: ScopeRun, step: Step) -> bool:
        """Tell whether all that a node is for was chosen without it, so that it sends nothing."""
        if not step.role.serves_choice:
            return False
        if not self.chosen:
            return not self._is_wanted(run, step)
        todo = [(run, step)]
        while todo:
            needing = self._needing(*todo.pop())
            if needing is None:
                return False
            todo += needing
        return True

    def _needing(self, run: ScopeRun, step: Step) -> list[tuple[ScopeRun, Step]] | None:
        """Find what may still come to need a node and serves a choice itself; `None` if the node is needed anyway."""
        cells, role, fan = run.cells, step.role, run.fan
        if role.is_end or not role.serves_choice or any(cells[one.slot] < SETTLED for one in role.fans):
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
        return None if any(not one.role.serves_choice for _, one in found) else found

    def hold(self, run: ScopeRun, step: Step, outcome: Failed | Abandoned | None) -> None:
        """A running node is held: it waits for what was chosen, and goes on only if that does not succeed this time.

        Args:
            outcome: how it ended in an earlier run, which is how it ends in this one, too.
        """
        self.in_flight -= 1
        self.tried.pop((run, step), None)
        if self.stopped is None and not any(contest.step.kind is NodeKind.FIRST for contest in step.role.contests):
            run.cells[step.slot] = WAITING
            self.waiting[run, step] = None
            self.held[run, step] = outcome
            if not self._is_wanted(run, step):  # the choice was made meanwhile
                self._leave_out(run, step, Skipped(f"{run.place(step)} was not chosen"))
        elif isinstance(outcome, Failed):  # items make room for others, among which the chosen ones may be
            self._settle(run, step, FAILED, outcome)
        elif outcome is not None:
            self._settle(run, step, ABANDONED, outcome)
        else:
            self._settle(run, step, SKIPPED, self.stopped or Skipped(f"{run.place(step)} was not chosen"))

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
        chosen = self._chosen(run, following) if following.kind is NodeKind.RACE else None
        if chosen is None:
            return True
        place = self._winning_place(run, following, chosen)
        return place is None or following.args[place] == (0, step.slot)

    def _may_win(self, fan: FanRun, gather: Step, item: ScopeRun) -> bool:
        chosen = self._chosen(fan.around, gather) if gather.kind is NodeKind.FIRST else None
        return chosen is None or _key(item) in chosen.record.winning_keys(gather.work)

    def _propose(
        self, run: ScopeRun, step: Step, kind: ChoiceKind, contestants: list[Contestant], winners: tuple[int, ...]
    ) -> None:
        """Have a choice written down; until that is durable, its node does not settle."""
        void = self.chosen.get((run, step))
        number = 0 if void is None else void.record.number
        record = ChoiceRecord(number, kind, run.path(step), tuple(contestants), winners)
        self.chosen[run, step] = Chosen(record, is_durable=False, place=winners[0] if kind == "race" else None)
        self.decisions.append(Decision(run, step, record))

    def _void(self, run: ScopeRun, step: Step, chosen: Chosen) -> None:
        """Decide anew, since what had won has not succeeded this time, or is not there any more."""
        chosen.is_void = True
        for held_run, held_step in list(self.held):
            if not self.is_held(held_run, held_step):
                del self.held[held_run, held_step]
                self.unpark(held_run, held_step)
        if step.kind is NodeKind.FIRST:
            fan = _fan_of(run, step)
            # What was left out stays so in this run; the next one decides anew.
            record = ChoiceRecord(chosen.record.number, "first", run.path(step), chosen.record.contestants, ())
            if self.is_recorded:
                self.decisions.append(Decision(run, step, record))
            self._decide_first(fan, fan.plan.gathers.index(step))

    def _check_winners(self, fan: FanRun, first: Step, chosen: Chosen) -> None:
        """No more items come: a choice of items that are not among them is void."""
        keys = {_key(item) for item in fan.items}
        if not keys.issuperset(chosen.record.winning_keys(first.work)):
            self._void(fan.around, first, chosen)

    def unpark(self, run: ScopeRun, step: Step) -> None:
        """See `FlowMachine`."""
        raise NotImplementedError

    # What is not needed any more

    def _let_go(self, run: ScopeRun, step: Step) -> None:
        """Skip, or drop, what only `step` needed, which is decided now."""
        because = Skipped(f"{run.place(step)} was decided without it")
        todo = _before(run, step)
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
            todo.extend(_before(around, one))

    def _is_wanted(self, run: ScopeRun, step: Step) -> bool:
        cells = run.cells
        if step.inner is not None:
            return step.inner.has_ends or any(cells[one.slot] < SETTLED for one in step.inner.gathers)
        if step.role.is_end or any(cells[one.slot] < SETTLED for one in (*step.next, *step.role.fans)):
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
        last = self.waiting.pop((run, step))
        if last is None:
            self._settle(run, step, SKIPPED, Skipped(f"nothing needs {run.place(step)} any more"))
        else:
            self._settle(run, step, FAILED, Failed(last))

    def _leave_out(self, run: ScopeRun, step: Step, because: Skipped) -> None:
        if run.cells[step.slot] in (READY, WAITING):
            self.dropped.append((run, step))
        last = self.waiting.pop((run, step), None) or self.tried.pop((run, step), None)  # of one between two attempts
        held = self.held.pop((run, step), None)
        if held is not None:
            self._settle_one(run, step, FAILED if isinstance(held, Failed) else ABANDONED, held)
        elif last is None:
            self._settle_one(run, step, SKIPPED, because)
        else:
            self._settle_one(run, step, FAILED, Failed(last))


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


def _key(item: ScopeRun) -> str:
    return item.key if item.key is not None else str(item.index)


def _fan_of(run: ScopeRun, first: Step) -> FanRun:
    assert first.spec.of is not None
    assert first.spec.of.scope.fan is not None
    fan: FanRun = run.values[first.spec.of.scope.fan.slot]
    return fan


def _said(outcome: Any) -> str:
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
