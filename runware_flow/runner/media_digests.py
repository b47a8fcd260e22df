"""Hashes of local media, for the fingerprint of a request that names them before they are uploaded."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from runware_flow.files import local_path
from runware_flow.wire.pixels import Pixels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

__all__ = ("has_local_media", "media_digests", "media_times", "read_media")

_REMEMBERED_FILES = 4096


def has_local_media(request: Any) -> bool:
    """Tell whether a prepared request names local media; one of a client of the user's may not know of any."""
    return bool(getattr(request, "local_media", None))


async def read_media(request: Any) -> None:
    """Hash the local media of a prepared request in a thread, so that `media_digests` reads no file any more."""
    await anyio.to_thread.run_sync(list, media_digests(request), abandon_on_cancel=True)


def media_digests(request: Any) -> Iterable[tuple[str, str]]:
    """Pair the place of each local medium of a prepared request with a hash of its content.

    So it does not matter where a file lies, or when it was written. A file is read once, as long as it does not change.
    """
    media = getattr(request, "local_media", ())
    return _digests(media, _content_of) if media else ()


def media_times(request: Any) -> Iterable[tuple[str, str]]:
    """Do the same with the path, size and time of change of each file, which is not read.

    Requests in journals of earlier versions are known by these.
    """
    media = getattr(request, "local_media", ())
    return _digests(media, _time_of) if media else ()


def _digests(media: Iterable[Any], of_file: Callable[[Any], str]) -> Iterator[tuple[str, str]]:
    for medium in media:
        source = medium.source
        if isinstance(source, bytes):
            digest = hashlib.sha256(source).hexdigest()
        else:
            digest = source.digest() if isinstance(source, Pixels) else of_file(source)
        yield ".".join(str(part) for part in medium.path), digest


def _time_of(source: Any) -> str:
    try:
        status = os.stat(source)
    except OSError:  # reading it will say so
        return str(source)
    return f"{source}:{status.st_size}:{status.st_mtime_ns}"


def _content_of(source: Any) -> str:
    path = local_path(source)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # what is read from a pipe is gone
            return _time_of(source)
        key = path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        with _lock_of(*key):  # of equal requests that begin together, one reads the file
            return _hash(*key)
    except OSError:  # reading it will say so
        return str(source)


@lru_cache(_REMEMBERED_FILES)
def _lock_of(*_key: Path | int) -> threading.Lock:
    return threading.Lock()


@lru_cache(_REMEMBERED_FILES)
def _hash(path: Path, *_state: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
