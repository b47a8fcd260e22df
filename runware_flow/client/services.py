"""The services of a client besides its session: HTTP, the registry, schemas, content and apps."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from runware_flow.catalog.documentation import add_documentation
from runware_flow.client.http.content import Content
from runware_flow.client.http.registry import RegistryKeeper
from runware_flow.client.http.schemas import SchemaKeeper
from runware_flow.client.http.serverless import Apps
from runware_flow.client.http.web import Web
from runware_flow.client.log import Log, print_entry
from runware_flow.client.request import prepare
from runware_flow.errors import ClientStateError, RunwareError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from runware_flow.client.options import Settings
    from runware_flow.client.request import Prepared
    from runware_flow.lifetime import Workers
    from runware_flow.types import Delivery as DeliveryMethod
    from runware_flow.types import Task

__all__ = ("Services",)


class Services:
    """The services of one client."""

    def __init__(self, settings: Settings, check_open: Callable[[], object]) -> None:
        self.settings = settings
        self.web = Web(settings)
        self.log = Log((settings.log_sink or print_entry) if settings.debug else None)
        self.registry = RegistryKeeper(f"{settings.schemas_base_url.rstrip('/')}/registry.json", self.web, self.log)
        self.schemas = SchemaKeeper(settings.schemas_base_url, self.web, self.log, shares=settings.http_client is None)
        self.content = Content(settings.content_base_url, self.web, check_open, self.documenting)
        self.apps = Apps(settings, self.web)
        self._workers: Workers | None = None

    def open(self, workers: Workers) -> None:
        """Begin; `workers` own the tasks in the background."""
        self._workers = workers
        self.web.open(workers)

    @property
    def workers(self) -> Workers:
        """The client's own workers."""
        if self._workers is None:
            raise ClientStateError("this client was not opened")
        return self._workers

    async def prepare(
        self, task: Task[Any] | Mapping[str, Any], *, delivery: DeliveryMethod | None = None, streams: bool = False
    ) -> Prepared:
        """Complete a task with the registry at hand, and let that be refreshed beside it if it was needed.

        Only for a model that this one lacks a newer one is waited for.
        """
        try:
            prepared = prepare(task, delivery=delivery, streams=streams, registry=self.registry.registry)
        except RunwareError as error:
            if error.raw_code != "unknownModel":
                raise
            if not await self.registry.look_again(self.workers):
                raise
            prepared = None
        if prepared is None:  # here, where the error above is not the context of another one
            return prepare(task, delivery=delivery, streams=streams, registry=self.registry.registry)
        if prepared.was_looked_up:
            self.registry.freshen(self.workers)
        return prepared

    async def check(self, prepared: Prepared) -> None:
        """Check a request against the schema of its model."""
        try:
            await self.schemas.check(prepared, self.workers)
        except RunwareError as error:
            self.document(error, prepared.model)
            raise

    async def refresh_registry(self) -> None:
        """Fetch the registry now."""
        await self.registry.refresh(self.workers)

    def document(self, error: RunwareError, model: str | None) -> RunwareError:
        """Add the link to the documentation to an error, and remove a key that a server repeated in its message."""
        message = self.settings.api_key.redact(error.message)
        if message != error.message:
            error.message, error.args = message, (message,)
        page = self.schemas.documentation_of(model)
        return add_documentation(error, model=model, page=page, registry=self.registry.registry)

    @contextmanager
    def documenting(self, prepared: Prepared | None = None) -> Generator[None]:
        """Add the link to the documentation, and the task that they are about, to errors raised in this block."""
        try:
            yield
        except RunwareError as error:
            if prepared is None:
                self.document(error, None)
            else:
                self.document_request(error, prepared)
            raise

    def document_request(self, error: RunwareError, prepared: Prepared) -> None:
        """Add the link to the documentation to an error, and the task that it is about."""
        error.task_type = error.task_type or prepared.task_type
        error.task_uuid = error.task_uuid or prepared.task_id
        self.document(error, prepared.model)
