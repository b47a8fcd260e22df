"""The choices in a journal: those of earlier runs are looked up, and those of this run are recorded.

A choice is which contestant won a race, which items were the first, whether a fallback answered, and which failures
were answered elsewhere. `graph/choice_records.py` decides which record fits a choice, and the machine what a choice
means for the nodes. This module collects what they need: the first requests of contestants, as far as these can be made
by now.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import anyio
import msgspec

from runware_flow.errors import JournalError, RunwareError
from runware_flow.graph.answered import was_answered
from runware_flow.graph.choice_records import ChoiceRecord, Contestant, Likeness
from runware_flow.graph.declaration import NodeKind
from runware_flow.graph.fingerprint import fingerprint
from runware_flow.graph.plan import senders_before
from runware_flow.graph.scope_run import OK, SETTLED, FanRun
from runware_flow.runner.media_digests import has_local_media, media_digests, read_media
from runware_flow.runner.records import follow_entry
from runware_flow.runner.user_code import task_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runware_flow.graph.choice_records import ChoiceKind
    from runware_flow.graph.declaration import NodeSpec, ScopeSpec
    from runware_flow.graph.machine import Decision, FlowMachine
    from runware_flow.graph.plan import Contest, Step
    from runware_flow.graph.scope_run import ScopeRun
    from runware_flow.journal.ledger import Ledger
    from runware_flow.journal.store import Entry
    from runware_flow.runner.records import NodeRecord
    from runware_flow.runner.requester import RunClient

__all__ = ("RecordedChoices",)

_CHOICE_KINDS: dict[NodeKind, ChoiceKind] = {
    NodeKind.RACE: "race",
    NodeKind.FIRST: "first",
    NodeKind.FALLBACK: "node_fallback",
}
_MOST_UNANSWERED = 64
"""How many requests the record of a fallback names; one that has answered more is known by its contestants alone."""


class RecordedChoices:
    """Looks up what earlier runs chose, and records what this one chooses.

    Args:
        client: prepares the requests that choices are known by; it sends nothing.
    """

    def __init__(self, machine: FlowMachine, ledger: Ledger, client: RunClient) -> None:
        self._machine = machine
        self._ledger = ledger
        self._client = client
        self._answered: dict[tuple[ScopeRun, Step], ChoiceRecord] = {}
        """The nodes that stay failed because their failure was answered in an earlier run, each with its record."""
        self._names: dict[tuple[ScopeRun, Step], str | None] = {}
        """The fingerprints of nodes before choices, kept from the first time that they can be made."""
        self._before_fallback: dict[Step, list[NodeSpec]] = {}

    async def note_contests(self, run: ScopeRun, step: Step, fingerprint: str | None) -> None:
        """Look up the choices that a node serves, before its request is sent."""
        machine = self._machine
        for contest in step.role.contests:
            choice, hops, place, is_lead, has_lead, _ = contest
            around = run.above(hops)
            is_lead = is_lead and (choice.kind is NodeKind.FIRST or _is_first_item(run, hops))
            if is_lead or not has_lead:
                item = place if place >= 0 else run.above(hops - 1).index  # of a `first`, items are the contestants
                machine.note_lead(around, choice, item, fingerprint if is_lead else None)
            if choice.kind is NodeKind.FALLBACK and place != 0:
                continue  # equal fallbacks of several nodes do not tell which choice it was
            tells = is_lead or (choice.kind is NodeKind.FALLBACK and fingerprint is not None)
            firsts = [one.step for one in step.role.contests if one.step.kind is NodeKind.FIRST and one.hops == hops]
            await self.look_up_choice(around, choice, (contest, fingerprint) if tells else None, firsts)
            if choice.kind is NodeKind.FALLBACK and fingerprint is not None:
                machine.note_fallback_before(run, step, contest, fingerprint)

    async def look_up_choice(
        self,
        around: ScopeRun,
        choice: Step,
        known_by: tuple[Contest, str | None] | None = None,
        firsts: Sequence[Step] = (),
    ) -> None:
        """Look up what an earlier run chose, and tell the machine.

        Args:
            known_by: the contestant that is about to be sent, with the fingerprint of its first request; without it,
                the first requests that can be made by now are used.
            firsts: each `first` among whose contestants that one is.
        """
        machine, ledger = self._machine, self._ledger
        if (around, choice) in machine.chosen:
            return
        records = await ledger.choices(around.item())
        await self._read_leads(around, choice, with_rivals=bool(records))
        if (around, choice) in machine.chosen or around.cells[choice.slot] >= SETTLED:
            return
        kind, path = _CHOICE_KINDS[choice.kind], around.path(choice)
        found: ChoiceRecord | None = None
        if records:
            count = choice.work if choice.kind is NodeKind.FIRST else 1
            leads = [known_by] if known_by is not None else self._leads(around, choice)
            if known_by is not None and choice.kind is NodeKind.FALLBACK:
                leads += self._leads(around, choice)
            has_leads = choice.kind is NodeKind.FIRST or choice in self._lead_steps
            if has_leads and not leads and not machine.waits_for_lookup(around, choice):
                return  # it may be found by a request that cannot be made yet
            likeness = self._likeness(around, choice) if leads else Likeness()
            for contest, name in leads:
                places = contest.place, contest.lead_places
                mine = likeness if contest.place < 0 else likeness._replace(place=places[0], lead_places=places[1])
                rivals = partial(self._rivals, around, choice, firsts, name)
                found = ledger.record_of_choice(records, kind, path, name, mine, rivals)
                if found is not None:
                    break
            if not leads and not any(machine.leads.get((around, choice), {}).values()):
                likeness = Likeness(count, lead_places=None if has_leads else ())
                found = ledger.record_of_choice(records, kind, path, None, likeness)
        if found is not None and choice.kind is NodeKind.FALLBACK:
            name = self._name_by_now(around, around.plan.steps[choice.spec.deps[1].slot])
            machine.note_lead(around, choice, 1, name)
        machine.know_choice(around, choice, found)

    async def write_choice(self, decision: Decision) -> None:
        """Make a choice durable, with what it is known by."""
        run, step, _ = decision
        ledger = self._ledger
        choice = self._as_known_later(decision)
        # A fallback before which no request had failed cannot be recognised by one.
        is_new = step.kind is not NodeKind.FALLBACK or choice.number or not ledger.has_past
        if is_new or not ledger.is_on_record(await ledger.choices(run.item()), choice):
            await ledger.decide(run.item(), choice)

    async def has_fallen_back(self, run: ScopeRun, step: Step, fallback: Step, args: list[Any]) -> bool:
        """Tell whether the `fallback=` of a node has succeeded, or may have, in an earlier run."""
        ledger = self._ledger
        if not ledger.has_past:
            return False
        records = await ledger.choices(run.item())
        first = await self._read_name(run, step, args) if records else None
        is_chosen = ledger.record_of_choice(records, "fallback", run.path(step), first, Likeness()) is not None
        if not is_chosen and any(one.is_void_fallback_of(first) for one in records):
            return False  # a user has asked for the node itself
        fingerprint = await self._read_name(run, fallback, args)
        if fingerprint is None:
            return False
        item = run.item() if fallback.kind is not NodeKind.CALL else f"{run.item()}/{fallback.spec.label}"
        key = ledger.key(item, run.path(fallback), fingerprint)
        found = await ledger.find(key, is_own=not is_chosen)  # what stood here was this fallback's
        has_failed = found.advice.action == "buy" and found.advice.slot > 0
        return not has_failed if is_chosen else found.advice.action != "buy"

    async def write_fallback(self, run: ScopeRun, step: Step, fallback: Step, args: list[Any]) -> None:
        """Make it durable that the `fallback=` of a node has its turn."""
        names = [await self._read_name(run, work, args) for work in (step, fallback)]
        contestants = tuple(Contestant(None, name) for name in names)
        await self._ledger.decide(run.item(), ChoiceRecord(0, "fallback", run.path(step), contestants, (1,)))

    async def settle_as_answered(
        self, run: ScopeRun, step: Step, fingerprint: str, record: NodeRecord | None = None, known: Entry | None = None
    ) -> bool:
        """Let a node fail as it did in an earlier run, if all that waited for it did without it then.

        Args:
            fingerprint: what its request, or the call of its function, is known by.
            record: of its request; `None` for a function.
            known: what the journal has of that request.

        Returns:
            Whether that is so: the node has its outcome.
        """
        ledger = self._ledger
        if not step.role.is_excused_apart or not ledger.has_past:
            return False
        records = await ledger.choices(run.item())
        found = ledger.record_of_choice(records, "answered", run.path(step), fingerprint, Likeness())
        if found is None:
            return False
        self._answered[run, step] = found
        error: Exception = RunwareError("it failed in an earlier run, and what waited for it was done without it")
        if known is not None and record is not None:
            follow_entry(record, known)
            run.note_record(step.slot, record)
            if known.advice.record is not None and known.advice.record.state == "open":
                await ledger.abandon(known)
            else:
                error = ledger.error_of(known, record.path) or error
        self._machine.fail(run, step, error)
        return True

    async def note_answered(self) -> None:
        """The run has ended: note which failures were answered in the items of a fan-out, so that they stay failures.

        What was answered in an earlier run, and is not any more, is tried again by the next one.
        """
        machine = self._machine
        changes: list[tuple[str, ChoiceRecord]] = []
        for run, step in machine.excused:
            is_answered, known = was_answered(run, step, machine.stopped), self._answered.get((run, step))
            if is_answered and known is None:
                names = self._names_of(run, step)
                if any(names) and not await self._is_noted(run, step, names[0]):
                    contestants = tuple(Contestant(None, name) for name in names)
                    changes.append((run.item(), ChoiceRecord(0, "answered", run.path(step), contestants, (0,))))
            elif is_answered is False and known is not None:
                changes.append((run.item(), msgspec.structs.replace(known, path=run.path(step), winners=())))
        if changes:
            with suppress(JournalError):  # then they are tried again
                await self._ledger.decide_all(changes)

    async def _is_noted(self, run: ScopeRun, step: Step, name: str | None) -> bool:
        """Tell whether it is on record that a failure was answered, though this run did not need to know."""
        ledger = self._ledger
        if not ledger.has_past:
            return False
        records: tuple[ChoiceRecord, ...] = ()
        with anyio.CancelScope(shield=True):
            records = await ledger.choices(run.item())
        return ledger.record_of_choice(records, "answered", run.path(step), name, Likeness()) is not None

    async def _read_name(self, run: ScopeRun, work: Step, args: list[Any]) -> str | None:
        """Do the same as `name_of`; local files that were not read yet are read in a thread."""
        if work.kind is NodeKind.CALL:
            return self.name_of(run, work, args)
        request = self._request_of(work, args)
        if request is not None and has_local_media(request):
            await read_media(request)
        return None if request is None else fingerprint(request.wire, media_digests(request))

    def name_of(self, run: ScopeRun, work: Step, args: list[Any]) -> str | None:
        """Return what the request of a node, or its call, would be known by; `None` if it cannot be known."""
        if work.kind is not NodeKind.CALL:
            return self._fingerprint_of(work, args)
        key = self._ledger.call_key(run.item(), work.spec, run.path(work), work.work, args)
        return None if key is None else key.fingerprint

    def _names_of(self, run: ScopeRun, step: Step) -> list[str | None]:
        """Return what a node that has failed is known by, and its `fallback=` after it."""
        record: NodeRecord | None = run.record(step.slot)
        if record is not None and step.fallback is None:  # no builder is called again
            return [record.fingerprint]
        args = self._machine.arguments(run, step)
        works = [step] if step.fallback is None else [step, step.fallback]
        return [self.name_of(run, work, args) for work in works]

    def _likeness(self, around: ScopeRun, choice: Step) -> Likeness:
        """Return what tells a choice from others, as far as the requests before it can be made by now."""
        if choice.kind is NodeKind.FIRST:
            return Likeness(choice.work)
        names = [(contest.place, name) for contest, name in self._leads(around, choice) if name is not None]
        if choice.kind is not NodeKind.FALLBACK:
            return Likeness(names=tuple(names))
        if (name := self._name_by_now(around, around.plan.steps[choice.spec.deps[1].slot])) is not None:
            names.append((1, name))
        requests: set[str | None] = set()
        for spec in self._senders_before(choice):
            if spec.scope.holds(choice.spec.scope):
                run = around.above(choice.spec.scope.depth - spec.scope.depth)
                requests.add(self._name_by_now(run, run.plan.steps[spec.slot]))
        return Likeness(names=tuple(names), requests=frozenset(one for one in requests if one is not None))

    def _rivals(
        self, around: ScopeRun, choice: Step, firsts: Sequence[Step], name: str | None
    ) -> list[tuple[str, Likeness]]:
        """Return the other choices of the same kind and scope that have not been made, each with its path."""
        is_first = choice.kind is NodeKind.FIRST
        others = firsts if is_first else [step for step in around.plan.steps if step.kind is choice.kind]
        open_ones = [
            step
            for step in others
            if step is not choice and around.cells[step.slot] < SETTLED and (around, step) not in self._machine.chosen
        ]
        if is_first:
            names = () if name is None else ((-1, name),)
            return [(around.path(step), Likeness(step.work, names=names)) for step in open_ones]
        return [(around.path(step), self._likeness(around, step)) for step in open_ones]

    def _senders_before(self, fallback: Step) -> list[NodeSpec]:
        found = self._before_fallback.get(fallback)
        if found is None:
            found = self._before_fallback[fallback] = senders_before(fallback.spec.deps[0])
        return found

    def _name_by_now(self, run: ScopeRun, step: Step) -> str | None:
        """Return what a node's request is known by, if it can be made by now; it stays the same then."""
        if not _has_arguments(run, step):
            return None
        if (run, step) not in self._names:
            self._names[run, step] = self.name_of(run, step, self._machine.arguments(run, step))
        return self._names[run, step]

    def _unanswered(self, around: ScopeRun, fallback: Step) -> list[str] | None:
        """Return the requests for a fallback's first node that have no result by now; `None` if that is not known."""
        found: list[str] = []
        for spec in self._senders_before(fallback):
            for run in _runs_of(around, fallback.spec.scope, spec.scope):
                step = run.plan.steps[spec.slot]
                if run.cells[step.slot] == OK or not _has_arguments(run, step):
                    continue
                name = self._name_by_now(run, step)
                if name is None or len(found) == _MOST_UNANSWERED:
                    return None
                found.append(name)
        return found

    def _as_known_later(self, decision: Decision) -> ChoiceRecord:
        """Return a choice with the first requests of all contestants, as far as these can be made by now.

        A contestant that had not begun when another one won may be what tells this choice from others. So may, for a
        fallback, what it has answered.
        """
        run, step, choice = decision
        if choice.kind == "first" or not choice.winners:
            return choice
        contestants = list(choice.contestants)
        if any(one.fingerprint is None for one in contestants):
            known = {contest.place: name for contest, name in self._leads(run, step, skips=choice.contestants)}
            for place, one in enumerate(contestants):
                if one.fingerprint is None:
                    contestants[place] = Contestant(one.key, known.get(place))
        unanswered = self._unanswered(run, step) if choice.kind == "node_fallback" else None
        if unanswered is not None:
            contestants += [Contestant(None, name) for name in unanswered] or [Contestant(None, None)]
        return msgspec.structs.replace(choice, contestants=tuple(contestants))

    def _leads(
        self, around: ScopeRun, choice: Step, skips: Sequence[Contestant] = ()
    ) -> list[tuple[Contest, str | None]]:
        """Return what the first requests of a choice's contestants are known by, as far as they can be made by now.

        Args:
            skips: the contestants, of which those are left out whose first request is known.
        """
        found: list[tuple[Contest, str | None]] = []
        for contest, step in self._lead_steps.get(choice, ()):
            run = _first_run(around, choice.spec.scope, step.spec.scope)
            if run is None or (choice.kind is NodeKind.FALLBACK and step.spec is choice.spec.deps[1]):
                continue
            if skips and skips[contest.place].fingerprint is not None:
                continue
            if (name := self._name_by_now(run, step)) is not None:
                found.append((contest, name))
        return found

    async def _read_leads(self, around: ScopeRun, choice: Step, *, with_rivals: bool) -> None:
        """Read the local files of the requests that a choice will be known by, in threads: `_leads` cannot wait.

        Args:
            with_rivals: there are records, so it is compared with the other choices of its kind. Without them only a
                race is certain to be written down.
        """
        if not with_rivals and choice.kind is not NodeKind.RACE:
            return
        for one in around.plan.steps if with_rivals else (choice,):
            for _, step in self._lead_steps.get(one, ()) if one.kind is choice.kind else ():
                run = _first_run(around, one.spec.scope, step.spec.scope)
                if run is not None and (run, step) not in self._names and _has_arguments(run, step):
                    args = self._machine.arguments(run, step)
                    self._names[run, step] = await self._read_name(run, step, args)

    @cached_property
    def _lead_steps(self) -> dict[Step, list[tuple[Contest, Step]]]:
        """For each choice but a `first`: the steps whose requests are the first ones of its contestants."""
        found: dict[Step, list[tuple[Contest, Step]]] = {}
        plans = [self._machine.root.plan]
        for plan in plans:
            for step in plan.steps:
                for contest in step.role.contests:
                    if contest.is_lead and contest.step.kind is not NodeKind.FIRST:
                        found.setdefault(contest.step, []).append((contest, step))
                if step.inner is not None:
                    plans.append(step.inner)
        return found

    def _fingerprint_of(self, work: Step, args: list[Any]) -> str | None:
        """Return what the request of a node would be known by; `None` if it cannot be made."""
        request = self._request_of(work, args)
        return None if request is None else fingerprint(request.wire, media_digests(request))

    def _request_of(self, work: Step, args: list[Any]) -> Any:
        """Return the request of a node without sending it; `None` if it cannot be made."""
        try:
            return self._client.prepare(task_of(work, args), include_cost=True)
        except Exception:  # noqa: BLE001 - what cannot be made was not sent; its error is raised when the node runs
            return None


def _runs_of(around: ScopeRun, scope: ScopeSpec, other: ScopeSpec) -> list[ScopeRun]:
    """Return the runs of a scope that is around another one's run, or inside it: of all items there."""
    if other.holds(scope):
        return [around.above(scope.depth - other.depth)]
    if not scope.holds(other) or other.fan is None or other.parent is None:
        return []
    fans = [run.values[other.fan.slot] for run in _runs_of(around, scope, other.parent)]
    return [item for fan in fans if isinstance(fan, FanRun) for item in fan.items]


def _is_first_item(run: ScopeRun, levels: int) -> bool:
    """Tell whether the items around a node are the first of their fan-outs, so many levels up."""
    return all(run.above(level).index == 0 for level in range(levels))


def _has_arguments(run: ScopeRun, step: Step) -> bool:
    """Tell whether the request of a node can be made: all that it depends on has its value."""
    return all(run.above(hops).cells[slot] == OK for hops, slot in step.args)


def _first_run(around: ScopeRun, scope: ScopeSpec, inner: ScopeSpec) -> ScopeRun | None:
    """Return the run of a scope, or of the first item of a scope inside it, if there is one by now."""
    if inner is scope or inner.parent is None or inner.fan is None:
        return around
    run = _first_run(around, scope, inner.parent)
    fan = None if run is None else run.values[inner.fan.slot]
    return fan.items[0] if isinstance(fan, FanRun) and fan.items else None
