"""A request of a node on its way: sent, or asked for if it was sent before, and what is heard of it meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio

from runware_flow.errors import RunwareError, RunwareTimeoutError
from runware_flow.graph.outcomes import Failed, Ok
from runware_flow.graph.policies import is_verdict

if TYPE_CHECKING:
    from runware_flow.graph.machine import FlowMachine
    from runware_flow.graph.plan import Step
    from runware_flow.graph.scope_run import ScopeRun
    from runware_flow.runner.attempt_state import AttemptState
    from runware_flow.runner.event_bus import EventBus

__all__ = ("Sender",)


class Sender:
    """Has the client perform the requests of a run's nodes, and tells the run what it hears of them."""

    def __init__(self, machine: FlowMachine, event_bus: EventBus, client: Any) -> None:
        self._machine = machine
        self._event_bus = event_bus
        self._client = client
        self._parks = hasattr(client, "windows")
        """The client gives a task back that the service refuses, and does not wait for it."""

    async def collect(self, run: ScopeRun, step: Step, request: Any, state: AttemptState) -> list[Any]:
        """Ask for what an earlier run may have sent; send it, under its taskUUID, only if the service has no trace."""
        if request.wire.get("deliveryMethod") == "async":
            try:
                return await self.perform(run, step, request, state, sent_before="yes")
            except RunwareError as error:
                if is_verdict(error) or isinstance(error, RunwareTimeoutError) or error.results:
                    raise
        return await self.perform(run, step, request, state, sent_before="maybe")

    async def perform(self, run: ScopeRun, step: Step, request: Any, state: AttemptState, **more: Any) -> list[Any]:
        """Send a request and wait for its results, in the server's order."""
        if step.spec.policy.timeout is not None:
            more["timeout"] = step.spec.policy.timeout
        if self._parks:
            more["parks"] = True
            if state.permit is not None and state.permit.slot is not None:
                more["slot"] = state.permit.slot
        if step.spec.keeps_all:

            def on_result(outcome: Ok[Any] | Failed) -> None:
                state.heard()
                if isinstance(outcome, Ok):
                    state.arrived.append(outcome.value)

            more["on_result"] = on_result
        try:
            return await self._ask(run, step, request, state, more)
        finally:
            course = getattr(request, "course", None)
            if state.record is not None and course is not None and course.pending_at is not None:
                state.record.processing = self._event_bus.time() - (anyio.current_time() - course.pending_at)

    async def _ask(
        self, run: ScopeRun, step: Step, request: Any, state: AttemptState, more: dict[str, Any]
    ) -> list[Any]:
        if request.wire.get("deliveryMethod") == "stream":
            return await self._read(run, step, request, state, more)
        if not self._machine.watch and state.on_news is None:
            silent: list[Any] = await self._client.perform(request, **more)
            return silent

        def on_progress(progress: Any) -> None:
            state.heard()
            share = getattr(progress, "progress", progress)
            if isinstance(share, (int, float)):
                self._event_bus.node_progress(run, step, float(share))

        results: list[Any] = await self._client.perform(request, on_progress=on_progress, **more)
        return results

    async def _read(
        self, run: ScopeRun, step: Step, request: Any, state: AttemptState, more: dict[str, Any]
    ) -> list[Any]:
        """Read a text while it is written; its pieces are events."""
        attempt = 1 if state.record is None else state.record.attempts

        def on_delta(kind: str, text: str) -> None:
            state.heard()
            self._event_bus.node_delta(run, step, attempt, kind, text)

        more = {name: value for name, value in more.items() if name in ("timeout", "slot", "parks")}
        results: list[Any] = await self._client.perform_stream(request, on_delta, **more)
        return results
