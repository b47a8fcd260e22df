"""Runs and batches with a budget: what is sent, which requests wait or are refused, and what is kept."""

from __future__ import annotations

import functools
import logging
import threading

import anyio
import anyio.lowlevel
import pytest
from service import Service, art, caption, failed
from waiting import cancel_when

from runware_flow import (
    Batch,
    Budget,
    BudgetExceeded,
    Client,
    ClientStateError,
    DeclarationError,
    Failed,
    Flow,
    FlowFailed,
    Ok,
    RunwareError,
    RunwareTimeoutError,
    Skipped,
)
from runware_flow.client.request import prepare
from runware_flow.emulator import Emulator
from runware_flow.journal import Journal
from runware_flow.results import AccountManagementResult
from runware_flow.runner.budget import BudgetAccount

COST = 0.0012
"""What the service in memory takes for anything."""
PRICES = {"imageInference": COST, "caption": COST}
DEARER = {"imageInference": (0.0, 0.003)}


async def leave_in_flight(flow, count, **overrides):
    """Cancel a run once so many tasks are in flight, which never end."""
    service = Service()
    with anyio.CancelScope() as scope:

        async def never(sent):
            if sent == count:
                scope.cancel()
            await anyio.sleep_forever()

        service.answer = lambda request, sent: never(sent)
        await flow.execute(service, **overrides)
    return service


def kites(flow, count=10):
    return flow.map(range(count), lambda number: art(str(number)), label="kite")


caption_task = {"taskType": "caption", "model": "runware:150@2", "inputs": {"image": "https://example.com/x"}}


def ok(outcomes):
    return [outcome for outcome in outcomes if isinstance(outcome, Ok)]


@pytest.mark.parametrize("prices", [None, PRICES], ids=["unknown", "given"])
def test_run_stops_at_its_budget_and_keeps_what_is_finished(run, prices):
    flow, service = Flow("kites", budget=Budget(0.005, prices=prices)), Service()
    many = kites(flow)

    async def main():
        with pytest.raises(FlowFailed) as caught:
            await flow.execute(service)
        error = caught.value.__cause__
        assert isinstance(error, BudgetExceeded)
        assert (error.node, error.need, error.spent, error.limit) == ("kite", COST, 0.0048, 0.005)
        assert error.left == pytest.approx(0.0002)
        assert "kite" in str(error)
        assert "$0.0012, and $0.0002 of the budget of $0.005 is left" in str(error)
        assert len(service.sent) == len(ok(caught.value.result.outcomes(many))) == 4
        assert caught.value.result.cost == 0.0048

    run(main)


def test_model_of_unknown_price_has_one_task_in_flight_until_its_cost_is_known(run):
    flow, service = Flow(budget=1.0), Service()
    kites(flow)
    together = []
    service.answer = lambda request, count: together.append(service.in_flight)

    async def main():
        await flow.execute(service)

    run(main)
    assert together[0] == 1
    assert max(together) > 1


def test_continue_fails_what_does_not_fit_and_skips_what_follows_from_it(run):
    flow, service = Flow(budget=Budget(0.005, prices=PRICES), on_error="continue"), Service()
    many = kites(flow, 6)
    texts = many.then(caption)

    async def main():
        result = await flow.execute(service)
        outcomes = result.outcomes(many)
        refused = [one for one in outcomes if isinstance(one, Failed)]
        assert all(isinstance(one.error, BudgetExceeded) for one in refused)
        assert len(refused) + len(ok(outcomes)) == 6
        assert len([one for one in result.outcomes(texts) if isinstance(one, Skipped)]) == len(refused)
        assert result.cost == 0.0048
        assert len(service.sent) == 4

    run(main)


@pytest.mark.parametrize("is_a_node", [False, True])
def test_fallback_does_not_stand_in_for_what_does_not_fit_the_budget(run, is_a_node):
    prices = {"imageInference": 0.5, "caption": COST}
    flow, service = Flow(budget=Budget(0.01, prices=prices)), Service()
    node = flow.then(art()).fallback(caption_task) if is_a_node else flow.then(art(), fallback=lambda: caption_task)

    async def main():
        with pytest.raises(FlowFailed) as caught:
            await flow.execute(service)
        assert isinstance(caught.value.__cause__, BudgetExceeded)
        assert isinstance(caught.value.result.outcome(node).error, BudgetExceeded)
        assert not service.sent

    run(main)


def test_what_comes_from_the_cache_costs_the_budget_nothing(run, tmp_path):
    budget = Budget(COST, prices=PRICES)
    flow, service = Flow(budget=budget, cache=tmp_path / "cache"), Service()
    many = flow.map(range(5), lambda _: caption_task)

    async def main():
        result = await flow.execute(service)
        assert len(result[many]) == 5
        assert len((await flow.execute(service))[many]) == 5
        assert len(service.sent) == 1
        assert budget.spent == COST

    run(main)


def test_price_is_not_learned_from_a_journal_of_what_came_from_the_cache(run, tmp_path):
    path = tmp_path / "run.sqlite"
    service = Service()

    def declare(count, **options):
        flow = Flow("kites", on_error="continue", journal=path, **options)
        return flow, flow.map(range(count), lambda number: art(str(number), seed=7))

    async def main():
        cached, _ = declare(3, cache=tmp_path / "cache")
        await cached.execute(service, journal=None)
        assert (await cached.execute(service)).cost == 0.0
        flow, many = declare(30, budget=(budget := Budget(0.005)))
        result = await flow.execute(service)
        assert len(ok(result.outcomes(many))) == 3 + 4
        assert budget.spent == 0.0048
        with Journal(path) as journal:
            [use] = journal.models()
        assert (use.count, use.cost) == (7, COST)

    run(main)


def test_price_of_a_free_model_is_learned_from_a_journal(run, tmp_path):
    service = Service()
    service.answer = lambda request, _: [service.result(request, cost=0.0)]
    flow = Flow("kites", journal=tmp_path / "run.sqlite")
    kites(flow, 2)

    async def main():
        await flow.execute(service)
        with Journal(tmp_path / "run.sqlite") as journal:
            assert [use.cost for use in journal.models()] == [0.0]
        assert flow.plan().cost.high == 0.0

    run(main)


def test_budget_is_shared_by_flows_and_batches_at_once(run):
    budget, service = Budget(0.0061, prices=PRICES), Service()

    def poster(flow, prompt):
        return flow.then(art(prompt))

    async def one(group_results):
        flow = Flow(budget=budget, on_error="continue")
        many = kites(flow, 4)
        group_results.append(len(ok((await flow.execute(service)).outcomes(many))))

    async def main():
        counts = []
        batch = Batch(poster, budget=budget, on_error="continue")
        async with anyio.create_task_group() as group:
            group.start_soon(one, counts)
            group.start_soon(one, counts)
            report = await batch.collect(["a", "b", "c", "d"], service)
        assert sum(counts) + report.ok_count == len(service.sent) == 5
        assert report.failed_count == 4 - report.ok_count
        assert (budget.spent, budget.reserved) == (0.006, 0.0)

    run(main)


def test_node_that_waits_for_the_budget_holds_no_worker_and_goes_when_others_cost_less(run):
    service = Service()
    flow = Flow(budget=Budget(0.0055, prices=DEARER), concurrency=2)
    flow.then(art("first"))
    flow.then(art("second"))
    done = anyio.Event()

    async def beside():
        done.set()

    async def answer(*_):
        await done.wait()  # with a worker held by the second, the function could not run

    flow.then(beside)
    service.answer = lambda request, count: answer()

    async def main():
        await flow.execute(service)
        assert len(service.sent) == 2
        assert service.most_in_flight == 1

    run(main)


def test_free_failures_come_back_and_a_timeout_stays_reserved(run):
    def answer(request, count):
        prompt = request.wire["positivePrompt"]
        if prompt == "free":
            return RunwareError("no", code="provider", raw_code="providerError")
        return anyio.sleep_forever() if prompt == "late" else None

    flow = Flow(budget=(budget := Budget(1.0, prices=PRICES)), on_error="continue")
    flow.then(art("free"), retry=1)
    flow.then(art("late"), timeout=0.05)
    flow.then(art("fine"))

    async def main():
        await flow.execute(Service(answer))
        assert (budget.spent, budget.reserved) == (COST, COST)

    run(main)


def test_cancel_keeps_what_may_be_billed_reserved(run):
    budget = Budget(0.0024, prices=PRICES)
    flow = Flow(budget=budget)
    kites(flow)

    async def main():
        service = await leave_in_flight(flow, 2)
        assert len(service.sent) == 2
        assert (budget.spent, budget.reserved, budget.left) == (0.0, 0.0024, 0.0)
        assert budget.machine.in_flight == budget.machine.waiting_count == 0

    run(main)


def test_run_with_the_journal_of_an_earlier_one_counts_what_that_spent(run, tmp_path):
    flow, service = Flow("kites", journal=tmp_path / "run.sqlite"), Service()
    many = kites(flow, 4)

    async def main():
        with pytest.raises(FlowFailed):
            await flow.execute(service, budget=0.0025)
        assert len(service.sent) == 2
        with pytest.raises(FlowFailed) as caught:
            await flow.execute(service, budget=0.0037)
        assert caught.value.__cause__.spent == 0.0036
        assert len(service.sent) == 3
        result = await flow.execute(service, budget=(budget := Budget(0.0048)))
        assert len(result[many]) == len(service.sent) == 4
        assert budget.spent == result.cost == 0.0048
        await flow.execute(service, budget=budget)
        assert budget.spent == 0.0048

    run(main)


def test_what_an_abandoned_run_may_have_bought_is_reserved_and_collected_whatever_is_left(run, tmp_path):
    flow = Flow("kites", journal=tmp_path / "run.sqlite")
    many = kites(flow, 3)

    async def main():
        with pytest.raises(FlowFailed):  # one is bought, so that the price is known
            await flow.execute(Service(), budget=0.0013)
        await leave_in_flight(flow, 2)
        budget, service = Budget(0.0012), Service()
        seen = []
        service.answer = lambda *_: seen.append(budget.spent + budget.reserved)
        result = await flow.execute(service, budget=budget)
        assert len(result[many]) == 3
        assert service.sent_before == ["yes", "yes"]
        assert seen == [pytest.approx(0.0036)] * 2
        assert (budget.spent, budget.reserved) == (0.0036, 0.0)

    run(main)


def olds(path):
    flow = Flow("kites", journal=path)
    flow.map(["old"], art, label="old")
    return flow


def unknown():
    return RunwareError("the service says that it does not know this task", code="notFound", raw_code="taskNotFound")


def still_runs():
    return RunwareTimeoutError("it still runs", code="timeout", raw_code="timeout")


@pytest.mark.parametrize(
    ("found", "left", "state"),
    [
        (failed, COST, ("failed", None)),
        (unknown, COST, ("abandoned", 0.0)),
        (still_runs, 0.0, ("open", None)),
        (lambda: None, 0.0, ("done", COST)),
    ],
    ids=["failed", "unknown", "running", "done"],
)
def test_what_an_earlier_run_gave_up_is_polled_for_before_a_budget_stops_the_run(run, tmp_path, found, left, state):
    """What the program does not ask for any more keeps its money only until a node needs it."""
    path = tmp_path / "run.sqlite"

    async def main():
        await leave_in_flight(olds(path), 1)
        flow = Flow("kites", journal=path, budget=(budget := Budget(COST, prices=PRICES)))
        node, service = flow.then(art("new")), Service()
        service.answer = lambda request, count: found() if service.sent_before[-1] == "yes" else None
        if left:
            assert (await flow.execute(service))[node].cost == COST
            assert (budget.spent, budget.reserved) == (COST, 0.0)
        else:
            with pytest.raises(FlowFailed) as caught:
                await flow.execute(service)
            assert isinstance(caught.value.__cause__, BudgetExceeded)
            assert budget.spent + budget.reserved == COST
        assert service.sent_before == (["yes", "no"] if left else ["yes"])
        with Journal(path) as journal:
            old = next(entry for entry in journal.entries() if entry.request["positivePrompt"] == "old")
        assert (old.state, old.cost) == state

    run(main)


def test_all_that_earlier_runs_gave_up_is_polled_for_where_a_node_needs_the_money_of_all(run, tmp_path):
    path, count = tmp_path / "run.sqlite", 300

    async def main():
        before = Flow("kites", journal=path, concurrency=count)
        before.map(range(count), lambda number: art(f"old {number}"), label="old")
        await leave_in_flight(before, count)
        flow = Flow("kites", journal=path, budget=(budget := Budget(2 * COST, prices=PRICES)))
        node, service = flow.then(art("new")), Service()
        service.answer = lambda request, sent: failed() if service.sent_before[-1] == "yes" else None
        assert (await flow.execute(service))[node].cost == COST
        assert service.sent_before == ["yes"] * count + ["no"]
        assert service.most_in_flight <= 256
        assert (budget.spent, budget.reserved) == (COST, 0.0)

    run(main)


@pytest.mark.parametrize("is_judged", [True, False])
def test_fallback_after_a_timeout_has_the_money_of_a_task_that_the_service_says_has_failed(run, tmp_path, is_judged):
    flow = Flow("kites", journal=tmp_path / "run.sqlite", budget=(budget := Budget(COST, prices=PRICES)))
    late = flow.then(art("late"), timeout=0.05).fallback(art("other"))
    service = Service()

    def answer(request, count):
        if service.sent_before[-1] == "yes":
            return failed() if is_judged else unknown()  # what was just sent may be on its way to the service
        return anyio.sleep_forever() if request.wire["positivePrompt"] == "late" else None

    async def main():
        service.answer = answer
        if is_judged:
            assert (await flow.execute(service))[late].cost == COST
        else:
            with pytest.raises(FlowFailed):
                await flow.execute(service)
        assert service.sent_before == (["no", "yes", "no"] if is_judged else ["no", "yes"])
        assert budget.spent + budget.reserved == COST

    run(main)


def test_node_whose_task_is_polled_for_by_the_budget_waits_for_that_and_takes_its_result(run, tmp_path):
    path = tmp_path / "run.sqlite"

    async def main():
        await leave_in_flight(olds(path), 1)
        flow = Flow("kites", journal=path, budget=(budget := Budget(2 * COST - 0.0001, prices=PRICES)))
        new, old = flow.then(art("new")), flow.map(["old"], art, label="old")
        service = Service()

        def answer(request, count):
            is_old = service.sent_before[-1] == "yes"
            return [service.result(request, cost=0.0002)] if is_old else None

        service.answer = answer
        result = await flow.execute(service)
        assert [result[new].cost, result[old][0].cost] == [COST, 0.0002]
        assert service.sent_before == ["yes", "no"]
        assert (budget.spent, budget.reserved) == (pytest.approx(COST + 0.0002), 0.0)

    run(main)


@pytest.mark.parametrize("transport", ["websocket", "rest"])
def test_what_a_cancelled_run_has_bought_is_counted_when_a_budget_needs_it(run, tmp_path, transport):
    path = tmp_path / "run.sqlite"

    async def main():
        async with (
            Emulator(latency=0.05) as emulator,
            Client(**emulator.client_options, transport=transport) as client,
        ):
            first = Flow("kites", journal=path)
            first.map(["a first kite", "a second kite", "a third kite"], art)
            async with cancel_when(lambda: len(emulator.log.tasks) == 3):
                await first.execute(client)
            budget = Budget(0.0125, prices={"imageInference": 0.01})  # too little beside any that may be billed
            flow = Flow("kites", journal=path, budget=budget)
            node = flow.then(art("new"))
            assert (await flow.execute(client))[node]
            assert len(emulator.log.tasks) == 4
            assert budget.reserved == 0
            assert budget.spent == pytest.approx(emulator.log.billed)

    run(main)


def test_batch_stops_at_its_budget_and_tells_which_item(run):
    service = Service()

    def poster(flow, prompt):
        return flow.then(art(prompt), label="kite").then(caption)

    async def main():
        batch = Batch(poster, concurrency=1, budget=Budget(0.0036, prices=PRICES))
        with pytest.raises(FlowFailed) as caught:
            await batch.collect(["a", "b", "c"], service)
        assert isinstance(caught.value.__cause__, BudgetExceeded)
        assert caught.value.result.ok_count == 1
        assert len(service.sent) == 3
        assert caught.value.result.cost == 0.0036

    run(main)


def test_many_items_share_a_small_budget_without_a_dead_end(run):
    budget, service = Budget(0.0012 * 40, prices=DEARER), Service()

    def poster(flow, prompt):
        first = flow.then(art(prompt))
        return flow.join(first, flow.then(art(prompt + "!"))).then(lambda a, b: art("c"))

    async def main():
        batch = Batch(poster, concurrency=8, budget=budget, on_error="continue")
        report = await batch.collect([str(number) for number in range(60)], service)
        assert report.ok_count + report.failed_count == 60
        assert budget.spent <= 0.048
        assert len(service.sent) == round(budget.spent / COST) >= 38
        assert (budget.machine.in_flight, budget.machine.waiting_count) == (0, 0)

    run(main)


def test_node_with_a_permit_of_a_limit_gives_it_back_while_it_waits_for_the_budget(run):
    budget = Budget(0.0042, prices=DEARER | {"caption": COST})
    flow = Flow(budget=budget, limits={"image": 1}, on_error="continue")
    first = flow.then(art("first"))
    second = flow.then(art("second"))
    text = flow.then(caption_task)
    seen = []
    is_sent, is_waiting = anyio.Event(), anyio.Event()

    async def look(_):
        while not budget.machine.waiting_count:
            await anyio.lowlevel.checkpoint()
        seen.append((budget.machine.waiting_count, budget.reserved))
        is_waiting.set()

    first.then(look)

    async def answer(request):
        if request.task_type == "caption":
            is_sent.set()
            await is_waiting.wait()
            return RunwareError("no", code="validation", raw_code="invalidImage")
        await is_sent.wait()
        return None

    async def main():
        result = await flow.execute(service)
        assert seen == [(1, COST)]
        assert [type(result.outcome(node)) for node in (first, second, text)] == [Ok, Ok, Failed]
        assert budget.spent == 2 * COST

    service = Service(lambda request, count: answer(request))
    run(main)


def test_node_that_fails_on_its_turn_before_its_request_lets_the_next_one_go(run):
    budget = Budget(COST, prices=PRICES)
    flow = Flow(budget=budget, on_error="continue")
    is_sent, calls = anyio.Event(), []

    async def waiting(count):
        await is_sent.wait()
        while budget.machine.waiting_count < count:
            await anyio.lowlevel.checkpoint()

    def builder(_):
        calls.append(1)
        if len(calls) > 1:
            raise ValueError("not twice")
        return art("between")

    async def answer(request):
        if request.wire["positivePrompt"] != "first":
            return None
        is_sent.set()
        await waiting(2)
        return RunwareError("free", code="validation", raw_code="invalidParameter")

    flow.then(art("first"))
    between = flow.then(functools.partial(waiting, 0)).then(builder)
    last = flow.then(functools.partial(waiting, 1)).then(lambda _: art("last"))

    async def main():
        result = await flow.execute(Service(lambda request, count: answer(request)))
        assert isinstance(result.outcome(between).error, ValueError)
        assert isinstance(result.outcome(last), Ok)

    run(main)


def test_waiter_that_is_gone_is_passed_over():
    class Window:
        def __init__(self, *, is_there):
            self.is_there = is_there
            self.asked = []

        def retry_reservation(self, run, step):
            self.asked.append(step)
            return self.is_there

    def request():
        return prepare(art(), new_task_id="0" * 8 + "-0000-4000-8000-" + "0" * 12)

    account, spec = BudgetAccount(Budget(COST, prices=PRICES)), Flow().then(art()).spec
    gone, there = Window(is_there=False), Window(is_there=True)
    reservation = account.reserve(request(), spec, (None, None, None))
    assert account.reserve(request(), spec, (gone, None, 1)) is None
    assert account.reserve(request(), spec, (there, None, 2)) is None
    account.end(reservation, None, may_be_billed=False, task_uuid=None)
    assert (gone.asked, there.asked) == ([1], [2])


@pytest.mark.parametrize("amount", [-1, "5", float("inf"), True, object()])
def test_budget_that_is_not_an_amount_is_refused(amount):
    with pytest.raises(DeclarationError, match="budget= is an amount of USD, or a Budget"):
        Flow(budget=amount)
    with pytest.raises(DeclarationError, match="a budget is an amount of USD"):
        Budget(amount)


def test_repr_of_a_budget_shows_what_is_spent_and_reserved():
    budget = Budget(5, prices={"caption": 0.001})
    assert repr(budget) == "<Budget of $5.00: $0.00 spent, $0.00 reserved>"
    assert (budget.usd, budget.spent, budget.reserved, budget.left) == (5.0, 0.0, 0.0, 5.0)


def test_budget_in_two_event_loops_at_once_is_an_error():
    budget, is_open, is_done = Budget(1.0), threading.Event(), threading.Event()

    async def hold():
        async with Flow(budget=budget).start():
            is_open.set()
            await anyio.to_thread.run_sync(is_done.wait)

    thread = threading.Thread(target=anyio.run, args=(hold,))
    thread.start()
    is_open.wait()
    try:
        with pytest.raises(ClientStateError, match="in another event loop"):
            Flow(budget=budget).run()
    finally:
        is_done.set()
        thread.join()
    Flow(budget=budget).run()


@pytest.mark.parametrize(("balance", "said"), [(0.001, True), (5.0, False)])
def test_balance_that_is_too_low_is_logged_once_beside_the_first_request(run, caplog, balance, said):
    caplog.set_level(logging.INFO, "runware_flow")
    flow = Flow("kites", budget=Budget(1.0, prices={"runware:400@1": 0.0006}), on_error="continue")
    kites(flow, 5)

    async def main():
        async with Emulator(balance=balance, latency=0.3) as emulator, Client(**emulator.client_options) as client:
            await flow.execute(client)

    run(main)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    expected = "kites: the balance of the account is $0.001, and the tasks that are planned cost at least $0.003"
    assert warnings == ([expected] if said else [])


@pytest.mark.parametrize("balance", [{"amount": 1.5, "freeBalance": 0.5, "currency": "USD"}, 2.0, None, "a lot"])
def test_balance_is_read_once_a_run_and_not_where_all_is_restored(run, tmp_path, caplog, balance):
    flow, service = Flow("kites", journal=tmp_path / "run.sqlite", budget=1.0), Service()
    kites(flow, 5)
    asked = []

    async def details(**given):
        asked.append(given["operation"])
        await anyio.lowlevel.checkpoint()
        return AccountManagementResult(balance=balance)

    service.account_management = details

    async def main():
        await flow.execute(service)
        await flow.execute(service)

    run(main)
    assert asked == ["getDetails"]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_account_that_cannot_be_read_stops_nothing(run, caplog):
    caplog.set_level(logging.INFO, "runware_flow")
    flow, service = Flow("kites", budget=1.0), Service()
    kites(flow, 3)

    async def forbidden(**_):
        raise RunwareError("this key may not do that", code="auth")

    service.account_management = forbidden

    async def main():
        await flow.execute(service)

    run(main)
    [said] = [record.getMessage() for record in caplog.records]
    assert said == "kites: the balance of the account is not known: this key may not do that"
