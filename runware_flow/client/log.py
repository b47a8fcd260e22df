"""The log of one client: its `log_sink` while `debug` is on, else the logger `runware_flow`."""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING, Any, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("Log", "LogEntry", "print_entry")

_LOGGER = logging.getLogger("runware_flow")
_LOGGER.addHandler(logging.NullHandler())  # a library is silent until its user asks for its log
_LEVELS = {"debug": logging.DEBUG, "warning": logging.WARNING}


class LogEntry(msgspec.Struct, frozen=True):
    """One line of the log. It never holds a key, a prompt or media."""

    category: str
    message: str
    data: dict[str, Any]
    timestamp: float
    """Seconds since the epoch."""


def print_entry(entry: LogEntry) -> None:
    """A log sink for people: one line on standard error."""
    data = " ".join(f"{name}={value}" for name, value in entry.data.items())
    sys.stderr.write(f"runware_flow {entry.category}: {entry.message} {data}\n")


class Log:
    """Where a client and its session write what they do."""

    def __init__(self, sink: Callable[[LogEntry], Any] | None = None) -> None:
        self._sink = sink
        self.is_verbose = sink is not None or _LOGGER.isEnabledFor(logging.DEBUG)
        """Whether entries of level `debug` are read."""

    def write(self, level: Literal["debug", "warning"], category: str, message: str, data: dict[str, Any]) -> None:
        """Write one entry. `data` holds no key, no prompt and no media."""
        if self._sink is None:
            _LOGGER.log(_LEVELS[level], "%s: %s %s", category, message, data or "")
            return
        try:
            self._sink(LogEntry(category, message, data, time.time()))
        except Exception:  # a failing sink must not fail the call that it reports
            self._sink = None
            _LOGGER.exception("the log sink failed and is not called again")
