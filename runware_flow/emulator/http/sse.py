"""Streams of text as server-sent events, for `deliveryMethod: "stream"` (protocol facts, section 6)."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

import anyio
import msgspec

from runware_flow.emulator.http.sockets import is_closed
from runware_flow.emulator.jsonvalues import as_object
from runware_flow.emulator.service import texts
from runware_flow.emulator.service.jobs import Frame

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import Send

    from runware_flow.emulator.http.driver import ServiceDriver
    from runware_flow.emulator.service.chat import ChatEvents
    from runware_flow.emulator.service.jobs import Job
    from runware_flow.emulator.settings import Settings

__all__ = ("stream_text",)


async def stream_text(driver: ServiceDriver, job: Job, send: Send, written_as: ChatEvents | None = None) -> None:
    """Send a text task's answer word by word, spread over the time the task takes, then why it ended, usage and cost.

    The events are those of `/v1`, or those of chat completions if `written_as` makes them.
    A task that fails does so in the middle of its text. A client that leaves ends the stream; the task is billed.
    """
    fields = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    slot = job.slots[0]
    events = list(_deltas(job)) if slot.item is not None else []
    if written_as is not None:
        events = list(written_as.deltas(job, events))
    if slot.problem is not None:
        events = events[: len(events) // 2]
    writer = _Writer(driver, send)
    await writer.write(b": the answer follows\n\n")
    started = time.monotonic()
    span = min(slot.ready_at - started, driver.service.settings.sync_budget)
    for number, event in enumerate(events, 1):
        await anyio.sleep(max(0.0, started + span * number / (len(events) + 1) - time.monotonic()))
        if is_closed(send) or driver.closing.is_set():
            return
        await writer.event(event)
    await driver.wait_settled([job])
    if is_closed(send):
        return
    driver.service.sent(Frame(delivers=[(job, slot)]), time.monotonic())
    if driver.service.faults.trigger("truncate-stream", job.task) is None:
        ending = _ending(job, driver.service.settings)
        for event in ending if written_as is None else written_as.ending(job, ending):
            await writer.event(event)
        await writer.write(b"data: [DONE]\n\n")
    await send({"type": "http.response.body", "body": b""})


class _Writer:
    def __init__(self, driver: ServiceDriver, send: Send) -> None:
        self._send = send
        self._is_split = driver.service.faults.trigger("split-stream") is not None

    async def event(self, event: dict[str, Any]) -> None:
        await self.write(b"data: " + msgspec.json.encode(event) + b"\n\n")

    async def write(self, data: bytes) -> None:
        """Write bytes in one piece, or in pieces of seven, which cut through characters."""
        size = 7 if self._is_split else len(data)
        for at in range(0, len(data), size):
            await self._send({"type": "http.response.body", "body": data[at : at + size], "more_body": True})


def _deltas(job: Job) -> Iterator[dict[str, Any]]:
    """Words of reasoning, where a thinking level was set, then words of text."""
    slot = job.slots[0]
    level = as_object(job.task.get("settings")).get("thinkingLevel")
    if level not in (None, "none", "off", "minimal"):
        for word in _words(texts.reasoning(job.task)):
            yield {"taskUUID": job.task_id, "delta": {"reasoningContent": word}}
    for word in _words(str((slot.item or {}).get("text", ""))):
        yield {"taskUUID": job.task_id, "delta": {"text": word}}


def _words(text: str) -> list[str]:
    return re.findall(r"\S+\s*", text)


def _ending(job: Job, settings: Settings) -> list[dict[str, Any]]:
    slot = job.slots[0]
    if slot.problem is not None:
        entry = slot.problem.entry(job.task_type, job.task_id)
        return [{"error": entry} if slot.problem_shape == "error" else {"errors": [entry]}]
    said = texts.answer(job.task, 0, settings.answers)
    ending = {"taskUUID": job.task_id, "finishReason": said.finish_reason}
    used: dict[str, Any] = {"usage": said.usage}
    if job.task.get("includeCost") is True:
        used["cost"] = job.cost / 1_000_000
    return [ending, {"taskUUID": job.task_id, **used}] if settings.stream_usage == "separate" else [{**ending, **used}]
