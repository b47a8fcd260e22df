"""Fetches the files that results name: by http(s) only, streamed, bounded, and never with the API key."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from runware_flow.errors import RunwareError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    import httpx

__all__ = ("MAX_DOWNLOAD_BYTES", "open_download")

MAX_DOWNLOAD_BYTES = 4 * 2**30


@asynccontextmanager
async def open_download(
    http_client: httpx.AsyncClient, url: str, *, max_bytes: int = MAX_DOWNLOAD_BYTES
) -> AsyncGenerator[AsyncIterator[bytes]]:
    """Open a file of the service for reading in chunks. Leaving the block closes the connection.

    Result files need no key (Runware documentation), so none is sent: the address came from a server.

    Raises:
        RunwareError: `notFound` when the file is gone (its `ttl` has passed, say), `connection` when the network or the
            server fails, `validation` for an address that is not http(s) or a file over `max_bytes`.
    """
    import httpx

    if not url.startswith(("http://", "https://")):
        raise RunwareError("a result's file is fetched by http or https only", code="validation")
    try:
        async with http_client.stream("GET", url, follow_redirects=True) as response:
            if response.status_code >= 400:
                raise _refused(url, response.status_code)
            yield _bounded(response.aiter_bytes(), url, max_bytes)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise RunwareError(
            f"downloading {url} failed: {error or type(error).__name__}", code="connection", raw_code="downloadFailed"
        ) from error


def _refused(url: str, status: int) -> RunwareError:
    if status in (403, 404, 410):
        return RunwareError(
            f"{url} is gone (HTTP {status}): result files live as long as the task's ttl or the account's default",
            code="notFound",
            raw_code="mediaExpired",
            status_code=status,
        )
    return RunwareError(f"downloading {url} failed: HTTP {status}", code="connection", status_code=status)


async def _bounded(chunks: AsyncIterator[bytes], url: str, max_bytes: int) -> AsyncIterator[bytes]:
    taken = 0
    async for chunk in chunks:
        taken += len(chunk)
        if taken > max_bytes:
            raise RunwareError(f"{url} is larger than {max_bytes} bytes", code="validation", raw_code="valueTooLarge")
        yield chunk
