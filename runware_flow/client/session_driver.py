"""Drives a session machine: carries out its commands, gives it events, and fires its timers.

Every event is handled in one synchronous step, commands included, so there is no `await` between a decision and its
effect on the tables here. Waiting is done by three kinds of workers only: the link's, the timer, and the callers.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

import anyio

from runware_flow.errors import RunwareError
from runware_flow.lifetime import open_task_group
from runware_flow.session import commands, events
from runware_flow.session.timer_queue import TimerQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from runware_flow.client.delivery import Delivery
    from runware_flow.client.link import Link
    from runware_flow.client.log import Log
    from runware_flow.client.tracing import SessionTracing
    from runware_flow.lifetime import EventLoop
    from runware_flow.session.machine import SessionMachine, SessionStatistics
    from runware_flow.session.window import WindowState
    from runware_flow.types import TaskId
    from runware_flow.wire.frames import Frame

__all__ = ("SessionDriver",)


class SessionDriver:
    """One session with the service, from the client's first task to its end."""

    def __init__(
        self,
        machine: SessionMachine,
        link: Link,
        event_loop: EventLoop,
        *,
        log: Log,
        tracing: SessionTracing | None = None,
    ) -> None:
        self._machine = machine
        self._tracing = tracing
        self._clock = event_loop.time
        self._new_event = event_loop.new_event
        self._link = link
        self._log = log
        self._deliveries: dict[TaskId, Delivery[Any]] = {}
        self._connecting: list[_Connecting] = []
        self._expiries: TimerQueue[TaskId] = TimerQueue()
        self._due = inf
        self._timer_set = self._new_event()
        self._timer_waits_until = inf
        self.on_slot: Callable[[str, int], None] = _ignore
        """Called with the model and the waiter when a send window has room for one that waits."""

    async def run(self) -> None:
        """Work until cancelled."""
        async with open_task_group() as workers:
            workers.start_soon(self._keep_time)
            await self._link.run(self.handle, self._fail, self._left)

    def submit(self, delivery: Delivery[Any], submission: events.Submission, deadline: float) -> None:
        """Hand a task to the session; its results reach `delivery`, which expires at `deadline`.

        Raises:
            RunwareError: a task with this id is in flight already in this client.
        """
        task_id = submission.task_id
        if task_id in self._deliveries:
            raise RunwareError(
                f"task {task_id} is in flight already; wait for it, or leave the taskUUID out to buy another",
                code="validation",
                raw_code="conflictTaskUUID",
                parameter="taskUUID",
                task_uuid=task_id,
            )
        self._deliveries[task_id] = delivery
        if self._tracing is not None:
            self._tracing.submitted(submission)
        self._expiries.set(task_id, deadline)
        self._wake_before(deadline)
        self.handle(events.TaskSubmitted(self._clock(), submission))

    def withdraw(self, task_id: TaskId) -> None:
        """Stop waiting for a task; it may still be billed. Does nothing if it has settled."""
        if (delivery := self._deliveries.pop(task_id, None)) is not None:
            self._expiries.drop(task_id)
            if self._tracing is not None:
                self._tracing.withdrawn(task_id, is_late=delivery.is_late)
            delivery.request.send_state.note(self._machine.pending_at(task_id))
            self.handle(events.TaskWithdrawn(self._clock(), task_id))
            self._link.forget(task_id)

    def receive_webhook(self, frame: Frame) -> None:
        """Handle the frame of a webhook call."""
        self.handle(events.WebhookReceived(self._clock(), frame))

    def waits_for(self, task_id: str) -> bool:
        """Whether a caller waits for this task."""
        return task_id in self._deliveries

    async def connect(self) -> None:
        """Wait until the session is authenticated.

        Raises:
            RunwareError: the key was rejected (`auth`), or there is no connection to be had (`connection`).
        """
        waiter = _Connecting()
        self._connecting.append(waiter)
        self.handle(events.ConnectRequested(self._clock()))
        try:
            await waiter.ended.wait()
        finally:
            if waiter in self._connecting:
                self._connecting.remove(waiter)
        if waiter.error is not None:
            raise waiter.error

    def close(self) -> None:
        """End the session: calls that wait for a task, or for the connection, get an error. May be called twice."""
        self.handle(events.SessionClosed(self._clock()))
        if self._connecting:
            message = "the client was closed before there was a connection"
            self._end_connecting(RunwareError(message, code="aborted", raw_code="aborted"))

    def fail(self, error: BaseException) -> bool:
        """Raise an unexpected exception in all calls that wait; tell whether there were any. Nothing more is sent."""
        deliveries, self._deliveries = self._deliveries, {}
        for delivery in deliveries.values():
            delivery.settle(error)
        is_told = bool(deliveries or self._connecting)
        self._end_connecting(error)
        return is_told

    def _fail(self, task_ids: Iterable[TaskId], error: Exception) -> None:
        """Raise an unexpected exception in the calls that it belongs to. Their tasks are not polled any more."""
        for task_id in task_ids:
            if (delivery := self._deliveries.get(task_id)) is not None:
                self.withdraw(task_id)
                delivery.settle(error)

    def _left(self, task_ids: Iterable[TaskId]) -> None:
        """Note that tasks are given to a connection: from here on the service may have them."""
        for task_id in task_ids:
            if (delivery := self._deliveries.get(task_id)) is not None:
                delivery.request.send_state.has_left = True

    def has_room(self, model: str) -> bool:
        """Whether a task of this model may be sent now."""
        return self._machine.has_room(model, self._clock())

    def window_states(self) -> dict[str, WindowState]:
        """The state of the send windows that had a refusal, for other clients; may be called from any thread."""
        return self._machine.window_states()

    @property
    def closed_windows(self) -> Mapping[str, object]:
        """By model, the windows of those whose tasks the service has lately refused; it changes as they do."""
        return self._machine.closed_windows

    def statistics(self) -> SessionStatistics:
        """What the session machine knows of itself, frozen."""
        return self._machine.statistics()

    def handle(self, event: events.Event) -> None:
        """Give the session machine an event, and carry out the commands that follow."""
        tracing = self._tracing
        if tracing is not None:
            tracing.happened(event)
        for command in self._machine.handle(event):
            if self._log.is_verbose:
                self._note(command)
            if tracing is not None:
                tracing.commanded(command)
            self._carry_out(command)

    def _carry_out(self, command: commands.Command) -> None:
        match command:
            case commands.Deliver(task_id):
                if (delivery := self._deliveries.get(task_id)) is not None:
                    delivery.take(command)
            case commands.Settle(task_id, error, pending_at):
                if (delivery := self._deliveries.pop(task_id, None)) is not None:
                    self._expiries.drop(task_id)
                    delivery.request.send_state.note(pending_at)
                    delivery.settle(error)
            case commands.Send(entries):
                self._link.send(entries)
            case commands.Progress(task_id):
                if (delivery := self._deliveries.get(task_id)) is not None:
                    delivery.take_progress(command)
            case commands.SetTimer(due):
                self._set_timer(due)
            case _:
                self._carry_out_rarer(command)

    def _carry_out_rarer(self, command: commands.Command) -> None:
        match command:
            case commands.Log():
                self.log(command)
            case commands.Refused(task_id, error, number, may_have_arrived):
                delivery = self._deliveries.get(task_id)
                if delivery is not None and delivery.refuse(error, number, may_have_arrived=may_have_arrived):
                    del self._deliveries[task_id]
                    self._expiries.drop(task_id)
            case commands.SlotOffered(model, waiter):
                self.on_slot(model, waiter)
            case commands.OpenConnection():
                self._link.open()
            case commands.CloseConnection(reason):
                self._link.close(reason)
            case commands.SessionReady():
                self._end_connecting(None)
            case commands.EndSession(error):
                self._end_connecting(error)
            case _:
                raise AssertionError(
                    f"the session machine returned the unknown command {command!r}; this is a bug in runware_flow"
                )

    def _end_connecting(self, error: BaseException | None) -> None:
        for waiter in self._connecting:
            waiter.error = error
            waiter.ended.set()
        self._connecting.clear()

    def _note(self, command: commands.Command) -> None:
        match command:
            case commands.Send(entries):
                lanes = [entry.lane.value for entry in entries]
                counts = {lane: lanes.count(lane) for lane in sorted(set(lanes))}
                size = sum(len(entry.body) for entry in entries)
                self.log(commands.Log("send", "sent", {**counts, "bytes": size}))
            case commands.Settle(task_id, error):
                self.log(commands.Log("task", "settled", {"task": task_id, "error": error and error.raw_code}))
            case _:
                pass

    def log(self, line: commands.Log) -> None:
        """Write a line."""
        self._log.write(line.level, line.category, line.message, line.data)

    def _set_timer(self, at: float | None) -> None:
        self._due = inf if at is None else at
        self._wake_before(self._due)

    def _wake_before(self, at: float) -> None:
        # A later time needs no waking: the timer finds out when it wakes by itself, early.
        if at < self._timer_waits_until:
            self._timer_set.set()

    async def _keep_time(self) -> None:
        while True:
            self._timer_set = self._new_event()
            self._timer_waits_until = min(self._due, self._expiries.next_at)
            with anyio.CancelScope(deadline=self._timer_waits_until):
                await self._timer_set.wait()
            now = self._clock()
            if now >= self._due:
                self._due = inf
                self.handle(events.TimerFired(now))
            for task_id in self._expiries.pop_due(now):
                self._deliveries[task_id].expire(self._machine.refusal(task_id))


def _ignore(model: str, waiter: int) -> None:
    """Nothing waits for slots."""


class _Connecting:
    """A caller that waits for the session to be ready."""

    def __init__(self) -> None:
        self.ended = anyio.Event()
        self.error: BaseException | None = None
