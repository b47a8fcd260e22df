"""Downloads of results: a medium read into memory, or written to a file in one piece or not at all."""

from __future__ import annotations

import base64
import mimetypes
import os
import re
from typing import TYPE_CHECKING, cast

import anyio

from runware_flow.errors import RunwareError
from runware_flow.files import local_path
from runware_flow.transport.download import download, is_there
from runware_flow.types import MediaResult, file_of
from runware_flow.wire.media_type import extension_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    import httpx

__all__ = ("is_available", "read_media", "save_media")

_HEAD_BYTES = 64
_PIECE_BYTES = 1024 * 1024
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")


async def read_media(result: MediaResult, http_client: httpx.AsyncClient, *, timeout: float) -> bytes:
    """The bytes of a result's medium, downloaded if it came as a URL.

    Raises:
        RunwareError: the medium cannot be had any more (`notFound`), or the download failed (`connection`).
    """
    pieces: list[bytes] = []

    async def keep(piece: bytes) -> None:
        pieces.append(piece)

    await _hand_over(result, http_client, keep, timeout)
    return b"".join(pieces)


async def is_available(result: MediaResult, http_client: httpx.AsyncClient) -> bool:
    """Tell whether a result's medium can be had, without fetching it."""
    _check_medium(result)
    kept = file_of(result)
    if result.inline is not None or (kept is not None and await anyio.Path(kept).is_file()):
        return True
    reference = result.reference
    return not reference.startswith(("http://", "https://")) or await is_there(http_client, reference)


async def save_media(
    result: MediaResult, path: str | os.PathLike[str], http_client: httpx.AsyncClient, *, timeout: float
) -> Path:
    """Write a result's medium to `path` and return where it is.

    A path without the extension of a medium gets that of the content; a folder (one that exists, or a `str` that ends
    in a separator) gets a file named by the result's UUID. `~` is the home folder. Missing folders are made. The file
    appears whole or not at all, also after a cancel or a crash: the content is written piece by piece to a temporary
    file beside it, which is then renamed.
    """
    target = local_path(path)
    names_folder = isinstance(path, str) and path.endswith((os.sep, os.altsep or os.sep))  # a Path drops the separator
    if names_folder or await anyio.Path(target).is_dir():
        target /= _file_name(getattr(result, "uuid", None))
    await anyio.Path(target.parent).mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.urandom(4).hex()}.part")
    head = b""
    try:
        async with await anyio.open_file(partial, "wb") as file:

            async def write(piece: bytes) -> None:
                nonlocal head
                head = (head + piece)[:_HEAD_BYTES] if len(head) < _HEAD_BYTES else head
                await file.write(piece)

            await _hand_over(result, http_client, write, timeout)
        if mimetypes.guess_type(target.name)[0] is None:
            target = target.with_name(target.name + extension_of(head))
        await anyio.Path(partial).replace(target)
        vars(result)["_saved"] = target  # a report shows what was saved
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.Path(partial).unlink(missing_ok=True)
    return target


def _file_name(uuid: object) -> str:
    """A result's UUID as the name of a file: it came from a server, which must not choose the folder."""
    return uuid if isinstance(uuid, str) and _PLAIN_NAME.fullmatch(uuid) else "result"


async def _hand_over(
    result: MediaResult, http_client: httpx.AsyncClient, sink: Callable[[bytes], Awaitable[None]], timeout: float
) -> None:
    _check_medium(result)
    kept = file_of(result)
    if kept is not None and await anyio.Path(kept).is_file():
        async with await anyio.open_file(kept, "rb") as file:
            while piece := await file.read(_PIECE_BYTES):
                await sink(piece)
        return
    reference = result.inline or result.reference
    if reference.startswith(("http://", "https://")):
        await download(http_client, reference, sink, timeout=timeout)
        return
    encoded = reference.partition(",")[2] if reference.startswith("data:") else reference
    try:
        content = base64.b64decode(encoded, validate=True)
        if not content:
            raise ValueError("nothing is in it")
    except ValueError as error:
        raise RunwareError(
            f"the result of task {result.task_uuid} names its medium in a form that cannot be read here",
            code="validation",
            task_uuid=result.task_uuid,
        ) from error
    await sink(content)


def _check_medium(result: MediaResult) -> None:
    """Check that this is one result with a medium, and no list of them or node of a flow.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(cast("object", result), MediaResult):
        each = ": save each of its results by itself" if isinstance(result, list) else ""
        if hasattr(result, "__runware_node__"):
            each = ": run the flow and save result[node], or let the flow do it, with node.save(template)"
        raise TypeError(f"only a result that is a medium can be saved or read, not a {type(result).__name__}{each}")
