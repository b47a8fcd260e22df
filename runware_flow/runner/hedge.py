"""Asking twice for one node: a second request if the first takes long, and the first of the two to succeed wins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio

from runware_flow.client.refusal import TaskRefused
from runware_flow.errors import RunwareError
from runware_flow.graph.policies import is_verdict
from runware_flow.lifetime import open_task_group
from runware_flow.runner.attempt_state import AttemptState, SentRequest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

    from runware_flow.graph.plan import Step
    from runware_flow.graph.scope_run import ScopeRun
    from runware_flow.runner.request_runner import RequestRunner

__all__ = ("Hedge", "first_of", "send_hedged")


async def send_hedged(
    request_runner: RequestRunner, run: ScopeRun, step: Step, task: Any, attempt: int, sent: SentRequest
) -> list[Any]:
    """Send a request of a node, and a second one beside it once the first has taken `hedge_after` seconds."""
    assert step.spec.policy.hedge_after is not None
    return await Hedge(request_runner, run, step, task, attempt).ask(sent, step.spec.policy.hedge_after)


class Hedge:
    """One attempt of a node that may ask twice; each request has its own place, grant, entry and booking."""

    def __init__(self, request_runner: RequestRunner, run: ScopeRun, step: Step, task: Any, attempt: int) -> None:
        """Args: task: what a second request is made of; an id of the user's names the first one only."""
        self._request_runner = request_runner
        self._run = run
        self._step = step
        self._task = task
        self._attempt = attempt
        self._machine = request_runner.machine
        self._run_admission = request_runner.run_admission

    async def ask(self, first: SentRequest, seconds: float) -> list[Any]:
        """Send a second request if the first takes long; the first of the two to succeed wins."""
        run, slot = self._run, self._step.slot

        async def ask(sent: SentRequest) -> list[Any]:
            try:
                results = await self._request_runner.ask(run, self._step, sent)
            except TaskRefused as refused:
                sent.state.is_sent = False
                if sent is not first:  # it is not worth waiting for; the first is sent again
                    await self._request_runner.fail_entry(sent, refused.error)
                raise
            first.state.paid = results or None  # the flight that is asked after a cancel
            if sent.state.record is not None:
                run.note_record(slot, sent.state.record)
            return results

        def give_up(sent: SentRequest) -> None:
            self._request_runner.end(self._step, sent.state, sent.error)
            if sent is not first:
                self._machine.give_place_back()

        winner, others = await first_of(first, seconds, self._second, ask, give_up)
        entries = [sent.entry for sent in others if sent.entry is not None]
        if entries and self._request_runner.ledger is not None:  # which of the two answered, before the node settles
            await self._request_runner.ledger.abandon(*entries, is_hedge=True)
        record = winner.state.record
        assert record is not None
        record.given_up = tuple(sent.request.task_id for sent in others)
        run.note_record(slot, record)
        if winner is not first:
            self._run_admission.give_back(winner.state.permit)
            self._machine.give_place_back()
        assert winner.results is not None
        return winner.results

    async def _second(self) -> SentRequest | None:
        """Make the second request, up to where it is sent; `None` if there is no place or no grant for it now."""
        if not self._machine.take_place():
            return None
        run, step, request_runner = self._run, self._step, self._request_runner
        state = AttemptState()
        try:
            request = request_runner.prepare(step.spec, self._task)
            state.permit = self._run_admission.ask_beside(run, step, request)
            if state.permit is None:
                self._machine.give_place_back()
                return None
            record = request_runner.record(run, step, request, self._attempt)
            entry = None
            if request_runner.ledger is not None:
                ledger = request_runner.ledger
                key = ledger.key(run.item(), record.path, record.fingerprint)
                entry = await ledger.begin(key, request, is_hedge=True)
                if entry.advice.action == "restore":  # the first one's answer has come meanwhile
                    self._run_admission.give_back(state.permit)
                    self._machine.give_place_back()
                    return None
                request = request_runner.as_written(self._task, request, entry)
                record.task_uuid = request.task_id
        except BaseException:
            self._run_admission.give_back(state.permit)
            self._machine.give_place_back()
            raise
        state.record = record
        request_runner.event_bus.node_started(run, step, self._attempt, record)
        state.is_sent = True
        return SentRequest(request, state, entry, self._task)


async def first_of(
    first: SentRequest,
    seconds: float,
    second: Callable[[], Awaitable[SentRequest | None]],
    ask: Callable[[SentRequest], Awaitable[list[Any]]],
    give_up: Callable[[SentRequest], None],
) -> tuple[SentRequest, list[SentRequest]]:
    """Ask for `first`, and if it has not ended after so many seconds, for a second one too; the other is withdrawn.

    Args:
        first: the request to begin with.
        seconds: how long it has before the second one is made, and between two tries to make it.
        second: makes the second request; `None` if it may not be sent now.
        ask: sends a request and waits for its results.
        give_up: is told of each request but the winner, once, when it has failed or was withdrawn; of the second one
            also when all of it is cancelled.

    Returns:
        The first to succeed, and the others.

    Raises:
        TaskRefused: the service has refused to take the first one, and no second one succeeded.
        Exception: both failed. An error after which a request may still stand comes before a verdict of the service.
    """
    bids = [first]
    sender, receiver = anyio.create_memory_object_stream[SentRequest](2)
    won: list[SentRequest] = []
    ended_count = 0
    try:
        with sender, receiver:
            async with open_task_group() as group:
                group.start_soon(_ask, first, ask, sender)
                while not won and ended_count < len(bids):
                    ended = await _next(receiver, seconds if len(bids) == 1 else None)
                    if ended is not None:
                        ended_count += 1
                        won += [ended] if ended.results is not None else []
                    elif (made := await second()) is not None:
                        bids.append(made)
                        group.start_soon(_ask, made, ask, sender)
                group.cancel_scope.cancel()
    finally:
        others = [sent for sent in bids if sent not in won] if won else bids[1:]
        for sent in others:
            give_up(sent)
    if not won:
        raise _error_of(bids)
    return won[0], others


async def _next(receiver: MemoryObjectReceiveStream[SentRequest], seconds: float | None) -> SentRequest | None:
    with anyio.move_on_after(seconds):
        return await receiver.receive()
    return None


async def _ask(
    sent: SentRequest, ask: Callable[[SentRequest], Awaitable[list[Any]]], sender: MemoryObjectSendStream[SentRequest]
) -> None:
    try:
        sent.results = await ask(sent)
    except Exception as error:  # noqa: BLE001 - raised by `first_of`, unless the other one succeeds
        sent.error = error
    sender.send_nowait(sent)


def _error_of(bids: list[SentRequest]) -> Exception:
    refused = isinstance(bids[0].error, TaskRefused)
    errors = [sent.error for sent in bids if sent.error is not None and isinstance(sent.error, TaskRefused) == refused]
    open_ended = [error for error in errors if not (isinstance(error, RunwareError) and is_verdict(error))]
    return (open_ended or errors)[0]
