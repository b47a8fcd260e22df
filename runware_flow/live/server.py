"""A server of one page on 127.0.0.1, in a thread with an event loop of its own, so that it never delays a run.

Only the owner of the run can read it. The address has a random token. The Host header must be this server's, so that
no name of another site leads here (DNS rebinding). A request that changes something must have the page's own Origin.
The Content-Security-Policy lets the page load nothing from elsewhere.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import secrets
import socket
import threading
import time
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import anyio
import anyio.to_thread
import msgspec

from runware_flow.errors import RunwareFlowError
from runware_flow.extras import import_extra
from runware_flow.live.thumbnails import Thumbnails, placeholder
from runware_flow.view.live_feed import Feed
from runware_flow.view.report import page_policy

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable
    from pathlib import Path

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Router
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from runware_flow.view.report import Report

__all__ = ("LiveServer", "LiveSource")

_LOGGER = logging.getLogger("runware_flow.live")
_LOOK_SECONDS = 0.2
_WORKING_SHARE = 30
"""The pause between two renderings, as a multiple of the time that the last one took."""
_PING_SECONDS = 15.0
_MOST_BODY = 1_000_000
_TYPES = {
    ".avif": "image/avif",
    ".bmp": "image/bmp",
    ".gif": "image/gif",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".webp": "image/webp",
    ".m4v": "video/mp4",
    ".mov": "video/quicktime",
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".aac": "audio/aac",
    ".flac": "audio/flac",
    ".m4a": "audio/mp4",
    ".mp3": "audio/mpeg",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
    ".wav": "audio/wav",
}


class LiveSource(Protocol):
    """What a page shows. Its methods are called in threads of the server and may block, all but `stop`."""

    def look(self) -> int:
        """Read what is new, and return a number that changes when there was something."""
        ...

    def report(self) -> Report:
        """Return the state that the last `look` found."""
        ...

    def medium(self, row: int, place: int) -> tuple[Path | None, Any]:
        """Return the file of a medium, if it may be shown, and the result; `LookupError` if there is none."""
        ...

    async def stop(self) -> None:
        """Tell the run to stop."""
        ...

    def mark(self, nodes: list[tuple[str, str]], *, is_marked: bool) -> None:
        """Mark nodes, by flow and path, to be made again by the next run, or remove their marks."""
        ...


class LiveServer:
    """Serves a page from `start` to `close`, or to the end of the program.

    Attributes:
        url: of the page, with its token.
    """

    def __init__(self, source: LiveSource, *, port: int = 0, fetches: bool = False) -> None:
        """Take a port.

        Args:
            source: what the page shows.
            port: 0 takes a free one.
            fetches: pictures that are only at the service are fetched for the page, if the page is open.

        Raises:
            OSError: the port is taken.
            ModuleNotFoundError: the extra `live` is not installed.
        """
        import_extra("live", "hypercorn", "starlette", "PIL")  # missed here rather than in a thread
        self._source = source
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", port))
        self._socket.listen(16)
        self._token = secrets.token_urlsafe(18)
        self._hosts = {f"{name}:{self._socket.getsockname()[1]}" for name in ("127.0.0.1", "localhost")}
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/{self._token}/"
        self._feed = Feed()
        self._seen: int | None = None
        self._readers = 0
        self._thumbnails = Thumbnails(fetches=fetches)
        self._stop = threading.Event()
        self._changed = anyio.Event()
        self._closing = anyio.Event()
        self._thread: threading.Thread | None = None
        self._end = weakref.finalize(self, _close, self._stop, self._socket)

    def start(self) -> None:
        """Begin to serve."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="runware_flow live page", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Show the last state on open pages, and stop serving; blocks for a few seconds at most."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(5.0)
        self._end()

    # In its own thread

    def _run(self) -> None:
        try:
            anyio.run(self._serve, backend="asyncio")
        except Exception:
            _LOGGER.exception("the live page has ended")

    async def _serve(self) -> None:
        from hypercorn.config import Config

        serve: Any = importlib.import_module("hypercorn.asyncio").serve
        self._router = self._make_router()
        config = Config()
        config.bind = [f"fd://{self._socket.detach()}"]
        config.errorlog = _LOGGER
        config.accesslog = None
        config.graceful_timeout = 1.0
        config.include_server_header = False
        self._changed, self._closing = anyio.Event(), anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._look)
            await serve(self._guard, config, shutdown_trigger=self._closing.wait, mode="asgi")
            tasks.cancel_scope.cancel()

    def _make_router(self) -> Router:
        from starlette.routing import Route, Router

        routes = [
            Route("/", self._page),
            Route("/events", self._events),
            Route("/picture/{row:int}.{place:int}", self._picture),
            Route("/file/{row:int}.{place:int}", self._file),
            Route("/stop", self._stop_run, methods=["POST"]),
            Route("/mark", self._mark, methods=["POST"]),
        ]
        return Router(routes=routes, redirect_slashes=False)

    async def _look(self) -> None:
        """Render what is new while it is read; without a reader, only take it in."""
        ready_at = 0.0
        problem = ""
        while not self._stop.is_set():
            if anyio.current_time() >= ready_at:
                began = time.thread_time()
                try:
                    self._refresh(renders=self._readers > 0)
                    problem = ""
                except RunwareFlowError as error:  # the journal has gone, say; it may come back
                    if str(error) != problem:  # not five times a second
                        _LOGGER.warning("the live page cannot be brought up to date: %s", error)
                    problem = str(error)
                ready_at = anyio.current_time() + _WORKING_SHARE * (time.thread_time() - began)
            await anyio.sleep(_LOOK_SECONDS)
        with contextlib.suppress(RunwareFlowError):
            self._refresh(renders=self._readers > 0)
        self._changed.set()
        self._closing.set()

    def _refresh(self, *, renders: bool) -> None:
        version = self._source.look()
        if renders and version != self._seen:
            self._seen = version
            if self._feed.refresh(self._source.report()):
                self._changed.set()
                self._changed = anyio.Event()

    async def _guard(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer only the page's owner, by the rules above."""
        from starlette.responses import PlainTextResponse

        if scope["type"] != "http":
            return
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get(b"host", ""), headers.get(b"origin")
        token, _, rest = scope["path"].lstrip("/").partition("/")
        # Browsers send no Origin with the GET of a page that the user opens.
        origins = (None, f"http://{host}") if scope["method"] in ("GET", "HEAD") else (f"http://{host}",)
        answer: ASGIApp = self._router
        if host not in self._hosts:
            answer = PlainTextResponse("this server answers only to its own name", 421)
        elif not secrets.compare_digest(token.encode(), self._token.encode()):
            answer = PlainTextResponse("not found", 404)
        elif origin not in origins:
            answer = PlainTextResponse("the request came from another page", 403)
        else:
            scope = {**scope, "path": f"/{rest}", "raw_path": f"/{rest}".encode(), "root_path": ""}

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *_headers()]}
            await send(message)

        await answer(scope, receive, send_guarded)

    async def _page(self, _: Request) -> Response:
        from starlette.responses import HTMLResponse, PlainTextResponse

        try:
            self._refresh(renders=True)
        except RunwareFlowError as error:
            if not self._feed.has_page:
                return PlainTextResponse(str(error), 503)
        return HTMLResponse(self._feed.page())

    async def _events(self, request: Request) -> Response:
        from starlette.responses import StreamingResponse

        seen = request.headers.get("last-event-id") or request.query_params.get("from", "")
        version = int(seen) if seen.isdecimal() and len(seen) < 10 else 0
        return StreamingResponse(self._feed_events(version), media_type="text/event-stream")

    async def _feed_events(self, version: int) -> AsyncGenerator[bytes]:
        """Tell one reader what has changed, at its own pace."""
        self._readers += 1
        try:
            self._refresh(renders=True)
            yield b"retry: 1000\n\n"
            while True:
                changed, is_over = self._changed, self._stop.is_set()
                if self._feed.version != version:
                    changes = self._feed.since(version)
                    version = changes["version"]
                    body = msgspec.json.encode(changes)
                    yield b"id: %d\nevent: change\ndata: %b\n\n" % (version, body)
                if is_over:
                    yield b"event: end\ndata: {}\n\n"
                    return
                with anyio.move_on_after(_PING_SECONDS) as scope:
                    await changed.wait()
                if scope.cancelled_caught:
                    yield b": still here\n\n"
        finally:
            self._readers -= 1

    async def _picture(self, request: Request) -> Response:
        from starlette.responses import PlainTextResponse, Response

        row, place = request.path_params["row"], request.path_params["place"]
        try:
            path, result = self._source.medium(row, place)
        except LookupError:
            return PlainTextResponse("there is no such medium", 404)
        content = await self._thumbnails.get(path, result)
        if content is None:  # a picture that says so: a page with broken ones in it looks broken itself
            return Response(placeholder(), media_type="image/webp")
        return Response(content, media_type="image/webp", headers={"cache-control": "private, max-age=3600"})

    async def _file(self, request: Request) -> Response:
        from starlette.responses import FileResponse, PlainTextResponse

        try:
            path, _ = self._source.medium(request.path_params["row"], request.path_params["place"])
        except LookupError:
            path = None
        if path is None or not await anyio.Path(path).is_file():
            return PlainTextResponse("the file has moved", 404)
        kind = _TYPES.get(path.suffix.lower(), "application/octet-stream")
        shown = "inline" if path.suffix.lower() in _TYPES else "attachment"
        return FileResponse(path, media_type=kind, filename=path.name, content_disposition_type=shown)

    async def _stop_run(self, _: Request) -> Response:
        return await self._carry_out(self._source.stop())

    async def _mark(self, request: Request) -> Response:
        from starlette.responses import PlainTextResponse

        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > _MOST_BODY:
                return PlainTextResponse("too much", 413)
        try:
            marks = msgspec.json.decode(body, type=_Marks)
        except (msgspec.MsgspecError, ValueError):
            return PlainTextResponse("not understood", 400)
        change = partial(self._source.mark, marks.nodes, is_marked=marks.marked)
        return await self._carry_out(anyio.to_thread.run_sync(change))

    async def _carry_out(self, change: Awaitable[None]) -> Response:
        from starlette.responses import PlainTextResponse

        try:
            await change
            self._refresh(renders=True)
        except RunwareFlowError as error:
            return PlainTextResponse(str(error), 409)
        return PlainTextResponse("done")


class _Marks(msgspec.Struct):
    nodes: list[tuple[str, str]]
    marked: bool


def _headers() -> list[tuple[bytes, bytes]]:
    policy = page_policy(has_files=True, is_served=True) + "; frame-ancestors 'none'"
    return [
        (b"content-security-policy", policy.encode()),
        (b"referrer-policy", b"no-referrer"),
        (b"x-content-type-options", b"nosniff"),
        (b"cross-origin-resource-policy", b"same-origin"),
        (b"cross-origin-opener-policy", b"same-origin"),
        (b"cache-control", b"no-store"),
    ]


def _close(stop: threading.Event, listener: socket.socket) -> None:
    stop.set()
    listener.close()
