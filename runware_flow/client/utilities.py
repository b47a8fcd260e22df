"""The methods of a client beside generation: models, media, files of results, the account, past tasks, apps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import anyio
from msgspec import UNSET, UnsetType

from runware_flow.client.http.storage import is_available, read_media, save_media
from runware_flow.client.http.upload import store_local
from runware_flow.client.options import check_seconds
from runware_flow.client.request import read_task_id
from runware_flow.errors import RunwareError
from runware_flow.tasks import AccountManagement, ImageUpload, MediaStorage, ModelSearch, ModelUpload
from runware_flow.tracebacks import bordered
from runware_flow.types import Result, Task
from runware_flow.wire.codec import encode
from runware_flow.wire.frames import decode_reply, encode_frame
from runware_flow.wire.problems import to_error
from runware_flow.wire.results import decode_result
from runware_flow.wire.states import TaskState, read_state
from runware_flow.wire.webhooks import decode_webhook, notices_of

if TYPE_CHECKING:
    import os
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from runware_flow.catalog import Registry
    from runware_flow.client.delivery import Progress
    from runware_flow.client.http.content import Content
    from runware_flow.client.request import Prepared
    from runware_flow.client.services import Services
    from runware_flow.client.session_driver import SessionDriver
    from runware_flow.graph.outcomes import Failed, Ok
    from runware_flow.results import (
        AccountManagementResult,
        ImageUploadResult,
        MediaStorageResult,
        ModelSearchResult,
        ModelUploadResult,
        TaskDetailsResult,
    )
    from runware_flow.types import MediaResult
    from runware_flow.wire.frames import Frame
    from runware_flow.wire.serverless import AppTask
    from runware_flow.wire.webhooks import WebhookNotice

__all__ = ("Utilities",)

R = TypeVar("R", bound=Result)

_QUERY_TIMEOUT = 60.0

_UPLOAD_STAGES = ("validated", "downloaded", "optimized", "stored", "ready")
"""What an upload of a model goes through [doc]."""


@bordered
class Utilities:
    """What `Client` inherits: one method for each utility of the service, with typed results.

    `timeout` is in seconds everywhere and covers the whole call, repetitions and pauses included. Where a method takes
    none, or it is left out, its bound is the client's `poll_timeout` for tasks, `timeout` for files, and 60 s for
    questions about tasks, models and apps. `validate=True` checks what is asked against the package's own schema of the
    utility before it is sent, instead of the client's `validate`. Errors are those of `Client.run`.
    """

    _services: Services

    if TYPE_CHECKING:  # what the client brings

        def _here(self) -> SessionDriver: ...

        def prepare(self, task: Task[Any] | Mapping[str, Any]) -> Prepared: ...

        async def perform(
            self,
            prepared: Prepared,
            *,
            timeout: float | None = None,
            on_result: Callable[[Any], Awaitable[None] | None] | None = None,
            on_progress: Callable[[Progress], Awaitable[None] | None] | None = None,
            validate: bool | None = None,
        ) -> list[Any]: ...

    async def _first(self, task: Task[R], timeout: float | None, validate: bool | None = None) -> R:
        results = await self.perform(self.prepare(task), timeout=timeout, validate=validate)
        first: R = results[0]
        return first

    async def model_search(
        self,
        search: str | UnsetType = UNSET,
        *,
        category: str | UnsetType = UNSET,
        architecture: str | UnsetType = UNSET,
        source: str | UnsetType = UNSET,
        capabilities: Sequence[str] | UnsetType = UNSET,
        visibility: str | UnsetType = UNSET,
        sort: str | UnsetType = UNSET,
        limit: int | UnsetType = UNSET,
        offset: int | UnsetType = UNSET,
        extra: dict[str, Any] | UnsetType = UNSET,
        validate: bool | None = None,
        timeout: float | None = None,
    ) -> ModelSearchResult:
        """Search the models that the account can use: `.total_results`, and `.results` as dicts with wire names.

        Args:
            search: words in the name.
            source: `official` or `community`.
            visibility: `public`, `private`, `favorite` or `owned`.
            limit, offset: a page of the results; 1 to 100, 20 unless told.
            extra: parameters newer than this library, by wire names.
        """
        task = ModelSearch(
            search=search,
            category=category,
            architecture=architecture,
            source=source,
            capabilities=capabilities,
            visibility=visibility,
            sort=sort,
            limit=limit,
            offset=offset,
            extra=extra,
        )
        return await self._first(task, timeout, validate)

    async def model_upload(
        self,
        task: ModelUpload | None = None,
        *,
        wait_for: Literal["validated", "downloaded", "optimized", "stored", "ready"] = "ready",
        on_result: Callable[[Ok[ModelUploadResult] | Failed], Awaitable[None] | None] | None = None,
        on_progress: Callable[[Progress], Awaitable[None] | None] | None = None,
        validate: bool | None = None,
        timeout: float | None = None,
        **parameters: Any,
    ) -> ModelUploadResult:
        """Bring a model of one's own to the service, and wait until it is ready to be used, or has reached a stage.

        A cancel ends the waiting only; the service goes on with what it has accepted.

        Args:
            task: the `ModelUpload`; or leave it out and give its fields as keywords (`category`, `architecture`,
                `format`, `name`, `version`, `download_url`, ...).
            wait_for: the stage to wait for. With `"validated"` the call returns when the service has taken the model;
                what goes wrong after that, `get_response(result.task_uuid)` tells. A later stage will do as well: over
                REST the service answers when it is done with all of them.
            on_result: called with `Ok(result)` or `Failed(error)` when the model is ready, or has failed.
            on_progress: called with a `Progress` whose `status` is the stage: `validated`, `downloaded`, `optimized`,
                `stored`. Over REST only the later ones may be seen.

        Raises:
            RunwareError: a stage failed, or anything that `run` raises.
        """
        if task is not None and parameters:
            raise RunwareError(
                "model_upload takes a ModelUpload or its fields, not both",
                code="validation",
                raw_code="invalidParameter",
            )
        try:
            upload = ModelUpload(**parameters) if task is None else task
        except TypeError as error:
            raise RunwareError(
                f"model_upload: {error}", code="validation", raw_code="invalidParameter", task_type="modelUpload"
            ) from None
        if wait_for not in _UPLOAD_STAGES:
            raise RunwareError(
                f"wait_for= is one of {', '.join(_UPLOAD_STAGES)}, not {wait_for!r}",
                code="validation",
                raw_code="invalidParameter",
            )
        prepared = self.prepare(upload)
        reached: list[str] = []

        async def watch(progress: Progress) -> None:
            outcome = None if on_progress is None else on_progress(progress)
            if outcome is not None:
                await outcome
            stage = progress.status or ""
            if stage in _UPLOAD_STAGES[_UPLOAD_STAGES.index(wait_for) :]:
                reached.append(stage)
                waiting.cancel()

        with anyio.CancelScope() as waiting:
            results = await self.perform(
                prepared, timeout=timeout, on_result=on_result, on_progress=watch, validate=validate
            )
            first: ModelUploadResult = results[0]
            return first
        from runware_flow.results import ModelUploadResult

        air = upload.air if isinstance(upload.air, str) else None
        return ModelUploadResult(
            task_type="modelUpload", task_uuid=prepared.task_id, air=air, status=reached[0] if reached else None
        )

    async def image_upload(
        self, image: str | bytes | Path, *, validate: bool | None = None, timeout: float | None = None
    ) -> ImageUploadResult:
        """Store an image for later tasks: `.image_uuid`. `media_storage` takes any medium.

        Local media need no upload of yours: `run` takes paths and bytes wherever a task takes a medium. After a cancel
        the image may be stored or not; storing it again does no harm.

        Args:
            image: a URL, a data URI or base64 as a `str`; a `Path`; or bytes.
        """
        return await self._first(ImageUpload(image=image), timeout, validate)

    async def media_storage(
        self,
        media: str | bytes | Path,
        *,
        operation: Literal["upload", "delete"] = "upload",
        validate: bool | None = None,
        timeout: float | None = None,
    ) -> MediaStorageResult:
        """Store a medium for later tasks (`.media_uuid`, `.media_url`), or delete one.

        After a cancel it may have been done or not; doing it again does no harm. A path or bytes are encoded while they
        are sent, by a POST of their own.

        Args:
            media: to upload, as for `image_upload`; to delete, its UUID.
        """
        if operation == "upload" and isinstance(media, (bytes, Path)):
            self._here()
            with self._services.documenting():
                return await store_local(media, self._services, timeout=timeout)
        return await self._first(MediaStorage(operation=operation, media=media), timeout, validate)

    async def account_management(
        self,
        operation: str = "getDetails",
        *,
        start_date: str | UnsetType = UNSET,
        end_date: str | UnsetType = UNSET,
        models: Sequence[str] | UnsetType = UNSET,
        api_keys: Sequence[str] | UnsetType = UNSET,
        group_by: Sequence[str] | UnsetType = UNSET,
        timezone: str | UnsetType = UNSET,
        validate: bool | None = None,
        timeout: float | None = None,
    ) -> AccountManagementResult:
        """Read the account's details (balance, team, keys), or its usage over at most 30 days.

        Args:
            operation: `getDetails`, `getUsageActivity`, `getUsagePerformance` or `getUsageErrors`.
            group_by: any of `date`, `model` and `apiKey`.
        """
        task = AccountManagement(
            operation=operation,
            start_date=start_date,
            end_date=end_date,
            models=models,
            api_keys=api_keys,
            group_by=group_by,
            timezone=timezone,
        )
        return await self._first(task, timeout, validate)

    async def get_response(self, task_uuid: str, *, timeout: float | None = None) -> TaskState:
        """Ask once how a task stands, of any program: status, progress, finished results, failures. Waits for nothing.

        Always by a POST of its own, so it may be asked of a task that this client is waiting for. A failed task is a
        state, not an exception. The service forgets finished tasks after a while, and at once those it answered
        directly (sync): then the state is `unknown`, and `get_task_details` has the archive.

        Raises:
            RunwareError: the question itself failed (key, connection).
        """
        with self._services.documenting():
            return read_state(task_uuid.lower(), await self._request("getResponse", task_uuid, timeout))

    async def get_task_details(self, task_uuid: str, *, timeout: float | None = None) -> TaskDetailsResult:
        """Look up what a past task asked and answered: `.request` and `.response`, as they went over the wire.

        Raises:
            RunwareError: `notFound` for a task that the archive does not know.
        """
        from runware_flow.results import TaskDetailsResult

        frame = await self._request("getTaskDetails", task_uuid, timeout)
        for item in frame.items:
            if item.error is None and item.is_result:
                return decode_result(item, TaskDetailsResult)
        errors = [*frame.errors, *(item.error for item in frame.items if item.error is not None)]
        if errors:
            error = to_error(errors[0], task_type="getTaskDetails", task_uuid=task_uuid)
        else:
            error = RunwareError(
                f"the archive knows no task {task_uuid}",
                code="notFound",
                raw_code="taskNotFound",
                task_type="getTaskDetails",
                task_uuid=task_uuid,
            )
        raise self._services.document(error, None)

    async def _request(self, task_type: str, task_uuid: str, timeout: float | None) -> Frame:
        """Ask about a task by a POST of its own; the session would take it for its own task of that id."""
        self._here()
        task_id = read_task_id(task_uuid)
        body = encode_frame([encode({"taskType": task_type, "taskUUID": task_id})])
        services = self._services
        reply = await services.web.request_with_retries(
            services.settings.http_base_url,
            method="POST",
            body=body,
            with_key=True,
            timeout=check_seconds(timeout, _QUERY_TIMEOUT),
        )
        return decode_reply(reply.status, reply.body)

    async def save(self, result: MediaResult, path: str | os.PathLike[str], *, timeout: float | None = None) -> Path:
        """Write a result's medium to a file, and return its path.

        A path without the extension of a medium gets that of the content; an existing folder gets a file named by the
        result's UUID; missing folders are made, and `~` is the home folder. The file appears whole or not at all, also
        after a cancel.

        Args:
            result: of an image, a film, a sound, ...
            path: a file, or a folder.
            timeout: seconds for the whole download, instead of the client's `timeout`.

        Raises:
            RunwareTimeoutError: the time is over; the service keeps the file, so it can be saved later.
            RunwareError: `notFound` when the service no longer has the file, `connection` when the download failed.
            OSError: the file cannot be written.
        """
        self._here()
        seconds = check_seconds(timeout, self._services.settings.timeout)
        return await save_media(result, path, await self._services.web.http_client(), timeout=seconds)

    async def read(self, result: MediaResult, *, timeout: float | None = None) -> bytes:
        """Return the bytes of a result's medium. `timeout` and errors are those of `save`; a cancel leaves nothing."""
        self._here()
        seconds = check_seconds(timeout, self._services.settings.timeout)
        return await read_media(result, await self._services.web.http_client(), timeout=seconds)

    async def is_available(self, result: MediaResult) -> bool:
        """Ask whether a result's medium can still be had: files live as long as the task's `ttl`. Fetches nothing.

        Where that cannot be told, within 60 s, it counts as available. A cancel leaves nothing behind.
        """
        self._here()
        return await is_available(result, await self._services.web.http_client())

    def receive_webhook(self, body: bytes) -> list[WebhookNotice]:
        """Take the body of a call that the service made to a webhook of yours, from whatever framework you use.

        Results and failures of tasks that this client waits for reach their `run` or `submit` at once, each once,
        however often the service repeats itself. Nothing here waits. Who called is for you to check (a token in the
        URL): the service signs nothing. `WebhookReceiver` does all of it.

        Returns:
            What the call told of tasks that this client does not wait for: those of another process, or of a call that
            was cancelled, or that has its results already. `NoticeFilter` tells which of them are new.

        Raises:
            ProtocolError: the body is no JSON object.
            ClientStateError: the client is not open, or belongs to another event loop or thread.
        """
        driver = self._here()
        frame = decode_webhook(body)
        unexpected = [notice for notice in notices_of(frame) if not driver.waits_for(notice.task_uuid)]
        if frame.items or frame.errors:
            driver.receive_webhook(frame)
        return unexpected

    @property
    def content(self) -> Content:
        """What curated models are, can do and cost: `await client.content.list_models(search="flux")`."""
        return self._services.content

    async def invoke(
        self,
        app_id: str,
        payload: Mapping[str, Any],
        *,
        endpoint_path: str | None = None,
        environment: str | None = None,
        sync: bool = False,
        wait: bool = True,
        poll_interval: float | None = None,
        task_id: str | None = None,
        timeout: float | None = None,
    ) -> AppTask:
        """Call a serverless app and wait for its output (`.output`).

        The task's id makes it safe to send again: after a lost reply, and up to `max_retries` times when the service
        is busy, the same id goes out, and the service answers with the task that it has. A cancel ends the waiting
        only.

        Args:
            app_id: the app.
            payload: what the app is given, by wire names; paths and bytes in it become data URIs.
            endpoint_path: an endpoint of the app, instead of its default one.
            environment: instead of the client's `serverless_environment`; the service's own default is `production`.
            sync: let the service hold the connection until the task is done, as long as it will; a task that takes
                longer is then asked for. Otherwise it is asked for from the start.
            wait: with `False` the task is returned as soon as the service has accepted it; see `get_task`.
            poll_interval: seconds between two questions, 2 unless told.
            task_id: a UUID of yours, for a call that an earlier process may have sent already.
            timeout: seconds for all of it, instead of the client's `poll_timeout`.

        Raises:
            RunwareError: the service refused the call, or the app failed (raw code `taskFailed`, with the task in
                `.results`); `.task_uuid` is the id.
            RunwareTimeoutError: the time is over; `get_task` can ask for it later.
        """
        self._here()
        with self._services.documenting():
            return await self._services.apps.invoke(
                app_id,
                payload,
                endpoint_path=endpoint_path,
                environment=environment,
                sync=sync,
                wait=wait,
                poll_interval=poll_interval,
                task_id=task_id,
                timeout=timeout,
            )

    async def get_task(
        self, app_id: str, task_id: str, *, environment: str | None = None, timeout: float | None = None
    ) -> AppTask:
        """Ask once how an invocation of a serverless app stands. One that failed is a state, no exception.

        Args:
            app_id, environment: as for `invoke`.
            task_id: the id of the invocation.
            timeout: seconds for the question, repetitions included, instead of 60.

        Raises:
            RunwareError: `notFound` when the app has no such task, or the question itself failed.
        """
        self._here()
        with self._services.documenting():
            return await self._services.apps.get_task(app_id, task_id, environment=environment, timeout=timeout)

    @property
    def registry(self) -> Registry:
        """The list of models as this client knows it, by AIR and slug: the package's own until it was fetched."""
        return self._services.registry.registry

    async def refresh_registry(self) -> Registry:
        """Fetch the list of models from the service now, instead of with the next refresh in the background.

        Returns:
            The list, as `registry` is from now on.

        Raises:
            RunwareError: it cannot be had; the list that was known stays.
        """
        self._here()
        await self._services.refresh_registry()
        return self.registry

    def clear_validator_cache(self) -> None:
        """Forget the schemas that requests were checked against; each is fetched again when it is needed next."""
        self._services.schemas.clear()
