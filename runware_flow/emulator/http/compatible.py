"""The OpenAI-compatible API of chat completions.

The same models, the same scripted answers, the same log and the same account as with text tasks.
"""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any

import msgspec

from runware_flow.emulator.http.rest import answer, check_key, read_post, wait_for_jobs
from runware_flow.emulator.http.sse import stream_text
from runware_flow.emulator.jsonvalues import as_object
from runware_flow.emulator.problems import Problem, http_status
from runware_flow.emulator.service import chat
from runware_flow.emulator.service.jobs import Frame

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from runware_flow.emulator.http.driver import ServiceDriver
    from runware_flow.emulator.service.jobs import Job

__all__ = ("ChatEndpoint",)


class ChatEndpoint:
    """An ASGI application for `POST /v1/chat/completions`."""

    def __init__(self, driver: ServiceDriver) -> None:
        self._driver = driver
        self._service = driver.service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            await self._answer(scope, receive, send)
        except Problem as problem:
            await answer(send, problem.status, chat.chat_error(problem))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            raise Problem("invalidParameter", "Use POST.", status=405)
        raw = await read_post(self._service, scope, receive, send)
        if raw is None:
            return
        if isinstance(raw, Problem):
            raise raw
        refused = check_key(self._service, scope)
        if refused is not None:
            raise refused
        try:
            body = msgspec.json.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise Problem("invalidJSON", "The request is not valid JSON.") from None
        job = self._start(chat.read_request(body, str(uuid.uuid4())))
        created = int(time.time())
        if job.delivery == "stream":
            with_usage = as_object(body.get("stream_options")).get("include_usage") is True
            await stream_text(self._driver, job, send, chat.ChatEvents(created, with_usage=with_usage))
            return
        if not await wait_for_jobs(self._driver, [job], receive):
            return
        if self._driver.closing.is_set() or job.is_overdue:
            code = "serviceUnavailable" if self._driver.closing.is_set() else "requestTimeout"
            raise Problem(code, "The emulator stops, or the task takes longer than a request may.")
        self._service.sent(Frame(delivers=[(job, slot) for slot in job.slots]), time.monotonic())
        await answer(send, 200, chat.completion(job, created))

    def _start(self, task: dict[str, Any]) -> Job:
        """Give the task to the service.

        Raises:
            Problem: it is refused.
        """
        reply = self._driver.receive([{**task, "includeUsage": True}])
        if reply.waiting:
            return reply.waiting[0]
        entry = reply.frame.errors[0]
        status = http_status(entry["code"])
        raise Problem(entry["code"], entry["message"], parameter=entry.get("parameter"), status=status)
