"""Runs one request of a node: prepares, looks up, admits, records, sends or collects it, and settles its outcome."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import anyio
import anyio.lowlevel
import msgspec

from runware_flow.client.refusal import TaskRefused
from runware_flow.client.request import Prepared
from runware_flow.errors import DeclarationError, JournalError, RunwareError, RunwareFlowError, RunwareTimeoutError
from runware_flow.graph.caching import may_be_cached
from runware_flow.graph.fingerprint import fingerprint
from runware_flow.graph.outcomes import Abandoned, Failed, Ok
from runware_flow.graph.plan import NO_ROLE
from runware_flow.graph.policies import is_verdict, may_be_collected, never_left
from runware_flow.graph.prices import micro_usd, total_micro_usd
from runware_flow.journal.values import decode_error, decode_item
from runware_flow.runner.media_digests import has_local_media, media_digests, media_times, read_media
from runware_flow.runner.recorded_choices import RecordedChoices
from runware_flow.runner.records import NodeRecord, follow_entry
from runware_flow.runner.timing import check_deadline, in_time
from runware_flow.runner.user_code import task_of
from runware_flow.types import UNSET

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from runware_flow.cache.single_flight import SingleFlight
    from runware_flow.graph.declaration import NodeSpec
    from runware_flow.graph.machine import FlowMachine
    from runware_flow.graph.plan import Step
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
_ADOPTIONS = 3


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
        self.choices = None if ledger is None else RecordedChoices(machine, ledger, self._client)
        self._single_flight = single_flight
        self._keeps_results = ledger is not None or single_flight is not None
        self._has_budget = run_admission.has_budget
        self._balance = run_admission.balance
        self._parks = run_admission.has_windows
        """The client gives a task back that the service refuses, and does not wait for it."""
        self.refused: dict[tuple[ScopeRun, Step], AttemptState] = {}
        """Attempts whose request the service has refused to take, of nodes that wait to send it again."""
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
        task = task_of(work, args)
        if attempt.number > 1:
            task = without_uuid(task)
        attempt.task = task
        attempt.request = request = self.prepare(step.spec, task)
        if self._keeps_results and has_local_media(request):
            await read_media(request)
        record = self.record(attempt)
        if self.event_bus.is_read:
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
        if self.event_bus.is_read:
            self.event_bus.node_started(run, step, attempt.number, attempt.record)
        attempt.is_sent = attempt.is_with_client = True
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
            attempt.note_refused(may_have_arrived=refused.may_have_arrived)
            attempt.turn = refused.number if attempt.turn is None else attempt.turn
            self.refused[run, step] = attempt
            task_uuid = attempt.request.task_id
            in_doubt = Abandoned(task_uuid, may_be_billed=True) if attempt.was_sent_before else None
            self.run_admission.refused(
                run, step, permit, attempt.turn, in_doubt, task_uuid=None if self.ledger is None else task_uuid
            )
            self.event_bus.node_refused(run, step, refused.error)
            return PARKED
        return _value(step.spec, attempt.request, results)

    async def _look_up(self, attempt: AttemptState, record: NodeRecord) -> tuple[Any, str | None]:
        """Look for a request in the journal and the cache: the node's value, or `_UNKNOWN` if it is to be sent.

        Returns:
            Also the taskUUID under which an earlier run may have sent it.
        """
        run, step, request = attempt.run, attempt.step, attempt.request
        if self.choices is not None and step.role.contests:
            await self.choices.note_contests(run, step, record.fingerprint)
        known = await self._known(run, request, record)
        if known is not None and known.advice.action == "restore":
            return self._restore(attempt, record, known), None
        if self.machine.is_held(run, step):
            return await self._hold(attempt, record, known), None
        choices = self.choices if known is not None and known.advice.slot else None
        if choices is not None and await choices.settle_as_answered(run, step, record.fingerprint, record, known):
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
        request = self._client.prepare(task, include_cost=True)
        if self._has_budget:
            request = self._costed(request)
        if request.slots > 1 and not spec.keeps_all:
            raise DeclarationError(
                f"{spec.describe()}, asks for {request.slots} results, but a node has one: use each instead of"
                " then (flow.each(task), node.each(builder)), or flow.map(items).each(builder) instead of"
                " flow.map(items, builder)"
            )
        return request

    def _costed(self, request: Any) -> Any:
        """Under a budget each request asks for its cost, whatever the task says: an unknown cost cannot be limited."""
        if self._has_budget and not request.wire.get("includeCost", True):
            request.wire["includeCost"] = True
        return request

    def record(self, attempt: AttemptState) -> NodeRecord:
        """Begin what is known of a request, before it is looked up or sent."""
        run, step, request = attempt.run, attempt.step, attempt.request
        now = self.event_bus.time()
        digests = media_digests if self._keeps_results else media_times  # or nothing looks it up
        before: NodeRecord | None = None if run.records is None else run.records.get(step.slot)
        return NodeRecord(
            path="" if self.ledger is None else run.path(step),  # only a journal needs it before the record is read
            fingerprint=fingerprint(request.wire, digests(request)),
            task_uuid=request.task_id,
            task_type=request.task_type,
            model=request.model,
            attempts=attempt.number,
            began=now if before is None else before.began,
            started=now,
        )

    async def _hold(self, attempt: AttemptState, record: NodeRecord, known: Entry | None) -> Any:
        """Send nothing for a node, since another one was chosen; it stays what it was."""
        run, step = attempt.run, attempt.step
        outcome: Failed | Abandoned | None = None
        if known is not None and known.advice.record is not None:
            follow_entry(record, known)
            run.note_record(step.slot, record)
            outcome = Abandoned(known.task_uuid, may_be_billed=known.cost != 0)
            if known.advice.record.state == "open" and self.ledger is not None:
                await self.ledger.abandon(known)
        elif known is not None and known.error is not None:
            outcome = Failed(decode_error(known.error))
        self.machine.hold(run, step, outcome)
        return HELD

    async def _known(self, run: ScopeRun, request: Any, record: NodeRecord) -> Entry | None:
        """Look into the journal for a node's request."""
        ledger = self.ledger
        if ledger is None or not ledger.has_past:
            return None
        known = await ledger.find(ledger.key(run.item(), record.path, record.fingerprint))
        if known.advice.action == "buy" and has_local_media(request):
            name = fingerprint(request.wire, media_times(request))
            if name == record.fingerprint:  # there is no file among them
                return known
            before = await ledger.find(ledger.key(run.item(), record.path, name))
            if before.advice.action != "buy":  # an earlier version wrote it down
                record.fingerprint = name
                return before
        return known

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
        follow_entry(record, entry)
        results: list[Any] = [decode_item(item, request.result_type) for item in entry.items]
        error = None if self.ledger is None else self.ledger.error_of(entry, record.path)
        if error is not None:
            error.results = list(results)
            results.append(Failed(error))
        record.cost, record.settled, record.is_restored = entry.cost, self.event_bus.time(), True
        self._accounts.add(spec.path, record.task_type, record.model, micro_usd(record.cost), may_be_billed=True)
        return _value(spec, request, results)

    async def _admit(self, attempt: AttemptState, known_uuid: str | None) -> bool:
        """Get what a request needs before it may be sent; without it, the node is parked."""
        if self._balance is not None:
            self._balance.begin()
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
        follow_entry(record, entry)
        attempt.is_sent = attempt.was_sent_before = entry.advice.action == "collect"
        if entry.advice.action != "restore":
            await anyio.lowlevel.checkpoint_if_cancelled()
        return entry

    def as_written(self, task: Any, request: Any, entry: Entry) -> Any:
        """Prepare a request under the id that the journal has for it."""
        if entry.advice.action == "collect" and request.wire.get("deliveryMethod") == "stream":
            request = self._as_sync(task, entry.task_uuid)
        elif entry.task_uuid != request.task_id:
            request = self._client.prepare(without_uuid(task), include_cost=True, task_uuid=entry.task_uuid)
            request = self._costed(request)
        return msgspec.structs.replace(request, is_journalled=True) if isinstance(request, Prepared) else request

    def _as_sync(self, task: Any, task_uuid: str | None) -> Any:
        """Prepare a request that was streamed, to ask for its text: that cannot be asked for as a stream."""
        request = self._client.prepare(without_uuid(task), include_cost=True, task_uuid=task_uuid, delivery="sync")
        return self._costed(request)

    async def perform(self, attempt: AttemptState) -> list[Any]:
        """Send a request or poll for it, and wait for its results; its outcome is in the journal, then booked."""
        spec, request, entry = attempt.step.spec, attempt.request, attempt.entry
        function = self._collect if attempt.was_sent_before else self._call
        results: list[Any]
        try:
            if attempt.step.is_timed:
                now, task_uuid = self.event_bus.time(), request.task_id
                results = await in_time(spec, now, function, attempt, task_uuid=task_uuid, listen=attempt.listen)
            else:
                results = await function(attempt)
        except RunwareError as error:
            error.results = error.results or list(attempt.arrived)
            if isinstance(error, RunwareTimeoutError):
                error.may_be_billed = attempt.may_have_arrived
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
        """Get what may have been sent before, under its taskUUID.

        A request of an earlier run is polled for, and sent only if the service has no trace of it. An async request of
        this run is sent again: if the service has it, it refuses the copy.
        """
        is_earlier = attempt.entry is not None and attempt.entry.advice.action == "collect"
        if is_earlier and attempt.request.wire.get("deliveryMethod") == "async":
            try:
                return await self._call(attempt, sent_before="yes")
            except RunwareError as error:
                # Without an answer to a poll it may have the request all the same.
                if is_verdict(error) or error.may_be_billed or isinstance(error, RunwareTimeoutError) or error.results:
                    raise
        return await self._call(attempt, sent_before="maybe")

    async def _call(self, attempt: AttemptState, **options: Any) -> list[Any]:
        """Have the client send a request, or poll for it, and wait for its results, in the server's order."""
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
            send_state = getattr(request, "send_state", None)
            if attempt.record is not None and send_state is not None and send_state.pending_at is not None:
                attempt.record.processing = self.event_bus.time() - (anyio.current_time() - send_state.pending_at)

    def _report_progress(self, attempt: AttemptState, progress: Any) -> None:
        attempt.note_activity()
        share = getattr(progress, "progress", progress)
        if isinstance(share, (int, float)):
            self.event_bus.node_progress(attempt.run, attempt.step, float(share))

    async def _read(self, attempt: AttemptState, options: dict[str, Any]) -> list[Any]:
        """Read a text while it is written; its pieces are events. If it breaks off, it is polled for."""
        number = 1 if attempt.record is None else attempt.record.attempts
        pieces: dict[str, list[str]] = {"text": [], "reasoning": []}

        def on_delta(kind: str, text: str) -> None:
            attempt.note_activity()
            pieces[kind].append(text)
            self.event_bus.node_delta(attempt.run, attempt.step, number, kind, text)

        options.pop("sent_before", None)  # a stream cannot be polled
        try:
            results: list[Any] = await self._client.perform_stream(attempt.request, on_delta, **options)
        except RunwareError as broken:
            if not attempt.may_have_arrived or not may_be_collected(broken):
                raise
            results = await self._collect_text(attempt, broken)
            for result in results:
                for kind, whole in (("reasoning", result.reasoning_content), ("text", result.text)):
                    begun = "".join(pieces[kind])
                    if whole and len(whole) > len(begun) and whole.startswith(begun):
                        on_delta(kind, whole[len(begun) :])
        return results

    async def _collect_text(self, attempt: AttemptState, broken: RunwareError) -> list[Any]:
        """Poll for the text of a stream that broke off, which the service has finished and billed all the same.

        It is only polled for: a request that the service does not know may be sent again by the next run alone.

        Raises:
            RunwareError: the service says that the task failed, or `broken`, if it has nothing of it.
        """
        attempt.was_sent_before = True
        attempt.request = self._as_sync(attempt.task, attempt.request.task_id)
        try:
            return await self._call(attempt, sent_before="yes")
        except RunwareError as error:
            if is_verdict(error) or isinstance(error, RunwareTimeoutError):
                raise
            raise broken from error

    async def fail_entry(self, attempt: AttemptState, error: RunwareError) -> None:
        """Write down that a request has failed."""
        if attempt.entry is not None and self.ledger is not None:
            await self.ledger.fail(attempt.entry, error)

    def end(self, attempt: AttemptState, error: Exception | None) -> None:
        """Book an attempt that failed or, without an error, was cancelled, and give back what it was admitted with."""
        self.book(attempt, error)
        if _is_unsent(attempt, error):
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
            self.book(attempt, None)  # if it is in doubt; its row stays open
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
        # A cancelled attempt stays sent, so that its node is abandoned as one that may be billed.
        attempt.is_sent = error is None and results is None and attempt.may_have_arrived
        record.settled = self.event_bus.time()
        amount = total_micro_usd([getattr(result, "cost", None) for result in results or ()])
        # What the service itself says has failed is free; what we only stopped waiting for may not be.
        is_judged = isinstance(error, RunwareError) and is_verdict(error)
        if error is not None and not is_judged:
            amount = None
        if amount is not None:
            record.cost = amount / 1_000_000
        is_free = not results and (is_judged or _is_unsent(attempt, error))
        path = attempt.step.spec.path
        self._accounts.add(path, record.task_type, record.model, amount, may_be_billed=not is_free)
        if attempt.permit is not None and attempt.permit.reservation is not None:
            self.run_admission.settle(
                attempt.permit,
                record.cost,
                may_be_billed=not is_free,
                task_uuid=None if self.ledger is None else record.task_uuid,
                has_ended=bool(results) and (error is None or is_judged),
            )


def _is_unsent(attempt: AttemptState, error: Exception | None) -> bool:
    """Tell whether the service cannot have a request whose attempt failed or, without an error, was cancelled."""
    if attempt.was_sent_before:
        return False
    return not attempt.may_have_arrived or (error is not None and never_left(error))


def _take(attempt: AttemptState, outcome: Ok[Any] | Failed) -> None:
    """One of several results of a task is there, or has failed."""
    attempt.note_activity()
    if isinstance(outcome, Ok):
        attempt.arrived = [*attempt.arrived, outcome.value]


def _value(spec: NodeSpec, request: Any, results: list[Any]) -> Any:
    if spec.keeps_all:
        return results
    if not results:
        raise RunwareFlowError(f"{spec.describe()}, got no result from the service (task {request.task_id})")
    return results[0]


def without_uuid(task: Any) -> Any:
    # An id that the user chose named the first attempt; the service knows it as failed.
    if isinstance(task, Mapping):
        named = cast("Mapping[str, Any]", task)
        return {name: value for name, value in named.items() if name != "taskUUID"}
    return msgspec.structs.replace(task, task_uuid=UNSET)
