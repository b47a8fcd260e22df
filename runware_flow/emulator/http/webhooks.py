"""Calls the webhooks and the upload endpoints that tasks name."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import anyio
import msgspec

from runware_flow.emulator.service.jobs import Frame
from runware_flow.emulator.service.log import CallEntry
from runware_flow.emulator.service.webhooks import retry_delay, webhook_body

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from runware_flow.emulator.http.outbound import OutboundClient
    from runware_flow.emulator.media.store import Medium
    from runware_flow.emulator.service.jobs import Job, Slot
    from runware_flow.emulator.service.service import Service

__all__ = ("WebhookSender",)

_AT_ONCE = 32


class WebhookSender:
    """Makes the calls of a service. Use it inside one event loop."""

    def __init__(
        self, service: Service, outbound: OutboundClient, open_medium: Callable[[Medium], Awaitable[bytes]]
    ) -> None:
        self._service = service
        self._outbound = outbound
        self._open_medium = open_medium
        self._slots = anyio.CapacityLimiter(_AT_ONCE)

    async def send(self, job: Job, slot: Slot) -> None:
        """Upload one finished result and call its webhook, as the task asks; returns when both are done or given up."""
        endpoint, webhook = job.task.get("uploadEndpoint"), job.task.get("webhookURL")
        if endpoint and slot.medium is not None and slot.problem is None:
            data = await self._open_medium(slot.medium)
            await self._call(job, slot, "PUT", str(endpoint), data, slot.medium.content_type)
        if not webhook or self._service.faults.trigger("drop-webhook", job.task) is not None:
            return
        body = msgspec.json.encode(webhook_body(self._service.settings, job, slot))
        times = 1 if self._service.faults.trigger("duplicate-webhook", job.task) is None else 2
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
        with anyio.move_on_after(self._service.settings.call_timeout):
            return await self._outbound.send(method, url, body, content_type)
        return None
