"""Running one node, an attempt at a time: to its outcome, or until it has to wait for something."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runware_flow.graph.attempts import next_pause
from runware_flow.graph.declaration import NodeKind
from runware_flow.graph.outcomes import Abandoned
from runware_flow.run.purchase import PARKED, Flight, Purchases
from runware_flow.run.timing import in_time, seconds_left
from runware_flow.run.work import call, pick

if TYPE_CHECKING:
    from runware_flow.graph.machine import FlowMachine
    from runware_flow.graph.plan import Step
    from runware_flow.graph.scope_run import ScopeRun
    from runware_flow.run.accounts import Accounts
    from runware_flow.run.admission import Admission
    from runware_flow.run.context import RunContext
    from runware_flow.run.journal.ledger import Ledger
    from runware_flow.run.news import News
    from runware_flow.run.pauses import Pauses

__all__ = ("Performer",)


class Performer:
    """Runs nodes and tells the machine how they ended, or that they wait."""

    def __init__(
        self,
        machine: FlowMachine,
        accounts: Accounts,
        news: News,
        pauses: Pauses,
        admission: Admission,
        client: Any,
        ledger: Ledger | None = None,
    ) -> None:
        self._machine = machine
        self._news = news
        self._pauses = pauses
        self._admission = admission
        self._ledger = ledger
        self._purchases = Purchases(machine, accounts, news, admission, client, ledger)

    async def perform(self, run: ScopeRun, step: Step, context: RunContext) -> None:
        """Run the next attempt of a node that was taken; afterwards it has its outcome, or is parked.

        What it was admitted with is given back before what follows from it begins, however it ended.
        """
        machine = self._machine
        flight = Flight()
        attempt = 1 + run.failed_attempts(step.slot)
        context.begin(step.spec.name, attempt)
        try:
            value = await self._attempt(run, step, attempt, flight)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is how this attempt ended
            self._purchases.end(step, flight, error)
            self._fail(run, step, attempt, error)
        except BaseException:
            self._purchases.end(step, flight, None)
            record = flight.record
            is_billed = flight.is_sent or context.has_used_client
            task_uuid = record.task_uuid if record else None
            if flight.arrived:
                machine.succeed(run, step, [*flight.arrived, Abandoned(task_uuid, is_billed)])
            else:
                machine.abandon(run, step, task_uuid, may_be_billed=is_billed)
            raise
        else:
            self._admission.give_back(flight.grant)
            if value is not PARKED:
                machine.succeed(run, step, value)
            elif (deadline := step.spec.policy.deadline) is not None:
                self._pauses.wake_by_deadline(deadline, deadline - self._news.time())

    async def _attempt(self, run: ScopeRun, step: Step, attempt: int, flight: Flight) -> Any:
        args = self._machine.arguments(run, step)
        if step.kind is NodeKind.PICK:
            return pick(step, args)
        flight.grant = self._admission.recall(run, step)
        if step.kind is NodeKind.CALL:
            return await self._call(run, step, args, attempt, flight)
        return await self._purchases.buy(run, step, args, attempt, flight)

    def _fail(self, run: ScopeRun, step: Step, attempt: int, error: Exception) -> None:
        """Let a node fail for good, or wait for another attempt without a worker."""
        machine = self._machine
        pause = None
        if machine.stopped is None and step.kind is not NodeKind.PICK:
            now, buys = self._news.time(), step.kind is not NodeKind.CALL
            pause = next_pause(error, step.spec.policy, attempt=attempt, buys=buys, now=now)
        if pause is None:
            machine.fail(run, step, error)
            return
        run.note_failed_attempt(step.slot)
        machine.park(run, step, error)
        if pause:
            self._pauses.add(run, step, pause)
        else:
            machine.unpark(run, step)

    async def _call(self, run: ScopeRun, step: Step, args: list[Any], attempt: int, flight: Flight) -> Any:
        kept = None
        if self._ledger is not None:
            kept = await self._ledger.recall_call(run.path(step), step.work, args)
            if kept.is_known:
                return kept.value
        if step.spec.policy.limit is not None and flight.grant is None:
            seconds_left(step.spec, self._news.time(), None)
            flight.grant = self._admission.ask(run, step, None)
            if flight.grant is None:
                return PARKED
        self._news.node_started(run, step, attempt)
        began = self._news.time()
        try:
            value = await in_time(step.spec, began, call, step, args)
        finally:
            run.note_times(step.slot, began, self._news.time())
        if self._ledger is not None and kept is not None:
            await self._ledger.keep_call(kept, value)
        return value
