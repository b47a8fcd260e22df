"""The endpoints of the emulator besides inference: media, schemas, content, serverless apps, the log."""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import anyio
import msgspec

from runware_flow.emulator.http.body import read_body
from runware_flow.emulator.http.content import Content
from runware_flow.emulator.http.schemas import request_schema, response_schema
from runware_flow.emulator.problems import Problem
from runware_flow.emulator.service import chat
from runware_flow.emulator.service.search import architecture
from runware_flow.emulator.service.serverless import Serverless, problem_document

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from runware_flow.emulator.http.driver import ServiceDriver

__all__ = ("Endpoints",)


_MEDIA_HEADERS = {
    "Cache-Control": "public, max-age=86400",
    "Content-Security-Policy": "sandbox",
    "X-Content-Type-Options": "nosniff",
}
"""An uploaded SVG or a file of any kind must not run as a page of the emulator's own origin."""


class Endpoints:
    """What is served beside the inference endpoint."""

    def __init__(self, driver: ServiceDriver) -> None:
        self._driver = driver
        self._service = driver.service
        self._content: Content | None = None
        self._apps = Serverless(driver.service.settings)

    async def medium(self, request: Request) -> Response:
        """A picture or file that a result names, drawn at the first request; 404 once its ttl is over."""
        from starlette.responses import PlainTextResponse, Response

        medium = self._service.media_store.by_path(request.url.path, time.monotonic())
        if medium is None:
            return PlainTextResponse("not found", status_code=404)
        self._service.log.fetches += 1
        data = await self._driver.open_medium(medium)
        return Response(data, media_type=medium.content_type, headers=_MEDIA_HEADERS)

    async def content(self, request: Request) -> Response:
        """What the curated models are and cost (protocol facts, section 10)."""
        if self._content is None:
            self._content = Content(self._service)
        found = self._content.get(str(request.path_params["path"]), request.query_params)
        return _json({"error": "not found"}, 404) if found is None else _json(found)

    async def apps(self, request: Request) -> Response:
        """Serverless apps; errors are problem documents (protocol facts, section 11)."""
        request_id = str(uuid.uuid4())
        headers = {"X-Request-Id": request_id}
        try:
            scheme, _, key = request.headers.get("authorization", "").partition(" ")
            problem = self._service.check_key(key) if scheme.lower() == "bearer" else None
            if problem is not None or scheme.lower() != "bearer":
                raise problem or Problem("unauthorized", "The request carries no API key.", status=401)
            fault = self._service.faults.trigger("serverless")
            if fault is not None and fault.retry_after is not None:
                headers["Retry-After"] = f"{fault.retry_after:g}"
            if fault is not None:
                message = fault.message or "The app cannot be reached."
                raise Problem(fault.code or "serviceUnavailable", message, status=fault.status or 503)
            status, content = await self._answer_app(request)
        except Problem as problem:
            status, content = problem.status, problem_document(problem, request_id)
        response = _json(content, status)
        response.headers.update(headers)
        if status >= 400:
            response.headers["Content-Type"] = "application/problem+json"
        return response

    async def _answer_app(self, request: Request) -> tuple[int, dict[str, Any]]:
        app_id, action, rest = (str(request.path_params.get(name, "")) for name in ("app", "action", "rest"))
        query = request.query_params
        environment = query.get("environment", "production")
        if request.method == "GET" and action == "tasks" and rest:
            if self._service.faults.trigger("late-task") is not None:
                raise Problem("taskNotFound", f"There is no task '{rest}' in the app '{app_id}'.", status=404)
            return 200, self._apps.get(app_id, rest, environment, time.monotonic(), _clock())
        if request.method == "GET" and action == "tasks":
            wanted = query.get("limit", "20")
            size = int(wanted) if wanted.isdecimal() and int(wanted) else 20
            return 200, self._apps.list(app_id, size, query.get("cursor", ""), time.monotonic(), _clock())
        if request.method != "POST" or action not in ("invoke-async", "invoke-sync"):
            raise Problem("resourceNotFound", "There is nothing here.", status=404)
        limit = self._service.settings.max_frame_bytes
        raw = await read_body(dict(request.scope["headers"]), request.receive, limit)
        try:
            body = msgspec.json.decode(raw or b"")
        except (msgspec.DecodeError, RecursionError) as error:
            raise Problem("validationFailed", "The body is not valid JSON.", status=400) from error
        ready_at = self._apps.invoke(app_id, rest, environment, body, time.monotonic(), _clock())
        if action == "invoke-sync":
            with anyio.move_on_after(self._service.settings.sync_budget):
                await anyio.sleep(max(0.0, ready_at - time.monotonic()))
        task = self._apps.get(app_id, str(body["taskId"]), environment, time.monotonic(), _clock())
        return 200 if action == "invoke-sync" and task["status"] != "pending" else 202, task

    async def models(self, _request: Request) -> Response:
        """The language models, as OpenAI-compatible APIs list them; no key is needed (a guess)."""
        return _json(chat.list_models(self._service.models, self._service.settings))

    async def missing(self, request: Request) -> Response:
        """What the service has and the emulator has not; 404, after which no client tries again."""
        message = (
            f"The emulator has no {request.url.path}: it answers /v1 and /v1/chat/completions."
            " The service itself has this endpoint."
        )
        return _json(chat.chat_error(Problem("notImplemented", message, status=404)), 404)

    async def log(self, _request: Request) -> Response:
        """Everything that `emulator.log` has, for other processes."""
        return _json(self._service.log.as_dict())

    async def registry(self, request: Request) -> Response:
        """The registry of models, with its ETag; 304 for a client that has it (protocol facts, 9.1)."""
        from starlette.responses import Response

        slow = self._service.faults.trigger("slow-registry")
        if slow is not None:
            await anyio.sleep(1.0 if slow.seconds is None else slow.seconds)
        body, etag = self._service.models.registry_file(self._service.settings.models)
        headers = {"ETag": etag, "Cache-Control": "public, max-age=300"}
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        return Response(body, media_type="application/json", headers=headers)

    async def resolve(self, request: Request) -> Response:
        """The request schema of a model, by AIR or slug; 404 for an unknown one (protocol facts, 9.2)."""
        models = self._service.models
        name = str(request.path_params["model"])
        air = models.slugs.get(name, name)
        state = self._service.state
        uploaded = state.uploaded.get(air)
        task_type = state.settings.models.get(air) or (None if uploaded is None else "imageInference")
        schema = request_schema(models, air, task_type, architecture(state, air))
        if schema is None:
            return _json({"error": "unknown model"}, 404)
        slug = models.slug(air)
        answered = response_schema(models, schema["properties"]["taskType"]["const"])
        # the pages of the community's models are one list [sdk]
        documentation = "https://runware.ai/docs/models" + ("" if slug is None else f"/{slug}")
        return _json({"requestSchema": schema, "responseSchema": answered, "documentation": documentation})


def _clock() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def _json(content: Any, status: int = 200) -> Response:
    from starlette.responses import Response

    return Response(msgspec.json.encode(content), status_code=status, media_type="application/json")
