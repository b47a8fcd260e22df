"""The HTTP client with which the emulator downloads inputs and calls webhooks."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from runware_flow.emulator.http.body import BodyReader
from runware_flow.emulator.problems import Problem

if TYPE_CHECKING:
    import httpx

__all__ = ("DownloadFailed", "OutboundClient")

_REDIRECTS = 5
_DOWNLOAD_TIMEOUT = 60.0


class DownloadFailed(Exception):
    """Why a medium could not be fetched, as the end of a sentence."""


class OutboundClient:
    """An `httpx.AsyncClient` made on first use. Use it inside one event loop; `aclose` when done.

    It connects to every http(s) address, those of this machine included: tasks name them, and tasks come with a key.
    """

    def __init__(self) -> None:
        self._client: httpx.AsyncClient | None = None

    async def _open(self) -> httpx.AsyncClient:
        """Return the client; reading the certificates blocks, so it is made in a thread."""
        import httpx

        if self._client is None:
            made = await anyio.to_thread.run_sync(
                # identity: nothing has to be unpacked, if the peer obeys
                lambda: httpx.AsyncClient(
                    timeout=httpx.Timeout(10.0), trust_env=False, headers={"Accept-Encoding": "identity"}
                )
            )
            if self._client is None:  # another request may have been faster
                self._client = made
            else:
                await made.aclose()
        return self._client

    async def fetch(self, url: str, limit: int) -> bytes:
        """Return what is at an address.

        Raises:
            DownloadFailed: no answer, not the status 200, too many redirects, or not within a minute.
            Problem: it is larger than `limit` bytes, or encoded in a way that is not taken.
        """
        import httpx

        client = await self._open()
        try:
            with anyio.fail_after(_DOWNLOAD_TIMEOUT):
                request = client.build_request("GET", url)
                for _ in range(_REDIRECTS + 1):
                    # httpx would read the body of a redirect whole, unpacked: it is followed by hand
                    response = await client.send(request, stream=True, follow_redirects=False)
                    try:
                        if response.next_request is None:
                            return await _read(response, limit)
                        request = response.next_request
                    finally:
                        await response.aclose()
                raise DownloadFailed(f"it redirects more than {_REDIRECTS} times")
        except TimeoutError:
            raise DownloadFailed(f"it takes longer than {_DOWNLOAD_TIMEOUT:g} seconds") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise DownloadFailed(type(error).__name__) from error

    async def send(self, method: str, url: str, body: bytes, content_type: str) -> int | None:
        """Send a body and return the status of the answer; its body is not read. None: there was no answer."""
        import httpx

        client = await self._open()
        try:
            request = client.build_request(method, url, content=body, headers={"Content-Type": content_type})
            response = await client.send(request, stream=True, follow_redirects=False)
            await response.aclose()
        except (httpx.HTTPError, httpx.InvalidURL):
            return None
        return response.status_code

    async def aclose(self) -> None:
        """Close its connections."""
        if self._client is not None:
            await self._client.aclose()


async def _read(response: httpx.Response, limit: int) -> bytes:
    import httpx

    if response.status_code != 200:
        raise DownloadFailed(f"it answers with HTTP {response.status_code}")
    reader = BodyReader(response.headers.get("content-encoding", ""), limit)
    problem: Problem | None = None
    with contextlib.suppress(httpx.HTTPError):
        async for chunk in response.aiter_raw():
            try:
                if problem is None:
                    reader.feed(chunk)
            except Problem as refused:
                problem = refused
                await response.aclose()  # the next read fails, which ends the generators of httpx in their order
        if problem is None:
            return reader.finish()
    raise problem or DownloadFailed("the connection ended early")
