"""A fetch that several callers wait for: it runs in the client's scope, so the cancel of one caller does not end it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar, cast

import anyio

from runware_flow.errors import RunwareError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from runware_flow.lifetime import Workers

__all__ = ("SharedFetch",)

T = TypeVar("T")


class SharedFetch(Generic[T]):
    """One piece of work that has been started; any number of callers may wait for what it gives."""

    def __init__(self, workers: Workers, work: Callable[[], Awaitable[T]]) -> None:
        self._work = work
        self._ended = anyio.Event()
        self._value: T | None = None
        self._error: Exception | None = RunwareError(
            "the client was closed before the answer came", code="aborted", raw_code="aborted"
        )
        workers.start_soon(self._run)

    @property
    def is_over(self) -> bool:
        """Whether waiting is no longer needed."""
        return self._ended.is_set()

    @property
    def has_failed(self) -> bool:
        """Whether it ended without a value; also because its client was disconnected."""
        return self._ended.is_set() and self._error is not None

    async def wait(self) -> T:
        """Wait for the end, and return what the work returned or raise what it raised."""
        await self._ended.wait()
        if self._error is not None:
            raise self._error
        return cast("T", self._value)

    async def _run(self) -> None:
        try:
            self._value = await self._work()
            self._error = None
        except Exception as error:  # noqa: BLE001  # it is raised in the calls that wait
            self._error = error
        finally:
            self._ended.set()
