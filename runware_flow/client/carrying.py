"""Which transport carries a client's session: the one asked for, or with `auto` the first that can be opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from runware_flow.client.conversation import Conversation
from runware_flow.client.links import ExchangeLink, Link, SocketLink
from runware_flow.client.tracing import trace_session
from runware_flow.client.web import user_agent
from runware_flow.errors import RunwareError
from runware_flow.session.commands import Log
from runware_flow.session.machine import SessionMachine
from runware_flow.session.options import SessionOptions
from runware_flow.transport.websocket import open_websocket

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import TaskGroup

    from runware_flow.client.conversation import LogEntry
    from runware_flow.client.options import Settings
    from runware_flow.transport.rest import RestTransport

    Sink = Callable[[LogEntry], object]

__all__ = ("Carriage",)


class Carriage:
    """The conversation of one client, on the transport that was chosen for it.

    `auto` chooses once, on first use and before anything is sent: the WebSocket if it opens, otherwise REST for the
    rest of the client's life. What is sent never changes its transport, so nothing can be sent twice by the choice.
    """

    def __init__(
        self, settings: Settings, rest: Callable[[], Awaitable[RestTransport]], sink: Sink | None, workers: TaskGroup
    ) -> None:
        self._settings = settings
        self._rest = rest
        self._sink = sink
        self._workers = workers
        self._choosing = anyio.Lock()
        self.is_chosen = settings.transport != "auto"

    async def start(self) -> Conversation:
        """Start the conversation that is used, or tried first."""
        self._conversation = self._start(await self._link(duplex=self._settings.transport != "rest"))
        return self._conversation

    async def connect(self) -> Conversation:
        """Open the connection, and wait until the key is accepted; with `auto`, choose. Returns what is to be used.

        Raises:
            RunwareError: `auth` for a rejected key; `connection` if there is no connection to be had, which `auto`
                answers with REST instead.
        """
        if self._settings.transport == "websocket":
            await self._conversation.connect()
        async with self._choosing:
            if not self.is_chosen:
                await self._choose()
        return self._conversation

    async def _choose(self) -> None:
        try:
            await self._conversation.connect()
        except RunwareError as error:
            if error.code != "connection":
                raise
            link = await self._link(duplex=False)
            self._conversation.close()
            self._conversation = self._start(link)
            self._conversation.log(Log("connection", f"{error.message}; REST is used instead", {}, "warning"))
        self.is_chosen = True

    async def _link(self, *, duplex: bool) -> Link:
        settings = self._settings
        if duplex:
            headers = {"User-Agent": user_agent(settings.user_agent_prefix)}
            return SocketLink(settings.connector or open_websocket, settings.ws_base_url, headers, settings.api_key)
        return ExchangeLink(await self._rest(), settings.api_key, timeout=settings.timeout)

    def _start(self, link: Link) -> Conversation:
        settings = self._settings
        machine = SessionMachine(
            SessionOptions(
                api_key=settings.api_key,
                duplex=isinstance(link, SocketLink),
                auth_timeout=settings.auth_timeout,
                max_reconnect_attempts=settings.max_reconnect_attempts,
                max_retries=settings.max_retries,
                retry_delay=settings.retry_delay,
                retry_strategy=settings.retry_strategy,
            )
        )
        conversation = Conversation(machine, link, log_sink=self._sink, tracing=trace_session())
        self._workers.start_soon(conversation.run)
        return conversation
