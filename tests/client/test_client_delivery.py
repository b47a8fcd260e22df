"""`Delivery` fed by hand: which readers are woken, and what is left when the time is over."""

from __future__ import annotations

import anyio
import pytest

from runware_flow import Ok, RunwareTimeoutError
from runware_flow.client.delivery import Delivery
from runware_flow.client.request import prepare
from runware_flow.session.commands import Deliver
from runware_flow.tasks import ImageInference
from runware_flow.wire.frames import decode_frame


@pytest.fixture
def delivery():
    task = ImageInference(model="runware:400@1", positive_prompt="A lighthouse", number_results=2)
    return Delivery(prepare(task), timeout=9.0)


def result(delivery, number):
    item = f'{{"taskType":"imageInference","taskUUID":"{delivery.task_uuid}","imageUUID":"{number}"}}'
    return Deliver(delivery.task_uuid, number, item=decode_frame(f'{{"data":[{item}]}}').items[0])


def test_reader_is_woken_though_another_task_tried_to_wait_for_the_end(run, delivery):
    async def main():
        seen = []

        async def read():
            seen.append(await delivery.next_event())

        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(anyio.BusyResourceError):
                await delivery.wait_results()
            delivery.take(result(delivery, 0))
        assert [type(event) for event in seen] == [Ok]

    run(main)


def test_expired_delivery_gives_what_came_and_then_a_timeout(run, delivery):
    async def main():
        delivery.take(result(delivery, 0))
        delivery.expire()
        first = await anext(delivery)
        for read in (delivery.__anext__, delivery.wait_results):
            with pytest.raises(RunwareTimeoutError, match="within 9 s") as caught:
                await read()
            assert caught.value.results == [first]

    run(main)


def test_expiry_wakes_tasks_that_wait_for_the_end(run, delivery):
    async def main():
        async def wait():
            with pytest.raises(RunwareTimeoutError):
                await delivery.wait_results()

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            delivery.take(result(delivery, 0))
            delivery.expire()

    run(main)


def test_exception_that_counts_as_false_is_raised_all_the_same(run, delivery):
    class Problems(Exception):
        """As an exception with a list of problems may be; it has none here."""

        def __len__(self):
            return 0

    async def main():
        delivery.settle(Problems())
        with pytest.raises(Problems):
            await delivery.wait_results()

    run(main)
