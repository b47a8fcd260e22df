"""`hedge_after=`: sends a second request for a node if the first takes long; the first to succeed wins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio

from runware_flow.client.refusal import TaskRefused
from runware_flow.errors import RunwareError
from runware_flow.graph.policies import is_verdict
from runware_flow.lifetime import open_task_group
from runware_flow.runner.attempt_state import AttemptState
from runware_flow.runner.request_runner import without_uuid

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

    from runware_flow.runner.request_runner import RequestRunner

__all__ = ("Hedge", "first_of", "send_hedged")


async def send_hedged(request_runner: RequestRunner, attempt: AttemptState) -> list[Any]:
    """Send a request of a node, and a second one once the first has taken `hedge_after` seconds.

    If an earlier run has left both open, both are collected: the first of them to have a result is the answer.
    """
    return await Hedge(request_runner, attempt).run()


class Hedge:
    """One attempt of a node that may send two requests; each has its own permit, entry and booking."""

    def __init__(self, request_runner: RequestRunner, first: AttemptState) -> None:
        self._request_runner = request_runner
        self._first = first
        self._machine = request_runner.machine
        self._run_admission = request_runner.run_admission
        self._has_place = False
        """The second request has a place among `concurrency`."""

    async def run(self) -> list[Any]:
        """Send a second request if the first takes long; the first of the two to succeed wins."""
        first, request_runner = self._first, self._request_runner
        run, slot = first.run, first.step.slot
        seconds = first.step.spec.policy.hedge_after

        async def perform(attempt: AttemptState) -> list[Any]:
            try:
                results = await request_runner.perform(attempt)
            except TaskRefused as refused:
                attempt.note_refused(may_have_arrived=refused.may_have_arrived)
                if attempt is not first and not attempt.was_sent_before:  # the first is sent again
                    await request_runner.fail_entry(attempt, refused.error)
                raise
            first.paid = results or None  # a cancel looks at the first
            if attempt.record is not None:
                run.note_record(slot, attempt.record)
            return results

        def give_up(attempt: AttemptState) -> None:
            request_runner.end(attempt, attempt.error)
            if attempt is not first:
                self._end_second()

        attempts = [first]
        if first.is_hedged and (second := await self._second()) is not None:
            attempts.append(second)
        winner, others = await first_of(attempts, seconds, self._second, perform, give_up)
        entries = [attempt.entry for attempt in others if attempt.entry is not None]
        if entries and request_runner.ledger is not None:  # which of the two answered, before the node settles
            await request_runner.ledger.abandon(*entries, is_hedge=True)
        record = winner.record
        assert record is not None
        record.given_up = tuple(attempt.request.task_id for attempt in others)
        run.note_record(slot, record)
        if winner is not first:
            self._run_admission.give_back(winner.permit)
            self._end_second()
        assert winner.results is not None
        return winner.results

    async def _second(self) -> AttemptState | None:
        """Make the second request, up to where it is sent; `None` if there is no place or no permit for it now."""
        request_runner, first = self._request_runner, self._first
        # A request of an earlier run is collected, whatever room there is.
        self._has_place = not first.is_hedged and self._machine.begin_hedge()
        if not self._has_place and not first.is_hedged:
            return None
        run, step = first.run, first.step
        second = AttemptState(run, step, first.number)
        second.task = without_uuid(first.task)  # an id of the user's names the first request only
        try:
            second.request = request_runner.prepare(step.spec, second.task)
            if not first.is_hedged:
                second.permit = self._run_admission.admit_hedge(run, step, second.request)
                if second.permit is None:
                    self._end_second()
                    return None
            record = request_runner.record(second)
            if first.record is not None:  # which an earlier version may have written down
                record.fingerprint = first.record.fingerprint
            if request_runner.ledger is not None:
                ledger = request_runner.ledger
                key = ledger.key(run.item(), record.path, record.fingerprint)
                entry = await ledger.begin(key, second.request, is_hedge=True)
                if entry.advice.action == "restore":  # the first one's answer has come meanwhile
                    self._run_admission.give_back(second.permit)
                    self._end_second()
                    return None
                second.entry = entry
                second.was_sent_before = entry.advice.action == "collect"
                second.request = request_runner.as_written(second.task, second.request, entry)
                record.task_uuid = second.request.task_id
        except BaseException:
            self._run_admission.give_back(second.permit)
            self._end_second()
            raise
        second.record = record
        request_runner.event_bus.node_started(run, step, first.number, record)
        second.is_sent = second.is_with_client = True
        return second

    def _end_second(self) -> None:
        if self._has_place:
            self._has_place = False
            self._machine.end_hedge()


async def first_of(
    attempts: list[AttemptState],
    seconds: float | None,
    second: Callable[[], Awaitable[AttemptState | None]],
    perform: Callable[[AttemptState], Awaitable[list[Any]]],
    give_up: Callable[[AttemptState], None],
) -> tuple[AttemptState, list[AttemptState]]:
    """Ask for one request, and if it has not ended after so many seconds, for a second one too; the other is withdrawn.

    Args:
        attempts: the request to begin with, or both.
        seconds: how long it has before the second one is made, and between two tries to make it.
        second: makes the second request; `None` if it may not be sent now.
        perform: sends a request and waits for its results.
        give_up: called with each request but the winner, once, when it has failed or was withdrawn; of the second one
            also when all of it is cancelled.

    Returns:
        The first to succeed, and the others.

    Raises:
        TaskRefused: the service has refused to take the first one, and no second one succeeded.
        Exception: both failed. An error after which a request may still stand comes before a verdict of the service.
    """
    sender, receiver = anyio.create_memory_object_stream[AttemptState](2)
    won: list[AttemptState] = []
    ended_count = 0
    try:
        with sender, receiver:
            async with open_task_group() as group:
                for attempt in attempts:
                    group.start_soon(_perform, attempt, perform, sender)
                while not won and ended_count < len(attempts):
                    ended = await _next(receiver, seconds if len(attempts) == 1 else None)
                    if ended is not None:
                        ended_count += 1
                        won += [ended] if ended.results is not None else []
                    elif (made := await second()) is not None:
                        attempts.append(made)
                        group.start_soon(_perform, made, perform, sender)
                group.cancel_scope.cancel()
    finally:
        others = [sent for sent in attempts if sent not in won] if won else attempts[1:]
        for sent in others:
            give_up(sent)
    if not won:
        raise _error_of(attempts)
    return won[0], others


async def _next(receiver: MemoryObjectReceiveStream[AttemptState], seconds: float | None) -> AttemptState | None:
    with anyio.move_on_after(seconds):
        return await receiver.receive()
    return None


async def _perform(
    attempt: AttemptState,
    perform: Callable[[AttemptState], Awaitable[list[Any]]],
    sender: MemoryObjectSendStream[AttemptState],
) -> None:
    try:
        attempt.results = await perform(attempt)
    except Exception as error:  # noqa: BLE001 - raised by `first_of`, unless the other one succeeds
        attempt.error = error
    sender.send_nowait(attempt)


def _error_of(attempts: list[AttemptState]) -> Exception:
    refused = isinstance(attempts[0].error, TaskRefused)
    errors = [
        sent.error for sent in attempts if sent.error is not None and isinstance(sent.error, TaskRefused) == refused
    ]
    open_ended = [error for error in errors if not (isinstance(error, RunwareError) and is_verdict(error))]
    return (open_ended or errors)[0]
