"""Running one node: its function is called, or its task built, prepared and sent, as often as its policy allows."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import anyio
import anyio.lowlevel
import msgspec

from runware_flow.errors import DeclarationError, RunwareError, RunwareFlowError, RunwareTimeoutError
from runware_flow.graph.declaration import NodeKind
from runware_flow.graph.fingerprint import fingerprint
from runware_flow.graph.outcomes import Abandoned, Failed, Ok
from runware_flow.graph.policies import is_verdict, may_try_again, never_left
from runware_flow.run.cancels import own_cancels
from runware_flow.run.declare import is_node
from runware_flow.run.journal.values import decode_error, decode_item
from runware_flow.run.media import media_digests
from runware_flow.run.result import NodeRecord
from runware_flow.types import UNSET, Task

if TYPE_CHECKING:
    from runware_flow.graph.declaration import NodeSpec
    from runware_flow.graph.machine import FlowMachine
    from runware_flow.graph.plan import Step
    from runware_flow.graph.scope_run import ScopeRun
    from runware_flow.run.accounts import Accounts
    from runware_flow.run.context import RunContext
    from runware_flow.run.journal.ledger import Ledger
    from runware_flow.run.journal.store import Entry
    from runware_flow.run.news import News

__all__ = ("Performer",)

_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 8.0


class _InFlight:
    """What is known of a node while it runs, for the case that it is cancelled."""

    __slots__ = ("arrived", "is_sent", "record", "was_sent_before")

    def __init__(self) -> None:
        self.was_sent_before = False
        self.arrived: list[Any] = []
        """Results that are there while others of the same task are not."""
        self.record: NodeRecord | None = None
        self.is_sent = False


class Performer:
    """Runs nodes and tells the machine how they ended."""

    def __init__(
        self, machine: FlowMachine, accounts: Accounts, news: News, client: Any, ledger: Ledger | None = None
    ) -> None:
        self._machine = machine
        self._accounts = accounts
        self._news = news
        self._client = client
        self._ledger = ledger
        self.stopped = anyio.Event()
        """Set once the run starts nothing new, for those that wait to try again."""

    async def perform(self, run: ScopeRun, step: Step, context: RunContext) -> None:
        """Run a node to its outcome, all attempts included."""
        machine = self._machine
        flight = _InFlight()
        context.has_used_client = False
        try:
            args = machine.arguments(run, step)
            if step.kind is NodeKind.PICK:
                value = _pick(step, args)
            elif step.kind is NodeKind.CALL:
                value = await self._attempts(run, step, args, context, flight, self._call)
            else:
                value = await self._attempts(run, step, args, context, flight, self._send)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is how this node ended
            self._book(run, step, flight, error)
            machine.fail(run, step, error)
        except BaseException:
            self._book(run, step, flight, None)
            record = flight.record
            is_billed = flight.is_sent or context.has_used_client
            task_uuid = record.task_uuid if record else None
            if flight.arrived:
                machine.succeed(run, step, [*flight.arrived, Abandoned(task_uuid, is_billed)])
            else:
                machine.abandon(run, step, task_uuid, may_be_billed=is_billed)
            raise
        else:
            machine.succeed(run, step, value)

    async def _attempts(
        self, run: ScopeRun, step: Step, args: list[Any], context: RunContext, flight: _InFlight, once: Any
    ) -> Any:
        policy = step.spec.policy
        context.label = step.spec.name
        attempt = 1
        while True:
            context.attempt = attempt
            try:
                return await once(run, step, args, attempt, flight)
            except Exception as error:
                is_last = attempt >= policy.retry or self._machine.stopped is not None
                if is_last or not may_try_again(error, buys=step.kind is not NodeKind.CALL):
                    raise
                self._book(run, step, flight, error)
                failure = error
            if not await self._pause(_pause_seconds(failure, attempt), policy.deadline):
                raise failure
            attempt += 1

    async def _pause(self, seconds: float, deadline: float | None) -> bool:
        """Wait before another attempt; tell whether there may be one, which a stop or the deadline rules out."""
        if deadline is not None and self._news.time() + seconds >= deadline:
            return False
        if seconds:
            with anyio.move_on_after(seconds):
                await self.stopped.wait()
        return self._machine.stopped is None

    async def _call(self, run: ScopeRun, step: Step, args: list[Any], attempt: int, flight: _InFlight) -> Any:
        call = None
        if self._ledger is not None:
            call = await self._ledger.recall_call(run.path(step), step.work, args)
            if call.is_known:
                return call.value
        self._news.node_started(run, step, attempt)
        value = await self._in_time(step, None, _call, step, args)
        if isinstance(value, Task) or is_node(value):
            raise _wrong_value(value, step.spec)
        if self._ledger is not None and call is not None:
            await self._ledger.keep_call(call, value)
        return value

    async def _send(self, run: ScopeRun, step: Step, args: list[Any], attempt: int, flight: _InFlight) -> Any:
        spec = step.spec
        task = spec.work if step.kind is NodeKind.TASK else _build(spec, args)
        if attempt > 1:
            task = _without_uuid(task)
        request = self._client.prepare(task, include_cost=True)
        if request.slots > 1 and not spec.keeps_all:
            raise DeclarationError(
                f"{spec.describe()}, asks for {request.slots} results, but a node has one: use flow.each for a task of"
                " several results, or node.map for several tasks"
            )
        flight.record = record = self._record(run, step, request, attempt)
        entry = None
        if self._ledger is not None:
            entry = await self._begin(self._ledger, record, request, flight)
            if entry.advice.action == "restore":
                return self._restore(spec, record, request, entry)
            if entry.task_uuid != request.task_id:
                request = self._client.prepare(_without_uuid(task), include_cost=True, task_uuid=entry.task_uuid)
        self._limit(step, request.task_id)
        self._news.node_started(run, step, attempt, record)
        flight.is_sent = True
        results = await self._results(run, step, request, flight, entry)
        return self._value(spec, request, results)

    async def _begin(self, ledger: Ledger, record: NodeRecord, request: Any, flight: _InFlight) -> Entry:
        entry = await ledger.begin(record.path, record.fingerprint, request)
        record.attempts = entry.advice.attempt
        record.task_uuid = entry.task_uuid or record.task_uuid
        flight.is_sent = flight.was_sent_before = entry.advice.action == "collect"
        if entry.advice.action != "restore":
            await anyio.lowlevel.checkpoint_if_cancelled()
        return entry

    def _restore(self, spec: NodeSpec, record: NodeRecord, request: Any, entry: Entry) -> Any:
        """Give a node the outcome that an earlier run wrote down."""
        results: list[Any] = [decode_item(item, request.result_type) for item in entry.items]
        if entry.error is not None:
            error = decode_error(entry.error)
            error.results = list(results)
            results.append(Failed(error))
        record.cost, record.settled, record.is_restored = entry.cost, self._news.time(), True
        self._accounts.add(spec.path, record.task_type, record.model, record.cost, may_be_billed=True)
        return self._value(spec, request, results)

    async def _results(
        self, run: ScopeRun, step: Step, request: Any, flight: _InFlight, entry: Entry | None
    ) -> list[Any]:
        """Wait for all results of a request that is sent or asked for; its outcome is in the journal, then booked."""
        is_old = entry is not None and entry.advice.action == "collect"
        try:
            results: list[Any] = await self._in_time(
                step, request.task_id, self._collect if is_old else self._perform, run, step, request, flight
            )
        except RunwareError as error:
            error.results = error.results or flight.arrived
            if entry is not None and self._ledger is not None:
                await self._ledger.fail(entry, error)
            if not error.results:
                raise
            self._book(run, step, flight, error, results=error.results)
            if not step.spec.keeps_all:
                raise
            return [*error.results, Failed(error)]
        if entry is not None and self._ledger is not None and results:
            await self._ledger.settle(entry, results)
        self._book(run, step, flight, None, results=results)
        return results

    def _value(self, spec: NodeSpec, request: Any, results: list[Any]) -> Any:
        if spec.keeps_all:
            return results
        if not results:
            raise RunwareFlowError(f"{spec.describe()}, got no result from the service (task {request.task_id})")
        return results[0]

    async def _collect(self, run: ScopeRun, step: Step, request: Any, flight: _InFlight) -> list[Any]:
        """Ask for what an earlier run may have sent; send it, under its taskUUID, only if the service has no trace."""
        if request.wire.get("deliveryMethod") == "async":
            try:
                return await self._perform(run, step, request, flight, sent_before="yes")
            except RunwareError as error:
                if is_verdict(error) or isinstance(error, RunwareTimeoutError) or error.results:
                    raise
        return await self._perform(run, step, request, flight, sent_before="maybe")

    async def _perform(self, run: ScopeRun, step: Step, request: Any, flight: _InFlight, **more: Any) -> list[Any]:
        if step.spec.policy.timeout is not None:
            more["timeout"] = step.spec.policy.timeout
        if step.spec.keeps_all:

            def on_result(outcome: Ok[Any] | Failed) -> None:
                if isinstance(outcome, Ok):
                    flight.arrived.append(outcome.value)

            more["on_result"] = on_result
        if not self._machine.watch:
            silent: list[Any] = await self._client.perform(request, **more)
            return silent

        def on_progress(progress: Any) -> None:
            share = getattr(progress, "progress", progress)
            if isinstance(share, (int, float)):
                self._news.node_progress(run, step, float(share))

        results: list[Any] = await self._client.perform(request, on_progress=on_progress, **more)
        return results

    async def _in_time(self, step: Step, task_uuid: str | None, function: Any, *args: Any) -> Any:
        if not step.spec.policy.is_timed:
            return await function(*args)
        limit, late = self._limit(step, task_uuid)
        with anyio.move_on_after(limit):
            return await function(*args)
        raise late

    def _limit(self, step: Step, task_uuid: str | None) -> tuple[float | None, RunwareTimeoutError]:
        """Return how long an attempt may take from now, and what it has done if that is over.

        Raises:
            RunwareTimeoutError: it is over already.
        """
        policy = step.spec.policy
        limit, words = policy.timeout, f"took longer than its timeout of {policy.timeout} s"
        if policy.deadline is not None:
            left = policy.deadline - self._news.time()
            if limit is None or left < limit:
                limit, words = left, f"passed its deadline, {policy.deadline} s after the start of the run"
        late = RunwareTimeoutError(f"{step.spec.describe()}, {words}", code="timeout", task_uuid=task_uuid)
        if limit is not None and limit <= 0:
            raise late
        return limit, late

    def _record(self, run: ScopeRun, step: Step, request: Any, attempt: int) -> NodeRecord:
        record = NodeRecord(
            path=run.path(step),
            fingerprint=fingerprint(request.wire, media_digests(request)),
            task_uuid=request.task_id,
            task_type=request.task_type,
            model=request.model,
            attempts=attempt,
            started=self._news.time(),
        )
        if run.records is None:
            run.records = {}
        run.records[step.slot] = record
        return record

    def _book(
        self,
        run: ScopeRun,
        step: Step,
        flight: _InFlight,
        error: Exception | None,
        results: list[Any] | None = None,
    ) -> None:
        """Count a request that has come to its end, once."""
        record = flight.record
        if record is None or not flight.is_sent:
            return
        flight.is_sent = error is None and results is None  # after a cancel, the caller still asks
        record.settled = self._news.time()
        costs = [getattr(result, "cost", None) for result in results or ()]
        known = [cost for cost in costs if cost is not None]
        # What the service itself says has failed is free; what we only stopped waiting for may not be.
        is_judged = isinstance(error, RunwareError) and is_verdict(error)
        if costs and len(known) == len(costs) and (error is None or is_judged):
            record.cost = sum(round(cost * 1_000_000) for cost in known) / 1_000_000
        has_left = flight.was_sent_before or error is None or not never_left(error)
        is_free = not results and (is_judged or not has_left)
        self._accounts.add(step.spec.path, record.task_type, record.model, record.cost, may_be_billed=not is_free)


def _pause_seconds(error: Exception, attempt: int) -> float:
    if not isinstance(error, RunwareError):
        return 0.0
    if error.retry_after is not None:
        return error.retry_after
    return min(_PAUSE_SECONDS * 2.0 ** (attempt - 1), _LONGEST_PAUSE_SECONDS)


async def _call(step: Step, args: list[Any]) -> Any:
    with own_cancels(step.spec):
        return await step.work(*args)


def _pick(step: Step, args: list[Any]) -> Any:
    try:
        value = step.work(*args)
    except Exception as error:
        _note(error, f"in the function of {step.spec.describe()}")
        raise
    if inspect.iscoroutine(value):
        value.close()
        raise DeclarationError(f"{step.spec.describe()}, got a coroutine from its function: use then with an async def")
    return value


def _build(spec: NodeSpec, args: list[Any]) -> Any:
    try:
        task = spec.work(*args)
    except Exception as error:
        _note(error, f"in the builder of {spec.describe()}")
        raise
    if isinstance(task, (Task, Mapping)):
        return cast("Any", task)
    raise _wrong_task(task, spec)


def _wrong_task(task: Any, spec: NodeSpec) -> DeclarationError:
    name = type(task).__name__
    if inspect.iscoroutine(task):
        task.close()  # or Python would warn that nobody awaited it
        what = "a coroutine: give the async function itself to then, or return a task"
    elif task is None:
        what = "None: is a `return` missing?"
    elif is_node(task):
        what = f"{task!r}: a builder makes a task out of results; use pipe or join to declare nodes"
    elif name in ("list", "tuple"):
        what = f"a {name}: return one task; for several, use node.map with a builder for each"
    else:
        what = f"{name}: return a task or a dict with wire names; for a plain value, use pick"
    return DeclarationError(f"the builder of {spec.describe()}, returned {what}")


def _wrong_value(value: Any, spec: NodeSpec) -> DeclarationError:
    if is_node(value):
        return DeclarationError(
            f"the function of {spec.describe()}, returned {value!r}: nodes are declared before the run"
        )
    return DeclarationError(
        f"the function of {spec.describe()}, is async but returned a task, which nobody sends: make it a plain `def`,"
        " or await the task in it with `current_run().client.run(task)`"
    )


def _note(error: Exception, note: str) -> None:
    if note not in getattr(error, "__notes__", ()):
        error.add_note(note)


def _without_uuid(task: Any) -> Any:
    # An id that the user chose named the first attempt; the service knows it as failed.
    if isinstance(task, Mapping):
        named = cast("Mapping[str, Any]", task)
        return {name: value for name, value in named.items() if name != "taskUUID"}
    return msgspec.structs.replace(task, task_uuid=UNSET)
