"""Functions that block the event loop are told of in development mode, with their lines; nothing here sleeps."""

from __future__ import annotations

import sys
import warnings

import anyio
import pytest

from runware_flow import Flow
from runware_flow.runner import blocking
from runware_flow.runner.blocking import watch_steps


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


async def blocks_in_the_middle(clock):
    await anyio.lowlevel.checkpoint()
    clock.now += 0.3  # stands for time.sleep(0.3)
    await anyio.lowlevel.checkpoint()
    return "done"


async def only_waits(clock):
    await anyio.lowlevel.checkpoint()
    clock.now += 0.05
    return "done"


async def fails(clock):
    clock.now += 0.3
    raise ValueError("broken")


FIRST = blocks_in_the_middle.__code__.co_firstlineno


def test_step_that_blocks_is_reported_with_its_lines(run):
    clock = Clock()

    async def main():
        with pytest.warns(
            RuntimeWarning, match=rf"node 'x' blocked .* for 0.3 s in lines {FIRST + 1} to {FIRST + 3} of"
        ) as told:
            assert await watch_steps(blocks_in_the_middle(clock), "node 'x'", clock=clock) == "done"
        assert [(one.filename, one.lineno) for one in told] == [(__file__, FIRST + 1)]

    run(main)


def test_function_that_waits_or_is_quick_is_not_reported(run):
    clock = Clock()

    async def main():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert await watch_steps(only_waits(clock), "node", clock=clock) == "done"

    run(main)


def test_error_after_blocking_leaves_as_itself(run):
    clock = Clock()

    async def main():
        with pytest.warns(RuntimeWarning, match="blocked"), pytest.raises(ValueError, match="broken"):
            await watch_steps(fails(clock), "node", clock=clock)

    run(main)


def test_cancel_reaches_the_function_and_leaves_it(run):
    seen = []

    async def waits():
        try:
            await anyio.sleep_forever()
        finally:
            seen.append("left")

    async def main():
        with anyio.move_on_after(0) as scope:
            await watch_steps(waits(), "node")
        assert scope.cancelled_caught
        assert seen == ["left"]

    run(main)


@pytest.mark.parametrize("is_on", [True, False])
def test_nodes_are_watched_in_development_mode_alone(run, monkeypatch, is_on):
    clock = Clock()
    monkeypatch.setattr(blocking.watch_steps, "__kwdefaults__", {"clock": clock})
    monkeypatch.setattr("runware_flow.runner.node_runner.is_debugging", lambda: is_on)
    flow = Flow("blocks")
    node = flow.then(lambda_free(clock))

    async def main():
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            assert (await flow.execute())[node] == "done"
        assert [("blocked the event loop" in str(one.message)) for one in told] == [True] * is_on

    run(main)


def lambda_free(clock):
    async def read():
        return await blocks_in_the_middle(clock)

    return read


def test_development_mode_is_pythons_own(monkeypatch):
    read = blocking.is_debugging.__wrapped__
    monkeypatch.delenv("PYTHONASYNCIODEBUG", raising=False)
    assert read() == sys.flags.dev_mode
    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")
    assert read()
