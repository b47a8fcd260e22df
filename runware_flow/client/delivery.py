"""`Delivery`: the results of a submitted task as they arrive, its progress, and its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

import anyio
import msgspec

from runware_flow.client.refusal import TaskRefused
from runware_flow.errors import RunwareError, RunwareTimeoutError
from runware_flow.graph.outcomes import Failed, Ok
from runware_flow.graph.policies import is_verdict, never_left
from runware_flow.graph.prices import total_micro_usd
from runware_flow.tracebacks import bordered, unbordered
from runware_flow.types import Result
from runware_flow.wire.results import decode_result

if TYPE_CHECKING:
    from collections.abc import Callable

    from runware_flow.client.request import Prepared
    from runware_flow.lifetime import Event
    from runware_flow.session import commands

__all__ = ("Delivery", "Progress")

R = TypeVar("R", bound=Result)

_REMEMBERED_STAGES = 8
"""Reports of different statuses that wait for their reader; an upload of a model has five."""


class Progress(msgspec.Struct, frozen=True):
    """How far a task is. The service reports it for a few long tasks, mostly training and uploads of models."""

    task_uuid: str
    task_type: str
    progress: float | None
    """0 to 100, if the service sent a number."""
    status: str | None = None
    """The service's word for where the task is: `processing`, `validated`, ..."""


@bordered
class Delivery(Generic[R]):
    """A submitted task, as an async iterator over its results in the order in which they become ready.

    Iteration ends when the task has settled. If the task or one of its results failed, the `RunwareError` is raised
    after the finished results, which are also in its `.results`. A delivery is an object with `__anext__`, not an async
    generator, so any task may read it and stop at any time; a cancelled read loses nothing. A second reader at the same
    time gets `anyio.BusyResourceError`.
    """

    @unbordered
    def __init__(
        self,
        request: Prepared,
        *,
        timeout: float,
        document: Callable[[RunwareError], RunwareError] = lambda error: error,
        parks: bool = False,
        new_event: Callable[[], Event] = anyio.Event,
    ) -> None:
        """Prepare for what a request brings.

        Args:
            request: what was asked.
            timeout: seconds from the submission to the end of waiting, for the error; who submits it calls `expire`.
            document: gives an error the link to the documentation that it lacks.
            parks: a refusal of the service ends the waiting with `TaskRefused`, instead of being waited out.
            new_event: makes the events that a reader waits for.
        """
        self.request = request
        self._timeout = timeout
        self._document = document
        self._parks = parks
        self._new_event = new_event
        self._positions: list[int] = []
        self._outcomes: list[Ok[R] | Failed] = []
        self._seen = 0
        self._progress: dict[str | None, Progress] = {}
        self._is_settled = False
        self._is_late = False
        self._waits_until_settled = False
        self._error: BaseException | None = None
        self._failure: RunwareError | None = None
        """The first failure of a result."""
        self._parked: TaskRefused | None = None
        self._refusal: RunwareError | None = None
        self._changed: Event | None = None

    @property
    def task_uuid(self) -> str:
        """The task's id at the service."""
        return self.request.task_id

    @property
    def is_settled(self) -> bool:
        """Whether nothing more will come."""
        return self._is_settled

    @property
    def is_late(self) -> bool:
        """Whether its time was over before it settled."""
        return self._is_late

    @property
    def results(self) -> list[R]:
        """What is finished so far, in the server's order."""
        return self._results()

    def _results(self) -> list[R]:
        outcomes = self._outcomes
        if len(outcomes) > 1:
            numbered = zip(self._positions, outcomes, strict=True)
            outcomes = [outcome for _, outcome in sorted(numbered, key=lambda pair: pair[0])]
        return [outcome.value for outcome in outcomes if isinstance(outcome, Ok)]

    @property
    def micro_usd(self) -> int | None:
        """What it cost, in whole micro-USD; `None` if that is not known, or not yet."""
        if self._parked is not None:
            return None if self._parked.may_have_arrived else 0  # it was refused, and is sent again later
        error, results = self._error, self.results
        is_judged = error is None or (isinstance(error, RunwareError) and (is_verdict(error) or never_left(error)))
        if not self._is_settled or not is_judged:
            return None
        if not results:
            return None if error is None and not self._outcomes else 0  # what the service says has failed is free
        return total_micro_usd([getattr(result, "cost", None) for result in results])

    def __aiter__(self) -> Delivery[R]:
        return self

    async def __anext__(self) -> R:
        while True:
            event = await self.next_event()
            if isinstance(event, Ok):
                return event.value
            if event is None:
                self._raise_failure()
                raise StopAsyncIteration

    async def next_event(self) -> Ok[R] | Failed | Progress | None:
        """Wait for the next outcome of a result, or the latest progress; `None` once settled and all were given.

        A cancel loses nothing: the next call returns what this one would have.

        Raises:
            RunwareTimeoutError: the deadline passed first. The task may still finish, and be billed.
        """
        while True:
            if self._seen < len(self._outcomes):
                self._seen += 1
                return self._outcomes[self._seen - 1]
            if self._progress:
                return self._progress.pop(next(iter(self._progress)))
            if self._is_settled:
                return None
            await self._wait_changed(until_settled=False)

    async def wait_results(self) -> list[R]:
        """Wait until nothing more will come, and return the results in the server's order.

        A cancel ends the waiting only: what has come stays in `results`.

        Raises:
            RunwareError: the task or one of its results failed; `.results` holds the finished ones.
            RunwareTimeoutError: the deadline passed first.
        """
        return await self.wait_settled()

    @unbordered
    async def wait_settled(self) -> list[R]:
        """Do what `wait_results` does, for methods of the client, which are borders. A cancel ends the wait alone."""
        while not self._is_settled:
            await self._wait_changed(until_settled=True)
        self._raise_failure()
        return self._results()

    def _raise_failure(self) -> None:
        """Raise the error that this task ended with, if it did."""
        for error in (self._parked, self._error, self._failure):
            if error is not None:
                if isinstance(error, RunwareError):
                    error.results = self.results
                raise error

    # What the session driver calls. Synchronous: no await lies between an event and its effect.

    @unbordered
    def take(self, delivered: commands.Deliver) -> None:
        """A result, or the failure of one, has arrived."""
        if delivered.item is not None:
            result: Any = decode_result(delivered.item, self.request.result_type)
            self._outcomes.append(Ok(result))
        elif delivered.error is not None:
            failure = self._document(delivered.error)
            if self._failure is None:
                self._failure = failure
            self._outcomes.append(Failed(failure))
        self._positions.append(delivered.position)
        self._notify()

    @unbordered
    def take_progress(self, reported: commands.Progress) -> None:
        """The task has come further. An earlier report of the same status is replaced; a stage waits to be seen."""
        request = self.request
        progress = Progress(request.task_id, request.task_type, reported.progress, reported.status)
        self._progress.pop(reported.status, None)
        self._progress[reported.status] = progress
        if len(self._progress) > _REMEMBERED_STAGES:
            del self._progress[next(iter(self._progress))]
        self._notify()

    @unbordered
    def refuse(self, error: RunwareError, number: int, *, may_have_arrived: bool) -> bool:
        """The service refused the task for now; tells whether that ends the waiting."""
        if not self._parks:
            return False
        self._parked = TaskRefused(self._document(error), number, may_have_arrived=may_have_arrived)
        self._is_settled = True
        self._wake()
        return True

    @unbordered
    def settle(self, error: BaseException | None) -> None:
        """Nothing more will come. An error that is not of the service, such as one of a user's HTTP client, is raised
        as it is.
        """
        self._is_settled = True
        self._error = self._document(error) if isinstance(error, RunwareError) else error
        self._wake()

    @unbordered
    def leave(self) -> None:
        """The block in which it is read was left: nothing more will come, unless everything has."""
        if self._is_settled:
            return
        request = self.request
        error = RunwareError(
            "the block of client.submit() was left before the task was done; the service finishes and bills what it has"
            f" accepted, and client.get_response({request.task_id!r}) gives its results",
            code="aborted",
            raw_code="aborted",
            task_type=request.task_type,
            task_uuid=request.task_id,
            may_be_billed=request.send_state.has_left is not False,
        )
        self.settle(error)

    @unbordered
    def expire(self, refusal: RunwareError | None = None) -> None:
        """The time for waiting is over: a reader gets what has come, then an error.

        Args:
            refusal: why the service has not taken the task yet.
        """
        self._refusal = refusal
        self._is_late = True
        self._wake()

    def _notify(self) -> None:
        if not self._waits_until_settled:
            self._wake()

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()

    async def _wait_changed(self, *, until_settled: bool) -> None:
        if self._changed is not None:
            raise anyio.BusyResourceError("reading")
        if self._is_late:
            raise self._document(self._too_late())
        self._waits_until_settled = until_settled
        self._changed = changed = self._new_event()
        try:
            await changed.wait()
        finally:
            self._changed = None

    def _too_late(self) -> RunwareTimeoutError:
        request = self.request
        model = f" with {request.model}" if request.model else ""
        refusal = self._refusal
        if refusal is not None:
            return RunwareTimeoutError(
                f"{request.task_type}{model} was refused by the service for {self._timeout:g} s, its timeout, the"
                f" last time with {refusal.raw_code or refusal.code} ({refusal.message}); nothing was billed",
                code="rateLimit",
                raw_code=refusal.raw_code,
                status_code=refusal.status_code,
                task_type=request.task_type,
                task_uuid=request.task_id,
            )
        return RunwareTimeoutError(
            f"{request.task_type}{model} brought no result within {self._timeout:g} s; the service may still finish "
            f"and bill it: task {request.task_id} can be looked up later (client.get_response)",
            code="timeout",
            raw_code="timeout",
            task_type=request.task_type,
            task_uuid=request.task_id,
            results=self.results,
            may_be_billed=True,
        )
