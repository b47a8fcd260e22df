"""The one HTTP client with which the emulator fetches what tasks name, and calls whom they want told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio.to_thread

if TYPE_CHECKING:
    import httpx

__all__ = ("OutboundClient",)


class OutboundClient:
    """An `httpx.AsyncClient` made on first use. Use it inside one event loop; `aclose` when done."""

    def __init__(self) -> None:
        self._client: httpx.AsyncClient | None = None

    async def client(self) -> httpx.AsyncClient:
        """Return the client; reading the certificates blocks, so it is made in a thread."""
        import httpx

        if self._client is None:
            made = await anyio.to_thread.run_sync(
                lambda: httpx.AsyncClient(timeout=httpx.Timeout(10.0), follow_redirects=True, trust_env=False)
            )
            if self._client is None:  # another request may have been faster
                self._client = made
            else:
                await made.aclose()
        return self._client

    async def aclose(self) -> None:
        """Close its connections."""
        if self._client is not None:
            await self._client.aclose()
