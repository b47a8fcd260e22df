"""`Runner`: the shell around `FlowMachine`, whose workers carry out what the machine decides.

At most `concurrency` workers loop over what is ready; they are started as there is work for them and live until the
end of the run. A worker that finds nothing to do pulls an item, or parks. An async source has a task of its own,
since waiting for it must not hold a worker.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import anyio
import anyio.lowlevel

from runware_flow.cache.single_flight import ResultCache, SingleFlight, open_result_cache
from runware_flow.errors import DeclarationError, JournalError
from runware_flow.graph.limits import check_limits
from runware_flow.graph.machine import FlowMachine
from runware_flow.graph.plan import compile_plan
from runware_flow.graph.scope_run import FanRun
from runware_flow.lifetime import open_task_group
from runware_flow.runner.accounts import Accounts
from runware_flow.runner.admission import Admission, RunAdmission
from runware_flow.runner.context import RunContext, current_worker
from runware_flow.runner.event_bus import EventBus, attach, report
from runware_flow.runner.failure import flow_failed
from runware_flow.runner.node_runner import NodeRunner
from runware_flow.runner.opening import open_admission, open_client, open_journal, open_ledger
from runware_flow.runner.pauses import Pauses
from runware_flow.runner.reference import ManyReference
from runware_flow.runner.result import RunResult
from runware_flow.runner.sources import SourceIterator
from runware_flow.runner.tracing import trace_run, traced

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from anyio.abc import TaskGroup

    from runware_flow.errors import FlowFailed
    from runware_flow.graph.attempts import RetryBudget
    from runware_flow.graph.declaration import Declaration
    from runware_flow.graph.machine import Decision
    from runware_flow.graph.plan import ScopePlan, Step
    from runware_flow.graph.scope_run import ScopeRun
    from runware_flow.journal.ledger import Ledger
    from runware_flow.runner.budget import Budget, BudgetAccount
    from runware_flow.runner.event_stream import CompletionStream, EventStream
    from runware_flow.runner.progress import ProgressDisplay
    from runware_flow.runner.requester import Requester, RunClient
    from runware_flow.runner.settings import Settings
    from runware_flow.view.progress import ProgressBoard

__all__ = ("Runner", "open_run")

_NODES_A_TURN = 16
"""Nodes that a worker runs before it lets others in, should none of them wait for anything."""

STOPPED = "the run was stopped"


@asynccontextmanager
async def open_run(
    declaration: Declaration,
    client: Requester | None,
    settings: Settings,
    least: Callable[[BudgetAccount], float],
) -> AsyncGenerator[Runner]:
    """Open a run, which begins with `begin`, beside the body of the block; see `Flow.start`.

    Args:
        least: tells what the run will cost at least, in USD.
    """
    name = declaration.name
    plan = compile_plan(declaration)
    check_limits(plan, settings.limits)
    async with AsyncExitStack() as stack:
        missing: Exception | None = None
        if client is None:
            client, missing = await open_client(plan, stack)
        writer = await open_journal(settings, stack)
        admission = await open_admission(name, settings, client, writer, stack, least)
        ledger = open_ledger(writer, name)
        result_cache = await open_result_cache(settings.cache, client)
        note_end = stack.enter_context(trace_run(name))
        runner = Runner(
            declaration, plan, settings, client, admission, missing, ledger, result_cache=result_cache, attends=True
        )
        async with open_task_group() as task_group:
            try:
                runner.task_group = task_group
                yield runner
                await runner.wait_for_end()
            finally:
                note_end(runner.machine, runner.accounts)
        runner.raise_failure()


class Runner:
    """One run: its machine, its workers, and what they share."""

    def __init__(
        self,
        declaration: Declaration,
        plan: ScopePlan,
        settings: Settings,
        client: Requester | None,
        admission: Admission,
        missing: Exception | None = None,
        ledger: Ledger | None = None,
        retries: RetryBudget | None = None,
        result_cache: ResultCache | None = None,
        *,
        attends: bool = False,
    ) -> None:
        """Args: attends: the admission is this run's own, so the run attends to it."""
        self.declaration = declaration
        self.settings = settings
        self.machine = FlowMachine(plan, concurrency=settings.concurrency, on_error=settings.on_error)
        self.machine.is_recorded = ledger is not None
        self.machine.has_past = ledger is not None and ledger.has_past
        self.accounts = Accounts()
        self.result = RunResult(declaration, self.machine, self.accounts)
        self.is_finished = False
        self.origin: tuple[int, str] | None = None
        """Position and key of the item of a batch that this run is for."""
        self._claims: dict[str, str] = {}
        self.event_bus = EventBus(
            declaration.name,
            self.machine,
            self.accounts,
            admission.refused_count,
            lambda is_open: self.admit(is_open=is_open),
        )
        self.pauses = Pauses(self.machine)
        self._attends = attends
        self.admission = admission
        if attends:
            admission.event = self.pauses
        self.run_admission = RunAdmission(self.machine, self.admission, self.pauses)
        self._single_flight = None if result_cache is None else SingleFlight(self.machine, self.pauses, result_cache)
        self.node_runner = NodeRunner(
            self.machine,
            self.accounts,
            self.event_bus,
            self.pauses,
            self.run_admission,
            cast("RunClient | None", client),
            ledger,
            retries,
            self._single_flight,
        )
        self._perform = traced(self.node_runner.perform)
        self.sources = SourceIterator(self.machine, self.event_bus, self.start_source, self.carry_out)
        self._client = client
        self._missing = missing
        self._end = anyio.Event()
        self._failure: FlowFailed | None = None
        self._is_failure_raised = False
        self.task_group: TaskGroup | None = None
        """What its tasks live in."""
        self._workers: TaskGroup | None = None
        self._worker_count = 0
        self._parked: list[anyio.Event] = []
        self._resumes_parked = False
        self._gate: anyio.Event | None = None
        self._display: ProgressDisplay | None = None
        self._contests: dict[tuple[ScopeRun, Step], anyio.CancelScope] = {}

    # The life of a run

    def begin(self) -> None:
        """Start the run's tasks, which run from the next turn of the event loop on."""
        task_group = self.task_group
        assert task_group is not None
        progress = self.settings.progress
        if callable(progress):
            reader = self.event_bus.open_events()
            reader.is_own = True
            attach(progress, self.stop)
            task_group.start_soon(report, reader, progress)
        elif progress:
            display = self._show_progress(progress)
            task_group.start_soon(display.run)
        task_group.start_soon(self._supervise)

    def _show_progress(self, progress: bool | str) -> ProgressDisplay:
        from runware_flow.runner.progress import ProgressDisplay  # not needed without
        from runware_flow.view.progress import ProgressBoard, expected_counts

        board = ProgressBoard(self.declaration.name, self.settings.concurrency, expected_counts(self.declaration))
        board.budget = None if self.budget is None else self.budget.usd
        self.event_bus.count_on(board)
        self._display = ProgressDisplay(board, progress, self._look)
        return self._display

    def _look(self, board: ProgressBoard) -> None:
        board.queued = self.machine.ready_count
        board.refused = self.admission.refused_count()
        board.spend(self.accounts.lines())
        board.tick(self.event_bus.time())

    async def _supervise(self) -> None:
        self.event_bus.run_started()
        is_through = False
        try:
            async with anyio.create_task_group() as workers:
                self._workers = workers
                self._call_worker()
            is_through = True
        finally:
            self.sources.close()
            self.run_admission.close()
            if self._attends:
                self.admission.close()
            machine = self.machine
            if not machine.is_finished:
                machine.abort("the run was cancelled")
            self._release_single_flight()
            try:
                await self.node_runner.end()
            finally:
                self._finish(self._how_it_ended() if is_through else "cancelled")

    def _finish(self, end: str) -> None:
        self.is_finished = True
        self.result.finish(end, self.event_bus.time())
        self.event_bus.run_finished(end)
        if self._display is not None:
            self._display.close(end)
        self._end.set()

    def _how_it_ended(self) -> str:
        machine = self.machine
        if machine.failure is not None:
            return "failed"
        if machine.stopped is None:
            return "done"
        return "stopped" if machine.stopped.because == STOPPED else "cancelled"

    async def wait_for_end(self) -> None:
        """Wait until the run has ended, however it did."""
        with self.event_bus.waiting():
            await self._end.wait()

    async def wait(self) -> RunResult:
        """Wait until the run has ended; raise its failure."""
        await self.wait_for_end()
        self.raise_failure(again=True)
        return self.result

    def raise_failure(self, *, again: bool = False) -> None:
        """Raise `FlowFailed` if the run failed and, unless `again`, it was not raised yet."""
        failure = self.machine.failure
        if failure is None or (self._is_failure_raised and not again):
            return
        self._is_failure_raised = True
        if self._failure is None:
            self._failure = flow_failed(
                self.result,
                self.declaration,
                self.machine,
                self.accounts,
                *failure,
                has_journal=self.settings.journal is not None,
            )
        raise self._failure

    @property
    def budget(self) -> Budget | None:
        """See `Run.budget`."""
        return None if self.admission.account is None else self.admission.account.budget

    def stop(self) -> None:
        """Start nothing new."""
        self.machine.stop(STOPPED)
        self.carry_out()

    # Workers

    def _call_worker(self) -> None:
        if self._parked:
            self._parked.pop().set()
        elif self._worker_count < self.settings.concurrency and self._workers is not None:
            self._worker_count += 1
            self._workers.start_soon(self._work)

    async def _work(self) -> None:
        machine = self.machine
        context = RunContext(self.declaration.name, self._client, self._missing, self._claims, self.origin)
        current_worker.set(context)
        turn = _NODES_A_TURN
        while True:
            if self._gate is not None:
                await self._gate.wait()
                continue
            job = machine.take()
            if job is None:
                if not self._pull():
                    if machine.is_finished:
                        return
                    await self._park()
                continue
            if (self._parked or self._worker_count < self.settings.concurrency) and machine.has_work:
                self._call_worker()
            run, step = job
            await (self._contest if step.role.may_lose else self._perform)(run, step, context)
            if machine.waiting and not self._resumes_parked:
                self._start_resuming()
            if machine.has_changes:
                self.carry_out()
            turn -= 1
            if not turn:
                turn = _NODES_A_TURN
                await anyio.lowlevel.checkpoint()

    def _start_resuming(self) -> None:
        assert self._workers is not None
        self._resumes_parked = True
        self._workers.start_soon(self._resume_parked)

    async def _resume_parked(self) -> None:
        """Let parked nodes go on as their pauses end and slots come; one task for all of them."""
        while not self.machine.is_finished:
            await self.pauses.wait_due()
            if self._attends:
                self.admission.catch_up()
            self.carry_out()

    async def _contest(self, run: ScopeRun, step: Step, context: RunContext) -> None:
        """Run a node that may lose a race, and is then abandoned as in any cancel."""
        with anyio.CancelScope() as scope:
            self._contests[run, step] = scope
            try:
                await self._perform(run, step, context)
            finally:
                del self._contests[run, step]

    def _pull(self) -> bool:
        fan = self.machine.next_source()
        if fan is None:
            return False
        self.sources.pull(fan)
        machine = self.machine
        if machine.has_changes:
            self.carry_out()
        return True

    async def _park(self) -> None:
        is_last = len(self._parked) + 1 == self._worker_count
        machine = self.machine
        if is_last and not (machine.in_flight or machine.waiting or machine.is_deciding or self.sources.is_busy):
            raise RuntimeError(f"the run of flow {self.declaration.name!r} cannot go on; this is a bug in runware_flow")
        called = anyio.Event()
        self._parked.append(called)
        await called.wait()

    def _wake_all(self) -> None:
        parked, self._parked = self._parked, []
        for called in parked:
            called.set()

    def start_source(self, function: Any, *args: Any) -> None:
        """Start the task of an async source."""
        assert self._workers is not None
        self._workers.start_soon(function, *args)

    def carry_out(self) -> None:
        """Carry out what follows from what just happened, other than running nodes."""
        machine = self.machine
        if machine.settled:
            self.event_bus.publish()
        while machine.dropped:
            self._drop(machine.dropped.pop())
        while machine.decisions and self._workers is not None:
            self._workers.start_soon(self._write_choice, machine.decisions.pop(0))
        while machine.inquiries and self._workers is not None:
            self._workers.start_soon(self._look_up_choice, *machine.inquiries.pop())
        if machine.stopped is not None:
            self.pauses.clear()
            self.run_admission.close()
            self._release_single_flight()
            self.sources.cancel()
            if machine.failure is not None and machine.on_error == "cancel" and self._workers is not None:
                self._workers.cancel_scope.cancel()
        if machine.is_finished:
            self.pauses.set()
            self.admit(is_open=True)
            self._wake_all()
        elif machine.has_work:
            self._call_worker()

    async def _look_up_choice(self, run: ScopeRun, step: Step) -> None:
        choices = self.node_runner.choices
        assert choices is not None  # without a journal, nothing is looked up
        try:
            await choices.look_up_choice(run, step)
        except JournalError as error:
            self.machine.reject(run, step, error)
        self.carry_out()

    async def _write_choice(self, decision: Decision) -> None:
        choices = self.node_runner.choices
        assert choices is not None  # without a journal, a choice is made at once
        try:
            await choices.write_choice(decision)
        except JournalError as error:
            self.machine.reject(decision.run, decision.step, error)
        else:
            self.machine.confirm(decision)
        self.carry_out()

    def _drop(self, what: tuple[ScopeRun, Step] | FanRun) -> None:
        if isinstance(what, FanRun):
            self.sources.drop(what)
        elif what in self._contests:
            self._contests[what].cancel()
        else:
            self.run_admission.forget(*what)
            if self._single_flight is not None:
                self._single_flight.leave(*what)

    def _release_single_flight(self) -> None:
        if self._single_flight is not None:
            self._single_flight.close()

    # Readers

    def open_events(self) -> EventStream:
        """See `Run.events`."""
        return self.event_bus.open_events()

    def open_completions(self, many: ManyReference[Any]) -> CompletionStream[Any]:
        """See `Run.as_completed`."""
        given: Any = many
        if not isinstance(given, ManyReference):
            raise DeclarationError(
                f"as_completed takes a Many, not {given!r}: for one node read run.result[node] after `await run.wait()`"
            )
        return self.event_bus.open_completions(many, lambda: self.result.fan_of(many))

    def admit(self, *, is_open: bool) -> None:
        """Open or close the gate in front of new nodes."""
        if is_open and self._gate is not None:
            self._gate.set()
            self._gate = None
            if self._attends:
                self.admission.go_on()
        elif not is_open and self._gate is None:
            self._gate = anyio.Event()
            if self._attends:
                self.admission.hold()
