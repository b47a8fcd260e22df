"""The registry of a client: the package's own, updated with entries that the service has sent since."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import msgspec

from runware_flow import catalog
from runware_flow.catalog import Registry
from runware_flow.client.http.shared_fetch import SharedFetch
from runware_flow.errors import RunwareError

if TYPE_CHECKING:
    from runware_flow.client.http.web import Web
    from runware_flow.client.log import Log
    from runware_flow.lifetime import Workers

__all__ = ("FIRST_FETCH_SECONDS", "REGISTRY_TTL", "RegistryKeeper")

REGISTRY_TTL = 300.0
"""Seconds for which a registry is taken as fresh, as in the official clients (protocol facts, section 9.1)."""

FIRST_FETCH_SECONDS = 3.0
"""How long a call waits for the registry, when it names a model that is not known here."""

_PAUSE = 30.0
"""Seconds after which a fetch that failed, or that did not bring a model that was looked for, may be repeated."""

_FETCH_TIMEOUT = 30.0


class RegistryKeeper:
    """Keeps one client's registry fresh, in the background, and never lets a failure reach a call.

    Nothing is fetched before a call needs the registry. Such a call uses what is there, and if that is older than
    `REGISTRY_TTL`, it is fetched anew beside it. Only a call whose model is not known at all waits, and not for long.
    """

    def __init__(self, url: str, web: Web, log: Log) -> None:
        self._url = url
        self._web = web
        self._log = log
        self._registry: Registry | None = None
        self._etag: str | None = None
        self._fresh_until = 0.0
        self._repeat_at = 0.0
        self._fetching: SharedFetch[None] | None = None

    @property
    def registry(self) -> Registry:
        """The newest registry that is known here."""
        return catalog.load_registry() if self._registry is None else self._registry

    def freshen(self, workers: Workers) -> None:
        """Fetch the registry in the background, if it is due."""
        if anyio.current_time() >= max(self._fresh_until, self._repeat_at):
            self._start(workers)

    async def look_again(self, workers: Workers) -> bool:
        """Wait for a newer registry, `FIRST_FETCH_SECONDS` at most; tell whether one came. Never raises.

        A registry that was fetched a moment ago is not fetched again.
        """
        before = self._registry
        if anyio.current_time() < self._repeat_at and (self._fetching is None or self._fetching.is_over):
            return False
        fetching = self._start(workers)
        with anyio.move_on_after(FIRST_FETCH_SECONDS):
            try:
                await fetching.wait()
            except RunwareError:
                return False
        return self._registry is not before

    async def refresh(self, workers: Workers) -> None:
        """Fetch the registry now, and wait for it.

        Raises:
            RunwareError: it cannot be had; the one that was known stays.
        """
        await self._start(workers).wait()

    def _start(self, workers: Workers) -> SharedFetch[None]:
        if self._fetching is None or self._fetching.is_over:
            self._fetching = SharedFetch(workers, self._fetch)
        return self._fetching

    async def _fetch(self) -> None:
        self._repeat_at = anyio.current_time() + _PAUSE
        try:
            reply = await self._web.request(self._url, etag=self._etag, timeout=_FETCH_TIMEOUT)
            if reply.status not in (200, 304):
                raise _useless(f"the schemas service answered HTTP {reply.status}", status=reply.status)
            if reply.status == 200:
                self._registry, self._etag = _decode(reply.body).laid_over(catalog.load_registry()), reply.etag
        except RunwareError as error:
            self._log.write(
                "warning", "registry", "the registry of models could not be fetched", {"reason": error.message}
            )
            raise
        self._fresh_until = anyio.current_time() + REGISTRY_TTL


def _decode(body: bytes) -> Registry:
    try:
        registry = Registry.from_json(body)
    except (msgspec.MsgspecError, ValueError) as error:
        raise _useless("the schemas service sent no registry") from error
    if not registry.models:
        raise _useless("the schemas service sent a registry without models")
    return registry


def _useless(message: str, status: int | None = None) -> RunwareError:
    return RunwareError(message, code="serverError", raw_code="unrecognizedResponse", status_code=status)
