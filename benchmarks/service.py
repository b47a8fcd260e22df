"""The emulator in a process of its own, so that its CPU time is not counted as the client's."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def emulator_process(*, latency: str) -> Iterator[dict[str, Any]]:
    """Start `runware-flow serve` with `latency` and give the client options that it prints."""
    command = [sys.executable, "-m", "runware_flow", "serve", "--port", "0", "--latency", latency]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())
        finally:
            process.terminate()
            process.wait(timeout=10)
