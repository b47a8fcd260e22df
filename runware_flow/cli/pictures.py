"""Keeping the pictures that a report shows, while the service still has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from runware_flow.errors import RunwareFlowError
from runware_flow.runner.report_files import keep_thumbnail
from runware_flow.types import MediaResult

if TYPE_CHECKING:
    from runware_flow.client.client import Client
    from runware_flow.runner.result import RunResult

__all__ = ("KEPT_PICTURES", "keep_pictures")

KEPT_PICTURES = 500
_KEEPING_SECONDS = 120.0


async def keep_pictures(result: RunResult, client: Client) -> None:
    """Fetch the first `KEPT_PICTURES` that the report shows, a few at a time; one that cannot be had stays a link."""
    media = [one for row in result.story()[1] for kind, one in row.media if kind == "image"]
    found = [one for one in media if isinstance(one, MediaResult)]
    limiter = anyio.CapacityLimiter(8)

    async def keep(picture: MediaResult) -> None:
        async with limiter:
            try:
                content = await client.read(picture)
            except (RunwareFlowError, OSError):
                return
            await anyio.to_thread.run_sync(keep_thumbnail, picture, content)

    with anyio.move_on_after(_KEEPING_SECONDS):
        async with anyio.create_task_group() as group:
            for picture in found[:KEPT_PICTURES]:
                group.start_soon(keep, picture)
