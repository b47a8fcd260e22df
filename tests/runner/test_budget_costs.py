"""Costs that are not asked for, not reported, negative or absurd, and those of functions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from service import Service, art, caption

from runware_flow import Budget, BudgetExceeded, Client, Flow, FlowFailed, current_run
from runware_flow.emulator import Emulator
from runware_flow.graph.budget import BudgetMachine, BudgetRequest, Refused
from runware_flow.graph.prices import Price, micro_usd, total_micro_usd
from runware_flow.journal import Journal
from runware_flow.tasks import ImageInference

ASKING = BudgetRequest("imageInference", "runware:400@1")


def kites(flow, count=20, **more):
    return flow.map(range(count), lambda number: art(str(number), **more), label="kite")


def silent(request, count):
    """A service that reports no cost, whatever it is asked for."""
    return [request.result_type(task_type=request.task_type, task_uuid=request.task_id)]


def priced(cost):
    def answer(request, count):
        return [request.result_type(task_type=request.task_type, task_uuid=request.task_id, cost=cost(count))]

    return answer


@pytest.mark.parametrize("more", [{"include_cost": False}, {"extra": {"includeCost": False}}], ids=["field", "extra"])
def test_cost_is_asked_for_under_a_budget_whatever_the_task_says(run, more):
    async def main():
        service = Service()
        flow = Flow("kites", budget=0.003)
        kites(flow, **more)
        with pytest.raises(FlowFailed) as caught:
            await flow.execute(service)
        assert isinstance(caught.value.__cause__, BudgetExceeded)
        assert len(service.sent) == 2  # of 0.0012 each
        assert all(request.wire["includeCost"] is True for request in service.sent)

    run(main)


def test_cost_is_asked_for_in_a_task_that_is_a_dict(run):
    async def main():
        service = Service()
        flow = Flow("kites", budget=0.003)
        task = {"model": "runware:400@1", "positivePrompt": "x", "width": 512, "height": 512, "includeCost": False}
        flow.then(task)
        await flow.execute(service)
        assert service.sent[0].wire["includeCost"] is True
        assert task["includeCost"] is False

    run(main)


@pytest.mark.parametrize("concurrency", [1, 64])
def test_model_that_reports_no_cost_stops_the_run_after_one(run, concurrency):
    async def main():
        service = Service(silent)
        flow = Flow("kites", budget=1, concurrency=concurrency)
        kites(flow)
        with pytest.raises(FlowFailed, match="reported no cost for imageInference with runware:400@1") as caught:
            await flow.execute(service)
        assert isinstance(caught.value.__cause__, BudgetExceeded)
        assert "prices={'runware:400@1': 0.01}" in str(caught.value)
        assert len(service.sent) == 1
        assert caught.value.result.cost is None

    run(main)


def test_model_that_reports_no_cost_is_counted_by_the_price_that_is_given(run):
    async def main():
        service = Service(silent)
        budget = Budget(0.05, prices={"runware:400@1": 0.01})
        flow = Flow("kites", budget=budget, on_error="continue")
        kites(flow)
        await flow.execute(service)
        assert len(service.sent) == 5
        assert budget.left == pytest.approx(0.0)

    run(main)


def test_model_that_reported_no_cost_in_an_earlier_run_is_not_bought_from_again(run, tmp_path):
    async def main():
        service = Service(silent)
        for count in (3, 5):
            flow = Flow("kites", budget=1, journal=tmp_path / "run.sqlite", on_error="continue")
            kites(flow, count)
            result = await flow.execute(service)
            assert result.cost is None
        assert len(service.sent) == 1

    run(main)


def test_cost_that_an_earlier_run_did_not_request_may_be_requested_now(run, tmp_path):
    async def main():
        service = Service()
        path = tmp_path / "run.sqlite"
        first = Flow("kites", journal=path)
        first.then(art("first", include_cost=False))
        await first.execute(service)
        second = Flow("kites", journal=path, budget=1)
        kites(second, 3)
        await second.execute(service)
        assert len(service.sent) == 4

    run(main)


def test_negative_costs_refill_no_budget(run):
    async def main():
        service = Service(priced(lambda count: -5.0 if count % 2 else 0.4))
        flow = Flow("kites", budget=1, on_error="continue", concurrency=1)
        kites(flow, 60)
        result = await flow.execute(service)
        assert len(service.sent) <= 5
        assert result.cost == pytest.approx(0.4 * (len(service.sent) // 2))

    run(main)


@pytest.mark.parametrize("cost", [1e308, 1e13, float("inf"), float("nan")])
def test_cost_that_is_no_amount_is_unknown_and_harms_nothing(run, tmp_path, cost):
    async def main():
        service = Service(priced(lambda count: cost))
        flow = Flow("kites", journal=tmp_path / "run.sqlite")
        node = flow.then(art())
        result = await flow.execute(service)
        assert result[node].cost == cost or cost != cost
        assert result.cost is None

    run(main)


@given(costs=st.lists(st.one_of(st.none(), st.floats(), st.floats(-10, 10)), max_size=6))
def test_amounts_are_whole_never_negative_and_unknown_if_one_is(costs):
    total = total_micro_usd(costs)
    amounts = [micro_usd(cost) for cost in costs]
    assert total is None or total == sum(amounts) >= 0
    assert (total is None) == (not costs or None in amounts)


@given(
    steps=st.lists(st.tuples(st.sampled_from(["cost", "none", "free", "hold"]), st.integers(-50, 50)), max_size=40),
    has_price=st.booleans(),
)
def test_of_what_reports_no_cost_one_is_sent_and_nothing_is_ever_given_back(steps, has_price):
    machine = BudgetMachine(100, {"runware:400@1": Price(0.00001, 0.00001)} if has_price else None)
    spent, is_unreported, is_known = 0, False, has_price
    for kind, amount in steps:
        answer = machine.reserve(ASKING, None)
        if not isinstance(answer, Refused) and answer is not None:
            assert not (is_unreported and not is_known)
            if kind == "cost":
                machine.settle(answer, amount)
                is_known = True
            elif kind == "none":
                machine.settle_unreported(answer)
                is_unreported = True
            elif kind == "free":
                machine.release(answer)
            else:
                machine.withhold(answer)
        elif is_unreported and not is_known:
            assert answer == Refused(None, is_unreported=True)
        assert machine.spent >= spent
        spent = machine.spent
        assert machine.in_flight == 0


def test_those_that_wait_behind_a_probe_are_refused_once_it_reported_nothing():
    machine = BudgetMachine(100)
    first = machine.reserve(ASKING, None)
    assert machine.reserve(ASKING, "second") is None
    assert machine.reserve(ASKING, "third") is None
    assert machine.settle_unreported(first) == ["second", "third"]
    assert machine.waiting_count == 0
    assert machine.reserve(ASKING, "second") == Refused(None, is_unreported=True)


# What functions buy


def picture(prompt, **more):
    return ImageInference(model="runware:400@1", positive_prompt=f"a kite, {prompt}", width=512, height=512, **more)


@pytest.mark.parametrize("way", ["run", "submit", "own client", "nested flow", "nested function"])
def test_what_a_function_buys_is_in_the_cost_of_the_run(run, tmp_path, way):
    async def main():
        async with Emulator(latency=0.01) as emulator, Client(**emulator.client_options) as client:

            async def nested(**options):
                inner = Flow("inner", **options)
                inner.map(["a", "b"], picture)
                return len((await inner.execute(client)).receipt())

            async def buy():
                if way == "nested flow":
                    return await nested()
                if way == "nested function":
                    middle = Flow("middle")
                    middle.then(nested)
                    await middle.execute(client)
                    return 1
                task = picture("x", include_cost=True)
                if way == "submit":
                    async with current_run().client.submit(task) as delivery:
                        found = [one async for one in delivery]
                        return found[0].url
                return (await (client if way == "own client" else current_run().client).run(task))[0].url

            flow = Flow("outer", journal=tmp_path / "run.sqlite")
            flow.then(picture("own")).then(caption)
            flow.then(buy)
            result = await flow.execute(client)
            assert emulator.log.billed > 0
            assert result.cost == pytest.approx(emulator.log.billed)
            assert [line.task_type for line in result.receipt()].count("function") == 1
            billed = emulator.log.billed
            again = await flow.execute(client)
            assert emulator.log.billed == billed
            assert again.cost == pytest.approx(billed)
            with Journal(tmp_path / "run.sqlite") as journal:
                assert journal.summary().cost == pytest.approx(billed)

    run(main)


def test_what_a_function_buys_without_asking_for_the_cost_makes_the_cost_of_the_run_unknown(run, tmp_path):
    async def main():
        async with Emulator(latency=0.01) as emulator, Client(**emulator.client_options) as client:

            async def buy():
                return (await current_run().client.run(picture("x")))[0].url

            async def reads(image):
                return len(await current_run().client.read(image))

            flow = Flow("outer", journal=tmp_path / "run.sqlite")
            node = flow.then(buy)
            for _ in range(2):
                result = await flow.execute(client)
                assert result[node]
                assert result.cost is None
            reading = Flow("reading")
            reading.then(picture("y")).then(reads)
            assert (await reading.execute(client)).cost is not None  # reading costs nothing

    run(main)


def test_what_a_function_buys_before_it_fails_is_counted(run):
    async def main():
        async with Emulator(latency=0.01) as emulator, Client(**emulator.client_options) as client:

            async def buy():
                await client.run(picture("x", include_cost=True))
                raise ValueError("afterwards")

            flow = Flow("outer", on_error="continue")
            flow.then(buy)
            result = await flow.execute(client)
            assert result.cost == pytest.approx(emulator.log.billed)

    run(main)
