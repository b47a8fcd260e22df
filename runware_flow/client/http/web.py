"""HTTP with retries for everything but the session: one pool of connections, opened on first use."""

from __future__ import annotations

import platform
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import anyio

from runware_flow.errors import RunwareError
from runware_flow.lifetime import CLOSE_SECONDS, Workers
from runware_flow.secret import Secret
from runware_flow.session.retry import backoff
from runware_flow.transport.connection import TransportError
from runware_flow.transport.rest import RestTransport, create_http, fetch

if TYPE_CHECKING:
    import httpx

    from runware_flow.client.options import Settings
    from runware_flow.transport.connection import BodySource
    from runware_flow.transport.rest import Reply

__all__ = ("Web", "user_agent")


class Web:
    """HTTP for one client."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._http_client: httpx.AsyncClient | None = settings.http_client
        self._lock = anyio.Lock()  # so that two first requests open one pool
        self._rest: RestTransport | None = None

    async def http_client(self) -> httpx.AsyncClient:
        """The user's own HTTP client, or one that is opened on first use.

        Raises:
            RunwareError: code `connection`: the certificates cannot be read.
        """
        async with self._lock:
            if self._http_client is None:
                try:
                    self._http_client = await create_http(
                        ssl_context=self._settings.ssl_context, trust_env=self._settings.trust_env
                    )
                except TransportError as error:
                    raise _no_reply(error) from error
                self.workers.start_soon(self._close_in_the_end, self._http_client)
            return self._http_client

    def open(self, users: Workers) -> None:
        """Begin. Args: users: the workers that use the HTTP client; it is closed after they have ended."""
        self._users = users
        self.workers = Workers()

    async def aclose(self) -> None:
        """Close the HTTP client, if it was opened here."""
        self.workers.stop()
        await self.workers.wait_ended()
        self._http_client, self._rest = self._settings.http_client, None  # the client may be used again

    async def _close_in_the_end(self, http_client: httpx.AsyncClient) -> None:
        """Keep an HTTP client until the client is closed, dropped, or its event loop ends."""
        try:
            await anyio.sleep_forever()
        finally:
            await self._users.wait_ended()
            with anyio.move_on_after(CLOSE_SECONDS, shield=True):
                await http_client.aclose()

    async def rest(self) -> RestTransport:
        """Posts to the inference endpoint, with the key."""
        if self._rest is None:
            http_client = await self.http_client()
            self._rest = RestTransport(http_client, self._settings.http_base_url, headers=self._headers(with_key=True))
        return self._rest

    async def request(
        self,
        url: str,
        *,
        method: Literal["GET", "POST"] = "GET",
        body: bytes | BodySource = b"",
        etag: str | None = None,
        with_key: bool = False,
        timeout: float | None = None,
    ) -> Reply:
        """Send one request to any of the service's hosts and return the reply, whatever its status.

        Raises:
            RunwareError: code `timeout` or `connection`: there was no reply.
        """
        headers = self._headers(with_key=with_key)
        if method == "POST":
            headers["Content-Type"] = "application/json"
        if etag is not None:
            headers["If-None-Match"] = etag
        seconds = self._settings.timeout if timeout is None else timeout
        try:
            reply = await fetch(
                await self.http_client(), url, method=method, body=body, headers=headers, timeout=seconds
            )
        except TransportError as error:
            raise _no_reply(error) from error
        return replace(reply, body=self._settings.api_key.redact_bytes(reply.body))

    async def request_with_retries(
        self,
        url: str,
        *,
        method: Literal["GET", "POST"] = "GET",
        body: bytes | BodySource = b"",
        with_key: bool = False,
        timeout: float | None = None,
    ) -> Reply:
        """Send a request that may be repeated freely, up to `max_retries` times more, as `ask` does.

        It is repeated when no reply came and when the service is busy or has failed (408, 429, 5xx), after the wait
        that the service asks for, or a growing one. The last reply, or the last error, is the answer; so is the reply
        that asks for a wait beyond the end of the time.

        Args:
            url, method, with_key: as for `ask`.
            body: the same each time.
            timeout: seconds for all of it, repetitions and pauses included, instead of the client's `timeout`.
        """
        settings = self._settings
        deadline = anyio.current_time() + (settings.timeout if timeout is None else timeout)
        attempt = 0
        while True:
            attempt += 1
            left = max(deadline - anyio.current_time(), 0.0)
            reply: Reply | None = None
            failure: RunwareError | None = None
            try:
                reply = await self.request(url, method=method, body=body, with_key=with_key, timeout=left)
            except RunwareError as error:
                failure = error
            if reply is not None and reply.status not in (408, 429) and reply.status < 500:
                return reply
            growing = backoff(attempt, settings.retry_delay, settings.retry_strategy, random.random())
            pause = max(growing, (reply.retry_after if reply is not None else None) or 0.0)
            if attempt > settings.max_retries or anyio.current_time() + pause >= deadline:
                if reply is not None:
                    return reply
                assert failure is not None
                raise failure
            await anyio.sleep(pause)

    def _headers(self, *, with_key: bool) -> dict[str, str | Secret]:
        headers: dict[str, str | Secret] = {"User-Agent": user_agent(self._settings.user_agent_prefix)}
        if with_key:
            headers["Authorization"] = Secret(f"Bearer {self._settings.api_key.reveal()}")
        return headers


def _no_reply(error: TransportError) -> RunwareError:
    is_late = error.kind == "timeout"
    return RunwareError(
        error.message,
        code="timeout" if is_late else "connection",
        raw_code="requestTimeout" if is_late else "connectionFailed",
    )


def user_agent(prefix: str | None) -> str:
    """Who asks, and on what system."""
    from runware_flow import __version__

    system = f"python/{platform.python_version()}; {platform.system()} {platform.machine()}"
    own = f"runware-flow/{__version__} ({system})"
    return f"{prefix} {own}" if prefix else own
