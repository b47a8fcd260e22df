"""Keeps the pictures that a report shows while the service still has them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from runware_flow.cli.terminal import say
from runware_flow.errors import RunwareFlowError
from runware_flow.runner.report_files import keep_thumbnail
from runware_flow.types import MediaResult
from runware_flow.view.progress import pictures_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from runware_flow.client.client import Client
    from runware_flow.runner.result import RunResult

__all__ = ("KEPT_PICTURES", "PicturesLine", "keep_pictures")

KEPT_PICTURES = 500
_KEEPING_SECONDS = 120.0
_TELLING_SECONDS = 2.0


class PicturesLine:
    """Tells how far the pictures of a report are: a line every two seconds, and the last one if there was another."""

    def __init__(self) -> None:
        self._next = time.monotonic() + _TELLING_SECONDS
        self._has_reported = False

    def report(self, done: int, total: int) -> None:
        """Say it if it is time."""
        now = time.monotonic()
        if now >= self._next or (self._has_reported and done == total):
            self._next = now + _TELLING_SECONDS
            self._has_reported = True
            say(pictures_line(done, total))


async def keep_pictures(result: RunResult, client: Client, on_kept: Callable[[int, int], object]) -> None:
    """Fetch the first `KEPT_PICTURES` that the report shows, a few at a time; one that cannot be had stays a link.

    Args:
        result: has the pictures.
        client: fetches them.
        on_kept: called after each with how many are done, and how many there are.
    """
    media = [one for row in result.story()[1] for kind, one in row.media if kind == "image"]
    found = [one for one in media if isinstance(one, MediaResult)][:KEPT_PICTURES]
    limiter = anyio.CapacityLimiter(8)
    done = 0

    async def keep(picture: MediaResult) -> None:
        nonlocal done
        async with limiter:
            try:
                content = await client.read(picture)
                await anyio.to_thread.run_sync(keep_thumbnail, picture, content)
            except (RunwareFlowError, OSError):
                pass
        done += 1
        on_kept(done, len(found))

    with anyio.move_on_after(_KEEPING_SECONDS):
        async with anyio.create_task_group() as group:
            for picture in found:
                group.start_soon(keep, picture)
