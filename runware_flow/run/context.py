"""`current_run`: what a function of a flow finds around it."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from runware_flow.errors import ClientStateError

if TYPE_CHECKING:
    from runware_flow.client.client import Client

__all__ = ("RunContext", "current_run", "current_worker")


class RunContext:
    """The surroundings of a function node.

    Attributes:
        flow: the name of the flow.
        label: the node's name.
        attempt: which attempt this is, from 1.
    """

    __slots__ = ("_client", "_missing", "attempt", "flow", "has_used_client", "label")

    def __init__(self, flow: str, client: Any, missing: Exception | None) -> None:
        self.flow = flow
        self.label = ""
        self.attempt = 1
        self.has_used_client = False
        self._client = client
        self._missing = missing

    def begin(self, label: str, attempt: int) -> None:
        """Stand for the next node that the worker runs."""
        self.label = label
        self.attempt = attempt
        self.has_used_client = False

    @property
    def client(self) -> Client:
        """The client of the run.

        Raises:
            ClientStateError: the run has none: it was given none, and the environment has no key.
        """
        if self._client is None:
            raise ClientStateError(
                "this run has no client: call flow.execute(client), or set RUNWARE_API_KEY"
            ) from self._missing
        self.has_used_client = True
        client: Client = self._client
        return client


current_worker: ContextVar[RunContext] = ContextVar("runware_flow_run")


def current_run() -> RunContext:
    """Return the surroundings of the function node that is running.

    Raises:
        ClientStateError: called outside of a function node.
    """
    context = current_worker.get(None)
    if context is None:
        raise ClientStateError("current_run() works only inside an async function that a flow runs as a node")
    return context
