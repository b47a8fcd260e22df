"""`WebhookReceiver`: an ASGI application for the calls that the service makes when a result is ready."""

from __future__ import annotations

import hmac
import secrets
from inspect import isawaitable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

import anyio

from runware_flow.errors import ProtocolError, RunwareError
from runware_flow.transport.connection import MAX_FRAME_BYTES
from runware_flow.wire.webhooks import NoticeFilter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from runware_flow.client.client import Client
    from runware_flow.wire.webhooks import WebhookNotice

__all__ = ("WebhookReceiver",)

_ANSWER_SECONDS = 4.0
"""Seconds for `on_notice`: the service gives a call up after about 5 s and repeats it [3p]."""


class WebhookReceiver:
    """An ASGI application that hands results which the service delivers by webhook to the tasks of a client.

    Serve it in the client's event loop, at an address that the service can reach, and send tasks with
    `webhook_url=receiver.url`. A call settles its task at once; a repeated call does nothing. The client polls its
    tasks as well, so a call that never comes loses nothing.

    A call must carry the token in `url`, because the service does not sign its calls [doc]. The answer is 204 when the
    call was accepted, 403 when the token is wrong, and 500 when `on_notice` failed: the service then repeats the call.

    ```python
    async with Client() as client:
        receiver = WebhookReceiver(client, "https://my.host/runware")
        app.mount("/runware", receiver)
        images = await client.run(ImageInference(..., webhook_url=receiver.url))
    ```
    """

    def __init__(
        self,
        client: Client,
        address: str,
        *,
        token: str | None = None,
        on_notice: Callable[[WebhookNotice], Awaitable[None] | None] | None = None,
    ) -> None:
        """Create the application; nothing is opened.

        Args:
            client: the client whose tasks get the results; it must be open while calls come.
            address: where this application can be reached from outside, without the token.
            token: a secret of yours; by default a new one. Give one that stays the same where results may come after a
                restart, or to another process.
            on_notice: called once for each result or failure of a task that this client does not wait for. Sync or
                async. If it raises, or an async one takes longer than 4 seconds, the service repeats the call.

        Raises:
            RunwareError: `validation`: the address is not http(s), or the token is empty.
        """
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise _invalid("address", f"a webhook's address starts with https:// or http://, not {address!r}")
        if token == "":
            raise _invalid("token", "a webhook without a token is open to all")
        self._client = client
        self._token = token or secrets.token_urlsafe(32)
        self._on_notice = on_notice
        self._filter = NoticeFilter()
        query = "&".join(filter(None, (parts.query, urlencode({"token": self._token}))))
        self._address = address
        self._url = urlunsplit(parts._replace(query=query))

    @property
    def url(self) -> str:
        """The value for `webhook_url` of a task: the address with the token. It is a secret."""
        return self._url

    def __repr__(self) -> str:
        return f"<WebhookReceiver at {self._address}>"

    async def __call__(
        self, scope: Any, receive: Any, send: Any
    ) -> None:  # servers and frameworks type ASGI each their way
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
            status = await self._answer(scope, receive)
            if status is not None:
                headers = [(b"content-length", b"0")] if status != 204 else []
                await send({"type": "http.response.start", "status": status, "headers": headers})
                await send({"type": "http.response.body", "body": b""})
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})

    async def _answer(self, scope: Any, receive: Any) -> int | None:
        """The status to answer a request with; None if the caller has gone."""
        if scope["method"] != "POST":
            return 405
        query: bytes = scope.get("query_string", b"")
        given = parse_qs(query.decode("ascii", "replace")).get("token", [""])[-1]
        if not hmac.compare_digest(given.encode(), self._token.encode()):
            return 403
        try:
            body = await _read_body(receive)
            if body is None:
                return None
            unexpected = self._client.receive_webhook(body)
        except _TooLarge:
            return 413
        except ProtocolError:
            return 400
        for notice in unexpected:
            if self._on_notice is not None and self._filter.is_new(notice) and not await self._notify(notice):
                return 500
        return 204

    async def _notify(self, notice: WebhookNotice) -> bool:
        """Call `on_notice`; tell whether it was in time. What it raises goes to the server, which answers with 500."""
        is_done = False
        try:
            with anyio.move_on_after(_ANSWER_SECONDS):
                assert self._on_notice is not None
                pending = self._on_notice(notice)
                if isawaitable(pending):
                    await pending
                is_done = True
        finally:
            if not is_done:
                self._filter.forget(notice)
        return is_done


class _TooLarge(Exception):
    """A body over the limit of a frame."""


async def _read_body(receive: Any) -> bytes | None:
    """The whole body; None if the caller has gone before its end."""
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        piece: bytes = message.get("body", b"")
        size += len(piece)
        if size > MAX_FRAME_BYTES:
            raise _TooLarge
        pieces.append(piece)
        if not message.get("more_body", False):
            return b"".join(pieces)


async def _live(receive: Any, send: Any) -> None:
    """Answer a server that runs this application by itself."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def _invalid(parameter: str, message: str) -> RunwareError:
    return RunwareError(message, code="validation", raw_code="invalidConfig", parameter=parameter)
