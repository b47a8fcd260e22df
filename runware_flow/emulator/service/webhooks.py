"""What the service sends by itself when a result is ready: `uploadEndpoint`, `webhookURL` (protocol facts, section 5).

The bytes of each result are PUT to the upload endpoint, then the webhook is called, once a result. A
receiver that does not answer with 2xx in time is called again, later each time. How often, the service does not say:
`Settings.call_attempts`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runware_flow.emulator.service.jobs import Frame
from runware_flow.emulator.service.kinds import KINDS
from runware_flow.emulator.settings import draw

if TYPE_CHECKING:
    from runware_flow.emulator.service.jobs import Job, Slot
    from runware_flow.emulator.settings import Settings

__all__ = ("has_callbacks", "retry_delay", "webhook_body")


def has_callbacks(job: Job) -> bool:
    """Tell whether a task asks for its results to be sent to a webhook or an upload endpoint."""
    named = job.task.get("webhookURL") or job.task.get("uploadEndpoint")
    return bool(named) and job.kind.task_type in KINDS


def webhook_body(settings: Settings, job: Job, slot: Slot) -> dict[str, Any]:
    """Return what the webhook gets for one result: the flat item, or what a reply would hold, as the switch says."""
    frame = Frame()
    frame.add_result(job, slot, polled=False, shape="errors")  # code and message stand in the item itself [3p]
    if settings.webhook_shape == "wrapped":
        return {"errors": frame.errors} if frame.errors else {"data": frame.data}
    return (frame.errors or frame.data)[0]


def retry_delay(attempt: int, first: float, *seeds: object) -> float:
    """Return the seconds to wait after `attempt` attempts: doubled each time, 8 at most, with jitter [3p]."""
    return min(8.0, first * 2.0 ** (attempt - 1)) * (0.75 + 0.5 * draw("jitter", attempt, *seeds))
