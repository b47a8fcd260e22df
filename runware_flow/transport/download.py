"""Fetches the files that results name: by http(s) only, in pieces, bounded, and never with the API key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from runware_flow.errors import RunwareError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import httpx

__all__ = ("MAX_DOWNLOAD_BYTES", "download", "is_there")

MAX_DOWNLOAD_BYTES = 4 * 2**30
_GONE = (403, 404, 410)
_SILENT_SECONDS = 60.0
"""A server that sends nothing for so long is given up, unless the HTTP client has a limit of its own: nobody else would
end the wait."""


async def download(
    http_client: httpx.AsyncClient,
    url: str,
    sink: Callable[[bytes], Awaitable[None]],
    *,
    max_bytes: int = MAX_DOWNLOAD_BYTES,
) -> None:
    """Hand a file of the service to `sink`, piece by piece. A cancel, or an error of `sink`, closes the connection.

    Result files need no key [doc], so none is sent: the address came from a server.

    Raises:
        RunwareError: `notFound` when the file is gone (its `ttl` has passed, say), `connection` when the network or the
            server fails, sends nothing at all or falls silent, `validation` for an address that is not http(s) or a
            file over `max_bytes`.
    """
    import httpx

    if not url.startswith(("http://", "https://")):
        raise RunwareError("a result's file is fetched by http or https only", code="validation")
    try:
        async with http_client.stream("GET", url, follow_redirects=True, timeout=_timeout(http_client)) as response:
            if response.status_code >= 400:
                raise _refused(url, response.status_code)
            await _drain(response, url, sink, max_bytes)
    except (httpx.HTTPError, httpx.InvalidURL, ExceptionGroup) as error:
        # A port beyond 65535 is an OverflowError in a group, which httpx lets through.
        at_fault = error.exceptions[0] if isinstance(error, ExceptionGroup) else error
        reason = str(at_fault) or type(at_fault).__name__
        raise RunwareError(
            f"downloading {url} failed: {reason}", code="connection", raw_code="downloadFailed"
        ) from error


async def is_there(http_client: httpx.AsyncClient, url: str) -> bool:
    """Ask whether a file of the service is still there. What cannot be told, for a lost network say, counts as there.

    Only "gone" is a no (403, 404, 410): a server that does not know HEAD, or fails, says nothing of the file.
    """
    import httpx

    try:
        response = await http_client.head(url, follow_redirects=True, timeout=_timeout(http_client))
    except (httpx.HTTPError, httpx.InvalidURL, ExceptionGroup):
        return True
    return response.status_code not in _GONE


def _timeout(http_client: httpx.AsyncClient) -> httpx.Timeout:
    """What a client waits for, with a limit where it has none."""
    import httpx

    own = http_client.timeout
    read = _SILENT_SECONDS if own.read is None else own.read
    return httpx.Timeout(connect=own.connect, read=read, write=own.write, pool=own.pool)


async def _drain(response: httpx.Response, url: str, sink: Callable[[bytes], Awaitable[None]], max_bytes: int) -> None:
    """Read to the end, or until something fails.

    httpx reads through async generators, and one that is left half-way is left to the garbage collector, which trio
    warns of. So whatever ends the reading early, a cancel included, is kept for a moment, the generators are ended from
    the inside by a cancel of their own, and then it goes on its way unchanged.
    """
    failure: BaseException | None = None
    taken = 0
    with anyio.CancelScope() as reading:
        async for piece in response.aiter_bytes():
            taken += len(piece)
            try:
                if taken > max_bytes:
                    raise RunwareError(
                        f"{url} is larger than {max_bytes} bytes", code="validation", raw_code="valueTooLarge"
                    )
                await sink(piece)
            except BaseException as error:  # noqa: BLE001  # raised again below
                failure = error
                reading.cancel()
    if failure is not None:
        raise failure
    if not taken:
        raise RunwareError(f"downloading {url} failed: the file is empty", code="connection", raw_code="downloadFailed")


def _refused(url: str, status: int) -> RunwareError:
    if status in _GONE:
        return RunwareError(
            f"{url} is gone (HTTP {status}): result files live as long as the task's ttl or the account's default",
            code="notFound",
            raw_code="mediaExpired",
            status_code=status,
        )
    return RunwareError(f"downloading {url} failed: HTTP {status}", code="connection", status_code=status)
