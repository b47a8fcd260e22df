"""Shortens tracebacks to the frames of the user's program, without those of this library and the event loops."""

from __future__ import annotations

import os
import re
import sysconfig
from contextlib import AbstractAsyncContextManager
from difflib import get_close_matches
from functools import lru_cache, wraps
from inspect import iscoroutinefunction, signature
from types import FunctionType, TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

__all__ = ("FULL_TRACEBACKS", "Block", "BorderedBlock", "border", "bordered", "trim", "unbordered")

FULL_TRACEBACKS = "RUNWARE_FULL_TRACEBACKS"
"""The environment variable that keeps every frame, if it is set to anything."""

P = ParamSpec("P")
T = TypeVar("T")

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_STANDARD = tuple(path + os.sep for path in {sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib")})
_INSTALLED = tuple(path + os.sep for path in {sysconfig.get_paths()[name] for name in ("purelib", "platlib")})
_BETWEEN = frozenset({"anyio", "exceptiongroup", "httpcore", "httpx", "outcome", "sniffio", "trio", "websockets"})
"""Installed packages whose frames stand between the program and this library; others may be the program itself."""


_ENTRIES = frozenset(
    (
        *("init", "call", "getattr", "getitem", "aenter", "aexit", "aiter", "anext", "await"),
        *("bool", "contains", "format", "iter", "len", "str"),
    )
)
"""Special methods that programs meet."""


_UNBORDERED: set[object] = set()
"""See `unbordered`."""


def border(function: Callable[P, T]) -> Callable[P, T]:
    """Trim what leaves a public function: an error shows the program's frames, and none of this library.

    An async function stays one.
    """
    if iscoroutinefunction(function):
        awaited = cast("Callable[P, Awaitable[Any]]", function)

        @wraps(function)
        async def call_async(*args: P.args, **kwargs: P.kwargs) -> Any:
            try:
                return await awaited(*args, **kwargs)
            except Exception as error:
                _suggest(error, function)
                trim(error)
                raise

        return cast("Callable[P, T]", call_async)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            _suggest(error, function)
            trim(error)
            raise

    return call


def _suggest(error: Exception, function: Callable[..., object]) -> None:
    """Of a keyword that a function does not have, name those that may be meant."""
    if not isinstance(error, TypeError):
        return
    here = error.__traceback__
    given = re.search(r"got an unexpected keyword argument '(\w+)'$", str(error))
    if given is None or here is None or here.tb_next is not None:  # it comes from inside
        return
    known = [name for name in signature(function).parameters if name != "self"]
    like = get_close_matches(given[1], known, 2) or [name for name in known if name in given[1]]
    if like:
        error.args = (f"{error}; is it {' or '.join(like)}?",)


class Block(AbstractAsyncContextManager[T]):
    """What is entered with `async with`. Awaited or iterated over, it says how it is used.

    Args:
        usage: the lines of code that use it, for that error.
    """

    def __init__(self, usage: str) -> None:
        self._usage = usage

    if not TYPE_CHECKING:  # hidden, so that type checkers reject `await block` and `for x in block` too

        def __await__(self) -> Any:
            raise TypeError(f"this is a block, which is not awaited: {self._usage}")

        def __iter__(self) -> Any:
            raise TypeError(f"this is a block, which is not iterated over: {self._usage}")

        def __aiter__(self) -> Any:
            raise TypeError(f"this is a block, which is not iterated over: {self._usage}")


class BorderedBlock(Block[T]):
    """An `async with` block whose entry and exit are borders."""

    def __init__(self, inside: AbstractAsyncContextManager[T], usage: str) -> None:
        super().__init__(usage)
        self._inside = inside

    async def __aenter__(self) -> T:
        return await self._inside.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return await self._inside.__aexit__(kind, error, traceback)


def unbordered(method: Callable[P, T]) -> Callable[P, T]:
    """Mark a method of a bordered class that this library calls, not the program: it is no border."""
    _UNBORDERED.add(method)
    return method


def bordered(public: type[T]) -> type[T]:
    """Make a border of each public method and property of a class, and of the special methods that programs meet."""
    for name, value in list(vars(public).items()):
        if name.startswith("_") and name.strip("_") not in _ENTRIES:
            continue
        if isinstance(value, FunctionType):
            if value not in _UNBORDERED:
                setattr(public, name, border(value))
        elif isinstance(value, property) and value.fget is not None:
            setattr(public, name, property(border(value.fget), value.fset, value.fdel, value.__doc__))
    return public


bordered(cast("type[Any]", Block))
bordered(BorderedBlock)


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
