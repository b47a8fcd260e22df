"""`Secret`: a key that never appears in a repr, a log or a traceback."""

from __future__ import annotations

from typing import NoReturn

__all__ = ("Secret",)


class Secret:
    """An API key: `reveal()` gives it, nothing else does (repr, str, format, pickle and JSON do not)."""

    __slots__ = ("_bytes", "_value")

    def __init__(self, value: str) -> None:
        self._value = value
        self._bytes = value.encode(errors="surrogatepass")

    def reveal(self) -> str:
        """The key itself, for the one place that sends it."""
        return self._value

    def redact(self, text: str) -> str:
        """`text` with the key replaced, for text that others wrote (a server's message, a log line)."""
        return text.replace(self._value, "<api key>") if self._value else text

    def redact_bytes(self, data: bytes) -> bytes:
        """The same for bytes, as a peer sent them."""
        is_there = self._bytes and self._bytes in data
        return data.replace(self._bytes, b"<api key>") if is_there else data

    def __repr__(self) -> str:
        return "Secret(...)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> NoReturn:
        raise TypeError("an API key is not pickled; set RUNWARE_API_KEY where the work runs")
