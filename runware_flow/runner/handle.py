"""`Run`: the handle on a run that `flow.start` gives, for code that works beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from runware_flow.tracebacks import bordered

if TYPE_CHECKING:
    from runware_flow.runner.budget import Budget
    from runware_flow.runner.event_stream import CompletionStream, EventStream
    from runware_flow.runner.reference import ManyReference
    from runware_flow.runner.result import RunResult
    from runware_flow.runner.runner import Runner

__all__ = ("Run",)

T = TypeVar("T")


@bordered
class Run:
    """One run of a flow."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def __repr__(self) -> str:
        state = "finished" if self.is_finished else "running"
        return f"<Run of flow {self._runner.declaration.name!r}, {state}: {self.result!r}>"

    @property
    def result(self) -> RunResult:
        """The result so far; readable at any time, after a failure or a cancel too."""
        return self._runner.result

    @property
    def budget(self) -> Budget | None:
        """The budget of the run, if it has one; a number is a new budget."""
        return self._runner.budget

    @property
    def is_finished(self) -> bool:
        """Whether every node has its outcome and no worker is left."""
        return self._runner.is_finished

    def events(self) -> EventStream:
        """Read the events of the run from here on.

        Starts and settles are complete and in order; of progress a reader gets the newest. With more than 1,024 unread
        events the run starts nothing new until they are read, unless a task waits for the run: in `wait()`, on leaving
        the block, or in another reader. Then the unread events accumulate. To stop reading early, `close()` the reader
        or drop it.
        """
        return self._runner.open_events()

    def as_completed(self, many: ManyReference[T], /) -> CompletionStream[T]:
        """Read the index and the outcome of each item of `many` as it is settled, those that already are first.

        With more unread outcomes than the flow's `concurrency`, the run starts nothing new until they are read, unless
        a task waits for the run, as for `events`.

        Raises:
            NodeNotAvailable: `many` belongs to another flow, or is made anew for each item around it.
        """
        return self._runner.open_completions(many)

    async def wait(self) -> RunResult:
        """Wait for the end of the run and return its result.

        A cancel of this call does not cancel the run.

        Raises:
            FlowFailed: a node failed and `on_error` is not `"continue"`.
        """
        return await self._runner.wait()

    def stop(self) -> None:
        """Start nothing new and wait for what is in flight. The run then ends without an error of its own."""
        self._runner.stop()
