"""What is known of an attempt while it runs, and of its request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from runware_flow.journal.store import Entry
    from runware_flow.runner.admission import Permit
    from runware_flow.runner.records import NodeRecord

__all__ = ("AttemptState", "SentRequest", "may_hedge")


class AttemptState:
    """What is known of an attempt while it runs, for the case that it is cancelled.

    Attributes:
        arrived: results that are there while others of the same task are not.
        record: what is known of its request, once that is prepared.
        entry: what the journal has of it, once it is written down.
        is_sent: the service may have the request, and it is not booked yet.
        was_sent_before: an earlier run may have sent it.
        permit: what it was admitted with; see `Admission`.
        paid: all that it was for, which a cancel may not take away again.
        on_news: to be called whenever something is heard of it, where a policy asks for that.
    """

    __slots__ = ("arrived", "entry", "is_sent", "on_news", "paid", "permit", "record", "was_sent_before")

    def __init__(self) -> None:
        self.arrived: list[Any] = []
        self.record: NodeRecord | None = None
        self.entry: Entry | None = None
        self.is_sent = False
        self.was_sent_before = False
        self.permit: Permit | None = None
        self.paid: list[Any] | None = None
        self.on_news: Callable[[], None] | None = None

    def listen(self, on_news: Callable[[], None]) -> None:
        """Have `on_news` called with all that is heard of the attempt."""
        self.on_news = on_news

    def heard(self) -> None:
        """Something was heard of it."""
        if self.on_news is not None:
            self.on_news()


class SentRequest:
    """A request of a node, which may be one of two.

    Attributes:
        task: what it was made of.
        turn: since the service has refused to take it: its turn among those that were refused.
        results: what came of it; `None` if nothing did.
        error: why it failed.
    """

    __slots__ = ("entry", "error", "request", "results", "state", "task", "turn")

    def __init__(self, request: Any, state: AttemptState, entry: Entry | None, task: Any) -> None:
        self.request = request
        self.state = state
        self.entry = entry
        self.task = task
        self.turn: int | None = None
        self.results: list[Any] | None = None
        self.error: Exception | None = None


def may_hedge(sent: SentRequest) -> bool:
    """Tell whether a request may have a second one beside it."""
    # What an earlier run sent is asked for, not bought; pieces of two texts would be told as one.
    is_old = sent.entry is not None and sent.entry.advice.action != "buy"
    return not is_old and sent.request.wire.get("deliveryMethod") != "stream"
