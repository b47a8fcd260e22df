"""The schemas of models, fetched when a request is first validated, and kept for all clients of the process."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import anyio.to_thread
import msgspec

from runware_flow.catalog.validation import SchemaUnusable, Validator, utility_schema, validation_error
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


class KnownSchemas:
    """What was fetched, by the address of the schemas service and the model; safe to use from several threads.

    The least recently fetched ones are forgotten first.
    """

    def __init__(self, limit: int = 1024) -> None:
        self._limit = limit
        self._known: dict[tuple[str, str], tuple[Validator, str | None]] = {}
        self._lock = threading.Lock()  # clients of several event loops, in threads of their own, share this

    def get(self, base_url: str, model: str) -> tuple[Validator | None, str | None]:
        """Return the validator of a model and its page; twice nothing for one that was not fetched."""
        return self._known.get((base_url, model), (None, None))

    def keep(self, base_url: str, model: str, validator: Validator, page: str | None) -> None:
        """Keep what was fetched."""
        with self._lock:
            self._known[base_url, model] = validator, page
            while len(self._known) > self._limit:
                del self._known[next(iter(self._known))]

    def clear(self, base_url: str) -> None:
        """Forget what one service said."""
        with self._lock:
            self._known = {key: value for key, value in self._known.items() if key[0] != base_url}


_of_the_process = KnownSchemas()


class SchemaKeeper:
    """Checks requests against the schemas of `/resolve/<model>` (protocol facts, section 9.2).

    Concurrent first uses of a model share one fetch, which none of them owns. A schema that cannot be had or used
    checks nothing: the log says so, the request goes out, and the next one tries again. A model that the schemas
    service does not know (404) is remembered as one without a schema, by this client alone. Utilities are checked
    against the package's own schemas.

    Args:
        shares: whether what is fetched serves the other clients of the process; not if this one has an HTTP client of
            its own, which may be answered differently.
    """

    def __init__(self, base_url: str, web: Web, log: Log, *, shares: bool = True) -> None:
        self._base_url = base_url.rstrip("/")
        self._known = _of_the_process if shares else KnownSchemas()
        self._web = web
        self._log = log
        self._fetched: dict[str, SharedFetch[Validator | None]] = {}
        self._documentation: dict[str, str] = {}

    def documentation_of(self, model: str | None) -> str | None:
        """The page about a model that the service named, if its schema was fetched."""
        if model is None:
            return None
        return self._documentation.get(model) or self._known.get(self._base_url, model)[1]

    def clear(self) -> None:
        """Forget all schemas, for all clients of this service; a fetch in progress still serves its callers."""
        self._fetched.clear()
        self._known.clear(self._base_url)

    async def check(self, prepared: Prepared, workers: Workers) -> None:
        """Check a request against the schema of its model, if it has one.

        Raises:
            RunwareError: code `validation`, with `parameter` and `validation_errors`.
        """
        model = prepared.model
        try:
            if model is None:
                validator = await _utility_validator(prepared.task_type)
            else:
                validator = self._known.get(self._base_url, model)[0] or await self._validator(model, workers)
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
        if fetched is None or fetched.has_failed:
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
            raise SchemaUnusable("the schemas service sent something that is not a schema") from error
        if resolved.documentation:
            self._documentation[model] = resolved.documentation
        if resolved.request_schema is None:
            return None
        await load("jsonschema")
        validator = await anyio.to_thread.run_sync(Validator, resolved.request_schema)
        self._known.keep(self._base_url, model, validator, resolved.documentation)
        return validator


async def _utility_validator(task_type: str) -> Validator | None:
    schema = await anyio.to_thread.run_sync(utility_schema, task_type)
    if schema is None:
        return None
    await load("jsonschema")
    return await anyio.to_thread.run_sync(Validator, schema)


def _complete(prepared: Prepared) -> dict[str, Any]:
    """The request with something in the places of its local media."""
    if not prepared.local_media:
        return dict(prepared.wire)
    from runware_flow.wire.codec import place

    wire: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(prepared.wire))
    for medium in prepared.local_media:
        place(wire, medium.path, _SOME_MEDIUM)
    return wire
