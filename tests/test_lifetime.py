"""The block that owns workers: exceptions leave as themselves."""

from __future__ import annotations

import asyncio
import gc
import warnings
from contextvars import ContextVar

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runware_flow import ClientStateError
from runware_flow.lifetime import Workers, find_single, open_task_group, stray_cancels


class Boom(Exception):
    """An exception of the user's."""


def test_task_group_body_exception_leaves_as_itself(run):
    async def main():
        cause = ValueError("why")
        with pytest.raises(Boom) as caught:
            async with open_task_group() as group:
                group.start_soon(anyio.sleep_forever)
                raise Boom from cause
        assert caught.value.__cause__ is cause

    run(main)


def test_task_group_nested_twice_body_exception_leaves_as_itself(run):
    async def main():
        with pytest.raises(Boom):
            async with open_task_group(), open_task_group():
                raise Boom

    run(main)


def test_task_group_group_of_the_body_leaves_as_itself(run):
    async def main():
        own = ExceptionGroup("the body's own", [Boom()])
        with pytest.raises(ExceptionGroup) as caught:
            async with open_task_group(), open_task_group() as group:
                group.start_soon(anyio.sleep_forever)
                raise own
        assert caught.value is own

    run(main)


def test_task_group_two_failures_stay_a_group(run):
    async def fail(error: Exception):
        try:
            await anyio.sleep_forever()
        finally:
            raise error

    async def main():
        with pytest.raises(BaseExceptionGroup) as caught:
            async with open_task_group() as group:
                group.start_soon(fail, Boom("worker"))
                await anyio.lowlevel.checkpoint()
                raise Boom("body")
        assert sorted(str(error) for error in caught.value.exceptions) == ["body", "worker"]

    run(main)


def test_task_group_outer_cancel_passes_untouched(run):
    async def main():
        with anyio.CancelScope() as scope:
            async with open_task_group():
                scope.cancel()
                await anyio.sleep_forever()
        assert scope.cancelled_caught

    run(main)


async def _raise(error):
    raise error


def test_task_group_failure_beside_a_cancel_leaves_as_itself(run):
    """The exception and the cancel arrive at the same moment: what leaves is the exception, in no group."""

    async def main():
        with pytest.raises(Boom):
            with anyio.CancelScope() as scope:
                async with open_task_group() as group:
                    group.start_soon(anyio.sleep_forever)
                    scope.cancel()
                    raise Boom

    run(main)


def test_task_group_failure_of_a_worker_beside_a_cancel_leaves_as_itself(run):
    async def fail():
        try:
            await anyio.sleep_forever()
        finally:
            raise Boom

    async def main():
        with pytest.raises(Boom):
            with anyio.CancelScope() as scope:
                async with open_task_group() as group:
                    group.start_soon(fail)
                    await anyio.lowlevel.checkpoint()
                    scope.cancel()
                    await anyio.sleep_forever()

    run(main)


ENDS = st.lists(st.sampled_from(["raise", "raise when cancelled", "cancelled", "return"]), max_size=4)
BODIES = st.sampled_from(["raise", "cancelled", "return"])


class Together:
    """Nested task groups whose workers and body end in these ways at the same moment."""

    def __init__(self, workers, body, *, cancels, depth):
        self.workers = workers
        self.body = body
        self.cancels = cancels
        self.depth = depth
        self.failures = []
        self.scope = anyio.CancelScope()

    async def end(self, how, name):
        if how == "raise":
            self.fail(name)
        if how != "return":
            try:
                await anyio.sleep_forever()
            finally:
                if how == "raise when cancelled":
                    self.fail(name)

    def fail(self, name):
        self.failures.append(name)
        raise Boom(name)

    async def nested(self, level):
        async with open_task_group() as group:
            if level:
                await self.nested(level - 1)
                return
            for number, how in enumerate(self.workers):
                group.start_soon(self.end, how, str(number))
            if self.cancels or self.body == "cancelled":
                self.scope.cancel()
            await self.end(self.body, "body")
            group.cancel_scope.cancel()

    async def run(self):
        """Give what left the task groups."""
        caught = None
        with self.scope:
            try:
                await self.nested(self.depth - 1)
            except BaseException as error:
                caught = error
                if isinstance(error, anyio.get_cancelled_exc_class()):
                    raise
        return caught


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@given(workers=ENDS, body=BODIES, cancels=st.booleans(), depth=st.integers(1, 3))
def test_task_group_whatever_ends_together_one_failure_is_one_exception(backend, workers, body, cancels, depth):
    """Any mix of workers that fail, are cancelled or return, with a cancel of the outer scope or without one."""

    async def main():
        together = Together(workers, body, cancels=cancels, depth=depth)
        return await together.run(), together.failures

    caught, failures = anyio.run(main, backend=backend)
    if len(failures) == 1:
        assert type(caught) is Boom
        assert [str(caught)] == failures
    elif failures:
        assert isinstance(caught, BaseExceptionGroup)
    else:
        assert caught is None or not isinstance(caught, (Boom, BaseExceptionGroup))


def test_find_single_looks_through_groups_and_past_cancellations(run):
    async def main():
        cancelled = anyio.get_cancelled_exc_class()
        one = Boom()
        made = cancelled._create() if hasattr(cancelled, "_create") else cancelled()
        assert find_single(BaseExceptionGroup("", [made, BaseExceptionGroup("", [one, one])])) is one
        assert find_single(BaseExceptionGroup("", [made])) is None
        assert find_single(BaseExceptionGroup("", [one, Boom()])) is None

    run(main)


def test_workers_are_stopped_and_waited_for_in_another_task(run):
    async def main():
        ended = []

        async def work():
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.lowlevel.checkpoint()
                ended.append("work")

        made = []

        async def start():
            with anyio.CancelScope() as scope:
                made.append(Workers())
                made[0].start_soon(work)
                scope.cancel()  # what the starter is in ends; its workers do not
                await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as group:
            group.start_soon(start)
        await anyio.wait_all_tasks_blocked()
        assert not ended
        workers = made[0]
        with anyio.CancelScope() as scope:
            scope.cancel()
            workers.stop()
            assert await workers.wait_ended()
        assert ended == ["work"]
        with pytest.raises(ClientStateError, match="closed"):
            workers.start_soon(work)

    run(main)


def test_workers_run_in_a_copy_of_the_callers_context(run):
    name = ContextVar("name")

    async def main():
        seen = []

        async def work():
            seen.append(name.get())
            name.set("changed")

        name.set("callers")
        workers = Workers()
        assert await workers.start_soon(work).wait_ended()
        assert (seen, name.get()) == (["callers"], "callers")

    run(main)


def test_workers_failure_reaches_the_owner_and_not_the_event_loop(run):
    async def main():
        told = []
        workers = Workers(told.append)
        error = Boom()
        for raised in (error, ExceptionGroup("", [error]), KeyboardInterrupt()):
            await workers.start_soon(_raise, raised).wait_ended()
        assert told[:2] == [error, error]
        assert isinstance(told[2], KeyboardInterrupt)
        assert workers.failure is error

    run(main)


def test_workers_that_do_not_stop_are_waited_for_only_so_long(run):
    async def main():
        workers = Workers()
        over = anyio.Event()

        async def stubborn():
            with anyio.CancelScope(shield=True):
                await over.wait()

        workers.start_soon(stubborn)
        await anyio.wait_all_tasks_blocked()
        workers.stop()
        assert not await workers.wait_ended(0.01)
        over.set()
        assert await workers.wait_ended()

    run(main)


def test_workers_end_with_the_event_loop_and_close_what_they_own(backend):
    ended = []

    async def work():
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
            ended.append("work")

    async def main():
        Workers().start_soon(work)
        gc.collect()
        await anyio.wait_all_tasks_blocked()

    with warnings.catch_warnings(record=True) as caught:
        anyio.run(main, backend=backend)
        gc.collect()
    assert ended == ["work"]
    assert not caught


def test_workers_are_stopped_from_a_thread(run):
    async def main():
        workers = Workers()
        worker = workers.start_soon(anyio.sleep_forever)
        await anyio.to_thread.run_sync(workers.stop_from_anywhere)
        assert await worker.wait_ended()
        return workers

    run(main).stop_from_anywhere()  # the event loop has ended: nothing is left to stop


def test_cancel_of_a_librarys_own_future_is_an_error_and_a_cancel_of_the_task_stays_one():
    async def main():
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.cancel)
        with pytest.raises(OSError, match="was cancelled by the library"), stray_cancels():
            await future
        with anyio.CancelScope() as scope, stray_cancels():
            scope.cancel()
            await anyio.sleep_forever()
        assert scope.cancelled_caught

    anyio.run(main)
