"""Chooses the transport of a client's session: the configured one, or with `auto` the first that can be opened."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import anyio

from runware_flow.client.http.web import user_agent
from runware_flow.client.link import ExchangeLink, Link, SocketLink
from runware_flow.client.session_driver import SessionDriver
from runware_flow.client.tracing import trace_session
from runware_flow.errors import RunwareError
from runware_flow.session.commands import Log
from runware_flow.session.machine import SessionMachine
from runware_flow.session.options import SessionOptions
from runware_flow.transport.websocket import open_websocket

if TYPE_CHECKING:
    from runware_flow.client.options import Settings
    from runware_flow.client.send_windows import SendWindows
    from runware_flow.client.services import Services
    from runware_flow.lifetime import EventLoop, Workers
    from runware_flow.transport.connection import Connector

__all__ = ("TransportSelector",)


class TransportSelector:
    """The session of one client, on the transport that was chosen for it.

    `auto` chooses once, on first use and before anything is sent: the WebSocket if it opens, otherwise REST for the
    rest of the client's life. What is sent never changes its transport, so nothing can be sent twice by the choice.
    """

    def __init__(
        self,
        settings: Settings,
        services: Services,
        windows: SendWindows,
        workers: Workers,
        event_loop: EventLoop,
    ) -> None:
        self._settings = settings
        self._event_loop = event_loop
        self._windows = windows
        self._services = services
        self._workers = workers
        self._choosing = anyio.Lock()  # so that of several first calls one chooses, and the others wait for its choice
        self.is_chosen = settings.transport != "auto"

    def start(self) -> SessionDriver:
        """Start the session that is used, or tried first."""
        self._driver = self._start(self._link(duplex=self._settings.transport != "rest"))
        return self._driver

    async def connect(self) -> SessionDriver:
        """Open the connection, and wait until the key is accepted; with `auto`, choose. Returns what is to be used.

        Raises:
            RunwareError: `auth` for a rejected key; `connection` if there is no connection to be had, which `auto`
                answers with REST instead.
        """
        if self._settings.transport == "websocket":
            await self._driver.connect()
        async with self._choosing:
            if not self.is_chosen:
                await self._choose()
        return self._driver

    async def _choose(self) -> None:
        try:
            await self._driver.connect()
        except RunwareError as error:
            if error.code != "connection":
                raise
            link = self._link(duplex=False)
            self._driver.close()
            self._driver = self._start(link)
            self._driver.log(Log("connection", f"{error.message}; REST is used instead", {}, "warning"))
        self.is_chosen = True

    def _link(self, *, duplex: bool) -> Link:
        settings = self._settings
        if duplex:
            headers = {"User-Agent": user_agent(settings.user_agent_prefix)}
            connector: Connector = settings.connector or partial(
                open_websocket, ssl_context=settings.ssl_context, trust_env=settings.trust_env
            )
            return SocketLink(connector, settings.ws_base_url, headers, settings.api_key, self._event_loop)
        return ExchangeLink(self._services.web.rest, settings.api_key, self._event_loop, timeout=settings.timeout)

    def _start(self, link: Link) -> SessionDriver:
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
                refusal_timeout=settings.poll_timeout,
            )
        )
        driver = SessionDriver(machine, link, self._event_loop, log=self._services.log, tracing=trace_session())
        self._windows.use(driver)
        self._workers.start_soon(driver.run)
        return driver
