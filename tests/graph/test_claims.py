"""Which record of a journal a request takes, without a journal."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runware_flow.graph.resume import Advice, Claims, History, RequestRecord, advise

STATES = ("open", "done", "failed", "abandoned")
PATHS = "abcdef"


def records(*slots):
    """A record for each attempt of each slot; a slot is the path of its node and the states of its attempts."""
    found = []
    for ordinal, (path, states) in enumerate(slots):
        for attempt, state in enumerate(states, start=1):
            found.append(RequestRecord(len(found) + 1, attempt, state, f"uuid-{len(found)}", ordinal, path))
    return found


def history_of(*slots):
    return History(records(*slots), Claims())


def test_request_takes_the_record_of_its_own_path_else_the_oldest_free_one():
    history = history_of(("a", ["done"]), ("b", ["done"]), ("c", ["done"]))
    assert history.choose("b").ordinal == 1
    assert history.choose("new").ordinal == 0
    assert history.choose("a").ordinal == 2
    assert (history.choose("c").action, history.choose("c").ordinal) == ("buy", 3)


def test_request_of_another_path_takes_what_has_failed_last():
    slots = ("a", ["failed"]), ("b", ["open"]), ("c", ["done"])
    history = history_of(*slots)
    assert [history.choose("new").action for _ in range(4)] == ["collect", "restore", "buy", "buy"]
    advice = history_of(*slots).choose("a")
    assert (advice.action, advice.attempt, advice.ordinal) == ("buy", 2, 0)


def test_request_that_is_looked_up_again_keeps_its_slot():
    history = history_of(("a", ["done"]), ("a", ["done"]))
    first = history.choose("a")
    assert history.choose("a", first.slot) == first
    assert history.choose("a").slot != first.slot


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
    found = [
        RequestRecord(1, 1, first[0], "u1", is_loser=first[1]),
        RequestRecord(2, 1, hedge[0], "u2", is_hedge=True, is_loser=hedge[1]),
    ]
    advice = History(found, Claims()).choose("a")
    assert advice.record is not None
    assert advice.record.number == number


@given(
    st.lists(st.tuples(st.sampled_from(PATHS), st.lists(st.sampled_from(STATES), min_size=1, max_size=3)), max_size=6),
    st.lists(st.sampled_from(PATHS + "xyz"), max_size=9),
)
def test_equal_requests_buy_no_more_than_are_missing_and_share_nothing(slots, paths):
    """Whatever the order in which equal requests ask: each has a slot of its own, and what there is, is used."""
    history = history_of(*slots)
    given_advice = [history.choose(path) for path in paths]
    taken = [advice.slot for advice in given_advice if advice.slot]
    assert len(set(taken)) == len(taken)
    assert len(taken) == min(len(paths), len(slots))
    new = [advice for advice in given_advice if not advice.slot]
    assert all(advice.action == "buy" and advice.attempt == 1 for advice in new)
    for path, advice in zip(paths, given_advice, strict=True):
        states = [purchase.state for purchase in records(*slots) if purchase.ordinal == advice.ordinal]
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


class ReadAll:
    """The same rule in its plainest form: each request reads all that equal it."""

    def __init__(self, found):
        self.records = found
        self.claims = Claims()

    def choose(self, path, mine, is_own):
        slots = {}
        for record in self.records:
            slots.setdefault(record.ordinal, []).append(record)
        own = [slot for slot in slots.values() if slot[0].number == mine]
        free = [slot for slot in slots.values() if slot[0].number not in self.claims]
        at_path = [slot for slot in free if slot[-1].path == path]
        useful = [slot for slot in free if any(record.state not in ("failed", "redo") for record in slot)]
        found = own + at_path + ([] if is_own else useful + free)
        if not found:
            return Advice("buy", 1, ordinal=1 + max(slots, default=-1))
        self.claims.add(found[0][0].number)
        return advise(found[0])


REQUESTS = st.tuples(st.just("choose"), st.sampled_from("abcx"), st.integers(0, 9), st.booleans())
CHANGES = st.tuples(
    st.just("change"), st.integers(0, 99), st.sampled_from((None, *STATES, "redo")), st.sampled_from((None, *"abc"))
)
ADDED = st.tuples(st.just("add"), st.integers(0, 9), st.sampled_from(STATES), st.sampled_from("abc"))
GIVEN_BACK = st.tuples(st.just("give_back"), st.integers(0, 99))
SLOTS = st.tuples(st.sampled_from("abc"), st.lists(st.sampled_from((*STATES, "redo")), min_size=1, max_size=3))


@given(st.lists(SLOTS, max_size=8), st.lists(REQUESTS | CHANGES | ADDED | GIVEN_BACK, max_size=30))
def test_history_that_is_kept_gives_each_request_the_slot_that_reading_all_records_gives(slots, steps):
    plain = ReadAll(records(*slots))
    claims = Claims()
    history = History(plain.records, claims)
    for kind, *values in steps:
        known = plain.records
        if kind == "choose":
            path, place, is_own = values
            mine = known[place].number if place < len(known) else 0
            assert history.choose(path, mine, is_own=is_own) == plain.choose(path, mine, is_own)
        elif kind == "add":
            ordinal, state, path = values
            slot = [record for record in known if record.ordinal == ordinal]
            new = RequestRecord(len(known) + 1, len(slot) + 1, state, f"new-{len(known)}", ordinal, path)
            history.add(new)
            plain.records = [*known, new]
        elif known and kind == "change":
            place, state, path = values
            record = known[place % len(known)]
            history.change(record.number, state=state, path=path)
            changed = msgspec.structs.replace(record, state=state or record.state, path=path or record.path)
            plain.records = [changed if one is record else one for one in known]
        elif known:
            record = known[values[0] % len(known)]
            history.give_back(record.number)
            plain.claims.give_back(min(one.number for one in known if one.ordinal == record.ordinal))
        for ordinal in range(10):
            assert history.slot(ordinal) == [one for one in plain.records if one.ordinal == ordinal]
        assert history.task_uuids == {one.task_uuid for one in plain.records}
