"""Uploads of local media to the service's storage, each by a POST of its own, encoded piece by piece.

In a frame of the session the whole medium would lie in memory several times over, and all tasks would wait behind it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import anyio

from runware_flow.client.media import PIECE_BYTES, open_local, readable
from runware_flow.client.options import check_seconds
from runware_flow.errors import RunwareError, RunwareTimeoutError
from runware_flow.results import MediaStorageResult
from runware_flow.transport.connection import BodySource
from runware_flow.wire.codec import LocalMedia, encode
from runware_flow.wire.frames import decode_reply, encode_frame
from runware_flow.wire.problems import to_error
from runware_flow.wire.results import decode_result

if TYPE_CHECKING:
    from pathlib import Path

    from runware_flow.client.media import LocalFile
    from runware_flow.client.services import Services
    from runware_flow.wire.frames import Frame

__all__ = ("store_local", "upload")

_TASK_TYPE = "mediaStorage"
_HERE = "<content>"


async def upload(file: LocalFile, services: Services, *, timeout: float | None = None) -> MediaStorageResult:
    """Store a local medium at the service.

    It is sent again, under a new taskUUID, when no reply came: storing the same content twice does no harm. A cancel
    closes the connection.

    Args:
        file: what is stored.
        services: of the client.
        timeout: seconds for all of it, instead of the client's `poll_timeout`.

    Raises:
        RunwareError: the service refused it, or could not be reached.
        RunwareTimeoutError: the time is over.
        OSError: the file cannot be read any more.
    """
    seconds = services.settings.poll_timeout if timeout is None else timeout
    with anyio.move_on_after(seconds):
        reply = await services.web.request_with_retries(
            services.settings.http_base_url,
            method="POST",
            body=_body(file),
            with_key=True,
            timeout=seconds,
        )
        return _read(decode_reply(reply.status, reply.body), reply.retry_after, services)
    raise RunwareTimeoutError(
        f"the upload of {file.size} bytes was not done within {seconds:g} s",
        code="timeout",
        raw_code="timeout",
        task_type=_TASK_TYPE,
    )


async def store_local(media: bytes | Path, services: Services, *, timeout: float | None = None) -> MediaStorageResult:
    """Store a path or bytes, as `Client.media_storage` does.

    Raises:
        RunwareError: as for `upload`, and `validation` for a file that cannot be read.
    """
    seconds = check_seconds(timeout, services.settings.poll_timeout)
    with readable(LocalMedia(("media",), media)):
        return await upload(await open_local(media), services, timeout=seconds)


def _body(file: LocalFile) -> BodySource:
    before, _, after = _frame(file)
    return BodySource(len(before) + file.encoded_size + len(after), lambda: _Pieces(file))


def _frame(file: LocalFile) -> tuple[bytes, bytes, bytes]:
    """The request around the content, under a new taskUUID: one that was used before is refused."""
    task = {"taskType": _TASK_TYPE, "taskUUID": str(uuid4()), "operation": "upload", "media": file.prefix + _HERE}
    return encode_frame([encode(task)]).partition(_HERE.encode())


class _Pieces:
    """The body of one POST, from its beginning."""

    def __init__(self, file: LocalFile) -> None:
        before, _, after = _frame(file)
        self._before: bytes | None = before
        self._file = file
        self._at = 0
        self._after: bytes | None = after

    def __aiter__(self) -> _Pieces:
        return self

    async def __anext__(self) -> bytes:
        if self._before is not None:
            before, self._before = self._before, None
            return before
        if self._at < self._file.size:
            piece = await self._file.encode(self._at)
            self._at += PIECE_BYTES
            return piece
        if self._after is not None:
            after, self._after = self._after, None
            return after
        raise StopAsyncIteration


def _read(frame: Frame, retry_after: float | None, services: Services) -> MediaStorageResult:
    errors = [*frame.errors, *(item.error for item in frame.items if item.error is not None)]
    if errors:
        raise services.document(to_error(errors[0], task_type=_TASK_TYPE, retry_after=retry_after), None)
    for item in frame.items:
        result = decode_result(item, MediaStorageResult)
        if result.media_uuid is not None:
            return result
    raise RunwareError(
        "the service stored a medium and did not say under which UUID",
        code="serverError",
        raw_code="unrecognizedResponse",
        task_type=_TASK_TYPE,
    )
