"""From a request that is complete to its results: checked, its media placed, handed over and waited for."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, ExitStack
from inspect import isawaitable
from typing import TYPE_CHECKING, Any

import anyio

from runware_flow.client import request as requests
from runware_flow.client.delivery import Delivery, Progress
from runware_flow.client.options import check_seconds
from runware_flow.client.purchases import current_purchases
from runware_flow.client.send_windows import window_of
from runware_flow.client.stream import StreamTurn, TextStream, start_stream
from runware_flow.client.tracing import trace_stream
from runware_flow.errors import ClientStateError, RunwareTimeoutError
from runware_flow.session.events import Submission
from runware_flow.wire.codec import encode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from runware_flow.client.media import LocalMediaPlacer
    from runware_flow.client.options import Settings
    from runware_flow.client.send_windows import SendWindows, Slot
    from runware_flow.client.services import Services
    from runware_flow.client.session_driver import SessionDriver
    from runware_flow.lifetime import Worker
    from runware_flow.session.events import SentBefore

__all__ = ("Sender", "StreamBlock")


class Sender:
    """Sends the tasks of one client.

    Args:
        chosen: gives the session driver that takes tasks, once the transport is chosen, by the deadline at the latest.
    """

    def __init__(
        self,
        settings: Settings,
        services: Services,
        windows: SendWindows,
        media: LocalMediaPlacer,
        chosen: Callable[[SessionDriver, float], Awaitable[SessionDriver]],
    ) -> None:
        self._settings = settings
        self._services = services
        self._windows = windows
        self._media = media
        self._chosen = chosen

    async def perform(
        self,
        driver: SessionDriver,
        prepared: requests.Prepared,
        timeout: float | None,
        on_result: Callable[[Any], Awaitable[None] | None] | None,
        on_progress: Callable[[Progress], Awaitable[None] | None] | None,
        sent_before: SentBefore = "no",
        validate: bool | None = None,
        slot: Slot | None = None,
        *,
        parks: bool = False,
    ) -> list[Any]:
        """Send a task and wait for all its results; see `Client.perform`."""
        driver, delivery = await self.send(driver, prepared, timeout, sent_before, validate, slot, parks=parks)
        try:
            if on_result is not None or on_progress is not None:
                while (event := await delivery.next_event()) is not None:
                    callback: Any = on_progress if isinstance(event, Progress) else on_result
                    if callback is not None and isawaitable(pending := callback(event)):
                        await pending
            return await delivery.wait_results()
        finally:
            driver.withdraw(delivery.request.task_id)

    async def send(
        self,
        driver: SessionDriver,
        prepared: requests.Prepared,
        timeout: float | None,
        sent_before: SentBefore = "no",
        validate: bool | None = None,
        slot: Slot | None = None,
        *,
        parks: bool = False,
    ) -> tuple[SessionDriver, Delivery[Any]]:
        """Hand a task to the session; gives the session driver that has it now, from which the caller withdraws it."""
        request = prepared.request
        seconds = check_seconds(timeout, self._settings.poll_timeout)
        deadline = anyio.current_time() + seconds
        if sent_before != "yes":
            is_ready = False
            with anyio.CancelScope(deadline=deadline):
                await self._services.check(prepared, validate)
                await self._place_media(prepared)
                is_ready = True
            if not is_ready:
                raise _not_sent(prepared, seconds)
        driver = await self._chosen(driver, deadline)
        submission = Submission(
            task_id=request.task_id,
            body=encode(request.wire),
            task_type=request.task_type,
            model=request.model,
            delivery="async" if request.delivery == "async" or "webhookURL" in request.wire else "sync",
            slots=request.slots,
            sent_before=sent_before,
            is_journalled=prepared.is_journalled,
            has_slot=slot is not None and slot.hand_on(),
            parks=parks,
        )
        document = self._services.documenter(request.model)
        delivery: Delivery[Any] = Delivery(
            request, timeout=seconds, document=document, course=prepared.course, parks=parks
        )
        purchases = None if request.task_type in requests.UTILITIES else current_purchases.get()
        if purchases is not None:
            purchases.add(delivery)
        driver.submit(delivery, submission, deadline)
        return driver, delivery

    async def stream(
        self,
        stack: ExitStack,
        prepared: requests.Prepared,
        timeout: float | None,
        validate: bool | None = None,
        slot: Slot | None = None,
        *,
        parks: bool = False,
    ) -> tuple[TextStream, Worker]:
        """Send a text task, and give what reads its answer; see `Client.stream` and `Client.perform_stream`.

        Args:
            stack: is closed when the stream's block is left.
        """
        seconds = check_seconds(timeout, self._settings.timeout)
        deadline = anyio.current_time() + seconds
        is_ready = False
        with anyio.CancelScope(deadline=deadline):
            await self._services.check(prepared, validate)
            await self._place_media(prepared)
            is_ready = True
        if not is_ready:
            raise _not_sent(prepared, seconds)
        document, redact = self._services.documenter(prepared.model), self._settings.api_key.redact
        rest = await self._services.web.rest()
        if (purchases := current_purchases.get()) is not None:
            purchases.add(None)
        name = window_of(prepared.task_type, prepared.model)
        turn = StreamTurn(self._windows, name, seconds, slot, parks=parks)
        stack.enter_context(trace_stream(prepared))
        workers = self._services.workers
        left = max(deadline - anyio.current_time(), 0.0)
        return start_stream(rest, prepared, turn, workers, timeout=left, document=document, redact=redact)

    async def _place_media(self, prepared: requests.Prepared) -> None:
        if prepared.local_media:
            stores = prepared.task_type in requests.UTILITIES  # an upload cannot be uploaded first
            await self._media.place(prepared.request.wire, prepared.local_media, inline=stores)


def _not_sent(prepared: requests.Prepared, seconds: float) -> RunwareTimeoutError:
    what = "its local media were being uploaded" if prepared.local_media else "it was being checked"
    return RunwareTimeoutError(
        f"{prepared.task_type}: {seconds:g} s were over while {what}; it was not sent, and is not billed",
        code="timeout",
        raw_code="timeout",
        task_type=prepared.task_type,
        task_uuid=prepared.task_id,
    )


class StreamBlock(AbstractAsyncContextManager[TextStream]):
    """The time for which a stream is open: `async with client.stream(...) as stream`.

    It may be left in another task than the one that entered it, as happens to an async generator that is dropped.
    """

    def __init__(self, start: Callable[[ExitStack], Awaitable[tuple[TextStream, Worker]]]) -> None:
        self._start = start
        self._worker: Worker | None = None

    async def __aenter__(self) -> TextStream:
        if self._worker is not None:
            raise ClientStateError("the block of a stream is entered once; call client.stream() again")
        with ExitStack() as stack:
            stream, self._worker = await self._start(stack)
            self._stack = stack.pop_all()
        return stream

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._worker is not None:
            self._worker.stop()
            try:
                await self._worker.wait_ended()
            finally:
                self._stack.__exit__(kind, error, traceback)
