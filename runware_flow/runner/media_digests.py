"""Hashes of local media, for the fingerprint of a request that names them before they are uploaded."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any

from runware_flow.wire.pixels import Pixels

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ("media_digests",)


def media_digests(request: Any) -> Iterable[tuple[str, str]]:
    """Pair the place of each local medium of a prepared request with a hash of what it is.

    Bytes, and the pixels of pictures in memory, are hashed. A file is identified by its path, size and time of change,
    so that a large one is not read twice.
    """
    media = getattr(request, "local_media", ())
    return _digests(media) if media else ()


def _digests(media: Iterable[Any]) -> Iterator[tuple[str, str]]:
    for medium in media:
        place = ".".join(str(part) for part in medium.path)
        source = medium.source
        if isinstance(source, bytes):
            yield place, hashlib.sha256(source).hexdigest()
            continue
        if isinstance(source, Pixels):
            yield place, source.digest()
            continue
        try:
            status = os.stat(source)
        except OSError:  # reading it will say so
            yield place, str(source)
        else:
            yield place, f"{source}:{status.st_size}:{status.st_mtime_ns}"
