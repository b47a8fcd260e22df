"""`BudgetMachine`: what is reserved, which requests wait or are refused; that any order of events keeps the rules."""

from __future__ import annotations

import pickle
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runware_flow.errors import BudgetExceeded
from runware_flow.graph.budget import BudgetMachine, BudgetRequest, Refused, Reservation
from runware_flow.graph.prices import Price

IMAGE = BudgetRequest("imageInference", "runware:400@1")
CAPTION = BudgetRequest("caption", "runware:150@2")
PRICES = {"runware:400@1": Price(0.0005, 0.0010), "caption": Price(0.0003, 0.0003)}


def test_highest_price_is_reserved_for_each_result_and_the_real_cost_settled():
    budget = BudgetMachine(10_000, PRICES)
    one = budget.reserve(IMAGE._replace(results=4), "a")
    assert (budget.reserved, budget.left) == (4_000, 6_000)
    assert budget.settle(one, 2_400) == []
    assert (budget.spent, budget.reserved, budget.left) == (2_400, 0, 7_600)


def test_request_that_does_not_fit_waits_while_others_may_give_back_and_is_refused_when_none_can():
    budget = BudgetMachine(2_000, PRICES)
    first, second = budget.reserve(IMAGE, "a"), budget.reserve(IMAGE, "b")
    assert budget.reserve(IMAGE, "c") is None
    assert budget.reserve(IMAGE._replace(results=3), "d") == Refused(3_000)
    assert budget.settle(first, 500) == []  # 500 left, and the second may still give back
    assert budget.settle(second, 500) == ["c"]
    third = budget.reserve(IMAGE, "c")
    assert budget.settle(third, 1_000) == []
    assert budget.left == 0
    assert budget.reserve(IMAGE, "e") == Refused(1_000)


def test_waiter_is_refused_when_the_last_request_in_flight_gave_nothing_back():
    budget = BudgetMachine(1_500, PRICES)
    first = budget.reserve(IMAGE, "a")
    assert budget.reserve(IMAGE, "b") is None
    assert budget.reserve(CAPTION, "c") is not None  # what fits goes past who waits
    assert budget.settle(first, 1_000) == ["b"]
    assert budget.reserve(IMAGE, "b") == Refused(1_000)


def test_unknown_price_is_tried_by_one_until_its_cost_is_known_then_the_largest_seen_is_reserved():
    budget = BudgetMachine(10_000)
    probe = budget.reserve(IMAGE, "a")
    assert (probe.is_probe, probe.amount) == (True, 0)
    assert [budget.reserve(IMAGE, name) for name in "bcd"] == [None] * 3
    assert budget.reserve(CAPTION, "e").is_probe  # another model
    assert budget.settle(probe, 700) == ["b", "c", "d"]
    assert budget.reserve(IMAGE, "b").amount == 700
    assert budget.estimate(IMAGE._replace(results=2)) == 1_400
    budget.learn(IMAGE._replace(results=2), 1_601)
    assert budget.estimate(IMAGE) == 801


@pytest.mark.parametrize("end", ["release", "withhold"])
def test_probe_that_ends_without_a_cost_hands_over_to_the_next_one(end):
    budget = BudgetMachine(10_000)
    probe = budget.reserve(IMAGE, "a")
    assert budget.reserve(IMAGE, "b") is budget.reserve(IMAGE, "c") is None
    assert getattr(budget, end)(probe) == ["b"]
    assert budget.reserve(IMAGE, "b").is_probe
    assert budget.waiting_count == 1


def test_waiters_for_an_unknown_price_are_refused_once_nothing_is_left_to_try_it_with():
    budget = BudgetMachine(1_000)
    probe, other = budget.reserve(IMAGE, "a"), budget.reserve(CAPTION, "b")
    assert budget.reserve(IMAGE, "c") is budget.reserve(IMAGE, "d") is None
    assert budget.settle(other, 2_000) == ["c", "d"]
    assert budget.reserve(IMAGE, "c") is None  # the first is still being tried
    assert budget.release(probe) == ["c"]
    assert budget.reserve(IMAGE, "c") == budget.reserve(IMAGE, "d") == Refused(None)


def test_what_may_have_been_billed_stays_reserved_and_what_is_free_comes_back():
    budget = BudgetMachine(3_000, PRICES)
    budget.withhold(budget.reserve(IMAGE, "a"))
    budget.release(budget.reserve(IMAGE, "b"))
    assert (budget.withheld, budget.left, budget.spent) == (1_000, 2_000, 0)


def test_what_may_have_been_billed_at_an_unknown_price_is_reserved_from_when_it_is_known():
    budget = BudgetMachine(3_000)
    for _ in range(2):
        budget.withhold(budget.reserve(IMAGE, "a"))
    assert budget.withheld == 0
    budget.settle(budget.reserve(IMAGE, "b"), 1_000)
    assert (budget.withheld, budget.left) == (2_000, 0)
    assert budget.reserve(IMAGE, "c") == Refused(1_000)
    budget.keep_no_more(IMAGE, None)  # one of them is asked for
    assert (budget.withheld, budget.left) == (1_000, 1_000)


def test_request_without_a_waiter_leaves_no_trace():
    budget = BudgetMachine(1_500, PRICES)
    held, probe = budget.reserve(IMAGE, "a"), budget.reserve(BudgetRequest("upscale", None), "b")
    assert budget.reserve(IMAGE, None) is budget.reserve(BudgetRequest("upscale", None), None) is None
    assert budget.waiting_count == 0
    assert budget.release(held) == budget.release(probe) == []


def test_cost_above_the_price_is_learned_and_nothing_more_goes():
    budget = BudgetMachine(1_000, PRICES)
    budget.settle(budget.reserve(IMAGE, "a"), 5_000)
    assert budget.left == -4_000
    assert budget.reserve(IMAGE, "b") == Refused(5_000)
    assert budget.reserve(BudgetRequest("upscale", None), "c") == Refused(None)


def test_request_of_an_earlier_run_is_collected_whatever_is_left():
    budget = BudgetMachine(1_000, PRICES)
    budget.add_spent(1_000)
    again = budget.force(IMAGE)
    assert (again.amount, budget.left) == (1_000, -1_000)
    budget.settle(again, 900)
    assert budget.spent == 1_900


def test_waiter_that_ends_without_a_request_passes_its_turn_on():
    budget = BudgetMachine(1_000, PRICES)
    first = budget.reserve(IMAGE, "a")
    assert budget.reserve(IMAGE, "b") is budget.reserve(IMAGE, "c") is None
    assert budget.release(first) == ["b"]
    assert budget.recheck() == ["c"]
    assert budget.waiting_count == 0


def test_forgotten_waiters_are_never_named():
    budget = BudgetMachine(10_000)
    probe = budget.reserve(IMAGE, "a")
    assert budget.reserve(IMAGE, "b") is budget.reserve(IMAGE, "c") is None
    assert budget.forget({"b"}) == []
    assert budget.release(probe) == ["c"]


def test_reservation_cannot_end_twice():
    budget = BudgetMachine(10_000, PRICES)
    one = budget.reserve(IMAGE, "a")
    budget.settle(one, 1)
    with pytest.raises(RuntimeError, match="has ended before"):
        budget.release(one)


def test_error_survives_a_pickle():
    error = pickle.loads(pickle.dumps(BudgetExceeded("no", node="big", limit=1.0, spent=0.9, left=0.1, need=0.2)))
    assert (str(error), error.node, error.need, error.left) == ("no", "big", 0.2, 0.1)


KINDS = [BudgetRequest("imageInference", f"model:{number}@1", results) for number in (1, 2, 3) for results in (1, 3)]
HIGHEST = {"model:1@1": 900, "model:2@1": 250, "model:3@1": 60}


def test_request_that_is_refused_for_what_is_withheld_waits_while_that_is_polled_for():
    cost = BudgetMachine(0, PRICES).estimate(IMAGE)
    budget = BudgetMachine(cost, PRICES)
    old = budget.reserve(IMAGE, "old")
    budget.withhold(old)
    refused = budget.reserve(IMAGE, "new")
    assert isinstance(refused, Refused)
    assert not budget.is_worth_polling(refused, 0)
    assert not budget.is_worth_polling(refused, cost - 1)
    assert budget.is_worth_polling(refused, cost)
    assert not budget.is_worth_polling(Refused(None, is_unreported=True), cost)
    budget.keep_no_more(IMAGE, cost)
    polled = budget.force(IMAGE)
    assert budget.reserve(IMAGE, "new") is None
    assert budget.release(polled) == ["new"]
    assert isinstance(budget.reserve(IMAGE, "new"), Reservation)


class Market:
    """Requests that ask, wait, fly and end in whatever order `draw` says.

    What is withheld is polled for once if a request is refused that would fit without it.
    """

    def __init__(self, askings, budget, draw):
        self.askings, self.budget, self.draw = askings, budget, draw
        self.to_ask = list(range(len(askings)))
        self.waiting: set[int] = set()
        self.flying: dict[int, Reservation] = {}
        self.ended: dict[int, str] = {}
        self.withheld: dict[int, tuple[BudgetRequest, int | None]] = {}
        self.polled: dict[int, Reservation] = {}

    def wake(self, named):
        assert len(set(named)) == len(named)
        for name in self.waiting.intersection(named):  # one that is gone is named to no effect
            self.waiting.discard(name)
            self.to_ask.append(name)

    def ask(self, name):
        self.to_ask.remove(name)
        if self.draw(st.integers(0, 9)) == 0:
            self.ended[name] = "gone before it asked"
            self.wake(self.budget.recheck())
            return
        answer = self.budget.reserve(self.askings[name], name)
        if isinstance(answer, Refused) and self.poll(answer):
            answer = self.budget.reserve(self.askings[name], name)
        if answer is None:
            self.waiting.add(name)
        elif isinstance(answer, Refused):
            self.ended[name] = "refused"
        else:
            self.flying[name] = answer

    def poll(self, refused):
        budget, withheld = self.budget, self.withheld
        amounts = (budget.estimate(request) if amount is None else amount for request, amount in withheld.values())
        if not withheld or not budget.is_worth_polling(refused, sum(amount or 0 for amount in amounts)):
            return False
        for name, held in withheld.items():
            budget.keep_no_more(*held)
            self.polled[name] = budget.force(held[0])
        self.withheld = {}
        return True

    def land(self, name, flying):
        reservation, asking = flying.pop(name), self.askings[name]
        self.ended[name] = end = self.draw(st.sampled_from(["settle", "settle", "settle", "release", "withhold"]))
        cost = [self.draw(st.integers(0, asking.results * HIGHEST[asking.model]))] if end == "settle" else []
        if end == "withhold" and flying is self.flying:
            self.withheld[name] = asking, None if reservation.is_probe else reservation.amount
        self.wake(getattr(self.budget, end)(reservation, *cost))

    def give_up(self, name):
        self.waiting.discard(name)
        self.ended[name] = "gave up"
        self.wake(self.budget.forget({name}))

    def step(self):
        moves = [(self.ask, name) for name in self.to_ask]
        moves += [(partial(self.land, flying=flying), name) for flying in (self.flying, self.polled) for name in flying]
        assert moves, f"{len(self.waiting)} wait for nothing in flight: {self.budget!r}"
        if self.waiting and self.draw(st.integers(0, 19)) == 0:
            moves = [(self.give_up, min(self.waiting))]
        move, name = self.draw(st.sampled_from(moves))
        move(name)

    def check(self):
        unknown = [one.request.kind for one in self.flying.values() if one.is_probe]
        assert len(set(unknown)) == len(unknown), "two tries of one model at once"
        assert self.budget.reserved == sum(one.amount for one in [*self.flying.values(), *self.polled.values()])
        assert self.budget.in_flight == len(self.flying) + len(self.polled)
        assert self.budget.waiting_count == len(self.waiting)


@given(
    st.lists(st.sampled_from(KINDS), min_size=1, max_size=25),
    st.integers(0, 12_000),
    st.sets(st.sampled_from(sorted(HIGHEST))),
    st.data(),
)
def test_any_order_ends_each_request_once_and_exact_prices_are_never_exceeded(askings, limit, priced, data):
    prices = {model: Price(0.0, HIGHEST[model] / 1_000_000) for model in priced}
    budget = BudgetMachine(limit, prices)
    market = Market(askings, budget, data.draw)
    while len(market.ended) < len(askings) or market.polled:
        market.step()
        market.check()
        if len(priced) == len(HIGHEST):
            assert budget.spent + budget.reserved + budget.withheld <= limit
    assert budget.reserved == budget.in_flight == budget.waiting_count == 0
