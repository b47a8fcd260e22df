"""Runs one node, an attempt at a time, to its outcome or until it has to wait for something."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from runware_flow.client.cost_tracker import CostTracker, current_cost_tracker
from runware_flow.graph.attempts import Attempts, RetryBudget, what_follows
from runware_flow.graph.declaration import NodeKind
from runware_flow.graph.outcomes import Abandoned
from runware_flow.graph.prices import micro_usd
from runware_flow.graph.scope_run import SETTLED
from runware_flow.runner.attempt_state import AttemptState
from runware_flow.runner.blocking import is_debugging
from runware_flow.runner.cancels import check_cancel
from runware_flow.runner.hedge import send_hedged
from runware_flow.runner.request_runner import HELD, PARKED, RequestRunner
from runware_flow.runner.timing import check_deadline, in_time
from runware_flow.runner.user_code import call, call_watched, is_no_value, pick, wrong_value

if TYPE_CHECKING:
    from runware_flow.cache.single_flight import SingleFlight
    from runware_flow.graph.machine import FlowMachine
    from runware_flow.graph.plan import Step
    from runware_flow.graph.scope_run import ScopeRun
    from runware_flow.journal.ledger import Call, Ledger
    from runware_flow.runner.accounts import Accounts
    from runware_flow.runner.admission import RunAdmission
    from runware_flow.runner.context import RunContext
    from runware_flow.runner.event_bus import EventBus
    from runware_flow.runner.pauses import Pauses
    from runware_flow.runner.requester import RunClient

__all__ = ("NodeRunner",)

# In Python 3.11 a look at a member of an Enum takes a call, and these are looked at for each node.
_CALL = NodeKind.CALL
_PICK = NodeKind.PICK

_FUNCTION = "function"
"""The name in a receipt where there is no task type."""


class NodeRunner:
    """Runs nodes and tells the machine how they ended, or that they wait."""

    def __init__(
        self,
        machine: FlowMachine,
        accounts: Accounts,
        event_bus: EventBus,
        pauses: Pauses,
        run_admission: RunAdmission,
        client: RunClient | None,
        ledger: Ledger | None = None,
        retries: RetryBudget | None = None,
        single_flight: SingleFlight | None = None,
    ) -> None:
        self._machine = machine
        self._accounts = accounts
        self._event_bus = event_bus
        self._pauses = pauses
        self._run_admission = run_admission
        self._ledger = ledger
        self._single_flight = single_flight
        self._call_function = call_watched if is_debugging() else call
        self._retries = RetryBudget() if retries is None else retries
        self._attempts: dict[tuple[ScopeRun, Step], Attempts] = {}
        """Of the nodes that have begun and whose policy needs more than the number of attempts."""
        self._request_runner = RequestRunner(
            machine, accounts, event_bus, run_admission, client, ledger, single_flight, send_hedged
        )
        self.choices = self._request_runner.choices
        """What earlier runs chose; `None` without a journal."""

    async def end(self) -> None:
        """The run has ended, however it did: what waits to be sent again is not sent any more."""
        await self._request_runner.release_unaccepted()
        if self.choices is not None:
            await self.choices.note_answered()

    async def perform(self, run: ScopeRun, step: Step, context: RunContext) -> None:
        """Run a node that was taken, an attempt or more; afterwards it has its outcome, or is parked.

        What it was admitted with is given back before what follows from it begins, however it ended.
        """
        goes_on = True
        while goes_on:
            goes_on = False
            attempt: AttemptState | None = None
            number = run.failed_attempts(step.slot) + 1 if run.failures else 1
            context.begin(run, step, number)
            try:
                args = self._machine.arguments(run, step)
                if step.kind is _PICK:
                    value = pick(step, args)
                elif step.is_called_at_once and self._ledger is None:
                    value = await self._run_function(run, step, step, number, args, CostTracker())
                else:
                    refused = self._request_runner.refused
                    attempt = refused.pop((run, step), None) if refused else None
                    attempt = attempt or AttemptState(run, step, number)
                    value = await self._run_work(attempt, args)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is how this attempt ended
                goes_on = self._attempt_failed(attempt or AttemptState(run, step, number), error)
            except BaseException:
                attempt = attempt or AttemptState(run, step, number)
                await self._cancelled(attempt, has_requests=context.has_used_client)
                raise
            else:
                if attempt is not None:
                    self._give_back(attempt, value)
                if value is not PARKED and value is not HELD:
                    if self._attempts:
                        await self._end_attempts(run, step)
                    self._machine.succeed(run, step, value)

    def _give_back(self, attempt: AttemptState, value: Any) -> None:
        """Give back what an attempt was admitted with; if it is over, equal requests need not wait for it any more."""
        self._run_admission.give_back(attempt.permit)
        if value is not PARKED:
            self._leave_single_flight(attempt.run, attempt.step)

    async def _cancelled(self, attempt: AttemptState, *, has_requests: bool) -> None:
        run, step = attempt.run, attempt.step
        self._request_runner.end(attempt, None)
        self._run_admission.release(run, step)
        try:
            if attempt.entry is not None and self._ledger is not None and self._machine.has_lost(run, step):
                await self._ledger.abandon(attempt.entry, is_over=True)
        finally:
            self._leave_single_flight(run, step)  # equal requests find it on record, and ask for it
            self._abandon(attempt, has_requests=has_requests)

    async def _end_attempts(self, run: ScopeRun, step: Step) -> None:
        """If a fallback has answered, nothing waits for the request before it any more, should that be open still."""
        known = self._attempts.pop((run, step), None)
        if known is not None and known.before_fallback and known.entry is not None and self._ledger is not None:
            await self._ledger.abandon(known.entry, is_over=True)

    def _leave_single_flight(self, run: ScopeRun, step: Step) -> None:
        if self._single_flight is not None:
            self._single_flight.leave(run, step)

    def _abandon(self, attempt: AttemptState, *, has_requests: bool) -> None:
        run, step = attempt.run, attempt.step
        is_billed = attempt.is_sent or has_requests
        task_uuid = attempt.record.task_uuid if attempt.record else None
        if attempt.paid is not None:
            self._machine.succeed(run, step, attempt.paid if step.spec.keeps_all else attempt.paid[0])
        elif attempt.arrived:
            self._machine.succeed(run, step, [*attempt.arrived, Abandoned(task_uuid, is_billed)])
        else:
            self._machine.abandon(run, step, task_uuid, may_be_billed=is_billed)

    async def _run_work(self, attempt: AttemptState, args: list[Any]) -> Any:
        """Run one attempt of a node that sends, or calls a function; returns its value, or `PARKED` or `HELD`."""
        run, step = attempt.run, attempt.step
        attempt.permit = self._run_admission.restore(run, step)
        work = step if step.has_one_work else await self._choice(run, step, args)
        try:
            if work.kind is _CALL:
                value = await self._call(attempt, work, args)
            elif attempt.request is not None:  # the service has refused to take it
                value = await self._request_runner.run_again(attempt)
            else:
                value = await self._request_runner.run(attempt, work, args)
        finally:
            # It was admitted, and is not just back from waiting.
            if attempt.number == 1 and attempt.permit is not None and work.kind is not _CALL:
                self._retries.earn()
        if value is PARKED and (deadline := step.spec.policy.deadline) is not None:
            self._pauses.wake_by_deadline(deadline, deadline - self._event_bus.time())
        return value

    async def _choice(self, run: ScopeRun, step: Step, args: list[Any]) -> Step:
        """Return the node's own work or its fallback, whichever is to run; a fallback is recorded first."""
        known = self._attempts.get((run, step))
        if known is None:
            known = self._attempts[run, step] = Attempts(self._event_bus.time())
            if self.choices is not None and step.fallback is not None:
                known.is_recorded = await self.choices.has_fallen_back(run, step, step.fallback, args)
                if known.is_recorded:
                    known.fall_back(0, None)
        if step.fallback is None or known.before_fallback is None:
            return step
        if self.choices is not None and not known.is_recorded:
            await self.choices.write_fallback(run, step, step.fallback, args)
            known.is_recorded = True
        return step.fallback

    def _attempt_failed(self, attempt: AttemptState, error: Exception) -> bool:
        """Let a node fail for good or wait for another attempt without a worker, or tell that it goes on at once."""
        run, step = attempt.run, attempt.step
        known = self._attempts.get((run, step))
        self._request_runner.end(attempt, error)
        if known is not None and known.before_fallback is None:
            known.entry = attempt.entry
        self._run_admission.release(run, step)
        self._leave_single_flight(run, step)
        goes_on = self._may_go_on(attempt, error, known)
        if run.cells[step.slot] >= SETTLED:
            self._attempts.pop((run, step), None)
        return goes_on

    def _may_go_on(self, attempt: AttemptState, error: Exception, known: Attempts | None) -> bool:
        machine, run, step = self._machine, attempt.run, attempt.step
        if step.kind is _PICK or not machine.may_send(run, step):
            machine.fail(run, step, error)
            return False
        fallback = step.fallback
        has_fallen = known is not None and known.before_fallback is not None
        work = fallback if has_fallen and fallback is not None else step
        what = what_follows(
            error,
            step.spec.policy,
            attempt=attempt.number,
            sends=None if step.spec.is_free else work.kind is not _CALL,
            now=self._event_bus.time(),
            attempts=known,
            budget=self._retries,
            has_fallback=fallback is not None,
            jitter=random.random(),
        )
        if what.action == "end":
            _explain(error, what.note, known)
            machine.fail(run, step, error)
            return False
        run.note_failed_attempt(step.slot)
        if what.action == "fallback" and known is not None:
            known.fall_back(attempt.number, error)
        if not what.seconds:
            return True
        machine.park(run, step, error)
        self._pauses.add(run, step, what.seconds)
        return False

    async def _call(self, attempt: AttemptState, work: Step, args: list[Any]) -> Any:
        """Run one attempt of a node that calls an async function, which a journal may know; returns as `_run_work`."""
        run, step = attempt.run, attempt.step
        kept = None
        if self._ledger is not None:
            kept = await self._find_call(self._ledger, attempt, work, args)
            if kept.is_known:
                return kept.value
        if self._machine.is_held(run, step):
            self._machine.hold(run, step, None)
            return HELD
        key = None if kept is None else kept.key
        if key is not None and self.choices is not None:
            is_answered = await self.choices.settle_as_answered(run, step, key.fingerprint)
            if is_answered:
                return HELD
        if step.spec.policy.limit is not None and attempt.permit is None:
            check_deadline(step.spec, self._event_bus.time)
            attempt.permit = self._run_admission.admit(run, step, None)
            if attempt.permit is None:
                return PARKED
        cost_tracker = CostTracker()
        value = await self._run_function(run, step, work, attempt.number, args, cost_tracker)
        if self._ledger is not None and kept is not None:
            attempt.paid = value if step.spec.keeps_all else [value]  # a cancel meanwhile does not take it away
            await self._ledger.keep_call(kept, value, cost_tracker)
        return value

    async def _run_function(
        self, run: ScopeRun, step: Step, work: Step, number: int, args: list[Any], cost_tracker: CostTracker
    ) -> Any:
        """Call the async function of a node and await it; its times and what it has bought are counted.

        Raises:
            DeclarationError: it returned what only a builder may return.
            Exception: whatever it raises.
        """
        if self._event_bus.is_read:
            self._event_bus.node_started(run, step, number)
        began = self._event_bus.time()
        token = current_cost_tracker.set(cost_tracker)
        try:
            if step.is_timed:
                value: object = await in_time(step.spec, began, self._call_function, work, args)
            else:
                value = await self._call_function(work, args)
        except BaseException as error:
            check_cancel(error, step.spec)
            raise
        finally:
            current_cost_tracker.reset(token)
            run.note_times(step.slot, began, self._event_bus.time())
            if cost_tracker.count:
                self._book(step, cost_tracker)
        if is_no_value(type(value)):
            raise wrong_value(value, step.spec)
        return value

    async def _find_call(self, ledger: Ledger, attempt: AttemptState, work: Step, args: list[Any]) -> Call:
        """Look up what the journal has of a function's call; what that bought is counted for this run, too."""
        run, step = attempt.run, attempt.step
        key = ledger.call_key(run.item(), step.spec, run.path(step), work.work, args)
        if self.choices is not None and step.role.contests:
            await self.choices.note_contests(run, step, None if key is None else key.fingerprint)
        kept = await ledger.find_call(key, args)
        if kept.is_known and kept.has_requests:
            self._accounts.add(step.spec.path, _FUNCTION, None, micro_usd(kept.cost), may_be_billed=True)
        return kept

    def _book(self, step: Step, cost_tracker: CostTracker) -> None:
        """Count what a function has bought, for this run and for the function that this run is inside of."""
        self._accounts.add(step.spec.path, _FUNCTION, None, cost_tracker.micro_usd(), may_be_billed=True)
        if (outer := current_cost_tracker.get()) is not None:
            outer.absorb(cost_tracker)


def _explain(error: Exception, note: str | None, attempts: Attempts | None) -> None:
    """Add to an error what it does not know of itself."""
    notes = [] if note is None else [note]
    if attempts is not None and attempts.first_error is not None:
        first = attempts.first_error
        notes.append(f"this is the fallback's error; before it: {str(first) or type(first).__name__}")
    for one in notes:
        if one not in getattr(error, "__notes__", ()):
            error.add_note(one)
