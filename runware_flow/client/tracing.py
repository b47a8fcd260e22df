"""Spans of OpenTelemetry for tasks, their polls and streams.

This module imports nothing of it. A program that traces has imported OpenTelemetry before it opens a client; in any
other there is no tracer, no span, and no cost. A span never holds a key, a prompt or media.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from runware_flow.errors import RunwareError
from runware_flow.session import commands, events
from runware_flow.session.commands import Lane
from runware_flow.wire.frames import read_member

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from opentelemetry.trace import Span, Tracer

    from runware_flow.client.request import Prepared
    from runware_flow.types import TaskId
    from runware_flow.wire.frames import ErrorItem, Frame, Item

__all__ = ("SessionTracing", "find_tracer", "mark_failed", "trace_session", "trace_stream")

_ASKS = {Lane.POLL: "runware getResponse", Lane.LOOKUP: "runware getTaskDetails"}


def find_tracer() -> Tracer | None:
    """The tracer of this library; None in a program that has not imported OpenTelemetry."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    from runware_flow import __version__

    tracer: Tracer = trace.get_tracer("runware_flow", __version__)
    return tracer


def mark_failed(span: Span, error: BaseException | None, word: str | None = None) -> None:
    """Give a span the status of a failure: the codes of an error, not its message, which may repeat a prompt."""
    from opentelemetry.trace import StatusCode

    code = error.code if isinstance(error, RunwareError) else None
    said = word or code or type(error).__name__
    span.set_attribute("error.type", said)
    if isinstance(error, RunwareError) and error.raw_code:
        span.set_attribute("runware.raw_code", error.raw_code)
    span.set_status(StatusCode.ERROR, said)


def trace_session() -> SessionTracing | None:
    """What follows one session; None without tracing."""
    tracer = find_tracer()
    return None if tracer is None else SessionTracing(tracer)


class _Task:
    __slots__ = ("cost", "poll", "polls", "results", "sends", "span")

    def __init__(self, span: Span) -> None:
        self.span = span
        self.poll: Span | None = None
        """The span of the poll that has no reply yet."""
        self.polls = 0
        self.sends = 0
        self.results = 0
        self.cost: float | None = None


class SessionTracing:
    """Follows the events and the commands of a session. Holds the tasks in flight, and nothing of those that ended."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._tasks: dict[TaskId, _Task] = {}

    def submitted(self, submission: events.Submission) -> None:
        """Begin the span of a task, inside whatever span is current where it was submitted."""
        from opentelemetry.trace import SpanKind

        attributes: dict[str, Any] = {
            "runware.task_type": submission.task_type,
            "runware.task_uuid": submission.task_id,
            "runware.delivery": submission.delivery,
            "runware.slots": submission.slots,
        }
        if submission.model is not None:
            attributes["runware.model"] = submission.model
        name = f"runware {submission.task_type}"
        span = self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes)
        if span.is_recording():  # not left out by a sampler
            self._tasks[submission.task_id] = _Task(span)

    def withdrawn(self, task_id: TaskId, *, is_late: bool) -> None:
        """End the span of a task that is not waited for any more; it may run on, and be billed."""
        task = self._tasks.pop(task_id, None)
        if task is None:
            return
        if is_late:
            mark_failed(task.span, None, "timeout")
        else:
            task.span.set_attributes({"runware.abandoned": True})
        self._end(task)

    def happened(self, event: events.Event) -> None:
        """Take what happened, after the session did: answers end the questions."""
        if not self._tasks:
            return
        match event:
            case events.FrameReceived(frame=frame):
                self._answered(_ids(frame))
            case events.ExchangeFinished(task_ids=task_ids) | events.ExchangeFailed(task_ids=task_ids):
                self._answered(task_ids)
            case _:
                pass

    def commanded(self, command: commands.Command) -> None:
        """Take what is to be done."""
        match command:
            case commands.Send(entries):
                for entry in entries:
                    if entry.task_id is not None and (task := self._tasks.get(entry.task_id)) is not None:
                        self._sent(task, entry.lane, len(entries))
            case commands.Deliver(task_id):
                if (task := self._tasks.get(task_id)) is not None:
                    self._delivered(task, command)
            case commands.Settle(task_id, error):
                if (task := self._tasks.pop(task_id, None)) is not None:
                    if error is not None:
                        mark_failed(task.span, error)
                    self._end(task)
            case _:
                pass

    def _sent(self, task: _Task, lane: Lane, together: int) -> None:
        name = _ASKS.get(lane)
        if name is None:
            task.sends += 1
            task.span.add_event("sent" if task.sends == 1 else "sent again")
            return
        from opentelemetry.trace import SpanKind, set_span_in_context

        if task.poll is not None:
            task.poll.end()  # its answer is lost
        task.polls += 1
        parent = set_span_in_context(task.span)
        attributes = {"runware.sent_together": together}
        task.poll = self._tracer.start_span(name, parent, kind=SpanKind.CLIENT, attributes=attributes)

    def _answered(self, task_ids: Iterable[TaskId]) -> None:
        for task_id in task_ids:
            task = self._tasks.get(task_id)
            if task is not None and task.poll is not None:
                task.poll.end()
                task.poll = None

    def _delivered(self, task: _Task, command: commands.Deliver) -> None:
        if command.item is None:
            task.span.add_event("failure", {"error.type": command.error.code} if command.error else None)
            return
        task.results += 1
        task.span.add_event("result")
        cost = read_member(command.item, "cost")
        if isinstance(cost, (int, float)):
            task.cost = (task.cost or 0.0) + cost

    def _end(self, task: _Task) -> None:
        if task.poll is not None:
            task.poll.end()
        task.span.set_attribute("runware.results", task.results)
        task.span.set_attribute("runware.polls", task.polls)
        if task.cost is not None:
            task.span.set_attribute("runware.cost", round(task.cost, 6))
        task.span.end()


def _ids(frame: Frame) -> set[TaskId]:
    parts: tuple[Item | ErrorItem, ...] = (*frame.items, *frame.errors)
    return {part.task_id for part in parts if part.task_id is not None}


@contextmanager
def trace_stream(prepared: Prepared) -> Generator[None]:
    """A span for the time of a stream's block, with tracing."""
    tracer = find_tracer()
    if tracer is None:
        yield
        return
    from opentelemetry.trace import SpanKind

    attributes = {
        "runware.task_type": prepared.task_type,
        "runware.task_uuid": prepared.task_id,
        "runware.delivery": "stream",
        "runware.model": prepared.model or "",
    }
    span = tracer.start_span(f"runware {prepared.task_type}", kind=SpanKind.CLIENT, attributes=attributes)
    try:
        yield
    except RunwareError as error:
        mark_failed(span, error)
        raise
    finally:
        span.end()
