"""The address of a URL, checked once for every carrier, and named alike in every error."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from .connection import TransportError

__all__ = ("Address", "parse_address")

_PORTS = {"ws": 80, "wss": 443, "http": 80, "https": 443}


class Address(NamedTuple):
    """A parsed URL; `str()` of it is `host:port`, which is all that errors show."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def secure(self) -> bool:
        """Whether it is reached by TLS."""
        return self.scheme in ("wss", "https")

    @property
    def authority(self) -> str:
        """The value of the Host header: the port only where it is not the scheme's own."""
        return self.bracketed if self.port == _PORTS[self.scheme] else str(self)

    @property
    def bracketed(self) -> str:
        """The host as URLs write it."""
        return f"[{self.host}]" if ":" in self.host else self.host

    def __str__(self) -> str:
        return f"{self.bracketed}:{self.port}"


def parse_address(url: str, schemes: tuple[str, ...], *, name: str = "The URL of the service") -> Address:
    """Check a URL and take it apart.

    Args:
        url: to be parsed.
        schemes: those that are allowed.
        name: what the URL is, for the message.

    Raises:
        TransportError: of kind `invalid`, for a URL that none of `schemes` can reach. The message does not repeat the
            URL, which may hold credentials.
    """
    if not url.isascii() or any(character <= " " or character == "\x7f" for character in url):
        raise _invalid("holds a character that must be escaped", name)
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise _invalid("has no valid host and port", name) from None
    if parts.scheme not in schemes:
        raise _invalid(f"must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}", name)
    if not host:
        raise _invalid("names no host", name)
    if parts.username is not None or parts.password is not None:
        raise _invalid("must not hold a user name or a password", name)
    if port == 0:
        raise _invalid("names port 0, which nothing can listen on", name)
    return Address(parts.scheme, host, port or _PORTS[parts.scheme], _target(parts))


def _target(parts: SplitResult) -> str:
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _invalid(problem: str, name: str) -> TransportError:
    return TransportError(f"{name} {problem}.", kind="invalid", sent=False)
