"""Runs one request of a node: prepares, looks up, admits, records, sends or collects it, and settles its outcome."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, cast

import anyio
import anyio.lowlevel
import msgspec

from runware_flow.client.refusal import TaskRefused
from runware_flow.client.request import Prepared
from runware_flow.errors import DeclarationError, JournalError, RunwareError, RunwareFlowError, RunwareTimeoutError
from runware_flow.graph.caching import may_be_cached
from runware_flow.graph.choice_records import ChoiceRecord, Contestant, Likeness
from runware_flow.graph.declaration import NodeKind
from runware_flow.graph.fingerprint import fingerprint
from runware_flow.graph.outcomes import Abandoned, Failed, Ok
from runware_flow.graph.plan import NO_ROLE, senders_before
from runware_flow.graph.policies import is_verdict, never_left
from runware_flow.graph.prices import total_micro_usd
from runware_flow.graph.scope_run import OK, SETTLED, FanRun
from runware_flow.journal.values import decode_error, decode_item
from runware_flow.runner.media_digests import media_digests
from runware_flow.runner.records import NodeRecord
from runware_flow.runner.timing import check_deadline, in_time
from runware_flow.runner.user_code import build
from runware_flow.types import UNSET

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from runware_flow.cache.single_flight import SingleFlight
    from runware_flow.graph.choice_records import ChoiceKind
    from runware_flow.graph.declaration import NodeSpec, ScopeSpec
    from runware_flow.graph.machine import Decision, FlowMachine
    from runware_flow.graph.plan import Contest, Step
    from runware_flow.graph.scope_run import ScopeRun
    from runware_flow.journal.ledger import Ledger
    from runware_flow.journal.store import Entry
    from runware_flow.runner.accounts import Accounts
    from runware_flow.runner.admission import RunAdmission
    from runware_flow.runner.attempt_state import AttemptState
    from runware_flow.runner.event_bus import EventBus
    from runware_flow.runner.requester import RunClient

__all__ = ("HELD", "PARKED", "RequestRunner", "without_uuid")

PARKED: Any = object()
"""Stands for the value of a node that is parked and will be run again."""

HELD: Any = object()
"""Stands for the value of a node that is held or left out, since another one was chosen."""


_UNKNOWN: Any = object()
_CHOICE_KINDS: dict[NodeKind, ChoiceKind] = {
    NodeKind.RACE: "race",
    NodeKind.FIRST: "first",
    NodeKind.FALLBACK: "node_fallback",
}
_ADOPTIONS = 3
_MOST_UNANSWERED = 64
"""How many requests the record of a fallback names; one that has answered more is known by its contestants alone."""


class RequestRunner:
    """Sends the requests of a run's nodes, and keeps the accounts and the journal of them."""

    def __init__(
        self,
        machine: FlowMachine,
        accounts: Accounts,
        event_bus: EventBus,
        run_admission: RunAdmission,
        client: RunClient | None,
        ledger: Ledger | None,
        single_flight: SingleFlight | None,
        hedge: Callable[..., Awaitable[list[Any]]],
    ) -> None:
        """Args: hedge: sends a request of a node, and a second one if the first takes long."""
        self.machine = machine
        self._hedge = hedge
        self.event_bus = event_bus
        self.run_admission = run_admission
        self.ledger = ledger
        self._accounts = accounts
        self._client = cast("RunClient", client)  # None only where nothing sends
        self._single_flight = single_flight
        self._keeps_results = ledger is not None or single_flight is not None
        self._parks = run_admission.has_windows
        """The client gives a task back that the service refuses, and does not wait for it."""
        self.refused: dict[tuple[ScopeRun, Step], AttemptState] = {}
        """Attempts whose request the service has refused to take, of nodes that wait to send it again."""
        self._answered: dict[tuple[ScopeRun, Step], ChoiceRecord] = {}
        """The nodes that stay failed since that was answered in an earlier run, with what the journal has of it."""
        self._names: dict[tuple[ScopeRun, Step], str | None] = {}
        """What requests are known by, of nodes before choices; kept where these are looked up or written down."""
        self._before_fallback: dict[Step, list[NodeSpec]] = {}
        self._unaccepted: dict[int, Entry] = {}
        """What the journal has of requests that were given up before the service accepted them, by number."""

    async def run(self, attempt: AttemptState, work: Step, args: list[Any]) -> Any:
        """Have the task of a node made, and wait for it; returns the node's value, or `PARKED` if it has to wait first.

        The order: build and prepare; look into the journal and the cache, since what is there needs no admission; be
        admitted; write the request down; send it; write its outcome down. A request that the service refuses to take is
        sent again as it is, once there is room for it.

        Args:
            attempt: whose request is made.
            work: the node's step itself, or its fallback.
            args: what its builder is called with.

        Raises:
            DeclarationError: there is no task that fits the node.
            RunwareError: what the service says, or a limit of ours.
            JournalError: the journal failed; then nothing was sent.
        """
        run, step = attempt.run, attempt.step
        task = _task(work, args)
        if attempt.number > 1:
            task = without_uuid(task)
        attempt.task = task
        attempt.request = request = self.prepare(step.spec, task)
        record = self.record(attempt)
        self.event_bus.note_request(run, step, request.wire)
        sent_before = None
        if self._keeps_results or step.role is not NO_ROLE:
            value, sent_before = await self._look_up(attempt, record)
            if value is not _UNKNOWN:
                return value
        if not await self._admit(attempt, sent_before):
            return PARKED
        attempt.record = record
        if self.ledger is not None:
            entry = await self._begin(self.ledger, attempt, record)
            if entry.advice.action == "restore":
                return self._restore(attempt, record, entry)
            attempt.request = self.as_written(task, request, entry)
        run.note_record(step.slot, record)
        return await self._send(attempt)

    async def run_again(self, attempt: AttemptState) -> Any:
        """The same for a request that the service has refused to take: it is sent as it is."""
        if await self._admit(attempt, None):
            return await self._send(attempt)
        self.refused[attempt.run, attempt.step] = attempt
        return PARKED

    async def _send(self, attempt: AttemptState) -> Any:
        """Send a request that is written down, and wait for the node's value; `PARKED` if the service refuses it."""
        run, step = attempt.run, attempt.step
        if step.is_timed:
            check_deadline(step.spec, self.event_bus.time, attempt.request.task_id)
        self.event_bus.node_started(run, step, attempt.number, attempt.record)
        attempt.is_sent = attempt.has_left = True
        if self._unaccepted and attempt.entry is not None:  # of an attempt before
            self._unaccepted.pop(attempt.entry.number, None)
        try:
            if attempt.is_hedged or (step.spec.policy.hedge_after is not None and attempt.may_hedge):
                results = await self._hedge(self, attempt)
            else:
                results = await self.perform(attempt)
        except TaskRefused as refused:
            permit, attempt.permit = attempt.permit, None
            assert permit is not None
            attempt.is_sent = attempt.has_left = False
            attempt.turn = refused.number if attempt.turn is None else attempt.turn
            self.refused[run, step] = attempt
            self.run_admission.refused(run, step, permit, attempt.turn)
            self.event_bus.node_refused(run, step, refused.error)
            return PARKED
        return _value(step.spec, attempt.request, results)

    async def _look_up(self, attempt: AttemptState, record: NodeRecord) -> tuple[Any, str | None]:
        """Look for a request in the journal and the cache: the node's value, or `_UNKNOWN` if it is to be sent.

        Returns:
            Also the taskUUID under which an earlier run may have sent it.
        """
        run, step = attempt.run, attempt.step
        if step.role.contests:
            await self.note_contests(run, step, record.fingerprint)
        known = await self._known(run, record)
        if known is not None and known.advice.action == "restore":
            return self._restore(attempt, record, known), None
        if self.machine.is_held(run, step):
            return await self._hold(attempt, record, known), None
        if known is not None and known.advice.slot and await self.settle_as_answered(run, step, record, known):
            return HELD, None
        if known is not None and known.advice.action == "collect":  # it is paid for
            if self._single_flight is not None and self._may_be_cached(attempt):
                self._single_flight.lead(run, step, record.fingerprint)
            return _UNKNOWN, None if known.cost == 0 else known.task_uuid  # or it was never accepted
        value = await self._find(attempt, record)
        may_be_open = self.ledger is not None and (known is not None or self.ledger.has_abandoned)
        if value is _UNKNOWN and may_be_open and self._may_be_cached(attempt):
            return await self._adopt(attempt, record)
        return value, None

    async def _adopt(self, attempt: AttemptState, record: NodeRecord) -> tuple[Any, str | None]:
        """Collect an open request for the same thing, wherever it was sent from, since a cache may answer both."""
        if self._single_flight is None or self.ledger is None:
            return _UNKNOWN, None
        key = self.ledger.key(attempt.run.item(), record.path, record.fingerprint)
        for _ in range(_ADOPTIONS):
            known = await self.ledger.find(key, may_adopt=True)
            if not known.is_taken:
                return _UNKNOWN, known.task_uuid if known.advice.action == "collect" else None
            # Another node is about to collect it: this one waits for that.
            self._single_flight.leave(attempt.run, attempt.step)
            await anyio.lowlevel.checkpoint()
            value = await self._find(attempt, record)
            if value is not _UNKNOWN:
                return value, None
        return _UNKNOWN, None

    def prepare(self, spec: NodeSpec, task: Any) -> Any:
        """Have the client complete a task of a node; it may not ask for more results than the node has."""
        request = self._costed(self._client.prepare(task, include_cost=True))
        if request.slots > 1 and not spec.keeps_all:
            raise DeclarationError(
                f"{spec.describe()}, asks for {request.slots} results, but a node has one: use each instead of"
                " then (flow.each(task), node.each(builder)), or flow.map(items).each(builder) instead of"
                " flow.map(items, builder)"
            )
        return request

    def _costed(self, request: Any) -> Any:
        """Under a budget each request asks for its cost, whatever the task says: an unknown cost cannot be limited."""
        if self.run_admission.has_budget and not request.wire.get("includeCost", True):
            request.wire["includeCost"] = True
        return request

    def record(self, attempt: AttemptState) -> NodeRecord:
        """Begin what is known of a request, before it is looked up or sent."""
        now, request = self.event_bus.time(), attempt.request
        before: NodeRecord | None = attempt.run.record(attempt.step.slot)
        return NodeRecord(
            path=attempt.run.path(attempt.step),
            fingerprint=fingerprint(request.wire, media_digests(request)),
            task_uuid=request.task_id,
            task_type=request.task_type,
            model=request.model,
            attempts=attempt.number,
            began=now if before is None else before.began,
            started=now,
        )

    async def note_contests(self, run: ScopeRun, step: Step, fingerprint: str | None) -> None:
        """Look up the choices among what a node is about to be sent for, before it is."""
        machine, ledger = self.machine, self.ledger
        if ledger is None:
            return
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
            await self.look_up_choice(around, choice, (contest, fingerprint) if tells else None)

    async def look_up_choice(
        self, around: ScopeRun, choice: Step, known_by: tuple[Contest, str | None] | None = None
    ) -> None:
        """Look up what an earlier run chose, and tell the machine.

        Args:
            known_by: a first request of a contestant, with its fingerprint; without one, what can be made of those that
                have not been sent yet tells.
        """
        machine, ledger = self.machine, self.ledger
        if ledger is None or (around, choice) in machine.chosen:
            return
        records = await ledger.choices(around.item())
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
            for contest, name in leads:
                likeness = self._likeness(around, choice)
                if contest.place >= 0:
                    likeness = likeness._replace(place=contest.place, lead_places=contest.lead_places)
                found = found or ledger.record_of_choice(
                    records, kind, path, name, likeness, partial(self._rivals, around, choice)
                )
            if not leads and not any(machine.leads.get((around, choice), {}).values()):
                likeness = Likeness(count, lead_places=None if has_leads else ())
                found = ledger.record_of_choice(records, kind, path, None, likeness)
        machine.know_choice(around, choice, found)

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

    def _rivals(self, around: ScopeRun, choice: Step) -> list[tuple[str, Likeness]]:
        """Return the other choices of the same kind and scope that have not been made, each with its path."""
        if choice.kind is NodeKind.FIRST:
            return []
        return [
            (around.path(step), self._likeness(around, step))
            for step in around.plan.steps
            if step.kind is choice.kind
            and step is not choice
            and around.cells[step.slot] < SETTLED
            and (around, step) not in self.machine.chosen
        ]

    def _senders_before(self, fallback: Step) -> list[NodeSpec]:
        found = self._before_fallback.get(fallback)
        if found is None:
            found = self._before_fallback[fallback] = senders_before(fallback.spec.deps[0])
        return found

    def _name_by_now(self, run: ScopeRun, step: Step) -> str | None:
        """Return what a node's request is known by, if it can be made by now; it stays the same then."""
        if any(run.above(hops).cells[slot] != OK for hops, slot in step.args):
            return None
        if (run, step) not in self._names:
            self._names[run, step] = self.name_of(run, step, self.machine.arguments(run, step))
        return self._names[run, step]

    def _unanswered(self, around: ScopeRun, fallback: Step) -> list[str] | None:
        """Return the requests for a fallback's first node that have no result by now; `None` if that is not known."""
        found: list[str] = []
        for spec in self._senders_before(fallback):
            for run in _runs_of(around, fallback.spec.scope, spec.scope):
                step = run.plan.steps[spec.slot]
                if run.cells[step.slot] == OK or any(run.above(hops).cells[slot] != OK for hops, slot in step.args):
                    continue
                name = self._name_by_now(run, step)
                if name is None or len(found) == _MOST_UNANSWERED:
                    return None
                found.append(name)
        return found

    async def write_choice(self, decision: Decision) -> None:
        """Make a choice durable, with what it is known by."""
        run, step, _ = decision
        ledger = self.ledger
        assert ledger is not None
        choice = self._as_known_later(decision)
        # A fallback before which no request had failed cannot be recognised by one.
        is_new = step.kind is not NodeKind.FALLBACK or choice.number or not ledger.has_past
        if is_new or not ledger.is_on_record(await ledger.choices(run.item()), choice):
            await ledger.decide(run.item(), choice)

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

    @cached_property
    def _lead_steps(self) -> dict[Step, list[tuple[Contest, Step]]]:
        """For each choice but a `first`: the steps whose requests are the first ones of its contestants."""
        found: dict[Step, list[tuple[Contest, Step]]] = {}
        plans = [self.machine.root.plan]
        for plan in plans:
            for step in plan.steps:
                for contest in step.role.contests:
                    if contest.is_lead and contest.step.kind is not NodeKind.FIRST:
                        found.setdefault(contest.step, []).append((contest, step))
                if step.inner is not None:
                    plans.append(step.inner)
        return found

    async def _hold(self, attempt: AttemptState, record: NodeRecord, known: Entry | None) -> Any:
        """Send nothing for a node, since another one was chosen; it stays what it was."""
        run, step = attempt.run, attempt.step
        outcome: Failed | Abandoned | None = None
        if known is not None and known.advice.record is not None:
            _follow(record, known)
            run.note_record(step.slot, record)
            outcome = Abandoned(known.task_uuid, may_be_billed=known.cost != 0)
            if known.advice.record.state == "open" and self.ledger is not None:
                await self.ledger.abandon(known)
        elif known is not None and known.error is not None:
            outcome = Failed(decode_error(known.error))
        self.machine.hold(run, step, outcome)
        return HELD

    async def settle_as_answered(
        self, run: ScopeRun, step: Step, record: NodeRecord | None, known: Entry | None, name: str | None = None
    ) -> bool:
        """Let a node fail as it did in an earlier run, if all that waited for it did without it then.

        Args:
            record, known: of its request.
            name: in the place of these, what the call of a function is known by.

        Returns:
            Whether that is so: the node has its outcome.
        """
        ledger, fingerprint = self.ledger, name if record is None else record.fingerprint
        if not step.role.is_excused_apart or ledger is None or not ledger.has_past or fingerprint is None:
            return False
        records = await ledger.choices(run.item())
        found = ledger.record_of_choice(records, "answered", run.path(step), fingerprint, Likeness())
        if found is None:
            return False
        self._answered[run, step] = found
        error: Exception = RunwareError("it failed in an earlier run, and what waited for it was done without it")
        if known is not None and record is not None:
            _follow(record, known)
            run.note_record(step.slot, record)
            if known.advice.record is not None and known.advice.record.state == "open":
                await ledger.abandon(known)
            else:
                error = ledger.error_of(known, record.path) or error
        self.machine.fail(run, step, error)
        return True

    async def note_answered(self) -> None:
        """The run has ended: note which failures were answered in the items of a fan-out, so that they stay failures.

        What was answered in an earlier run, and is not any more, is tried again by the next one.
        """
        ledger, machine = self.ledger, self.machine
        if ledger is None or not machine.excused:
            return
        changes: list[tuple[str, ChoiceRecord]] = []
        for run, step in machine.excused:
            was_answered, known = machine.was_answered(run, step), self._answered.get((run, step))
            if was_answered and known is None:
                args = machine.arguments(run, step)
                works = [step] if step.fallback is None else [step, step.fallback]
                names = [self.name_of(run, work, args) for work in works]
                if any(names):
                    contestants = tuple(Contestant(None, name) for name in names)
                    changes.append((run.item(), ChoiceRecord(0, "answered", run.path(step), contestants, (0,))))
            elif was_answered is False and known is not None:
                changes.append((run.item(), msgspec.structs.replace(known, path=run.path(step), winners=())))
        if changes:
            with suppress(JournalError):  # then they are tried again
                await ledger.decide_all(changes)

    async def _known(self, run: ScopeRun, record: NodeRecord) -> Entry | None:
        """Look into the journal for a node's request."""
        if self.ledger is None or not self.ledger.has_past:
            return None
        return await self.ledger.find(self.ledger.key(run.item(), record.path, record.fingerprint))

    async def _find(self, attempt: AttemptState, record: NodeRecord) -> Any:
        """Look into the cache: the node's value, or `_UNKNOWN` if it is to be bought; `PARKED` while a twin is."""
        if self._single_flight is None or not self._may_be_cached(attempt):
            return _UNKNOWN
        run, step, request = attempt.run, attempt.step, attempt.request
        check_deadline(step.spec, self.event_bus.time)
        found = await self._single_flight.find(run, step, record.fingerprint, request.result_type)
        if not isinstance(found, list):
            return _UNKNOWN if found else PARKED
        if self.ledger is not None:
            # At once, not as a request that is settled then: one that is left open would be sent by the next run.
            entry = await self._begin(self.ledger, attempt, record, found)
            if entry.advice.action == "restore":
                return self._restore(attempt, record, entry)
            if entry.advice.action == "collect":
                return _UNKNOWN
        run.note_record(step.slot, record)
        record.cost, record.settled, record.is_cached = 0.0, self.event_bus.time(), True
        return _value(step.spec, request, found)

    def _may_be_cached(self, attempt: AttemptState) -> bool:
        return may_be_cached(attempt.request.wire, attempt.step.spec.policy.cache)

    def _restore(self, attempt: AttemptState, record: NodeRecord, entry: Entry) -> Any:
        """Give a node the outcome that an earlier run wrote down."""
        spec, request = attempt.step.spec, attempt.request
        attempt.run.note_record(attempt.step.slot, record)
        _follow(record, entry)
        results: list[Any] = [decode_item(item, request.result_type) for item in entry.items]
        error = None if self.ledger is None else self.ledger.error_of(entry, record.path)
        if error is not None:
            error.results = list(results)
            results.append(Failed(error))
        record.cost, record.settled, record.is_restored = entry.cost, self.event_bus.time(), True
        self._accounts.add(spec.path, record.task_type, record.model, record.cost, may_be_billed=True)
        return _value(spec, request, results)

    async def _admit(self, attempt: AttemptState, known_uuid: str | None) -> bool:
        """Get what a request needs before it may be sent; without it, the node is parked."""
        if (balance := self.run_admission.balance) is not None:
            balance.begin()
        if attempt.step.is_timed:
            check_deadline(attempt.step.spec, self.event_bus.time)
        run, step, request = attempt.run, attempt.step, attempt.request
        if attempt.permit is None:
            attempt.permit = self.run_admission.admit(run, step, request, known_uuid)
        else:
            attempt.permit = self.run_admission.pay(run, step, request, known_uuid, attempt.permit)
        return attempt.permit is not None

    async def _begin(
        self, ledger: Ledger, attempt: AttemptState, record: NodeRecord, answer: Sequence[Any] = ()
    ) -> Entry:
        key = ledger.key(attempt.run.item(), record.path, record.fingerprint)
        attempt.entry = entry = await ledger.begin(key, attempt.request, answer=answer)
        _follow(record, entry)
        attempt.is_sent = attempt.was_sent_before = entry.advice.action == "collect"
        if entry.advice.action != "restore":
            await anyio.lowlevel.checkpoint_if_cancelled()
        return entry

    def as_written(self, task: Any, request: Any, entry: Entry) -> Any:
        """Prepare a request under the id that the journal has for it."""
        more: dict[str, Any] = {}
        if entry.advice.action == "collect" and request.wire.get("deliveryMethod") == "stream":
            more["delivery"] = "sync"  # what was streamed cannot be asked for as a stream
        if entry.task_uuid != request.task_id or more:
            task = without_uuid(task)
            request = self._client.prepare(task, include_cost=True, task_uuid=entry.task_uuid, **more)
            request = self._costed(request)
        return msgspec.structs.replace(request, is_journalled=True) if isinstance(request, Prepared) else request

    async def perform(self, attempt: AttemptState) -> list[Any]:
        """Send a request or ask for it, and wait for its results; its outcome is in the journal, then booked."""
        spec, request, entry = attempt.step.spec, attempt.request, attempt.entry
        function = self._collect if attempt.collects else self._call
        results: list[Any]
        try:
            if attempt.step.is_timed:
                now, task_uuid = self.event_bus.time(), request.task_id
                results = await in_time(spec, now, function, attempt, task_uuid=task_uuid, listen=attempt.listen)
            else:
                results = await function(attempt)
        except RunwareError as error:
            error.results = error.results or list(attempt.arrived)
            await self.fail_entry(attempt, error)
            if not error.results:
                raise
            self.book(attempt, error, results=error.results)
            if not spec.keeps_all:
                raise
            return [*error.results, Failed(error)]
        # Before it is settled: an open request is collected for equal ones as well, a settled one is not.
        if self._single_flight is not None and attempt.record is not None and self._may_be_cached(attempt):
            amount = total_micro_usd([result.cost for result in results])
            cost = None if amount is None else amount / 1_000_000
            await self._single_flight.result_cache.keep(attempt.record.fingerprint, request, results, cost)
        if entry is not None and self.ledger is not None and results:
            await self.ledger.settle(entry, results)
        self.book(attempt, None, results=results)
        return results

    async def _collect(self, attempt: AttemptState) -> list[Any]:
        """Ask for what an earlier run may have sent; send it, under its taskUUID, only if the service has no trace."""
        if attempt.request.wire.get("deliveryMethod") == "async":
            try:
                return await self._call(attempt, sent_before="yes")
            except RunwareError as error:
                if is_verdict(error) or isinstance(error, RunwareTimeoutError) or error.results:
                    raise
                if error.raw_code == "replyTooLarge":  # the service has it
                    raise
        return await self._call(attempt, sent_before="maybe")

    async def _call(self, attempt: AttemptState, **options: Any) -> list[Any]:
        """Have the client send a request, or ask for it, and wait for its results, in the server's order."""
        step, request = attempt.step, attempt.request
        if step.spec.policy.timeout is not None:
            options["timeout"] = step.spec.policy.timeout
        if self._parks:
            options["parks"] = True
            if attempt.permit is not None and attempt.permit.slot is not None:
                options["slot"] = attempt.permit.slot
        try:
            if request.wire.get("deliveryMethod") == "stream":
                return await self._read(attempt, options)
            if step.spec.keeps_all:
                options["on_result"] = partial(_take, attempt)
            if self.machine.watch or attempt.on_activity is not None:
                options["on_progress"] = partial(self._report_progress, attempt)
            results: list[Any] = await self._client.perform(request, **options)
            return results
        finally:
            course = getattr(request, "course", None)
            if attempt.record is not None and course is not None and course.pending_at is not None:
                attempt.record.processing = self.event_bus.time() - (anyio.current_time() - course.pending_at)

    def _report_progress(self, attempt: AttemptState, progress: Any) -> None:
        attempt.note_activity()
        share = getattr(progress, "progress", progress)
        if isinstance(share, (int, float)):
            self.event_bus.node_progress(attempt.run, attempt.step, float(share))

    async def _read(self, attempt: AttemptState, options: dict[str, Any]) -> list[Any]:
        """Read a text while it is written; its pieces are events."""
        number = 1 if attempt.record is None else attempt.record.attempts

        def on_delta(kind: str, text: str) -> None:
            attempt.note_activity()
            self.event_bus.node_delta(attempt.run, attempt.step, number, kind, text)

        options.pop("sent_before", None)  # a stream cannot be polled
        results: list[Any] = await self._client.perform_stream(attempt.request, on_delta, **options)
        return results

    async def fail_entry(self, attempt: AttemptState, error: RunwareError) -> None:
        """Write down that a request has failed."""
        if attempt.entry is not None and self.ledger is not None:
            await self.ledger.fail(attempt.entry, error)

    def end(self, attempt: AttemptState, error: Exception | None) -> None:
        """Book an attempt that failed or, without an error, was cancelled, and give back what it was admitted with."""
        self.book(attempt, error)
        if not attempt.may_have_arrived or (error is not None and never_left(error)):
            self._note_unaccepted(attempt)
        self.run_admission.give_back(attempt.permit)

    def _note_unaccepted(self, attempt: AttemptState) -> None:
        entry = attempt.entry
        if entry is not None and entry.advice.action == "buy" and not attempt.was_sent_before:
            self._unaccepted[entry.number] = entry

    async def release_unaccepted(self) -> None:
        """The run has ended: note in the journal what was given up before the service accepted it, which costs nothing.

        So nothing asks for it later, and no budget keeps anything for it, unless a run sends it after all.
        """
        for attempt in self.refused.values():
            self._note_unaccepted(attempt)
        entries = list(self._unaccepted.values())
        self.refused.clear()
        self._unaccepted.clear()
        if entries and self.ledger is not None:
            with suppress(JournalError):  # then it stays open, and is collected
                await self.ledger.abandon(*entries, is_free=True)

    def book(self, attempt: AttemptState, error: Exception | None, results: list[Any] | None = None) -> None:
        """Count a request that has ended, once."""
        record = attempt.record
        if record is None or not attempt.is_sent:
            return
        # After a cancel, the caller still asks.
        attempt.is_sent = error is None and results is None and (attempt.was_sent_before or attempt.may_have_arrived)
        record.settled = self.event_bus.time()
        amount = total_micro_usd([getattr(result, "cost", None) for result in results or ()])
        # What the service itself says has failed is free; what we only stopped waiting for may not be.
        is_judged = isinstance(error, RunwareError) and is_verdict(error)
        if amount is not None and (error is None or is_judged):
            record.cost = amount / 1_000_000
        is_with_us = not attempt.may_have_arrived or (error is not None and never_left(error))
        has_left = attempt.was_sent_before or not is_with_us
        is_free = not results and (is_judged or not has_left)
        path = attempt.step.spec.path
        self._accounts.add(path, record.task_type, record.model, record.cost, may_be_billed=not is_free)
        task_uuid = None if self.ledger is None else record.task_uuid
        self.run_admission.settle(
            attempt.permit,
            record.cost,
            may_be_billed=not is_free,
            task_uuid=task_uuid,
            has_ended=bool(results) and (error is None or is_judged),
        )

    def name_of(self, run: ScopeRun, work: Step, args: list[Any]) -> str | None:
        """Return what the request of a node, or its call, would be known by; `None` if it cannot be known."""
        if work.kind is not NodeKind.CALL:
            return self.fingerprint_of(work, args)
        assert self.ledger is not None
        key = self.ledger.call_key(run.item(), work.spec, run.path(work), work.work, args)
        return None if key is None else key.fingerprint

    def fingerprint_of(self, work: Step, args: list[Any]) -> str | None:
        """Return what the request of a node would be known by; `None` if it cannot be made."""
        try:
            request = self._client.prepare(_task(work, args), include_cost=True)
        except Exception:  # noqa: BLE001 - what cannot be made was not sent; its error is raised when the node runs
            return None
        return fingerprint(request.wire, media_digests(request))


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


def _first_run(around: ScopeRun, scope: ScopeSpec, inner: ScopeSpec) -> ScopeRun | None:
    """Return the run of a scope, or of the first item of a scope inside it, if there is one by now."""
    if inner is scope or inner.parent is None or inner.fan is None:
        return around
    run = _first_run(around, scope, inner.parent)
    fan = None if run is None else run.values[inner.fan.slot]
    return fan.items[0] if isinstance(fan, FanRun) and fan.items else None


def _take(attempt: AttemptState, outcome: Ok[Any] | Failed) -> None:
    """One of several results of a task is there, or has failed."""
    attempt.note_activity()
    if isinstance(outcome, Ok):
        attempt.arrived = [*attempt.arrived, outcome.value]


def _follow(record: NodeRecord, entry: Entry) -> None:
    record.attempts = max(record.attempts, entry.advice.attempt)
    record.task_uuid = entry.task_uuid or record.task_uuid


def _value(spec: NodeSpec, request: Any, results: list[Any]) -> Any:
    if spec.keeps_all:
        return results
    if not results:
        raise RunwareFlowError(f"{spec.describe()}, got no result from the service (task {request.task_id})")
    return results[0]


def _task(work: Step, args: list[Any]) -> Any:
    return work.work if work.kind is NodeKind.TASK else build(work, args)


def without_uuid(task: Any) -> Any:
    # An id that the user chose named the first attempt; the service knows it as failed.
    if isinstance(task, Mapping):
        named = cast("Mapping[str, Any]", task)
        return {name: value for name, value in named.items() if name != "taskUUID"}
    return msgspec.structs.replace(task, task_uuid=UNSET)
