"""Results on their way to the user: a medium read into memory, or written to a file in one piece or not at all."""

from __future__ import annotations

import base64
import binascii
import os
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from runware_flow.client.media import extension_of
from runware_flow.errors import RunwareError
from runware_flow.transport.download import open_download

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    import httpx

    from runware_flow.types import MediaResult

__all__ = ("read_media", "save_media")


async def read_media(result: MediaResult, http_client: httpx.AsyncClient) -> bytes:
    """The bytes of a result's medium, downloaded if it came as a URL.

    Raises:
        RunwareError: the medium cannot be had any more (`notFound`), or the download failed (`connection`).
    """
    async with _open_media(result, http_client) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def save_media(result: MediaResult, path: str | os.PathLike[str], http_client: httpx.AsyncClient) -> Path:
    """Write a result's medium to `path` and return where it is.

    A path without an extension gets that of the content (a JPEG becomes `.jpg` whatever was asked for). Folders are
    made. The file appears whole or not at all, also after a cancel or a crash: the content is streamed into a
    temporary file beside it, which is then renamed.
    """
    target = Path(path)
    await anyio.Path(target.parent).mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.urandom(4).hex()}.part")
    try:
        async with _open_media(result, http_client) as chunks, await anyio.open_file(partial, "wb") as file:
            head = b""
            async for chunk in chunks:
                head = head or chunk[:64]
                await file.write(chunk)
        if not target.suffix:
            target = target.with_name(target.name + extension_of(head))
        await anyio.Path(partial).replace(target)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await anyio.Path(partial).unlink(missing_ok=True)
        raise
    return target


@asynccontextmanager
async def _open_media(result: MediaResult, http_client: httpx.AsyncClient) -> AsyncGenerator[AsyncIterator[bytes]]:
    reference = result.reference
    if reference.startswith(("http://", "https://")):
        async with open_download(http_client, reference) as chunks:
            yield chunks
        return
    encoded = reference.partition(",")[2] if reference.startswith("data:") else reference
    try:
        content = base64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise RunwareError(
            f"the result of task {result.task_uuid} names its medium in a form that cannot be read here",
            code="validation",
            task_uuid=result.task_uuid,
        ) from error

    async def once() -> AsyncIterator[bytes]:
        yield content

    yield once()
