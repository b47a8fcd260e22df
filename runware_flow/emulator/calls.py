"""What the service sends by itself when a result is ready: `uploadEndpoint`, `webhookURL` (protocol facts, section 5).

The bytes of each result are PUT to the upload endpoint, then the webhook is called, once a result. Whoever does not
answer with 2xx in time is tried again, later each time. How often, the service does not say: `Settings.call_attempts`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import anyio
import msgspec

from runware_flow.emulator.jobs import Frame
from runware_flow.emulator.kinds import KINDS
from runware_flow.emulator.log import CallEntry
from runware_flow.emulator.settings import draw

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from runware_flow.emulator.gallery import Medium
    from runware_flow.emulator.jobs import Job, Slot
    from runware_flow.emulator.service import Service
    from runware_flow.emulator.web import Web

__all__ = ("Caller", "is_told", "retry_delay", "webhook_body")

_AT_ONCE = 32


def is_told(job: Job) -> bool:
    """Tell whether somebody is to be told of a job's results."""
    named = job.task.get("webhookURL") or job.task.get("uploadEndpoint")
    return bool(named) and job.kind.task_type in KINDS


def webhook_body(service: Service, job: Job, slot: Slot) -> dict[str, Any]:
    """Return what the webhook gets for one result: the flat item, or what a reply would hold, as the switch says."""
    frame = Frame()
    service.add_result(frame, job, slot, polled=False)
    if service.settings.webhook_shape == "wrapped":
        return {"errors": frame.errors} if frame.errors else {"data": frame.data}
    return (frame.errors or frame.data)[0]


def retry_delay(attempt: int, first: float, *seeds: object) -> float:
    """Return the seconds to wait after `attempt` attempts: doubled each time, 8 at most, with jitter [3p]."""
    return min(8.0, first * 2.0 ** (attempt - 1)) * (0.75 + 0.5 * draw("jitter", attempt, *seeds))


class Caller:
    """Makes the calls of a service. Use it inside one event loop."""

    def __init__(self, service: Service, web: Web, open_medium: Callable[[Medium], Awaitable[bytes]]) -> None:
        self._service = service
        self._web = web
        self._open_medium = open_medium
        self._slots = anyio.CapacityLimiter(_AT_ONCE)

    async def tell(self, job: Job, slot: Slot) -> None:
        """Upload one finished result and call its webhook, as the task asks; returns when both are done or given up."""
        endpoint, webhook = job.task.get("uploadEndpoint"), job.task.get("webhookURL")
        if endpoint and slot.medium is not None and slot.problem is None:
            data = await self._open_medium(slot.medium)
            await self._call(job, slot, "PUT", str(endpoint), data, slot.medium.content_type)
        if not webhook or self._service.faults.strike("drop-webhook", job.task) is not None:
            return
        body = msgspec.json.encode(webhook_body(self._service, job, slot))
        times = 1 if self._service.faults.strike("duplicate-webhook", job.task) is None else 2
        for _ in range(times):
            if await self._call(job, slot, "POST", str(webhook), body, "application/json"):
                self._service.sent(Frame(delivers=[(job, slot)]), time.monotonic())

    async def _call(self, job: Job, slot: Slot, method: str, url: str, body: bytes, content_type: str) -> bool:
        settings = self._service.settings
        entry = CallEntry(task_uuid=job.task_id, index=slot.index, method=method, url=url, at=[], statuses=[])
        self._service.log.call(entry)
        for attempt in range(1, settings.call_attempts + 1):
            async with self._slots:
                entry.at.append(time.monotonic())
                status = await self._send(method, url, body, content_type)
            entry.statuses.append(status)
            if status is not None and 200 <= status < 300:
                return True
            if attempt < settings.call_attempts:
                await anyio.sleep(retry_delay(attempt, settings.call_delay, job.task_id, slot.index))
        return False

    async def _send(self, method: str, url: str, body: bytes, content_type: str) -> int | None:
        """Make one call; None if no answer came in time."""
        import httpx

        client = await self._web.client()
        try:
            with anyio.move_on_after(self._service.settings.call_timeout):
                headers = {"Content-Type": content_type}
                response = await client.request(method, url, content=body, headers=headers, follow_redirects=False)
                return response.status_code
        except (httpx.HTTPError, httpx.InvalidURL):
            return None
        return None
