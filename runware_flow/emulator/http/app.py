"""The ASGI application: inference over REST and WebSocket, the media it names, schemas, and the control path.

`create_app` imports Starlette; everything else of the emulator does without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from runware_flow.emulator.http.body import BodyFirst
from runware_flow.emulator.http.compatible import ChatEndpoint
from runware_flow.emulator.http.endpoints import Endpoints
from runware_flow.emulator.http.origins import CorsSend, OriginPolicy
from runware_flow.emulator.http.rest import RestEndpoint, answer
from runware_flow.emulator.http.websocket import serve_websocket
from runware_flow.emulator.problems import Problem

if TYPE_CHECKING:
    from starlette.routing import Router
    from starlette.types import Receive, Scope, Send

    from runware_flow.emulator.http.driver import ServiceDriver

__all__ = ("App", "create_app")


class App:
    """One service behind one port. `aclose` ends its connections before the server goes down."""

    def __init__(self, driver: ServiceDriver, router: Router, origins: OriginPolicy) -> None:
        self._driver = driver
        self._origins = origins
        self._router = router
        self._active = 0
        self._idle = anyio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection (WebSocket) or request (HTTP)."""
        self._active += 1
        try:
            if scope["type"] == "http":
                exchange = BodyFirst(receive, send, self._driver.service.settings.max_frame_bytes)
                receive, send = exchange.receive, exchange.deliver
            headers = dict(scope["headers"])
            refusal = self._origins.refusal(headers)
            if refusal is not None:
                await _refuse(scope, receive, send, refusal)
                return
            origin = self._origins.origin(headers)
            if origin is not None and scope["type"] == "http":
                send = CorsSend(send, origin).deliver
            if scope["type"] == "http" and scope["method"] == "OPTIONS":
                await send({"type": "http.response.start", "status": 204, "headers": self._origins.preflight(headers)})
                await send({"type": "http.response.body", "body": b""})
            elif scope["type"] == "websocket":
                await serve_websocket(self._driver, scope, receive, send)
            else:
                await self._router(scope, receive, send)
        finally:
            self._active -= 1
            if not self._active:
                self._idle.set()

    async def aclose(self, grace: float) -> None:
        """Close WebSockets with 1001, answer waiting requests with 503, and wait for both, `grace` seconds at most."""
        self._driver.closing.set()
        with anyio.move_on_after(grace):
            while self._active:
                self._idle = anyio.Event()
                await self._idle.wait()


async def _refuse(scope: Scope, receive: Receive, send: Send, why: str) -> None:
    """Answer 403 and nothing more; a WebSocket is refused in its handshake."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": why})
        return
    await answer(send, 403, {"errors": [Problem("forbidden", why).entry()]})


def create_app(driver: ServiceDriver, host: str) -> App:
    """Build the application for a service that listens on `host`."""
    from starlette.routing import Route, Router

    settings = driver.service.settings
    policy = OriginPolicy([host, *settings.allow_host], settings.allow_origin)
    endpoints = Endpoints(driver)
    routes = [
        *(Route(path, RestEndpoint(driver)) for path in ("/v1", "/v1/")),
        Route("/v1/chat/completions", ChatEndpoint(driver)),
        Route("/v1/models", endpoints.models),
        *(
            Route(f"/v1/{name}", endpoints.missing, methods=["GET", "POST"])
            for name in ("responses", "messages", "decisions")
        ),
        Route("/__emulator__/log", endpoints.log),
        Route("/schemas/registry.json", endpoints.registry),
        Route("/schemas/resolve/{model:path}", endpoints.resolve),
        Route("/content/{path:path}", endpoints.content),
        Route("/serverless/v1/apps/{app}/{action}", endpoints.apps, methods=["GET", "POST"]),
        Route("/serverless/v1/apps/{app}/{action}/{rest:path}", endpoints.apps, methods=["GET", "POST"]),
        Route("/{folder}/os/{rest:path}", endpoints.medium),
    ]
    return App(driver, Router(routes=routes), policy)
