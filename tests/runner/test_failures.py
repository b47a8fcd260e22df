"""What a failed node does to its run under the three policies, and what stays readable."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from runware_flow import Abandoned, Failed, Flow, FlowFailed, NodeNotAvailable, Ok, Retry, RunwareTimeoutError, Skipped


class Boom(Exception):
    pass


async def one():
    return 1


async def double(x):
    await anyio.lowlevel.checkpoint()
    return 2 * x


async def boom(*_):
    raise Boom("no luck")


async def odd_only(x):
    await anyio.lowlevel.checkpoint()
    if x % 2 == 0:
        raise Boom(f"{x} is even")
    return x


def test_stop_collects_what_is_in_flight_and_starts_nothing_new(run):
    flow = Flow("stops", concurrency=2)
    state = {}

    async def slow():
        state["failed"].set()
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
        return "kept"

    async def fails():
        await state["failed"].wait()
        raise Boom("no luck")

    kept = flow.then(slow)
    bad = flow.then(fails, label="bad")
    after_bad = bad.then(double)
    after_kept = kept.then(double)
    picked = kept.pick(str.upper)
    never = flow.then(one)

    async def main():
        state["failed"] = anyio.Event()
        with pytest.raises(
            FlowFailed, match=r"flow 'stops': 'bad', declared at .*test_failures.py:\d+, failed: no luck"
        ) as info:
            await flow.execute()
        result = info.value.result
        assert info.value.node == bad
        assert isinstance(info.value.__cause__, Boom)
        assert result[kept] == "kept"
        assert result[picked] == "KEPT"
        assert result.outcome(bad) == Failed(info.value.__cause__)
        for node in (after_bad, after_kept, never):
            assert isinstance(result.outcome(node), Skipped)
        with pytest.raises(NodeNotAvailable, match=r"'bad'.*failed: no luck") as missing:
            result[bad]
        assert missing.value.__cause__ is info.value.__cause__
        with pytest.raises(NodeNotAvailable, match="bad failed") as missing:
            result[after_bad]
        assert missing.value.__cause__ is info.value.__cause__

    run(main)


def test_cancel_abandons_what_is_in_flight_at_once(run):
    flow = Flow(on_error="cancel", concurrency=3)

    async def forever():
        await anyio.sleep_forever()

    waiting = flow.then(forever)
    bad = flow.then(one).then(boom)

    async def main():
        with pytest.raises(FlowFailed) as info:
            await flow.execute()
        result = info.value.result
        assert result.outcome(waiting) == Abandoned(None, may_be_billed=False)
        assert isinstance(result.outcome(bad), Failed)

    run(main)


def test_continue_skips_only_what_depends_on_the_failure(run):
    flow = Flow(on_error="continue")
    bad = flow.then(boom)
    after = bad.then(double).then(double)
    good = flow.then(one).then(double)
    both = flow.then(bad, good, boom)
    many = flow.map(range(4), odd_only, label="odd")
    doubled = many.then(double)
    gathered = many.gather()
    settled = doubled.settled()
    fanned = bad.map(double)

    async def main():
        result = await flow.execute()
        assert result[good] == 2
        for node in (after, both, gathered):
            assert isinstance(result.outcome(node), Skipped)
        match result.outcomes(doubled):
            case [Skipped(why), Ok(2), Skipped(), Ok(6)]:
                assert "odd[" in why
            case other:
                pytest.fail(str(other))
        match result[settled]:
            case [Skipped(_, Boom()), Ok(2), Skipped(), Ok(6)]:
                pass
            case other:
                pytest.fail(str(other))
        with pytest.raises(NodeNotAvailable, match=r"item 0 of node 'odd/odd'.*failed: 0 is even") as info:
            result[many]
        assert isinstance(info.value.__cause__, Boom)
        with pytest.raises(NodeNotAvailable, match="boom failed"):
            result[fanned]
        with pytest.raises(NodeNotAvailable, match="boom failed"):
            result.outcomes(fanned)

    run(main)


def test_stopped_map_keeps_the_outcomes_of_pulled_items(run):
    flow = Flow(concurrency=1)
    many = flow.map([1, 3, 4, 5, 7], odd_only)

    async def main():
        with pytest.raises(FlowFailed) as info:
            await flow.execute()
        result = info.value.result
        outcomes = result.outcomes(many)
        assert [outcome for outcome in outcomes if isinstance(outcome, Ok)] == [Ok(1), Ok(3)]
        assert isinstance(outcomes[2], Failed)
        assert len(outcomes) == 3
        with pytest.raises(NodeNotAvailable):
            result[many]

    run(main)


def test_retry_of_a_function_counts_attempts_in_total(run):
    flow = Flow()
    calls = []

    async def third_time():
        calls.append(1)
        if len(calls) < 3:
            raise Boom(str(len(calls)))
        return "done"

    node = flow.then(third_time, retry=Retry(3, backoff=0.0))

    async def main():
        assert (await flow.execute())[node] == "done"
        calls.clear()
        flow_of_two = Flow()
        flow_of_two.then(third_time, retry=Retry(2, backoff=0.0))
        with pytest.raises(FlowFailed) as info:
            await flow_of_two.execute()
        assert str(info.value.__cause__) == "2"

    run(main)


@pytest.mark.parametrize("policy", [{"timeout": 0.01}, {"deadline": 0.01}, {"timeout": 10, "deadline": 0.01}])
def test_timeout_fails_the_node_and_is_not_tried_again(run, policy):
    flow = Flow(on_error="continue")
    calls = []

    async def forever():
        calls.append(1)
        await anyio.sleep_forever()

    node = flow.then(forever, retry=3, label="slow", **policy)
    quick = flow.then(one, timeout=10, deadline=10)

    async def main():
        result = await flow.execute()
        error = result.outcome(node).error
        assert isinstance(error, RunwareTimeoutError)
        assert isinstance(error, TimeoutError)
        assert "'slow'" in str(error)
        assert len(calls) <= 1  # on a busy machine, a deadline may pass before the node begins
        assert result[quick] == 1

    run(main)


def test_deadline_that_passed_in_the_queue_sends_nothing(run):
    flow = Flow(on_error="continue", concurrency=1)

    async def takes_its_time():
        await anyio.sleep(0.05)

    flow.then(takes_its_time)
    late = flow.then(boom, deadline=0.02)

    async def main():
        result = await flow.execute()
        assert isinstance(result.outcome(late).error, RunwareTimeoutError)

    run(main)


def test_pick_that_raises_fails_its_node_with_a_note(run):
    flow = Flow(on_error="continue")
    node = flow.then(one).pick(lambda x: x.nope, label="broken")

    async def main():
        error = (await flow.execute()).outcome(node).error
        assert isinstance(error, AttributeError)
        assert "'broken'" in error.__notes__[0]

    run(main)


def test_base_exception_of_a_function_ends_the_run_as_itself(run):
    flow = Flow()

    class Stop(BaseException):
        pass

    async def stop():
        raise Stop

    flow.then(stop)

    async def main():
        with pytest.raises(Stop):
            await flow.execute()

    run(main)
