"""Decides which requests the emulator answers: those to its own host names, and none from a page of another origin.

A web page may send requests to any address of the visitor's machine. Browsers say where such a request comes from, in
`Origin`, on every POST and on every WebSocket; and a page whose host name is made to resolve to 127.0.0.1 (DNS
rebinding) gives itself away by its `Host`. So both are checked on every route, before anything else happens.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from runware_flow.emulator.http.sockets import is_closed

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from starlette.types import Message, Send

__all__ = ("CorsSend", "OriginPolicy", "parse_origin")

Header = tuple[bytes, bytes]


def parse_origin(text: str) -> str:
    """Read an origin as browsers write it, `scheme://host[:port]`.

    Raises:
        ValueError: it is something else: it has a path, or no scheme.
    """
    parts = urlsplit(text)
    if not parts.scheme or not parts.hostname or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError(f"{text!r} is not an origin: write it as https://app.example.com or http://localhost:3000")
    default = {"http": 80, "https": 443}.get(parts.scheme)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + ("" if parts.port in (None, default) else f":{parts.port}")


class OriginPolicy:
    """What an emulator answers.

    Args:
        hosts: names it answers to, besides `localhost` and every address.
        origins: origins of pages that may use it, besides its own.
    """

    def __init__(self, hosts: Collection[str] = (), origins: Collection[str] = ()) -> None:
        self._hosts = frozenset(host.lower() for host in hosts)
        self._allowed = frozenset(map(parse_origin, origins))

    def refusal(self, headers: Mapping[bytes, bytes]) -> str | None:
        """Return why a request with these headers is not answered, or None."""
        host = headers.get(b"host", b"").decode("latin-1")
        if not self._is_own(host):
            return f"The emulator does not answer to the host name {host!r}; --allow-host adds one."
        origin = self.origin(headers)
        if origin is None or origin in self._allowed or origin == f"http://{host.lower()}":
            return None
        return f"The emulator does not answer a page of {origin}. Start it with --allow-origin {origin} to let it in."

    def _is_own(self, host: str) -> bool:
        """An address cannot be rebound, only a name can: any address will do, which also serves containers."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name == "localhost" or name.endswith(".localhost") or name in self._hosts:
            return True
        try:
            ip_address(name)
        except ValueError:
            return False
        return True

    def origin(self, headers: Mapping[bytes, bytes]) -> str | None:
        """Return the origin of the page that sent a request; None if no page did."""
        value = headers.get(b"origin")
        return None if value is None else value.decode("latin-1")

    def preflight(self, headers: Mapping[bytes, bytes]) -> list[Header]:
        """Return the headers that answer `OPTIONS`: the browser asks before a page sends JSON or a key."""
        wanted = headers.get(b"access-control-request-headers", b"authorization, content-type")
        answer = [
            (b"access-control-allow-methods", b"GET, POST, OPTIONS"),
            (b"access-control-allow-headers", wanted),
            (b"access-control-max-age", b"600"),
        ]
        if headers.get(b"access-control-request-private-network") == b"true":
            answer.append((b"access-control-allow-private-network", b"true"))
        return answer


class CorsSend:
    """An ASGI `send` that lets a page of an allowed origin read what comes.

    `send` and `closed` are those of the server's own, where `sockets.py` looks for them.
    """

    def __init__(self, send: Send, origin: str) -> None:
        self.send = send
        self._headers = [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-expose-headers", b"etag, retry-after, x-request-id"),
            (b"vary", b"origin"),
        ]

    @property
    def closed(self) -> bool:
        """Whether the connection is known to be gone."""
        return is_closed(self.send)

    async def deliver(self, message: Message) -> None:
        """Send a message, with the headers if it begins an answer."""
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *self._headers]}
        await self.send(message)
