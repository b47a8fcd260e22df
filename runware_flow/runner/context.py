"""`current_run`: the run around a function of a flow, with its client and its node."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, cast

from runware_flow.errors import ClientStateError

if TYPE_CHECKING:
    from runware_flow.client.client import Client
    from runware_flow.graph.plan import Step
    from runware_flow.graph.scope_run import ScopeRun

__all__ = ("RunContext", "current_run", "current_worker")


class RunContext:
    """What an async function of a flow finds around it: its node, and the client of its run.

    Attributes:
        flow: the name of the flow.
        label: the node's name.
        attempt: which attempt this is, from 1.
        claims: the files that the nodes of the run write, each with the path of its node.
    """

    __slots__ = ("_client", "_missing", "_origin", "_run", "_step", "attempt", "claims", "flow", "has_used_client")

    def __init__(
        self,
        flow: str,
        client: object,
        missing: Exception | None,
        claims: dict[str, str],
        origin: tuple[int, str] | None = None,
    ) -> None:
        """Args: origin: position and key of the item of a batch that the run is for."""
        self.flow = flow
        self.attempt = 1
        self.has_used_client = False
        self.claims = claims
        self._client = client
        self._missing = missing
        self._origin = origin
        self._run: ScopeRun | None = None
        self._step: Step | None = None

    def begin(self, run: ScopeRun, step: Step, attempt: int) -> None:
        """Stand for the next node that the worker runs."""
        self._run = run
        self._step = step
        self.attempt = attempt
        self.has_used_client = False

    @property
    def label(self) -> str:
        """The node's name."""
        return "" if self._step is None else self._step.spec.name

    @property
    def path(self) -> str:
        """The node's identity in the run, items' keys included."""
        return "" if self._run is None or self._step is None else self._run.path(self._step)

    @property
    def place(self) -> str:
        """The same for people: items by their position."""
        return "" if self._run is None or self._step is None else self._run.place(self._step)

    @property
    def is_batch_item(self) -> bool:
        """Whether the run is for one item of a batch."""
        return self._origin is not None

    @property
    def indexes(self) -> tuple[int, ...]:
        """The position of the item in each fan-out around the node, and of the batch's item first; empty outside."""
        own = tuple(run.index for run in self._items())
        return own if self._origin is None else (self._origin[0], *own)

    @property
    def keys(self) -> tuple[str, ...]:
        """The same as keys."""
        own = tuple(run.key if run.key is not None else str(run.index) for run in self._items())
        return own if self._origin is None else (self._origin[1], *own)

    def _items(self) -> list[ScopeRun]:
        """The runs of the items around the node, the outermost first."""
        found: list[ScopeRun] = []
        run = self._run
        while run is not None and run.fan is not None:
            found.append(run)
            run = run.parent
        return found[::-1]

    @property
    def client_for_files(self) -> Client:
        """The client of the run, for what costs nothing."""
        has_used_client = self.has_used_client
        try:
            return self.client
        finally:
            self.has_used_client = has_used_client

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
        return cast("Client", self._client)


current_worker: ContextVar[RunContext] = ContextVar("runware_flow_run")


def current_run() -> RunContext:
    """Return the context of the async function that a flow runs at this moment.

    Raises:
        ClientStateError: called outside of a function node.
    """
    context = current_worker.get(None)
    if context is None:
        raise ClientStateError("current_run() works only inside an async function that a flow runs as a node")
    return context
