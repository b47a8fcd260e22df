"""`Client`: one session with the service, and the methods that send tasks."""

from __future__ import annotations

import weakref
from contextlib import asynccontextmanager
from functools import partial
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, TypeVar, overload

import anyio
from msgspec.structs import replace

from runware_flow.client import request as requests
from runware_flow.client.cost_tracker import current_cost_tracker
from runware_flow.client.delivery import Delivery, Progress
from runware_flow.client.http.upload import upload
from runware_flow.client.media import LocalMediaPlacer
from runware_flow.client.options import check_callback, check_seconds, read_settings
from runware_flow.client.send_windows import SendWindows, window_of
from runware_flow.client.services import Services
from runware_flow.client.stream import StreamBlock, StreamTurn, TextStream, follow, start_stream
from runware_flow.client.tracing import trace_stream
from runware_flow.client.transport_selector import TransportSelector
from runware_flow.client.utilities import Utilities
from runware_flow.errors import ClientStateError, RunwareError, RunwareTimeoutError
from runware_flow.lifetime import EventLoop, Worker, Workers
from runware_flow.session.events import Submission
from runware_flow.tracebacks import BorderedBlock, bordered
from runware_flow.types import Result, Task
from runware_flow.wire.codec import encode

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
    from contextlib import AbstractAsyncContextManager, ExitStack
    from types import TracebackType
    from typing import Self, Unpack

    from runware_flow.client.media import LocalFile
    from runware_flow.client.options import ClientKeywords
    from runware_flow.client.send_windows import Slot
    from runware_flow.client.session_driver import SessionDriver
    from runware_flow.graph.outcomes import Failed, Ok
    from runware_flow.results import TextResult
    from runware_flow.session.events import SentBefore
    from runware_flow.session.machine import SessionStatistics
    from runware_flow.types import Delivery as DeliveryMethod

__all__ = ("Client",)

R = TypeVar("R", bound=Result)


@bordered
class Client(Utilities):
    """A session with the service, for the time of an `async with` block, or until `aclose()`.

    The connection is opened on first use, or by `connect()`; a client that was never used closes at once. Closing ends
    what is in flight: waiting calls get an error, and the service finishes and bills what it has accepted. Exceptions
    leave the block, and every call, as themselves, not in an `ExceptionGroup`.

    A client belongs to the event loop of its first use, not to a task: one task may open it and another close it. A
    client without references closes when it is garbage-collected; one that is never closed, when its event loop ends.

    ```python
    async with Client() as client:  # RUNWARE_API_KEY
        images = await client.run(ImageInference(model="runware:400@1", positive_prompt="A lighthouse at dusk"))
        print(images[0].url)
    ```
    """

    def __init__(self, api_key: str | None = None, **options: Unpack[ClientKeywords]) -> None:
        """Take the options, see `ClientOptions`; what is left out comes from the environment. Opens nothing.

        Raises:
            RunwareError: there is no key (`auth`), or an option cannot work (`validation`).
        """
        self._settings = read_settings({"api_key": api_key, **options})
        self._driver: SessionDriver | None = None
        self._workers: Workers | None = None
        self._disconnecting = anyio.Lock()  # so that a second call returns when the connection is closed, not before
        self._is_entered = False
        self._is_closed = False
        self._is_failure_raised = False
        self._services = Services(self._settings, self._here)
        self._windows = SendWindows()
        self._media = LocalMediaPlacer(self._upload)

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "not opened" if self._driver is None else "open"
        return f"<Client {self._settings.transport}, {state}>"

    async def __aenter__(self) -> Self:
        if self._is_entered:
            raise ClientStateError("a client is entered once; make another Client for another block")
        self._here()
        self._is_entered = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()
        failure = self._workers.failure if self._workers is not None else None
        if error is None and failure is not None and not self._is_failure_raised:
            raise failure

    async def aclose(self) -> None:
        """Close the client, from any task of its event loop; closing it again does nothing.

        Waiting calls get an error of code `aborted` at once. Then the connections are closed, within `CLOSE_SECONDS`,
        also if the caller is cancelled.

        Raises:
            ClientStateError: from another event loop, thread or process than that of the client's first use.
        """
        if self._driver is not None and not self._event_loop.is_here():
            raise ClientStateError("a client is closed in the event loop, thread and process that opened it")
        self._is_closed = True
        await self._end_session()

    async def disconnect(self) -> None:
        """Close the connection and leave the client usable: its next use, or `connect()`, opens another one.

        The calls that wait get an error of code `aborted` at once, as with `aclose()`; the service finishes and bills
        what it has accepted. The list of models and the send windows stay known. While the connection is being closed,
        within `CLOSE_SECONDS` and also if the caller is cancelled, the client is not to be used.

        Raises:
            ClientStateError: from another event loop, thread or process than that of the client's first use.
        """
        if self._driver is not None and not self._is_closed:
            self._here()  # first: the lock belongs to the event loop too
        async with self._disconnecting:
            driver = self._driver
            if driver is None or self._is_closed:
                return
            self._here()
            try:
                await self._end_session()
            finally:
                if self._driver is driver and not self._is_closed:
                    self._driver = self._workers = None

    async def _end_session(self) -> None:
        if self._driver is None or self._workers is None:
            return
        self._driver.close()
        self._workers.stop()
        await self._workers.wait_ended()
        await self._services.web.aclose()

    def _open(self) -> SessionDriver:
        try:
            self._event_loop = EventLoop()
        except RuntimeError:
            raise ClientStateError("a client is used inside a running event loop") from None
        failed = weakref.WeakMethod(self._failed)
        self._workers = workers = Workers(lambda error: notice(error) if (notice := failed()) else None)
        self._services.open(workers)
        self._selector = TransportSelector(self._settings, self._services, self._windows, workers, self._event_loop)
        self._driver = self._selector.start()
        for owned in (workers, self._services.web.workers):
            weakref.finalize(self, owned.stop_from_anywhere).atexit = False
        return self._driver

    def _failed(self, error: BaseException) -> None:
        """A worker failed, which is a mistake in here, or an interrupt: all that wait for the session get it."""
        if self._driver is not None:
            self._is_failure_raised = self._driver.fail(error)

    async def connect(self) -> None:
        """Open the connection now, and wait until the key is accepted. Over REST there is nothing to open.

        `transport="auto"` decides here, or at the first task if that comes before: a WebSocket that cannot be opened
        (refused, not answered within `auth_timeout`) is replaced by REST for the rest of the block. A cancel ends the
        waiting only; the connection goes on being opened, and the next call finds it.

        Raises:
            RunwareError: `auth` for a rejected key, `connection` if the service cannot be reached within
                `auth_timeout`.
            RunwareTimeoutError: a connection that was lost could not be opened again within the client's `timeout`.
        """
        self._here()
        with self._services.documenting():
            with anyio.move_on_after(self._settings.timeout):
                await self._connect()
                return
            raise RunwareTimeoutError(
                f"there was no connection within {self._settings.timeout:g} s; the client goes on trying to connect",
                code="timeout",
                raw_code="timeout",
            )

    @overload
    async def run(
        self,
        task: Task[R],
        *,
        timeout: float | None = None,
        on_result: Callable[[Ok[R] | Failed], Awaitable[None] | None] | None = None,
        on_progress: Callable[[Progress], Awaitable[None] | None] | None = None,
        delivery: DeliveryMethod | None = None,
        validate: bool | None = None,
    ) -> list[R]: ...
    @overload
    async def run(
        self,
        task: Mapping[str, Any],
        *,
        timeout: float | None = None,
        on_result: Callable[[Ok[Result] | Failed], Awaitable[None] | None] | None = None,
        on_progress: Callable[[Progress], Awaitable[None] | None] | None = None,
        delivery: DeliveryMethod | None = None,
        validate: bool | None = None,
    ) -> list[Result]: ...
    async def run(
        self,
        task: Task[Any] | Mapping[str, Any],
        *,
        timeout: float | None = None,
        on_result: Callable[[Any], Awaitable[None] | None] | None = None,
        on_progress: Callable[[Progress], Awaitable[None] | None] | None = None,
        delivery: DeliveryMethod | None = None,
        validate: bool | None = None,
    ) -> list[Any]:
        """Send a task and wait for all its results.

        Cancelling ends the waiting only: the service has no cancel, so what it has accepted is finished and billed.

        Args:
            task: a struct of `runware_flow.tasks`, or a dict with wire names; a dict may leave `taskType` out if the
                catalog knows its model.
            timeout: seconds from this call to the last result, uploads of local media included, instead of the client's
                `poll_timeout`.
            on_result: called with `Ok(result)` or `Failed(error)` for each result as it arrives. Sync or async; an
                exception in it ends the call.
            on_progress: called with a `Progress` when the service reports one; a newer report replaces unread ones.
            delivery: `sync` waits on the connection (the service allows about 120 s), `async` (the default, as in the
                official clients [sdk]) lets the service store the result and polls for it.
            validate: check the task against its model's schema before it is sent, instead of the client's `validate`.

        Returns:
            The results, in the server's order.

        Raises:
            RunwareError: the task, or one of its results, failed; `.results` holds the finished ones.
            RunwareTimeoutError: `timeout` has passed; the task may still finish, and be billed.
        """
        self._here()
        prepared = await self._services.prepare(task, delivery=delivery)
        return await self._perform(
            prepared, timeout=timeout, on_result=on_result, on_progress=on_progress, validate=validate
        )

    @overload
    async def run_one(
        self,
        task: Task[R],
        *,
        timeout: float | None = None,
        on_progress: Callable[[Progress], Awaitable[None] | None] | None = None,
        delivery: DeliveryMethod | None = None,
        validate: bool | None = None,
    ) -> R: ...
    @overload
    async def run_one(
        self,
        task: Mapping[str, Any],
        *,
        timeout: float | None = None,
        on_progress: Callable[[Progress], Awaitable[None] | None] | None = None,
        delivery: DeliveryMethod | None = None,
        validate: bool | None = None,
    ) -> Result: ...
    async def run_one(
        self,
        task: Task[Any] | Mapping[str, Any],
        *,
        timeout: float | None = None,
        on_progress: Callable[[Progress], Awaitable[None] | None] | None = None,
        delivery: DeliveryMethod | None = None,
        validate: bool | None = None,
    ) -> Any:
        """Send a task of one result and wait for that result. Arguments, errors and cancellation are those of `run`.

        Raises:
            RunwareError: also `validation`, before anything is sent: the task asks for several results.
        """
        self._here()
        prepared = await self._services.prepare(task, delivery=delivery)
        with self._services.documenting(prepared):
            requests.check_single(prepared)
        return (await self._perform(prepared, timeout=timeout, on_progress=on_progress, validate=validate))[0]

    @overload
    def submit(
        self,
        task: Task[R],
        *,
        timeout: float | None = None,
        delivery: DeliveryMethod | None = None,
        validate: bool | None = None,
    ) -> AbstractAsyncContextManager[Delivery[R]]: ...
    @overload
    def submit(
        self,
        task: Mapping[str, Any],
        *,
        timeout: float | None = None,
        delivery: DeliveryMethod | None = None,
        validate: bool | None = None,
    ) -> AbstractAsyncContextManager[Delivery[Result]]: ...
    def submit(
        self,
        task: Task[Any] | Mapping[str, Any],
        *,
        timeout: float | None = None,
        delivery: DeliveryMethod | None = None,
        validate: bool | None = None,
    ) -> AbstractAsyncContextManager[Delivery[Any]]:
        """Send a task on entering the block, and read its results inside, each as it arrives.

        Leaving the block early, or a cancel, ends the waiting only: what the service has accepted is finished
        and billed. Who reads on after that gets what has come, then an error of code `aborted`. Arguments and errors
        are those of `run`.
        """
        usage = "write `async with client.submit(task) as delivery:` and in it `async for result in delivery:`"
        return BorderedBlock(self._submitted(task, timeout, delivery, validate), usage)

    @asynccontextmanager
    async def _submitted(
        self,
        task: Task[Any] | Mapping[str, Any],
        timeout: float | None,
        delivery: DeliveryMethod | None,
        validate: bool | None,
    ) -> AsyncGenerator[Delivery[Any]]:
        self._here()
        prepared = await self._services.prepare(task, delivery=delivery)
        driver, submitted = await self._submit(prepared, timeout, validate)
        try:
            yield submitted
        finally:
            driver.withdraw(prepared.task_id)
            submitted.leave()

    def stream(
        self,
        task: Task[TextResult] | Mapping[str, Any],
        *,
        timeout: float | None = None,
        validate: bool | None = None,
    ) -> AbstractAsyncContextManager[TextStream]:
        """Send a text task on entering the block, and read its answer inside while it is written.

        A stream uses a POST of its own, whatever the client's transport. Leaving the block, or a cancel, closes that
        connection at once; the service bills a task that it has begun. A stream is never sent a second time. The block
        may be left in another task, for example by an async generator that is dropped.

        ```python
        async with client.stream(TextInference(model="google:gemma@4-31b", messages=[...])) as stream:
            async for word in stream.text:
                print(word, end="", flush=True)
            print((await stream.result()).usage)
        ```

        Args:
            task: a `TextInference`, or a dict with wire names; its taskUUID is kept. `number_results` must be 1.
            timeout: seconds for the whole stream, instead of the client's `timeout`.
            validate: as for `run`.

        Raises:
            RunwareError: on entering, `validation` for a task that cannot stream; from the readers and from
                `result()`, the error of the service, and `connection` for a stream that was cut off.
        """

        async def start(stack: ExitStack) -> tuple[TextStream, Worker]:
            self._here()
            prepared = await self._services.prepare(task, streams=True)
            return await self._start_stream(stack, prepared, timeout, validate)

        return StreamBlock(start)

    def prepare(
        self,
        task: Task[Any] | Mapping[str, Any],
        *,
        delivery: DeliveryMethod | None = None,
        include_cost: bool | None = None,
        task_uuid: str | None = None,
    ) -> requests.Prepared:
        """Complete a task without sending it: model resolved by the registry at hand, delivery chosen, taskUUID given.

        Args:
            task, delivery: as for `run`.
            include_cost: request the cost of each result, unless the task sets it.
            task_uuid: the id for a task without one; by default a new one.

        Raises:
            RunwareError: `validation`, naming the parameter, for errors that can be found without the service.
        """
        registry = self._services.registry.registry
        return requests.prepare(
            task,
            new_task_id=task_uuid,
            delivery=delivery,
            include_cost=include_cost,
            streams=None,
            registry=registry,
        )

    async def perform(
        self,
        prepared: requests.Prepared,
        *,
        timeout: float | None = None,
        on_result: Callable[[Any], Awaitable[None] | None] | None = None,
        on_progress: Callable[[Progress], Awaitable[None] | None] | None = None,
        sent_before: SentBefore = "no",
        validate: bool | None = None,
        slot: Slot | None = None,
        parks: bool = False,
    ) -> list[Any]:
        """Send a prepared task and wait for all its results; arguments and errors are those of `run`.

        A cancel ends the waiting only, as in `run`. `sent_before` says whether an earlier process sent this very task:
        with `"yes"` it is only polled, with `"maybe"` it is sent (again) under its taskUUID if the service does not
        know it; see `Submission`.

        A task that `parks` does not wait for its model's send window: `TaskRefused` is raised if the service refuses it
        or the window is closed, and it may be sent again as it is. `slot` is room that a run took for it.
        """
        if on_result is not None or on_progress is not None:
            with self._services.documenting(prepared):
                check_callback("on_result", on_result)
                check_callback("on_progress", on_progress)
        driver, delivery = await self._submit(prepared, timeout, validate, sent_before, slot, parks=parks)
        try:
            if on_result is not None or on_progress is not None:
                while (event := await delivery.next_event()) is not None:
                    callback: Any = on_progress if isinstance(event, Progress) else on_result
                    if callback is not None:
                        await _call_back(callback, event, prepared)
            return await delivery.wait_settled()
        finally:
            driver.withdraw(prepared.task_id)

    _perform = perform
    """The same for methods that are borders themselves; see `bordered`."""

    async def perform_stream(
        self,
        prepared: requests.Prepared,
        on_delta: Callable[[str, str], None],
        *,
        timeout: float | None = None,
        slot: Slot | None = None,
        parks: bool = False,
    ) -> list[Any]:
        """Send a prepared text task that streams, and read it to its end; returns its one result.

        A cancel closes the connection, as in `stream`; errors are those of `stream`. `on_delta` is called with the kind
        and the text of each piece, in order. `slot` and `parks` are those of `perform`.
        """
        self._here()
        async with StreamBlock(
            lambda stack: self._start_stream(stack, prepared, timeout, slot=slot, parks=parks)
        ) as stream:
            return [await follow(stream, prepared, on_delta)]

    def statistics(self) -> SessionStatistics:
        """What the session knows of itself, frozen: tasks in flight, reconnects, polls, each model's send window."""
        statistics = self._here().statistics()
        return replace(statistics, models=self._windows.with_waiters(statistics.models))

    @property
    def windows(self) -> SendWindows:
        """The send windows of this client, which the runs on it ask; `statistics()` tells what they know."""
        return self._windows

    async def _submit(
        self,
        prepared: requests.Prepared,
        timeout: float | None,
        validate: bool | None,
        sent_before: SentBefore = "no",
        slot: Slot | None = None,
        *,
        parks: bool = False,
    ) -> tuple[SessionDriver, Delivery[Any]]:
        """Hand a task to the session; gives the session driver that has it now, from which the caller withdraws it."""
        driver = self._here()
        prepared.send_state.begin()
        try:
            seconds = check_seconds(timeout, self._settings.poll_timeout)
        except RunwareError as error:
            self._services.document_request(error, prepared)
            raise
        deadline = self._event_loop.time() + seconds
        if sent_before != "yes":
            await self._make_ready(prepared, validate, seconds, deadline)
        if not self._selector.is_chosen:  # that is found out first
            with anyio.CancelScope(deadline=deadline):
                driver = await self._connect()
        submission = Submission(
            task_id=prepared.task_id,
            body=encode(prepared.wire),
            task_type=prepared.task_type,
            model=prepared.model,
            delivery="async" if prepared.delivery == "async" or "webhookURL" in prepared.wire else "sync",
            slots=prepared.slots,
            sent_before=sent_before,
            is_journalled=prepared.is_journalled,
            has_slot=slot is not None and slot.hand_on(),
            parks=parks,
        )
        delivery: Delivery[Any] = Delivery(
            prepared,
            timeout=seconds,
            document=partial(self._services.document, model=prepared.model),
            parks=parks,
            new_event=self._event_loop.new_event,
        )
        cost_tracker = current_cost_tracker.get()
        if cost_tracker is not None and prepared.task_type not in requests.UTILITIES:
            cost_tracker.add(delivery)
        with self._services.documenting(prepared):
            driver.submit(delivery, submission, deadline)
        return driver, delivery

    async def _start_stream(
        self,
        stack: ExitStack,
        prepared: requests.Prepared,
        timeout: float | None,
        validate: bool | None = None,
        slot: Slot | None = None,
        *,
        parks: bool = False,
    ) -> tuple[TextStream, Worker]:
        """Send a text task, and give what reads its answer; see `stream` and `perform_stream`.

        Args:
            stack: is closed when the stream's block is left.
        """
        prepared.send_state.begin()
        with self._services.documenting(prepared):
            seconds = check_seconds(timeout, self._settings.timeout)
        deadline = self._event_loop.time() + seconds
        await self._make_ready(prepared, validate, seconds, deadline)
        document, redact = partial(self._services.document, model=prepared.model), self._settings.api_key.redact
        rest = await self._services.web.rest()
        if (cost_tracker := current_cost_tracker.get()) is not None:
            cost_tracker.add(None)
        name = window_of(prepared.task_type, prepared.model)
        turn = StreamTurn(self._windows, name, seconds, slot, parks=parks)
        stack.enter_context(trace_stream(prepared))
        left = max(deadline - self._event_loop.time(), 0.0)
        workers = self._services.workers
        return start_stream(rest, prepared, turn, workers, timeout=left, document=document, redact=redact)

    async def _make_ready(
        self, prepared: requests.Prepared, validate: bool | None, seconds: float, deadline: float
    ) -> None:
        """Check a request against its schema, if that is wanted, and place its local media, if it has any."""
        validates = self._settings.validate if validate is None else validate
        if not validates and not prepared.local_media:
            return
        with self._services.documenting(prepared):
            with anyio.CancelScope(deadline=deadline):
                if validates:
                    await self._services.check(prepared)
                if prepared.local_media:
                    stores = prepared.task_type in requests.UTILITIES  # an upload cannot be uploaded first
                    await self._media.place(prepared.wire, prepared.local_media, inline=stores)
                return
            raise _not_sent(prepared, seconds)

    async def _connect(self) -> SessionDriver:
        driver = await self._selector.connect()
        self._here()  # the block may have ended meanwhile
        self._driver = driver
        return driver

    async def _upload(self, file: LocalFile) -> str:
        stored = await upload(file, self._services)
        return str(stored.media_uuid)

    def _here(self) -> SessionDriver:
        """The session, which first use opens."""
        if self._is_closed:
            raise ClientStateError("this client is closed; make another Client")
        if self._driver is None:
            return self._open()
        if not self._event_loop.is_here():
            raise ClientStateError(
                "a client is used in the event loop, thread and process that opened it; make another"
            )
        if self._workers is not None and self._workers.failure is not None:
            raise ClientStateError("this client has failed; make another Client") from self._workers.failure
        return self._driver


async def _call_back(callback: Callable[[Any], Any], event: Any, prepared: requests.Prepared) -> None:
    """Tell a callback of the user what has come. What it raises ends the call, and says where the results are."""
    try:
        if isawaitable(pending := callback(event)):
            await pending
    except Exception as error:
        name = "on_progress" if isinstance(event, Progress) else "on_result"
        error.add_note(
            f"{name} of this {prepared.task_type} raised this, which ended the call. The service finishes and bills the"
            f" task all the same: client.get_response({prepared.task_id!r}) or get_task_details gives its results"
        )
        raise


def _not_sent(prepared: requests.Prepared, seconds: float) -> RunwareTimeoutError:
    what = "its local media were being uploaded" if prepared.local_media else "it was being checked"
    return RunwareTimeoutError(
        f"{prepared.task_type}: {seconds:g} s passed while {what}; it was not sent, and is not billed",
        code="timeout",
        raw_code="timeout",
        task_type=prepared.task_type,
        task_uuid=prepared.task_id,
    )
