"""A warning for async functions of nodes that block the event loop, in Python's development mode (`python -X dev`).

Between two awaits a function has the event loop for itself; whatever takes long there holds up every other node, the
polls and the connection. So the time of each such step is measured, on both backends alike.
"""

from __future__ import annotations

import functools
import os
import sys
import time
import types
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

__all__ = ("is_debugging", "watch_steps")

LONGEST_STEP = 0.1
"""Seconds that a function may take between two awaits, as in asyncio's own debug mode."""


@functools.cache
def is_debugging() -> bool:
    """Whether functions are watched, read once: with `python -X dev`, `PYTHONDEVMODE=1` or `PYTHONASYNCIODEBUG=1`."""
    return sys.flags.dev_mode or bool(os.environ.get("PYTHONASYNCIODEBUG"))


@types.coroutine
def watch_steps(
    function: types.CoroutineType[Any, Any, Any], name: str, *, clock: Callable[[], float] = time.perf_counter
) -> Generator[Any, Any, Any]:
    """Run a coroutine, and warn of each step between two awaits that takes more than `LONGEST_STEP`.

    Args:
        function: the coroutine of an `async def`.
        name: the node, for the warning.
        clock: seconds.
    """
    code = function.cr_code
    line = code.co_firstlineno
    last = max(number or line for _, _, number in code.co_lines())
    value: Any = None
    error: BaseException | None = None
    while True:
        started = clock()
        try:
            yielded = function.send(value) if error is None else function.throw(error)
        except StopIteration as stop:
            _warn(name, code, clock() - started, line, last)
            return stop.value
        except BaseException:
            _warn(name, code, clock() - started, line, last)
            raise
        frame = function.cr_frame
        now = line if frame is None else frame.f_lineno
        _warn(name, code, clock() - started, min(line, now), max(line, now))
        line, value, error = now, None, None
        try:
            value = yield yielded
        except GeneratorExit:
            function.close()
            raise
        except BaseException as thrown:  # noqa: BLE001  # it goes on to the function
            error = thrown


def _warn(name: str, code: types.CodeType, seconds: float, first: int, last: int) -> None:
    if seconds <= LONGEST_STEP:
        return
    where = f"line {first}" if first == last else f"lines {first} to {last}"
    warnings.warn_explicit(
        f"{name} blocked the event loop for {seconds:.1f} s in {where} of {code.co_name}(): every other node, poll and"
        " connection waited; use `await anyio.to_thread.run_sync(function, ...)` for what blocks",
        RuntimeWarning,
        code.co_filename,
        first,
    )
