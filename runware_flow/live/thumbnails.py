"""Thumbnails for a live page: made on request, one after the other, and kept for a while."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import sys
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from runware_flow.errors import RunwareFlowError
from runware_flow.runner.report_files import picture_of

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ("Thumbnails", "placeholder")

_MOST_KEPT = 64 * 1024 * 1024
_MOST_FETCHED = 64 * 1024 * 1024
_FETCH_SECONDS = 30.0


class Thumbnails:
    """Makes thumbnails of files, of media inside a result and, with `fetches`, of media at the service."""

    def __init__(self, *, fetches: bool) -> None:
        self._fetches = fetches
        self._kept: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._size = 0
        self._turn = anyio.Lock()  # one at a time: a picture is made once, and one is in memory unpacked
        self._workers = anyio.CapacityLimiter(1)

    async def get(self, path: Path | None, result: Any) -> bytes | None:
        """Return the thumbnail of a picture as WebP; `None` if it is not a picture or cannot be loaded."""
        key = (str(path or ""), id(result) if path is None else 0)
        async with self._turn:
            kept = self._kept.get(key)
            if kept is None:
                kept = await self._make(path, result)
                if kept is None:
                    return None
                self._kept[key] = kept
                self._size += len(kept)
            self._kept.move_to_end(key)
            while self._size > _MOST_KEPT:
                self._size -= len(self._kept.popitem(last=False)[1])
        return kept

    async def _make(self, path: Path | None, result: Any) -> bytes | None:
        fetched = None
        if path is None and self._fetches and getattr(result, "inline", None) is None:
            fetched = await _fetch(getattr(result, "reference", ""))
            if fetched is None:
                return None
        return await anyio.to_thread.run_sync(_make_at_low_priority, path, result, fetched, limiter=self._workers)


@functools.cache
def placeholder() -> bytes:
    """Return the picture that is shown in place of one that cannot be loaded."""
    from PIL import Image, ImageDraw

    content = io.BytesIO()
    image = Image.new("RGB", (240, 180), "#8a8f98")
    ImageDraw.Draw(image).text((120, 90), "not kept", fill="white", anchor="mm")
    image.save(content, "WEBP")
    return content.getvalue()


def _make_at_low_priority(path: Path | None, result: Any, content: bytes | None) -> bytes | None:
    """Make a thumbnail in this thread, which gives way to the run from now on (on Linux, where a thread can)."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
    return picture_of(path, result, content)


async def _fetch(address: str) -> bytes | None:
    if not address.startswith(("http://", "https://")):
        return None
    import httpx

    from runware_flow.transport.download import download

    pieces: list[bytes] = []

    async def keep(piece: bytes) -> None:
        pieces.append(piece)

    try:
        async with httpx.AsyncClient() as client:
            await download(client, address, keep, timeout=_FETCH_SECONDS, max_bytes=_MOST_FETCHED)
    except (RunwareFlowError, OSError):
        return None
    return b"".join(pieces)
