"""Serverless apps: an invocation is sent until it is accepted, then polled; its id keeps it from being billed twice.

Facts from the protocol, section 11.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import anyio

from runware_flow.client.media import inline_media, take_in
from runware_flow.client.options import check_seconds
from runware_flow.client.request import check_task_id, read_task_id
from runware_flow.errors import RunwareError, RunwareTimeoutError
from runware_flow.session.retry import backoff
from runware_flow.wire import serverless as rules
from runware_flow.wire.codec import is_mapping, place, to_wire
from runware_flow.wire.serverless import AppTask

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runware_flow.client.http.web import Web
    from runware_flow.client.options import Settings

__all__ = ("Apps",)

_QUESTION_SECONDS = 60.0
"""Seconds that one poll of a task may take by default, repetitions included."""

_LEAST_SYNC_TIMEOUT = 300.0
"""Seconds that a waiting invocation is given on its connection, at least [sdk]."""


class Apps:
    """The apps of an account."""

    def __init__(self, settings: Settings, web: Web) -> None:
        self._settings = settings
        self._base_url = settings.serverless_base_url.rstrip("/")
        self._web = web

    async def invoke(
        self,
        app_id: str,
        payload: Mapping[str, Any],
        *,
        endpoint_path: str | None,
        environment: str | None,
        sync: bool,
        wait: bool,
        poll_interval: float | None,
        task_id: str | None,
        timeout: float | None,
    ) -> AppTask:
        """See `Client.invoke`."""
        environment = environment or self._settings.serverless_environment
        rules.check_address(app_id, endpoint_path, environment)
        pause = check_seconds(poll_interval, rules.POLL_SECONDS, name="poll_interval")
        task_id = read_task_id(task_id)
        seconds = check_seconds(timeout, self._settings.poll_timeout)
        if not is_mapping(payload):
            raise RunwareError(
                f"the payload of an app is a dict, not {payload!r:.80}",
                code="validation",
                raw_code="invalidParameter",
                parameter="payload",
            )
        wire, local_media = to_wire(payload)
        path = rules.invoke_path(app_id, endpoint_path, environment, waits=sync and wait)
        with anyio.move_on_after(seconds):
            for medium in take_in(local_media):
                place(wire, medium.path, await inline_media(medium))
            body = rules.encode_invocation(task_id, wire)
            task = await self._submit(path, body, task_id, waits=sync and wait)
            if not wait:
                return task
            if not task.is_done:
                task = await self._collect(rules.task_path(app_id, task_id, environment), task_id, pause)
            return _completed(task, task_id)
        raise RunwareTimeoutError(
            f"the app {app_id} brought no result within {seconds:g} s; it may still finish: read it with "
            f"get_task({app_id!r}, {task_id!r})",
            code="timeout",
            raw_code="timeout",
            task_uuid=task_id,
            may_be_billed=True,
        )

    async def get_task(self, app_id: str, task_id: str, *, environment: str | None, timeout: float | None) -> AppTask:
        """See `Client.get_task`."""
        environment = environment or self._settings.serverless_environment
        rules.check_address(app_id, None, environment)
        task_id = check_task_id(task_id)
        url = self._base_url + rules.task_path(app_id, task_id, environment)
        seconds = check_seconds(timeout, _QUESTION_SECONDS)
        reply = await self._web.request_with_retries(url, with_key=True, timeout=seconds)
        read = rules.read_reply(
            reply.status, reply.body, task_id=task_id, retry_after=reply.retry_after, request_id=reply.request_id
        )
        if isinstance(read, RunwareError):
            raise read
        return read

    async def _submit(self, path: str, body: bytes, task_id: str, *, waits: bool) -> AppTask:
        """Send an invocation until there is an answer; its id makes a repetition harmless."""
        settings = self._settings
        timeout = max(settings.timeout, _LEAST_SYNC_TIMEOUT) if waits else settings.timeout
        attempt = 1
        while True:
            reply = await self._request("POST", path, task_id, body=body, timeout=timeout)
            if isinstance(reply, AppTask):
                return reply
            if not reply.retryable or attempt > settings.max_retries:
                raise reply
            growing = backoff(attempt, settings.retry_delay, settings.retry_strategy, random.random())
            await anyio.sleep(max(growing, reply.retry_after or 0.0))
            attempt += 1

    async def _collect(self, path: str, task_id: str, pause: float) -> AppTask:
        """Poll an accepted task until it is done, also after polls that failed."""
        accepted_at = anyio.current_time()
        waiting = pause
        while True:
            await anyio.sleep(waiting)
            reply = await self._request("GET", path, task_id, timeout=self._settings.timeout)
            since = anyio.current_time() - accepted_at
            following = rules.pause_before_request(reply, since_accepted=since, pause=pause)
            if following is not None:
                waiting = following
            elif isinstance(reply, AppTask):
                return reply
            else:
                raise reply

    async def _request(
        self, method: Any, path: str, task_id: str, *, body: bytes = b"", timeout: float
    ) -> AppTask | RunwareError:
        try:
            reply = await self._web.request(
                self._base_url + path, method=method, body=body, with_key=True, timeout=timeout
            )
        except RunwareError as error:
            error.task_uuid = task_id
            return error
        return rules.read_reply(
            reply.status, reply.body, task_id=task_id, retry_after=reply.retry_after, request_id=reply.request_id
        )


def _completed(task: AppTask, task_id: str) -> AppTask:
    if task.status == "failed":
        raise RunwareError(
            task.error or f"the app {task.app_id} failed without saying why",
            code="provider",
            raw_code="taskFailed",
            retryable=False,  # under the same id it stays failed
            task_uuid=task_id,
            results=[task],
        )
    return task
