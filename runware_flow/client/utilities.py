"""The methods of a client besides generation: models, media, files of results, the account, past tasks, apps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import anyio
from msgspec import UNSET, UnsetType

from runware_flow.client.http.storage import is_available, read_media, save_media
from runware_flow.client.http.upload import store_local
from runware_flow.client.options import check_callback, check_seconds
from runware_flow.client.request import check_task_id
from runware_flow.errors import RunwareError
from runware_flow.tasks import AccountManagement, ImageUpload, MediaStorage, ModelSearch, ModelUpload
from runware_flow.tracebacks import bordered
from runware_flow.types import Result, Task
from runware_flow.wire.codec import encode, is_mapping
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
"""The stages of a model upload, in their order [doc]."""


@bordered
class Utilities:
    """The utilities of `Client`: one method for each utility of the service, with typed results.

    `timeout` is in seconds and covers the whole call, repetitions and pauses included. Without it, a call that sends a
    task ends after the client's `poll_timeout`, a download after its `timeout`, and a query about tasks, models or apps
    after 60 s. `validate` overrides the client's: with `True` the request is checked against the package's schema of
    the utility before it is sent. Errors are those of `Client.run`.
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
            limit, offset: a page of the results; `limit` is 1 to 100, 20 by default [doc].
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
        task: ModelUpload | Mapping[str, Any] | None = None,
        *,
        wait_for: Literal["validated", "downloaded", "optimized", "stored", "ready"] = "ready",
        on_result: Callable[[Ok[ModelUploadResult] | Failed], Awaitable[None] | None] | None = None,
        on_progress: Callable[[Progress], Awaitable[None] | None] | None = None,
        validate: bool | None = None,
        timeout: float | None = None,
        **parameters: Any,
    ) -> ModelUploadResult:
        """Upload a model of your own, and wait until it is ready to be used, or has reached a stage.

        A cancel ends the waiting only; the service continues with an upload that it has accepted.

        Args:
            task: the `ModelUpload`, or a dict with its wire names; or leave it out and give its fields as keywords
                (`category`, `architecture`, `format`, `name`, `version`, `download_url`, ...).
            wait_for: the stage to wait for; a later one counts as well. With `"validated"` the call returns when the
                service has accepted the model, and `get_response(result.task_uuid)` reports later failures. Over REST
                the service answers only after the last stage.
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
            upload: Any = ModelUpload(**parameters) if task is None else task
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
        check_callback("on_result", on_result)
        check_callback("on_progress", on_progress)
        if is_mapping(upload):
            upload = {"taskType": "modelUpload", **upload}
        prepared = self.prepare(upload)
        if prepared.task_type != "modelUpload":
            raise RunwareError(
                f"model_upload takes a ModelUpload, not {prepared.task_type}: use client.run() for it",
                code="validation",
                raw_code="invalidParameter",
                parameter="taskType",
            )
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

        air = prepared.wire.get("air")
        return ModelUploadResult(
            task_type="modelUpload", task_uuid=prepared.task_id, air=air, status=reached[0] if reached else None
        )

    async def image_upload(
        self, image: str | bytes | Path, *, validate: bool | None = None, timeout: float | None = None
    ) -> ImageUploadResult:
        """Store an image for later tasks: `.image_uuid`. `media_storage` takes any medium.

        You need not upload local media yourself: `run` takes paths and bytes wherever a task takes a medium. After a
        cancel the image may be stored or not; storing it again does no harm.

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

        After a cancel the medium may be stored (or deleted) or not; the same call can be repeated. A path or bytes are
        sent by a POST of their own and encoded piece by piece.

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
        """Read the account's details (balance in USD, team, keys), or its usage over at most 30 days [doc].

        A cancel leaves nothing behind.

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
        """Poll a task of any program once, and return its status, progress, finished results and failures.

        The poll is a POST of its own, so the task may be one that this client is waiting for. A failed task is a state,
        not an exception. The service forgets a finished task after a time that it does not document, and a sync task
        once it has answered it [3p]: then the state is `unknown`, and `get_task_details` reads the archive. A cancel
        leaves nothing behind.

        Raises:
            RunwareError: the poll itself failed (key, connection).
        """
        with self._services.documenting():
            task_id = check_task_id(task_uuid)
            return read_state(task_id, await self._request("getResponse", task_id, timeout))

    async def get_task_details(self, task_uuid: str, *, timeout: float | None = None) -> TaskDetailsResult:
        """Return the `.request` and the `.response` of a past task from the archive, as they went over the wire.

        A cancel leaves nothing behind.

        Raises:
            RunwareError: `notFound` for a task that the archive does not know.
        """
        from runware_flow.results import TaskDetailsResult

        with self._services.documenting():
            task_uuid = check_task_id(task_uuid)
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

    async def _request(self, task_type: str, task_id: str, timeout: float | None) -> Frame:
        """Ask about a task by a POST of its own; the session would take it for its own task of that id."""
        self._here()
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

        A path without the extension of a medium gets that of the content; a folder (one that exists, or a `str` that
        ends in a separator) gets a file named by the result's UUID; missing folders are made, and `~` is the home
        folder. The file appears whole or not at all, also after a cancel.

        Args:
            result: an `ImageResult`, a `VideoResult`, or any other result with a medium.
            path: a file, or a folder.
            timeout: seconds for the whole download, instead of the client's `timeout`.

        Raises:
            RunwareTimeoutError: the download took longer than `timeout`; the file is still at the service.
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
        """Return whether a result's medium can still be downloaded, without downloading it.

        A file lives as long as the task's `ttl` or the account's default [doc]. If the server gives no clear answer
        within 60 s, the medium counts as available. A cancel leaves nothing behind.
        """
        self._here()
        return await is_available(result, await self._services.web.http_client())

    def receive_webhook(self, body: bytes) -> list[WebhookNotice]:
        """Handle the body of a webhook call, in whatever framework you use.

        Results and failures of tasks that this client waits for reach their `run` or `submit` at once, and only once
        if the service repeats a call. This method does not block. Check the caller yourself, by a token in the URL: the
        service does not sign its calls [doc]. `WebhookReceiver` does all of this.

        Returns:
            The results and failures of tasks that this client does not wait for: tasks of another process, of a call
            that was cancelled, or of one that has its results already. `NoticeFilter` says which of them are new.

        Raises:
            ProtocolError: the body is not a JSON object.
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
        """Descriptions and prices of the curated models: `await client.content.list_models(search="flux")`."""
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

        The call is sent again after a lost reply, and up to `max_retries` times when the service is busy. It always
        carries the same id, and the service answers a known id with the task that it has [doc]. A cancel ends the
        waiting only: the app runs on, and `get_task` reads its result.

        Args:
            app_id: the app.
            payload: what the app is given, by wire names; paths and bytes in it become data URIs.
            endpoint_path: an endpoint of the app, instead of its default one.
            environment: instead of the client's `serverless_environment`; the service's own default is `production`.
            sync: let the service hold the connection until the task is done; a task that takes longer than the service
                waits is polled. With `False` it is polled from the start.
            wait: with `False` the task is returned as soon as the service has accepted it; see `get_task`.
            poll_interval: seconds between two polls, 2 by default.
            task_id: a UUID of yours, for a call that an earlier process may have sent already.
            timeout: seconds for all of it, instead of the client's `poll_timeout`.

        Raises:
            RunwareError: the service refused the call, or the app failed (raw code `taskFailed`, with the task in
                `.results`); `.task_uuid` is the id.
            RunwareTimeoutError: there was no result within `timeout`; `get_task` reads it later.
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
        """Poll an invocation of a serverless app once. A failed one is a state, not an exception.

        A cancel leaves nothing behind.

        Args:
            app_id, environment: as for `invoke`.
            task_id: the id of the invocation.
            timeout: seconds for the poll, repetitions included, instead of 60.

        Raises:
            RunwareError: `notFound` when the app has no such task, or the poll itself failed.
        """
        self._here()
        with self._services.documenting():
            return await self._services.apps.get_task(app_id, task_id, environment=environment, timeout=timeout)

    @property
    def registry(self) -> Registry:
        """The models that this client knows, by AIR and slug: the package's list, until a newer one was fetched."""
        return self._services.registry.registry

    async def refresh_registry(self) -> Registry:
        """Fetch the list of models from the service now, instead of at the next refresh in the background.

        A cancel leaves the old list.

        Returns:
            The new list, which is also `registry` from now on.

        Raises:
            RunwareError: the list could not be fetched; the old one stays.
        """
        self._here()
        with self._services.documenting():
            await self._services.refresh_registry()
        return self.registry

    def clear_validator_cache(self) -> None:
        """Forget the schemas for `validate`; each is fetched again when it is needed next."""
        self._services.schemas.clear()
