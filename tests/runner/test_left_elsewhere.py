"""Runs and batches that are left in another task than the one that entered them, or dropped with an async generator."""

from __future__ import annotations

import gc

import anyio
import anyio.lowlevel
import pytest
from service import Service, art
from waiting import cancel_when

from runware_flow import Batch, Flow, FlowFailed, JournalError

# trio says of every async generator that is collected before its end that it was; nothing else may be said.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator .*(results|outcomes).*:ResourceWarning")


class Boom(Exception):
    """An exception of the user's."""


class Slow(Service):
    """A service whose second task never ends."""

    def __init__(self):
        super().__init__(lambda request, count: self.reply())
        self.count = 0

    async def reply(self):
        self.count += 1
        if self.count > 1:
            await anyio.sleep_forever()


def flow_of(journal):
    flow = Flow("left", journal=journal, concurrency=1)
    flow.map([str(number) for number in range(20)], art)
    return flow


def batch_of(journal):
    def poster(flow, prompt):
        return flow.then(art(prompt))

    return Batch(poster, name="left", journal=journal, concurrency=1)


async def runs_through(journal):
    """Run the flow to its end, if its journal is free."""
    try:
        await flow_of(journal).execute(Service())
    except JournalError as error:
        if "use" not in str(error):
            raise
        return False
    return True


async def results(service, journal):
    """An async generator around `flow.start`."""
    flow = Flow("left", journal=journal, concurrency=1)
    many = flow.map([str(number) for number in range(20)], art)
    async with flow.start(service) as run:
        async for index, outcome in run.as_completed(many):
            yield index, outcome


async def outcomes(service, journal):
    """The same around `Batch.run`."""
    async with batch_of(journal).run([str(number) for number in range(20)], service) as items:
        async for item in items:
            yield item


@pytest.mark.parametrize("generator", [results, outcomes])
@pytest.mark.parametrize("ends", ["dropped", "closed", "closed in another task", "cancelled"])
def test_async_generator_left_early_abandons_and_does_not_affect_its_consumer(run, tmp_path, generator, ends):
    """The consumer goes on; nothing more is sent; the journal is free within five seconds."""
    journal = tmp_path / "left.sqlite"

    async def main():
        service = Slow()

        async def consume():
            got = generator(service, journal)
            assert await anext(got)
            if ends == "dropped":
                del got
                gc.collect()
            elif ends == "closed":
                await got.aclose()
            elif ends == "cancelled":
                with anyio.move_on_after(0.05):
                    await anext(got)
            else:
                async with anyio.create_task_group() as group:
                    group.start_soon(got.aclose)
            await anyio.sleep(0.02)  # nothing cancels this task
            return "went on"

        assert await consume() == "went on"
        while not await runs_through(journal):  # noqa: ASYNC110  # a journal is no event source
            await anyio.sleep(0.05)
        assert service.count <= 2

    run(main)


def test_start_entered_in_one_task_and_left_in_another(run):
    async def main():
        flow = Flow()
        node = flow.then(lambda_of(3))
        block = flow.start()
        runs = []

        async def enter():
            with anyio.CancelScope() as scope:
                runs.append(await block.__aenter__())
                scope.cancel()
                await anyio.lowlevel.checkpoint()

        async def leave():
            await block.__aexit__(None, None, None)

        for step in (enter, leave):
            async with anyio.create_task_group() as group:
                group.start_soon(step)
        assert runs[0].result[node] == 3

    run(main)


def lambda_of(value):
    async def give():
        await anyio.sleep(0.02)
        return value

    return give


def test_start_body_cancelled_stops_the_run_before_it_waits(run):
    async def main():
        began, cleaned = [], []

        async def forever():
            began.append(True)
            try:
                await anyio.sleep_forever()
            finally:
                cleaned.append(True)

        flow = Flow()
        flow.then(forever)
        async with cancel_when(lambda: began) as scope:
            async with flow.start() as started:
                await anyio.sleep_forever()
        assert scope.cancelled_caught
        assert cleaned
        assert started.is_finished

    run(main)


def test_start_cancelled_while_it_waits_for_the_end_stops_the_run(run):
    async def main():
        began = []

        async def forever():
            began.append(True)
            await anyio.sleep_forever()

        flow = Flow()
        flow.then(forever)
        async with cancel_when(lambda: began) as scope:
            async with flow.start() as started:
                pass
        assert scope.cancelled_caught
        assert started.is_finished

    run(main)


@pytest.mark.parametrize("make", [lambda: Boom("mine"), lambda: ExceptionGroup("mine", [Boom()])])
def test_start_body_exception_leaves_as_itself_with_its_own_frames(run, make):
    async def main():
        error = make()

        async def forever():
            await anyio.sleep_forever()

        flow = Flow()
        flow.then(forever)
        with pytest.raises(type(error)) as caught:
            async with flow.start():
                await anyio.lowlevel.checkpoint()
                raise error
        assert caught.value is error
        frames = [entry.name for entry in caught.traceback]
        assert not [name for name in frames if name in {"open_run", "_open"}]

    run(main)


def test_start_failure_of_the_run_is_raised_in_the_task_that_leaves(run):
    async def main():
        async def fail():
            raise Boom

        flow = Flow()
        flow.then(fail)
        with pytest.raises(FlowFailed) as caught:
            async with flow.start():
                pass
        assert isinstance(caught.value.__cause__, Boom)

    run(main)


def test_start_that_cannot_begin_raises_on_entering(run, tmp_path):
    async def main():
        (tmp_path / "not.sqlite").write_bytes(b"no journal at all" * 100)
        with pytest.raises(Exception, match=r"not\.sqlite"):
            async with Flow(journal=tmp_path / "not.sqlite").start():
                pytest.fail("was entered")

    run(main)
