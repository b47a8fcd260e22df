"""Which record of a journal a request takes, without a journal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runware_flow.graph.resume import Claims, RequestRecord, choose

STATES = ("open", "done", "failed", "abandoned")
PATHS = "abcdef"


def records(*slots):
    """A record for each attempt of each slot; a slot is the path of its node and the states of its attempts."""
    found = []
    for ordinal, (path, states) in enumerate(slots):
        for attempt, state in enumerate(states, start=1):
            found.append(RequestRecord(len(found) + 1, attempt, state, f"uuid-{len(found)}", ordinal, path))
    return found


def test_request_takes_the_record_of_its_own_path_else_the_oldest_free_one():
    claims = Claims()
    history = records(("a", ["done"]), ("b", ["done"]), ("c", ["done"]))
    assert choose(history, "b", claims).ordinal == 1
    assert choose(history, "new", claims).ordinal == 0
    assert choose(history, "a", claims).ordinal == 2
    assert (choose(history, "c", claims).action, choose(history, "c", claims).ordinal) == ("buy", 3)


def test_request_of_another_path_takes_what_has_failed_last():
    history = records(("a", ["failed"]), ("b", ["open"]), ("c", ["done"]))
    claims = Claims()
    assert [choose(history, "new", claims).action for _ in range(4)] == ["collect", "restore", "buy", "buy"]
    advice = choose(history, "a", Claims())
    assert (advice.action, advice.attempt, advice.ordinal) == ("buy", 2, 0)


def test_request_that_asks_again_keeps_its_slot():
    claims = Claims()
    history = records(("a", ["done"]), ("a", ["done"]))
    first = choose(history, "a", claims)
    assert choose(history, "a", claims, first.slot) == first
    assert choose(history, "a", claims).slot != first.slot


@pytest.mark.parametrize(
    ("first", "hedge", "number"),
    [
        (("open", False), ("open", False), 1),
        (("open", False), ("done", False), 2),
        (("done", True), ("done", False), 2),
        (("done", False), ("done", True), 1),
        (("failed", False), ("open", False), 2),
        (("abandoned", True), ("open", False), 2),
    ],
)
def test_of_a_request_and_its_hedge_the_answer_is_restored_else_the_first_collected(first, hedge, number):
    history = [
        RequestRecord(1, 1, first[0], "u1", is_loser=first[1]),
        RequestRecord(2, 1, hedge[0], "u2", is_hedge=True, is_loser=hedge[1]),
    ]
    advice = choose(history, "a", Claims())
    assert advice.record is not None
    assert advice.record.number == number


@given(
    st.lists(st.tuples(st.sampled_from(PATHS), st.lists(st.sampled_from(STATES), min_size=1, max_size=3)), max_size=6),
    st.lists(st.sampled_from(PATHS + "xyz"), max_size=9),
)
def test_equal_requests_buy_no_more_than_are_missing_and_share_nothing(slots, paths):
    """Whatever the order in which equal requests ask: each has a slot of its own, and what there is, is used."""
    history = records(*slots)
    claims = Claims()
    given_advice = [choose(history, path, claims) for path in paths]
    taken = [advice.slot for advice in given_advice if advice.slot]
    assert len(set(taken)) == len(taken)
    assert len(taken) == min(len(paths), len(slots))
    new = [advice for advice in given_advice if not advice.slot]
    assert all(advice.action == "buy" and advice.attempt == 1 for advice in new)
    for path, advice in zip(paths, given_advice, strict=True):
        states = [purchase.state for purchase in history if purchase.ordinal == advice.ordinal]
        assert (advice.action == "buy") == all(state == "failed" for state in states)
        if advice.action == "buy" and states:
            assert advice.attempt == len(states) + 1
        others = [number for number, (own, _) in enumerate(slots) if own == path]
        if paths.count(path) == 1 and len(others) == 1 and path == paths[0]:
            assert advice.ordinal == others[0]


@given(st.sets(st.integers(0, 5000)), st.sets(st.integers(0, 5000)))
def test_claims_are_a_set_of_numbers(taken, others):
    claims = Claims()
    for number in taken:
        claims.add(number)
    assert all(number in claims for number in taken)
    assert not any(number in claims for number in others - taken)
