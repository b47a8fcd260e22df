"""The state of one attempt of a node: its phase, and the permits and reservations that it must give back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runware_flow.graph.plan import Step
    from runware_flow.graph.scope_run import ScopeRun
    from runware_flow.journal.store import Entry
    from runware_flow.runner.admission import Permit
    from runware_flow.runner.records import NodeRecord

__all__ = ("AttemptState",)


class AttemptState:
    """What is known of an attempt while it runs, also for the case that it is cancelled.

    A hedge is an attempt of its own beside the first one: both have a request, a permit and an entry of the journal.

    Attributes:
        run, step: the node.
        number: which attempt of the node this is, from 1.
        task: what its request was made of.
        request: the request, once it is prepared.
        record: what is known of the request, once it was admitted.
        entry: what the journal has of it, once it is written down.
        permit: what it was admitted with; see `Admission`.
        is_sent: the service may have the request, and it is not booked yet.
        was_sent_before: the service may have it from an earlier run, or from an earlier send that was not answered, so
            that it is collected and not sent anew.
        is_with_client: it was given to the client to be sent, and the service has not refused to take it.
        turn: since the service has refused to take it: its turn among those that were refused.
        arrived: results that are there while others of the same task are not.
        results: what came of it; `None` if nothing did, or not yet.
        error: why it failed.
        paid: all that it was for, which a cancel may not take away again.
        on_activity: called with each sign of activity (progress, a result), if a policy needs it.
    """

    task: Any = None
    request: Any = None
    record: NodeRecord | None = None
    entry: Entry | None = None
    permit: Permit | None = None
    is_sent = False
    was_sent_before = False
    is_with_client = False
    turn: int | None = None
    arrived: Sequence[Any] = ()
    results: list[Any] | None = None
    error: Exception | None = None
    paid: list[Any] | None = None
    on_activity: Callable[[], None] | None = None

    def __init__(self, run: ScopeRun, step: Step, number: int) -> None:
        self.run = run
        self.step = step
        self.number = number

    def listen(self, on_activity: Callable[[], None]) -> None:
        """Have `on_activity` called with each sign of activity of the attempt."""
        self.on_activity = on_activity

    def note_activity(self) -> None:
        """There was a sign of activity."""
        if self.on_activity is not None:
            self.on_activity()

    def note_refused(self, *, may_have_arrived: bool) -> None:
        """The service has refused to take the request; an earlier send of it may have arrived."""
        self.was_sent_before = self.was_sent_before or may_have_arrived
        self.is_sent, self.is_with_client = self.was_sent_before, False

    @property
    def may_have_arrived(self) -> bool:
        """Whether the service may have the request: from before, or since it has left the client.

        A client of this library says when a request leaves: it keeps it while its media are uploaded, and until there
        is a connection. Of any other client, a request counts as having left.
        """
        send_state = getattr(self.request, "send_state", None)
        return self.was_sent_before or (self.is_with_client and getattr(send_state, "has_left", None) is not False)

    @property
    def is_hedged(self) -> bool:
        """Whether an earlier run sent a second request too (a hedge), whose outcome is not known either."""
        return self.entry is not None and self.entry.is_hedged

    @property
    def may_hedge(self) -> bool:
        """Whether the request may have a hedge."""
        # A request of an earlier run is collected, not streamed: pieces of two texts would be reported as one.
        is_new = self.entry is None or self.entry.advice.action == "buy"
        return is_new and self.request.wire.get("deliveryMethod") != "stream"
