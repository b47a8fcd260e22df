"""The schemas of models as a client knows them: fetched when a request is first to be checked, kept for its life."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import anyio.to_thread
import msgspec

from runware_flow.catalog.validation import SchemaUnusable, Validator, validation_error
from runware_flow.client.http.shared_fetch import SharedFetch
from runware_flow.errors import RunwareError
from runware_flow.transport.loading import load
from runware_flow.wire import salvage

if TYPE_CHECKING:
    from runware_flow.client.http.web import Web
    from runware_flow.client.log import Log
    from runware_flow.client.request import Prepared
    from runware_flow.lifetime import Workers

__all__ = ("SchemaKeeper",)

_FETCH_TIMEOUT = 10.0
"""Seconds that a check may take to get its schema; after that the service checks alone."""

_SOME_MEDIUM = "00000000-0000-4000-8000-000000000000"
"""Stands for a local medium, which is checked before it is read: media go by UUID wherever they go at all [doc]."""


class _Resolved(msgspec.Struct, rename="camel"):
    request_schema: dict[str, Any] | None = None
    documentation: str | None = None


class SchemaKeeper:
    """Checks requests against the schemas of `/resolve/<model>` (protocol facts, section 9.2).

    Concurrent first uses of a model share one fetch, which none of them owns. A schema that cannot be had or used
    checks nothing: the log says so, the request goes out, and the next one tries again. A model that the schemas
    service does not know (404) is remembered as one without a schema.
    """

    def __init__(self, base_url: str, web: Web, log: Log) -> None:
        self._base_url = base_url.rstrip("/")
        self._web = web
        self._log = log
        self._fetched: dict[str, SharedFetch[Validator | None]] = {}
        self._documentation: dict[str, str] = {}

    def documentation_of(self, model: str | None) -> str | None:
        """The page about a model that the service named, if it was asked for its schema."""
        return None if model is None else self._documentation.get(model)

    def clear(self) -> None:
        """Forget all schemas; what is being fetched serves those who wait for it, and is not kept."""
        self._fetched.clear()

    async def check(self, prepared: Prepared, workers: Workers) -> None:
        """Check a request against the schema of its model, if it has one.

        Raises:
            RunwareError: code `validation`, with `parameter` and `validation_errors`.
        """
        model = prepared.model
        if model is None:
            return
        try:
            validator = await self._validator(model, workers)
            problems = [] if validator is None else validator.check(_complete(prepared))
        except (RunwareError, SchemaUnusable) as error:
            if isinstance(error, RunwareError) and error.code == "aborted":
                raise
            data = {"model": model, "reason": str(error)}
            self._log.write("warning", "validation", "skipped: there is no usable schema", data)
            return
        if problems:
            raise validation_error(
                problems, task_type=prepared.task_type, task_uuid=prepared.task_id, model=prepared.model
            )

    async def _validator(self, model: str, workers: Workers) -> Validator | None:
        fetched = self._fetched.get(model)
        if fetched is None:
            fetched = SharedFetch(workers, lambda: self._fetch(model))
            self._fetched[model] = fetched
        try:
            return await fetched.wait()
        except (RunwareError, SchemaUnusable):
            if self._fetched.get(model) is fetched:
                del self._fetched[model]
            raise

    async def _fetch(self, model: str) -> Validator | None:
        reply = await self._web.request(f"{self._base_url}/resolve/{quote(model, safe=':@')}", timeout=_FETCH_TIMEOUT)
        if reply.status == 404:
            return None
        if reply.status != 200:
            raise RunwareError(f"HTTP {reply.status}", code="serverError", status_code=reply.status)
        try:
            resolved = msgspec.json.decode(reply.body, type=_Resolved)
        except salvage.UNREADABLE as error:
            raise SchemaUnusable("what the schemas service sent is no schema") from error
        if resolved.documentation:
            self._documentation[model] = resolved.documentation
        if resolved.request_schema is None:
            return None
        await load("jsonschema")
        return await anyio.to_thread.run_sync(Validator, resolved.request_schema)


def _complete(prepared: Prepared) -> dict[str, Any]:
    """The request with something in the places of its local media."""
    if not prepared.local_media:
        return dict(prepared.wire)
    from runware_flow.wire.codec import place

    wire: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(prepared.wire))
    for medium in prepared.local_media:
        place(wire, medium.path, _SOME_MEDIUM)
    return wire
