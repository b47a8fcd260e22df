"""The owners of concurrent work: task groups of blocks and host tasks of objects, which pass errors to the caller.

Two kinds of owner, and no others:

- A block. `open_task_group` is a task group whose one exception leaves as itself. AnyIO wraps whatever leaves a task
  group in an ExceptionGroup, also when nothing but the body failed; users of an `async with` of ours did not ask for
  concurrency of their own, so for them one failure is one exception. It must be left in the task that entered it.
- An object. `Workers` are for objects that are closed in another task than the one that opened them (a fixture, a
  notebook cell, a start-up hook, an async generator that is dropped). Each worker is a host task: a task of the event
  loop itself, with a cancel scope of its own. This is the only module beside the carriers that knows asyncio and trio.

What is known of host tasks, and answered here: in a system task of trio the context of the caller is lost (a copy is
passed on), an exception ends the program with TrioInternalError (everything is caught and handed to the owner), and
Ctrl-C is held back (no code of the user's runs there but callbacks). asyncio keeps only weak references to tasks (all
that run are referenced here), and `asyncio.run` cancels host tasks when it ends, whatever shields them: a worker closes
what it owns in a `finally`.
"""

from __future__ import annotations

import contextvars
import os
import weakref
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Protocol, TypeVar, cast

import anyio

from runware_flow.errors import ClientStateError
from runware_flow.tracebacks import Block, bordered

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
    from types import TracebackType

    from anyio.abc import TaskGroup

__all__ = (
    "CLOSE_SECONDS",
    "Event",
    "EventLoop",
    "HostedBlock",
    "Worker",
    "Workers",
    "on_asyncio",
    "open_task_group",
    "stray_cancels",
    "thread_safe_call_soon",
)

T = TypeVar("T")
U = TypeVar("U")

CLOSE_SECONDS = 5.0
"""How long an owner waits for workers that it has stopped."""


@asynccontextmanager
async def open_task_group() -> AsyncGenerator[TaskGroup]:
    """Open a task group from which a single exception leaves unwrapped, traceback and cause kept.

    A cancel that arrives at the same moment changes nothing: the exception leaves, and the cancelled scope ends by it,
    as it does without a task group. A cancel alone is not touched. The group is left only when all its tasks have
    ended; cancel `task_group.cancel_scope` in a `finally` of the body to end workers that run for ever.
    """
    raised: BaseException | None = None
    try:
        async with anyio.create_task_group() as task_group:
            try:
                yield task_group
            except BaseException as error:
                raised = error
                raise
    except BaseExceptionGroup as group:
        single = find_single(group, raised)
        if single is None:
            raise
        _reraise(single)


def find_single(error: BaseException, whole: BaseException | None = None) -> BaseException | None:
    """The one exception that a group holds at any depth, beside cancellations; None if it holds several, or none.

    Args:
        error: the group.
        whole: is not looked into, since it was raised as it is: a group that the body of a block raised stays a group.
    """
    cancelled = anyio.get_cancelled_exc_class()
    found: dict[int, BaseException] = {}
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if isinstance(one, cancelled):
            continue
        if whole is not None and _is_same(one, whole):
            found[id(whole)] = whole
        elif isinstance(one, BaseExceptionGroup):
            waiting.extend(cast("BaseExceptionGroup[BaseException]", one).exceptions)
        else:
            found[id(one)] = one
    return next(iter(found.values())) if len(found) == 1 else None


def _is_same(error: BaseException, other: BaseException) -> bool:
    """Tell whether a group is another one, or its copy: AnyIO splits cancellations off, which copies groups inside."""
    if not isinstance(error, BaseExceptionGroup) or not isinstance(other, BaseExceptionGroup):
        return error is other
    one = cast("BaseExceptionGroup[BaseException]", error)
    two = cast("BaseExceptionGroup[BaseException]", other)
    if one.message != two.message or len(one.exceptions) != len(two.exceptions):
        return False
    return all(_is_same(*pair) for pair in zip(one.exceptions, two.exceptions, strict=True))


def on_asyncio() -> bool:
    """Tell the running event loop's library by the one public fact that differs: how it cancels."""
    import asyncio

    return anyio.get_cancelled_exc_class() is asyncio.CancelledError


def thread_safe_call_soon() -> Callable[[Callable[[], object]], object]:
    """Return the function that has the running event loop call another one, from any thread or signal handler."""
    if on_asyncio():
        import asyncio

        return asyncio.get_running_loop().call_soon_threadsafe
    import trio

    return trio.lowlevel.current_trio_token().run_sync_soon


@contextmanager
def stray_cancels() -> Generator[None]:
    """Raise an `OSError` instead of a cancel that nothing has requested for this task; on asyncio alone.

    A library for asyncio may let the cancel of a future of its own out of a call, as when its connection is closed. A
    task group would take that for a cancel of the task, and cancel all its other tasks without an exception.
    """
    import asyncio

    try:
        yield
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise OSError("the call was cancelled by the library that was called") from None


class Event(Protocol):
    """What both libraries' events have in common."""

    def set(self) -> None:
        """Wake all that wait."""
        ...

    async def wait(self) -> object:
        """Wait until it is set."""
        ...


class EventLoop:
    """The running event loop, for an object that belongs to it; which library it is of is found out once.

    AnyIO's functions find out the library at each call, which costs more than the call itself.

    Attributes:
        time: the clock of the loop, `anyio.current_time` of it.
        new_event: makes an event of the loop's library. It is for tasks of this loop alone.
    """

    __slots__ = ("_current", "_loop", "_process", "new_event", "time")

    time: Callable[[], float]
    new_event: Callable[[], Event]

    def __init__(self) -> None:
        """Raises: RuntimeError: no event loop runs here."""
        self._process = os.getpid()
        if on_asyncio():
            import asyncio

            self.time = asyncio.get_running_loop().time
            self.new_event = asyncio.Event
            self._current: Callable[[], object] = asyncio.get_running_loop
        else:
            import trio

            self.time = trio.lowlevel.current_clock().current_time
            self.new_event = trio.Event
            self._current = trio.lowlevel.current_trio_token
        self._loop = self._current()

    def is_here(self) -> bool:
        """Tell whether the caller runs in this event loop: in its thread, and in its process."""
        try:
            return self._current() is self._loop and os.getpid() == self._process
        except RuntimeError:  # none runs here; asyncio says so in a process that was forked
            return False


class Worker:
    """One worker, and the handle by which its owner stops it."""

    def __init__(self, owner: Workers) -> None:
        self._owner = owner
        self._scope = anyio.CancelScope()
        self._ended = anyio.Event()
        self.task: object = None

    def stop(self) -> None:
        """Cancel the worker; stopping it again, or after its end, does nothing."""
        self._scope.cancel()

    async def wait_ended(self, seconds: float = CLOSE_SECONDS) -> bool:
        """Wait until the worker has ended, also in a scope that is cancelled; tell whether it has, in that time."""
        with anyio.move_on_after(seconds, shield=True):
            await self._ended.wait()
        return self._ended.is_set()

    async def run(self, function: Callable[..., Awaitable[object]], args: tuple[Any, ...]) -> None:
        """Be the host task. Nothing but a cancel of the event loop's own leaves it."""
        try:
            with self._scope:
                await function(*args)
        except (anyio.get_cancelled_exc_class(), GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001  # the owner gets it
            self._owner.failed(find_single(error) or error)
        finally:
            self._ended.set()
            self._owner.ended(self)


_RUNNING: set[Worker] = set()


class Workers:
    """The workers of an object, which outlive the task that started them. They belong to the event loop of `__init__`.

    `stop` is synchronous: from then on nothing new is begun. `wait_ended` waits for what that leaves to be done, such
    as closing a connection. An owner that is dropped without either should have `stop_from_anywhere` called by a
    `weakref.finalize`; the end of the event loop ends the workers in any case.
    """

    def __init__(self, on_failure: Callable[[BaseException], None] | None = None) -> None:
        """Args: on_failure: called, in the event loop, with what a worker raised; no worker may fail without it."""
        self._on_failure = on_failure
        self._call_soon = thread_safe_call_soon()
        self._running: set[Worker] = set()
        self._is_stopped = False
        self.failure: BaseException | None = None
        """What the first worker that failed raised."""

    def start_soon(self, function: Callable[..., Awaitable[object]], *args: Any) -> Worker:
        """Start a worker in a copy of the caller's context.

        Raises:
            ClientStateError: the workers were stopped.
        """
        if self._is_stopped:
            raise ClientStateError("the client was closed meanwhile")
        worker = Worker(self)
        self._running.add(worker)
        _RUNNING.add(worker)
        name = f"runware_flow {getattr(function, '__qualname__', function)}"
        context = contextvars.copy_context()
        if on_asyncio():
            import asyncio

            loop = asyncio.get_running_loop()
            worker.task = loop.create_task(worker.run(function, args), name=name, context=context)
        else:
            import trio

            worker.task = trio.lowlevel.spawn_system_task(worker.run, function, args, name=name, context=context)
        return worker

    def stop(self) -> None:
        """Cancel all workers, and take no more."""
        self._is_stopped = True
        for worker in self._running:
            worker.stop()

    def stop_from_anywhere(self) -> None:
        """The same from another thread, or from a finalizer."""
        with suppress(RuntimeError):  # the event loop has ended, and with it the workers
            self._call_soon(self.stop)

    async def wait_ended(self, seconds: float = CLOSE_SECONDS) -> bool:
        """Wait until all workers have ended, also in a cancelled scope; tell whether they have, in that time."""
        with anyio.move_on_after(seconds, shield=True):
            for worker in list(self._running):
                await worker.wait_ended(seconds)
        return not self._running

    def failed(self, error: BaseException) -> None:
        """A worker raised."""
        self.failure = self.failure or error
        if self._on_failure is not None:
            self._on_failure(error)

    def ended(self, worker: Worker) -> None:
        """A worker has ended."""
        self._running.discard(worker)
        _RUNNING.discard(worker)


@bordered
class HostedBlock(Block[U], Generic[T, U]):
    """A block whose inside lives on a host task, so that it may be left in another task than the one that entered it.

    The inside is a context manager of ours that owns task groups; it is entered and left in the host task, and what its
    body raised is raised there too. Where an exception is not of the body's code (a cancel, or the end of an async
    generator that was dropped), the host is stopped, synchronously and before anything is waited for. Otherwise leaving
    waits for the inside to end, as long as that takes; a cancel of this wait stops it. After a stop the inside has
    `CLOSE_SECONDS` to end.
    """

    def __init__(
        self,
        inside: Callable[[], AbstractAsyncContextManager[T]],
        begin: Callable[[T], U],
        usage: str,
    ) -> None:
        """Prepare the block.

        Args:
            inside: makes what is entered.
            begin: called when the body is about to begin, in its task, with what was entered; gives what the body gets.
            usage: the lines of code that use the block, for an error.
        """
        super().__init__(usage)
        self._inside = inside
        self._begin = begin
        self._hosted: _Hosted[T] | None = None

    async def __aenter__(self) -> U:
        if self._hosted is not None:
            raise ClientStateError("this block is entered once; make another")
        workers = Workers()
        self._hosted = hosted = _Hosted(self._inside)
        self._worker = workers.start_soon(hosted.run)
        weakref.finalize(self, workers.stop_from_anywhere).atexit = False
        try:
            await hosted.entered.wait()
        except BaseException:
            self._worker.stop()
            await self._worker.wait_ended()
            raise
        if hosted.error is not None:
            _reraise(hosted.error)
        return self._begin(hosted.value)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        hosted = self._hosted
        assert hosted is not None
        if error is None or isinstance(error, Exception):
            hosted.body_error = error
            hosted.left.set()
            try:
                await hosted.ended.wait()
            except BaseException:
                self._worker.stop()
                await self._worker.wait_ended()
                if error is None and hosted.error is None:
                    raise  # otherwise a failure leaves, as it does from a task group
        else:
            self._worker.stop()
            await self._worker.wait_ended()
        if error is not None:
            error.__traceback__ = traceback  # without the frames of the host
        if hosted.error is not None and hosted.error is not error:
            _reraise(hosted.error)


class _Hosted(Generic[T]):
    """The inside of a hosted block, and what passes between it and the body. It does not know the block."""

    value: T

    def __init__(self, inside: Callable[[], AbstractAsyncContextManager[T]]) -> None:
        self._inside = inside
        self.entered = anyio.Event()
        self.left = anyio.Event()
        self.ended = anyio.Event()
        self.body_error: Exception | None = None
        self.error: BaseException | None = None
        """What the inside raised."""

    async def run(self) -> None:
        try:
            async with self._inside() as self.value:
                self.entered.set()
                await self.left.wait()
                if self.body_error is not None:
                    raise self.body_error
        except (anyio.get_cancelled_exc_class(), GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001  # the task that leaves the block raises it
            self.error = find_single(error, self.body_error) or error
        finally:
            self.entered.set()
            self.ended.set()


def _reraise(error: BaseException) -> NoReturn:
    """Raise an exception of another task as it was, cause and context included."""
    cause, context, suppressed = error.__cause__, error.__context__, error.__suppress_context__
    try:
        raise error
    finally:
        error.__cause__, error.__context__, error.__suppress_context__ = cause, context, suppressed
