"""What the parts of a client beside its session write to the log: the same entries, to the same place."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from runware_flow.client.conversation import LogEntry, print_entry

if TYPE_CHECKING:
    from runware_flow.client.options import Settings

__all__ = ("Log",)

_LOGGER = logging.getLogger("runware_flow")


class Log:
    """The log of one client: its sink while `debug` is on, else the logger `runware_flow`."""

    def __init__(self, settings: Settings) -> None:
        self._sink = (settings.log_sink or print_entry) if settings.debug else None

    def warn(self, category: str, message: str, **data: Any) -> None:
        """Write one entry. `data` holds no key, no prompt and no media."""
        if self._sink is None:
            _LOGGER.warning("%s: %s %s", category, message, data or "")
            return
        try:
            self._sink(LogEntry(category, message, data, time.time()))
        except Exception:  # a log must not end what it tells of
            self._sink = None
            _LOGGER.exception("the log sink failed and is not called again")
