"""`progress=True`: a plain line to standard error now and then."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from runware_flow.graph.events import NodeSettled, NodeStarted, RunFinished, RunStarted
from runware_flow.graph.outcomes import Failed, Ok

if TYPE_CHECKING:
    from runware_flow.graph.events import Event

__all__ = ("PlainProgress",)

_SECONDS_A_LINE = 2.0


class PlainProgress:
    """Counts what it is told and writes a line at most every two seconds, and one at the end."""

    def __init__(self) -> None:
        self._flow = ""
        self._running: set[str] = set()
        self._ok_count = 0
        self._failed_count = 0
        self._written = 0.0

    def __call__(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._flow = event.flow
            case NodeStarted():
                self._running.add(event.path)
            case NodeSettled():
                self._running.discard(event.path)
                self._ok_count += isinstance(event.outcome, Ok)
                self._failed_count += isinstance(event.outcome, Failed)
            case _:
                pass
        if isinstance(event, RunFinished) or event.time - self._written >= _SECONDS_A_LINE:
            self._written = event.time
            self._write(event)

    def _write(self, event: Event) -> None:
        parts = [f"{self._ok_count} done", f"{len(self._running)} in flight"]
        if self._failed_count:
            parts.append(f"{self._failed_count} failed")
        if isinstance(event, RunFinished):
            parts.append(f"{event.end} after {event.time:.1f} s")
            if event.cost:
                parts.append(f"{event.cost:.4f} USD")
        print(f"{self._flow}: {', '.join(parts)}", file=sys.stderr)  # noqa: T201
