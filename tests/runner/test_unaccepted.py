"""Requests that were given up before the service accepted them: nothing is reserved for them, nothing polls them."""

from __future__ import annotations

import socket
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress

import anyio
import pytest
from service import Service, art
from virtual_time import run_in_virtual_time
from waiting import cancel_when, wait_until

from runware_flow import (
    Abandoned,
    Batch,
    Budget,
    Client,
    Flow,
    FlowFailed,
    NodeRefused,
    NodeStarted,
    RunwareError,
    Skipped,
)
from runware_flow.client.refusal import TaskRefused
from runware_flow.emulator import Emulator
from runware_flow.journal import Journal, collect
from runware_flow.journal.costs import read_past
from runware_flow.tasks import TextInference

REFUSED = "reject:prompt=refused,code=rateLimitExceeded,status=429"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.sqlite"


def entries(path):
    with Journal(path) as journal:
        return {entry.request["positivePrompt"]: entry for entry in journal.entries() if entry.task_uuid}


def check_released(path, *prompts):
    found = entries(path)
    assert [(found[prompt].state, found[prompt].cost) for prompt in prompts] == [("abandoned", 0.0)] * len(prompts)
    assert not read_past(path, "given up").may_be_billed


@asynccontextmanager
async def open_pair(*faults, **more):
    async with Emulator(latency=0.02, faults=faults) as emulator, Client(**emulator.client_options, **more) as client:
        yield emulator, client


async def wait_for_refusal(started):
    async for event in started.events():
        if isinstance(event, NodeRefused):
            return


@pytest.mark.parametrize("transport", ["websocket", "rest"])
def test_refused_request_that_loses_a_race_costs_nothing_and_nothing_asks_for_it(run, path, transport):
    def declare(is_refused):
        async def other():
            await is_refused.wait()
            return "other"

        flow = Flow("given up", journal=path)
        refused = flow.then(art("refused"))
        return flow, refused, flow.race(refused, flow.then(other))

    async def main():
        async with open_pair(REFUSED, transport=transport, retry_delay=5.0) as (emulator, client):
            for number in range(2):
                budget, is_refused = Budget(1.0, prices={"imageInference": 0.01}), anyio.Event()
                flow, refused, won = declare(is_refused)
                async with flow.start(client, budget=budget) as started:
                    if number == 0:
                        await wait_for_refusal(started)
                    is_refused.set()
                    await started.wait()
                assert started.result[won] == "other"
                assert not getattr(started.result.outcome(refused), "may_be_billed", False)
                assert (budget.reserved, budget.spent) == (0, 0)
                check_released(path, "refused")
            assert await collect(path, client) == []
            assert emulator.log.tasks == []

    run(main)


def test_refused_request_of_a_cancelled_run_is_sent_once_by_the_next_under_its_id(run, path):
    async def give_up(client, is_time):
        flow = Flow("given up", journal=path)
        flow.map(["refused"], art)
        with anyio.CancelScope() as scope:
            async with flow.start(client, budget=1.0) as started:
                await is_time(started)
                scope.cancel()
        return started

    async def accepted(started):
        await wait_until(lambda: emulated.log.tasks)

    async def main():
        nonlocal emulated
        async with open_pair(REFUSED, retry_delay=5.0) as (emulated, client):
            started = await give_up(client, wait_for_refusal)
            assert started.budget.reserved == 0
            check_released(path, "refused")
            ids = {one["taskUUID"] for one in emulated.log.rejected}
            emulated.faults.clear()
            emulated.faults.add("never:prompt=refused")
            async with Client(**emulated.client_options) as second:
                await give_up(second, accepted)
            assert {task.task_uuid for task in emulated.log.tasks} == ids
            # What is sent is open again, and may be billed.
            assert {entry.state for entry in entries(path).values()} == {"open"}
            assert len(read_past(path, "given up").may_be_billed) == 1

    emulated = None
    run(main)


def test_refused_item_of_a_cancelled_batch_costs_nothing(run, path):
    async def main():
        async with open_pair(REFUSED, retry_delay=5.0) as (emulator, client):
            batch = Batch(lambda flow, prompt: flow.then(art(prompt)), name="given up", journal=path, concurrency=1)
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(batch.collect, ["refused"], client)
                    await wait_until(lambda: any(one.waiting for one in client.statistics().models.values()))
                    scope.cancel()
            check_released(path, "refused")
            assert emulator.log.tasks == []

    run(main)


def test_request_in_flight_when_it_is_cancelled_may_be_billed_and_stays_open(run, path):
    async def main():
        sent = anyio.Event()

        async def never():
            sent.set()
            await anyio.sleep_forever()

        flow = Flow("given up", journal=path)
        node = flow.then(art("running"))
        with anyio.CancelScope() as scope:
            async with flow.start(Service(lambda request, count: never())) as started:
                await sent.wait()
                scope.cancel()
        outcome = started.result.outcome(node)
        assert isinstance(outcome, Abandoned)
        assert outcome.may_be_billed
        assert entries(path)["running"].state == "open"
        assert len(read_past(path, "given up").may_be_billed) == 1

    run(main)


def test_request_that_never_left_costs_nothing_and_is_sent_by_the_next_run(run, path):
    async def main():
        unreached = RunwareError("no connection", code="connection", raw_code="connectionFailed")
        flow = Flow("given up", journal=path)
        flow.then(art("unreached"))
        with pytest.raises(FlowFailed):
            await flow.execute(Service(lambda request, count: unreached))
        check_released(path, "unreached")
        again = Service()
        await flow.execute(again)
        assert entries(path)["unreached"].state == "done"

    run(main)


@contextmanager
def full_port():
    """A port at which a connection is never made: its queue is full, and nothing accepts from it."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        with suppress(TimeoutError):
            while True:
                waiting = stack.enter_context(socket.socket())
                waiting.settimeout(0.1)
                waiting.connect(listener.getsockname())
        yield listener.getsockname()[1]


def of_port(port):
    """The options of a client whose every address is at one port."""
    urls = {f"{name}_base_url": f"http://127.0.0.1:{port}" for name in ("http", "content", "schemas", "serverless")}
    return {"api_key": "key", "ws_base_url": f"ws://127.0.0.1:{port}", **urls}


def pieces(prompt):
    messages = [{"role": "user", "content": prompt}]
    return TextInference(model="google:gemma@4-31b", messages=messages, delivery_method="stream")


async def cancel_once_written(path, client, task):
    """Run a task, and cancel it once it is in the journal, at what it waits for then."""
    flow = Flow("given up", journal=path)
    node = flow.then(task)
    with anyio.CancelScope() as scope:
        async with flow.start(client, budget=Budget(1.0, prices={"imageInference": 0.01})) as started:
            async for event in started.events():
                if isinstance(event, NodeStarted):
                    break
            await anyio.sleep(0.05)  # so that it is likely to be at what it waits for; at no time has it left
            scope.cancel()
    outcome = started.result.outcome(node)
    assert not getattr(outcome, "may_be_billed", False)
    assert started.budget.reserved == 0


def read_states(path):
    with Journal(path) as journal:
        return [(entry.state, entry.cost) for entry in journal.entries() if entry.task_uuid]


def test_time_out_of_a_request_that_waits_for_a_connection_says_that_it_is_not_billed(run, path):
    async def main():
        flow = Flow("given up", journal=path, on_error="continue")
        node = flow.then(art("waits"), timeout=0.1)
        with full_port() as port:
            async with Client(**of_port(port), transport="websocket") as client:
                error = (await flow.execute(client)).outcome(node).error
        assert isinstance(error, TimeoutError)
        assert not error.may_be_billed
        assert read_states(path) == [("abandoned", 0.0)]

    run(main)


@pytest.mark.parametrize("transport", ["websocket", "rest"])
def test_request_that_waits_for_a_connection_when_it_is_cancelled_costs_nothing(run, path, transport):
    async def main():
        with full_port() as port:
            async with Client(**of_port(port), transport=transport) as client:
                await cancel_once_written(path, client, art("waits"))
        assert read_states(path) == [("abandoned", 0.0)]
        assert not read_past(path, "given up").may_be_billed
        async with open_pair(transport=transport) as (emulator, client):
            assert await collect(path, client) == []
            flow = Flow("given up", journal=path)
            flow.then(art("waits"))
            await flow.execute(client)
            assert len(emulator.log.tasks) == 1
        assert [state for state, _ in read_states(path)] == ["done"]

    run(main)


def test_stream_that_waits_for_a_connection_when_it_is_cancelled_costs_nothing(run, path):
    async def main():
        with full_port() as port:
            async with Client(**of_port(port)) as client:
                await cancel_once_written(path, client, pieces("waits"))
        assert read_states(path) == [("abandoned", 0.0)]

    run(main)


@pytest.mark.parametrize("transport", ["websocket", "rest"])
def test_request_whose_media_are_uploaded_when_it_is_cancelled_costs_nothing(run, path, transport):
    async def main():
        async with open_pair("slow-reader:rate=1000", transport=transport) as (emulator, client):
            await cancel_once_written(path, client, art("with a medium", inputs={"seed_image": bytes(300_000)}))
            assert not emulator.log.tasks
        assert read_states(path) == [("abandoned", 0.0)]

    run(main)


@pytest.mark.parametrize("transport", ["websocket", "rest"])
def test_request_that_has_left_when_it_is_cancelled_stays_open(run, path, transport):
    async def main():
        async with open_pair("never", transport=transport) as (emulator, client):
            flow = Flow("given up", journal=path)
            node = flow.then(art("runs"))
            async with cancel_when(lambda: emulator.log.tasks):
                async with flow.start(client) as started:
                    await started.wait()
            assert started.result.outcome(node).may_be_billed
        assert read_states(path) == [("open", None)]

    run(main)


# Refused, but an earlier send was not answered: the service may have accepted that


def refuses_in_doubt(*, is_in_doubt):
    """A service that refuses what is `refused`, after a send of it that was not answered."""
    error = RunwareError("too much", code="rateLimit", raw_code="rateLimitExceeded")

    def answer(request, count):
        is_refused = request.wire["positivePrompt"] == "refused"
        return TaskRefused(error, may_have_arrived=is_in_doubt) if is_refused else None

    return Service(answer)


@pytest.mark.parametrize("is_in_doubt", [True, False])
@pytest.mark.parametrize("is_cancelled", [True, False])
@pytest.mark.parametrize("has_journal", [True, False])
def test_request_in_doubt_that_is_given_up_is_abandoned_and_its_cost_stays_reserved(
    run, path, is_cancelled, is_in_doubt, has_journal
):
    async def main():
        budget = Budget(1.0, prices={"imageInference": 0.01})
        flow = Flow("given up", journal=path if has_journal else None)
        refused = flow.then(art("refused"))
        with anyio.CancelScope() as scope:
            async with flow.start(refuses_in_doubt(is_in_doubt=is_in_doubt), budget=budget) as started:
                await wait_for_refusal(started)
                assert budget.reserved == 0.01
                if is_cancelled:
                    scope.cancel()
                started.stop()
                await started.wait()
        outcome = started.result.outcome(refused)
        assert isinstance(outcome, Abandoned if is_in_doubt else Skipped)
        assert getattr(outcome, "may_be_billed", False) is is_in_doubt
        assert (budget.reserved, budget.spent) == (0.01 if is_in_doubt else 0, 0)
        assert started.result.cost == (None if is_in_doubt else 0)
        if has_journal:
            assert len(read_past(path, "given up").may_be_billed) == is_in_doubt
            assert [entry.state for entry in entries(path).values()] == ["open" if is_in_doubt else "abandoned"]
        if has_journal and is_in_doubt:  # the next run asks for it, and what was reserved is spent
            again = Service()
            assert (await flow.execute(again, budget=budget)).cost == pytest.approx(0.0012)
            assert again.sent_before == ["yes"]
            assert (budget.reserved, budget.spent) == (0, 0.0012)

    run(main)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_request_in_doubt_that_loses_a_race_or_passes_its_deadline_stays_reserved(backend, path):
    async def main():
        budget = Budget(1.0, prices={"imageInference": 0.01})
        is_refused = anyio.Event()

        async def other():
            await is_refused.wait()
            return "other"

        flow = Flow("given up", journal=path, on_error="continue")
        lost = flow.then(art("refused"))
        flow.race(lost, flow.then(other))
        late = flow.then(art("refused"), deadline=1.0)
        async with flow.start(refuses_in_doubt(is_in_doubt=True), budget=budget) as started:
            await wait_for_refusal(started)
            is_refused.set()
            await started.wait()
        assert isinstance(started.result.outcome(lost), Abandoned)
        assert "deadline" in str(started.result.outcome(late).error)
        assert (budget.reserved, started.result.cost) == (0.02, None)

    run_in_virtual_time(backend, main)
