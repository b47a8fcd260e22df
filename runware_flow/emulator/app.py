"""The ASGI application: inference over REST and WebSocket, the media it names, schemas, and the control path.

`create_app` imports Starlette; everything else of the emulator does without it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import anyio
import msgspec

from runware_flow.emulator.content import Content
from runware_flow.emulator.rest import RestEndpoint
from runware_flow.emulator.websocket import serve_websocket

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Router

    from runware_flow.emulator.asgi import Receive, Scope, Send
    from runware_flow.emulator.shell import Shell

__all__ = ("App", "create_app")


class App:
    """One service behind one port. `aclose` ends its connections before the server goes down."""

    def __init__(self, shell: Shell, router: Router) -> None:
        self._shell = shell
        self._router = router
        self._active = 0
        self._idle = anyio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection (WebSocket) or request (HTTP)."""
        self._active += 1
        try:
            if scope["type"] == "websocket":
                await serve_websocket(self._shell, scope, receive, send)
            else:
                await self._router(scope, receive, send)
        finally:
            self._active -= 1
            if not self._active:
                self._idle.set()

    async def aclose(self, grace: float) -> None:
        """Close WebSockets with 1001, answer waiting requests with 503, and wait for both, `grace` seconds at most."""
        self._shell.closing.set()
        with anyio.move_on_after(grace):
            while self._active:
                self._idle = anyio.Event()
                await self._idle.wait()


def create_app(shell: Shell) -> App:
    """Build the application for a service."""
    from starlette.routing import Route, Router

    pages = _Pages(shell)
    routes = [
        Route("/v1", RestEndpoint(shell)),
        Route("/__emulator__/log", pages.log),
        Route("/schemas/registry.json", pages.registry),
        Route("/schemas/resolve/{model:path}", pages.resolve),
        Route("/content/{path:path}", pages.content),
        Route("/{folder}/os/{rest:path}", pages.medium),
    ]
    return App(shell, Router(routes=routes))


class _Pages:
    """What is served beside the inference endpoint."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._service = shell.service
        self._content: Content | None = None

    async def medium(self, request: Request) -> Response:
        """A picture or file that a result names, drawn now if nobody looked before; 404 once its ttl is over."""
        from starlette.responses import PlainTextResponse, Response

        medium = self._service.gallery.by_path(request.url.path, time.monotonic())
        if medium is None:
            return PlainTextResponse("not found", status_code=404)
        self._service.log.fetches += 1
        data = await self._shell.open_medium(medium)
        return Response(data, media_type=medium.content_type, headers={"Cache-Control": "public, max-age=86400"})

    async def content(self, request: Request) -> Response:
        """What the curated models are and cost (protocol facts, section 10)."""
        if self._content is None:
            self._content = Content(self._service)
        found = self._content.get(str(request.path_params["path"]), request.query_params)
        return _json({"error": "not found"}, 404) if found is None else _json(found)

    async def log(self, _request: Request) -> Response:
        """Everything that `emulator.log` has, for other processes."""
        return _json(self._service.log.as_dict())

    async def registry(self, request: Request) -> Response:
        """The registry of models, with its ETag; 304 for a client that has it (protocol facts, 9.1)."""
        from starlette.responses import Response

        models = self._service.models
        headers = {"ETag": models.etag, "Cache-Control": "public, max-age=300"}
        if request.headers.get("if-none-match") == models.etag:
            return Response(status_code=304, headers=headers)
        return Response(models.registry_json, media_type="application/json", headers=headers)

    async def resolve(self, request: Request) -> Response:
        """The request schema of a model, by AIR or slug; 404 for an unknown one (protocol facts, 9.2)."""
        models = self._service.models
        name = str(request.path_params["model"])
        air = models.slugs.get(name, name)
        schema = models.schema(air)
        if schema is None:
            return _json({"error": "unknown model"}, 404)
        documentation = f"https://runware.ai/docs/models/{models.slug(air)}"
        return _json({"requestSchema": schema, "responseSchema": None, "documentation": documentation})


def _json(content: Any, status: int = 200) -> Response:
    from starlette.responses import Response

    return Response(msgspec.json.encode(content), status_code=status, media_type="application/json")
