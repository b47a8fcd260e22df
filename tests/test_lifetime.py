"""The block that owns workers: exceptions leave as themselves."""

from __future__ import annotations

import anyio
import pytest

from runware_flow.lifetime import open_task_group


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
