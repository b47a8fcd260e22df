"""One request of a node: prepared, looked up, admitted, written down, sent or asked for, settled and booked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import anyio
import anyio.lowlevel
import msgspec

from runware_flow.client.refusal import TaskRefused
from runware_flow.client.request import Prepared
from runware_flow.errors import DeclarationError, RunwareError, RunwareFlowError
from runware_flow.graph.caching import may_be_cached
from runware_flow.graph.declaration import NodeKind
from runware_flow.graph.fingerprint import fingerprint
from runware_flow.graph.outcomes import Abandoned, Failed
from runware_flow.graph.policies import is_verdict, never_left
from runware_flow.graph.prices import total_micro_usd
from runware_flow.graph.scope_run import SETTLED
from runware_flow.journal.values import decode_error, decode_item
from runware_flow.runner.attempt_state import AttemptState, SentRequest, may_hedge
from runware_flow.runner.media_digests import media_digests
from runware_flow.runner.records import NodeRecord
from runware_flow.runner.sending import Sender
from runware_flow.runner.timing import in_time, seconds_left
from runware_flow.runner.user_code import build
from runware_flow.types import UNSET

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from runware_flow.cache.single_flight import SingleFlight
    from runware_flow.graph.choice_records import ChoiceKind
    from runware_flow.graph.declaration import NodeSpec
    from runware_flow.graph.machine import FlowMachine
    from runware_flow.graph.plan import Step
    from runware_flow.graph.scope_run import ScopeRun
    from runware_flow.journal.ledger import Ledger
    from runware_flow.journal.store import Entry
    from runware_flow.runner.accounts import Accounts
    from runware_flow.runner.admission import RunAdmission
    from runware_flow.runner.event_bus import EventBus

__all__ = ("HELD", "PARKED", "RequestRunner")

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


class RequestRunner:
    """Sends the requests of a run's nodes, and keeps the accounts and the journal of them."""

    def __init__(
        self,
        machine: FlowMachine,
        accounts: Accounts,
        event_bus: EventBus,
        run_admission: RunAdmission,
        client: Any,
        ledger: Ledger | None,
        single_flight: SingleFlight | None,
        hedge: Callable[..., Awaitable[list[Any]]],
    ) -> None:
        """Args: hedge: sends a request of a node, and a second one beside it if the first takes long."""
        self.machine = machine
        self._hedge = hedge
        self.event_bus = event_bus
        self.run_admission = run_admission
        self.ledger = ledger
        self._accounts = accounts
        self._client = client
        self._single_flight = single_flight
        self._sender = Sender(machine, event_bus, client)
        self._refused: dict[tuple[ScopeRun, Step], SentRequest] = {}
        """Requests that the service has refused to take, of nodes that wait to send them again."""

    async def buy(
        self, run: ScopeRun, step: Step, work: Step, args: list[Any], attempt: int, state: AttemptState
    ) -> Any:
        """Have the task of a node made, and wait for it; returns the node's value, or `PARKED` if it has to wait first.

        The order: build and prepare; look into the journal and the cache, since what is there needs no admission; be
        admitted; write the request down; send it; write its outcome down. A request that the service refuses to take is
        sent again as it is, once there is room for it.

        Args:
            work: the step itself, or its fallback.

        Raises:
            DeclarationError: there is no task that fits the node.
            RunwareError: what the service says, or a limit of ours.
            JournalError: the journal failed; then nothing was sent.
        """
        if self._refused and (refused := self._refused.pop((run, step), None)) is not None:
            return await self._send_again(run, step, refused, attempt, state)
        spec = step.spec
        task = _task(work, args)
        if attempt > 1:
            task = _without_uuid(task)
        request = self.prepare(spec, task)
        record = self.record(run, step, request, attempt)
        self.event_bus.note_request(run, step, request.wire)
        value, sent_before = await self._look_up(run, step, record, request, state)
        if value is not _UNKNOWN:
            return value
        if not await self._admit(run, step, request, state, sent_before):
            return PARKED
        state.record = record
        entry = None
        if self.ledger is not None:
            entry = await self._begin(self.ledger, run, record, request, state)
            if entry.advice.action == "restore":
                return self._restore(run, step, record, request, entry)
            request = self.as_written(task, request, entry)
        run.note_record(step.slot, record)
        return await self._send(run, step, SentRequest(request, state, entry, task), attempt)

    async def _send(self, run: ScopeRun, step: Step, sent: SentRequest, attempt: int) -> Any:
        """Send a request that is written down, and wait for the node's value; `PARKED` if the service refuses it."""
        spec, state = step.spec, sent.state
        seconds_left(spec, self.event_bus.time(), sent.request.task_id)
        self.event_bus.node_started(run, step, attempt, state.record)
        state.is_sent = True
        try:
            if spec.policy.hedge_after is not None and may_hedge(sent):
                results = await self._hedge(self, run, step, _without_uuid(sent.task), attempt, sent)
            else:
                results = await self.ask(run, step, sent)
        except TaskRefused as refused:
            assert state.permit is not None
            state.is_sent = False
            sent.turn = refused.number if sent.turn is None else sent.turn
            self._refused[run, step] = sent
            permit, state.permit = state.permit, None
            self.run_admission.refused(run, step, permit, sent.turn)
            self.event_bus.node_refused(run, step, refused.error)
            return PARKED
        return _value(spec, sent.request, results)

    async def _send_again(self, run: ScopeRun, step: Step, sent: SentRequest, attempt: int, state: AttemptState) -> Any:
        state.record, state.was_sent_before, sent.state = sent.state.record, sent.state.was_sent_before, state
        if await self._admit(run, step, sent.request, state, None):
            return await self._send(run, step, sent, attempt)
        self._refused[run, step] = sent
        return PARKED

    def forget_refused(self, run: ScopeRun, step: Step) -> None:
        """A node will not send again what the service has refused to take."""
        if self._refused and self._refused.pop((run, step), None) is not None:
            self.run_admission.release(run, step)

    async def _look_up(
        self, run: ScopeRun, step: Step, record: NodeRecord, request: Any, state: AttemptState
    ) -> tuple[Any, str | None]:
        """Look for a request in the journal and the cache: the node's value, or `_UNKNOWN` if it is to be sent.

        Returns:
            Also the taskUUID under which an earlier run may have sent it.
        """
        if step.role.contests:
            await self.note_contests(run, step, record.fingerprint)
        known = await self._known(run, record)
        if known is not None and known.advice.action == "restore":
            return self._restore(run, step, record, request, known), None
        if self.machine.is_held(run, step):
            return await self._hold(run, step, record, known), None
        if known is not None and known.advice.action == "collect":  # it is paid for
            if self._single_flight is not None and may_be_cached(request.wire, step.spec.policy.cache):
                self._single_flight.lead(run, step, record.fingerprint)
            return _UNKNOWN, known.task_uuid
        value = await self._find(run, step, record, request, state)
        if value is _UNKNOWN and known is not None and may_be_cached(request.wire, step.spec.policy.cache):
            return await self._adopt(run, step, record, request, state)
        return value, None

    async def _adopt(
        self, run: ScopeRun, step: Step, record: NodeRecord, request: Any, state: AttemptState
    ) -> tuple[Any, str | None]:
        """Collect an open request for the same thing, wherever it was sent from, since a cache may answer both."""
        if self._single_flight is None or self.ledger is None:
            return _UNKNOWN, None
        key = self.ledger.key(run.item(), record.path, record.fingerprint)
        for _ in range(_ADOPTIONS):
            known = await self.ledger.find(key, may_adopt=True)
            if not known.is_taken:
                return _UNKNOWN, known.task_uuid if known.advice.action == "collect" else None
            self._single_flight.leave(run, step)  # another node is about to collect it: this one waits for that
            await anyio.lowlevel.checkpoint()
            value = await self._find(run, step, record, request, state)
            if value is not _UNKNOWN:
                return value, None
        return _UNKNOWN, None

    def prepare(self, spec: NodeSpec, task: Any) -> Any:
        """Have the client complete a task of a node; it may not ask for more results than the node has."""
        request = self._costed(self._client.prepare(task, include_cost=True))
        if request.slots > 1 and not spec.keeps_all:
            raise DeclarationError(
                f"{spec.describe()}, asks for {request.slots} results, but a node has one: use flow.each for a task of"
                " several results, or node.map for several tasks"
            )
        return request

    def _costed(self, request: Any) -> Any:
        """Under a budget the cost is always asked for, whatever a task says: what is not known cannot be limited."""
        if self.run_admission.has_budget and not request.wire.get("includeCost", True):
            request.wire["includeCost"] = True
        return request

    def record(self, run: ScopeRun, step: Step, request: Any, attempt: int) -> NodeRecord:
        """Begin what is known of a request, before it is looked up or sent."""
        now = self.event_bus.time()
        before: NodeRecord | None = run.record(step.slot)
        return NodeRecord(
            path=run.path(step),
            fingerprint=fingerprint(request.wire, media_digests(request)),
            task_uuid=request.task_id,
            task_type=request.task_type,
            model=request.model,
            attempts=attempt,
            began=now if before is None else before.began,
            started=now,
        )

    async def note_contests(self, run: ScopeRun, step: Step, fingerprint: str | None) -> None:
        """Look up the choices among what a node is about to be sent for, before it is."""
        machine, ledger = self.machine, self.ledger
        if ledger is None:
            return
        for choice, hops, place, is_lead, has_lead in step.role.contests:
            around = run.above(hops)
            if has_lead and not is_lead:
                continue
            known_by = fingerprint if is_lead else None
            item = place if place >= 0 else run.above(hops - 1).index  # of a `first`, items are the contestants
            machine.note_lead(around, choice, item, known_by)
            if (around, choice) in machine.chosen or (choice.kind is NodeKind.FALLBACK and place != 0):
                continue  # equal fallbacks of several nodes do not tell which choice it was
            records = await ledger.choices(around.item())
            if (around, choice) in machine.chosen or around.cells[choice.slot] >= SETTLED:
                continue
            found = ledger.record_of_choice(records, _CHOICE_KINDS[choice.kind], around.path(choice), known_by)
            if found is not None:
                machine.know_choice(around, choice, found)

    async def _hold(self, run: ScopeRun, step: Step, record: NodeRecord, known: Entry | None) -> Any:
        """Send nothing for a node, since another one was chosen; it stays what it was."""
        outcome: Failed | Abandoned | None = None
        if known is not None and known.advice.purchase is not None:
            _follow(record, known)
            run.note_record(step.slot, record)
            outcome = Abandoned(known.task_uuid, may_be_billed=True)
            if known.advice.purchase.state == "open" and self.ledger is not None:
                await self.ledger.abandon(known)
        elif known is not None and known.error is not None:
            outcome = Failed(decode_error(known.error))
        self.machine.hold(run, step, outcome)
        return HELD

    async def _known(self, run: ScopeRun, record: NodeRecord) -> Entry | None:
        """Look into the journal for a node's request."""
        if self.ledger is None or not self.ledger.has_past:
            return None
        return await self.ledger.find(self.ledger.key(run.item(), record.path, record.fingerprint))

    async def _find(self, run: ScopeRun, step: Step, record: NodeRecord, request: Any, state: AttemptState) -> Any:
        """Look into the cache: the node's value, or `_UNKNOWN` if it is to be bought; `PARKED` while a twin is."""
        if self._single_flight is None or not may_be_cached(request.wire, step.spec.policy.cache):
            return _UNKNOWN
        seconds_left(step.spec, self.event_bus.time(), None)
        found = await self._single_flight.find(run, step, record.fingerprint, request.result_type)
        if not isinstance(found, list):
            return _UNKNOWN if found else PARKED
        if self.ledger is not None:
            entry = await self._begin(self.ledger, run, record, request, state)
            if entry.advice.action == "restore":
                return self._restore(run, step, record, request, entry)
            if entry.advice.action == "collect":
                return _UNKNOWN
            await self.ledger.settle(entry, found, cost=0.0)
        run.note_record(step.slot, record)
        record.cost, record.settled, record.is_cached = 0.0, self.event_bus.time(), True
        return _value(step.spec, request, found)

    def _restore(self, run: ScopeRun, step: Step, record: NodeRecord, request: Any, entry: Entry) -> Any:
        """Give a node the outcome that an earlier run wrote down."""
        spec = step.spec
        run.note_record(step.slot, record)
        _follow(record, entry)
        results: list[Any] = [decode_item(item, request.result_type) for item in entry.items]
        error = None if self.ledger is None else self.ledger.error_of(entry, record.path)
        if error is not None:
            error.results = list(results)
            results.append(Failed(error))
        record.cost, record.settled, record.is_restored = entry.cost, self.event_bus.time(), True
        self._accounts.add(spec.path, record.task_type, record.model, record.cost, may_be_billed=True)
        return _value(spec, request, results)

    async def _admit(self, run: ScopeRun, step: Step, request: Any, state: AttemptState, bought: str | None) -> bool:
        """Get what a request needs before it may be sent; without it, the node is parked."""
        if (balance := self.run_admission.balance) is not None:
            balance.begin()
        seconds_left(step.spec, self.event_bus.time(), None)
        if state.permit is None:
            state.permit = self.run_admission.ask(run, step, request, bought)
        else:
            state.permit = self.run_admission.pay(run, step, request, bought, state.permit)
        return state.permit is not None

    async def _begin(
        self, ledger: Ledger, run: ScopeRun, record: NodeRecord, request: Any, state: AttemptState
    ) -> Entry:
        entry = await ledger.begin(ledger.key(run.item(), record.path, record.fingerprint), request)
        state.entry = entry
        _follow(record, entry)
        state.is_sent = state.was_sent_before = entry.advice.action == "collect"
        if entry.advice.action != "restore":
            await anyio.lowlevel.checkpoint_if_cancelled()
        return entry

    def as_written(self, task: Any, request: Any, entry: Entry) -> Any:
        """Prepare a request under the id that the journal has for it."""
        more: dict[str, Any] = {}
        if entry.advice.action == "collect" and request.wire.get("deliveryMethod") == "stream":
            more["delivery"] = "sync"  # what was streamed cannot be asked for as a stream
        if entry.task_uuid != request.task_id or more:
            task = _without_uuid(task)
            request = self._client.prepare(task, include_cost=True, task_uuid=entry.task_uuid, **more)
            request = self._costed(request)
        return msgspec.structs.replace(request, is_journalled=True) if isinstance(request, Prepared) else request

    async def ask(self, run: ScopeRun, step: Step, sent: SentRequest) -> list[Any]:
        """Send a request or ask for it, and wait for its results; its outcome is in the journal, then booked."""
        request, state, entry = sent.request, sent.state, sent.entry
        is_old = entry is not None and entry.advice.action == "collect"
        function = self._sender.collect if is_old else self._sender.perform
        try:
            results: list[Any] = await in_time(
                step.spec,
                self.event_bus.time(),
                function,
                run,
                step,
                request,
                state,
                task_uuid=request.task_id,
                listen=state.listen,
            )
        except RunwareError as error:
            error.results = error.results or state.arrived
            await self.fail_entry(sent, error)
            if not error.results:
                raise
            self.book(step, state, error, results=error.results)
            if not step.spec.keeps_all:
                raise
            return [*error.results, Failed(error)]
        record = state.record
        if (
            self._single_flight is not None
            and record is not None
            and may_be_cached(request.wire, step.spec.policy.cache)
        ):  # before it is settled: an open request is collected for equal ones as well, a settled one is not
            amount = total_micro_usd([result.cost for result in results])
            cost = None if amount is None else amount / 1_000_000
            await self._single_flight.result_cache.keep(record.fingerprint, request, results, cost)
        if entry is not None and self.ledger is not None and results:
            await self.ledger.settle(entry, results)
        self.book(step, state, None, results=results)
        return results

    async def fail_entry(self, sent: SentRequest, error: RunwareError) -> None:
        """Write down that a request has failed."""
        if sent.entry is not None and self.ledger is not None:
            await self.ledger.fail(sent.entry, error)

    def end(self, step: Step, state: AttemptState, error: Exception | None) -> None:
        """Book an attempt that failed or, without an error, was cancelled, and give back what it was admitted with."""
        self.book(step, state, error)
        self.run_admission.give_back(state.permit)

    def book(self, step: Step, state: AttemptState, error: Exception | None, results: list[Any] | None = None) -> None:
        """Count a request that has come to its end, once."""
        record = state.record
        if record is None or not state.is_sent:
            return
        state.is_sent = error is None and results is None  # after a cancel, the caller still asks
        record.settled = self.event_bus.time()
        amount = total_micro_usd([getattr(result, "cost", None) for result in results or ()])
        # What the service itself says has failed is free; what we only stopped waiting for may not be.
        is_judged = isinstance(error, RunwareError) and is_verdict(error)
        if amount is not None and (error is None or is_judged):
            record.cost = amount / 1_000_000
        has_left = state.was_sent_before or error is None or not never_left(error)
        is_free = not results and (is_judged or not has_left)
        self._accounts.add(step.spec.path, record.task_type, record.model, record.cost, may_be_billed=not is_free)
        task_uuid = None if self.ledger is None else record.task_uuid
        self.run_admission.settle(
            state.permit,
            record.cost,
            may_be_billed=not is_free,
            task_uuid=task_uuid,
            has_ended=bool(results) and (error is None or is_judged),
        )

    def fingerprint_of(self, work: Step, args: list[Any]) -> str | None:
        """Return what the request of a node would be known by; `None` if it cannot be made."""
        try:
            request = self._client.prepare(_task(work, args), include_cost=True)
        except Exception:  # noqa: BLE001 - what cannot be made was not sent; its error is told when it is its turn
            return None
        return fingerprint(request.wire, media_digests(request))


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


def _without_uuid(task: Any) -> Any:
    # An id that the user chose named the first attempt; the service knows it as failed.
    if isinstance(task, Mapping):
        named = cast("Mapping[str, Any]", task)
        return {name: value for name, value in named.items() if name != "taskUUID"}
    return msgspec.structs.replace(task, task_uuid=UNSET)
