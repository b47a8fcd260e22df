"""What of a traceback its reader can use: the program's own frames, not those of this library and of event loops."""

from __future__ import annotations

import os
import sysconfig
from functools import lru_cache, wraps
from types import TracebackType
from typing import TYPE_CHECKING, ParamSpec, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

__all__ = ("FULL_TRACEBACKS", "border", "trim")

FULL_TRACEBACKS = "RUNWARE_FULL_TRACEBACKS"
"""The environment variable that keeps every frame, if it is set to anything."""

P = ParamSpec("P")
T = TypeVar("T")

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_STANDARD = tuple(path + os.sep for path in {sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib")})
_INSTALLED = tuple(path + os.sep for path in {sysconfig.get_paths()[name] for name in ("purelib", "platlib")})
_BETWEEN = frozenset({"anyio", "exceptiongroup", "httpcore", "httpx", "outcome", "sniffio", "trio", "websockets"})
"""Installed packages whose frames stand between the program and this library; others may be the program itself."""


def border(function: Callable[P, Coroutine[object, object, T]]) -> Callable[P, Coroutine[object, object, T]]:
    """Trim what leaves a public coroutine function: an error shows the program's frames, and none of this library."""

    @wraps(function)
    async def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await function(*args, **kwargs)
        except Exception as error:
            trim(error)
            raise

    return call


def trim(error: BaseException) -> None:
    """Take the frames that say nothing to the program's author out of an exception and its causes.

    Kept are the program's own frames, and those of libraries that it called. An exception that is raised again adds the
    frames from there on. With `RUNWARE_FULL_TRACEBACKS` in the environment nothing is taken out.
    """
    if not os.environ.get(FULL_TRACEBACKS):
        for one in _chain(error):
            one.__traceback__ = _linked(_kept(one.__traceback__))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception, its causes, its contexts, and the members of groups, each once."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            group = cast("BaseExceptionGroup[BaseException]", one)
            waiting += group.exceptions


def _kept(frames: TracebackType | None) -> list[TracebackType]:
    """The frames of the program, and those of libraries below the first of them, as far as none of ours is below."""
    kept: list[TracebackType] = []
    below: list[TracebackType] = []
    while frames is not None:
        file = frames.tb_frame.f_code.co_filename
        if file.startswith((_PACKAGE, "<frozen")):
            below.clear()
        elif _is_library(file):
            if kept:
                below.append(frames)
        else:
            kept += [*below, frames]
            below.clear()
        frames = frames.tb_next
    return kept + below


@lru_cache(maxsize=1024)
def _is_library(file: str) -> bool:
    for folder in _INSTALLED:  # which may lie in that of the standard library
        if file.startswith(folder):
            return file.removeprefix(folder).partition(os.sep)[0] in _BETWEEN
    return file.startswith(_STANDARD)


def _linked(frames: list[TracebackType]) -> TracebackType | None:
    linked: TracebackType | None = None
    for frame in reversed(frames):
        linked = TracebackType(linked, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    return linked
