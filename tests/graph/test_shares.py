"""Shares of limits that hold for a whole cluster."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runware_flow.graph.shares import TURN, ShareMachine, WindowTurns


def settle(machine, now=0.0):
    """Tell each worker its share until none changes; nothing is in use."""
    offers = {}
    for _ in range(3):
        for worker in list(machine._bounds):
            offers[worker] = machine.offer(worker, now)
            machine.note(worker, offers[worker], {})
    return offers


def test_shares_are_equal_parts_of_the_whole():
    machine = ShareMachine({"": 10, "image": 3})
    for worker in "abc":
        machine.join(worker)
    assert settle(machine) == {"a": {"": 4, "image": 1}, "b": {"": 3, "image": 1}, "c": {"": 3, "image": 1}}
    assert machine.is_settled


def test_worker_that_comes_gets_nothing_before_another_one_has_given_it_up():
    machine = ShareMachine({"": 8})
    machine.join("a")
    assert machine.offer("a", 0) == {"": 8}
    machine.note("a", {"": 8}, {"": 8})
    machine.join("b")
    assert machine.offer("b", 0) == {"": 0}
    assert machine.offer("a", 0) == {"": 4}
    assert machine.offer("b", 0) == {"": 0}
    machine.note("a", {"": 4}, {"": 6})  # two have ended
    assert machine.offer("b", 0) == {"": 2}
    machine.note("a", {"": 4}, {"": 3})
    assert machine.offer("b", 0) == {"": 4}


def test_share_of_a_lost_worker_is_kept_until_its_leases_expire():
    machine = ShareMachine({"": 8})
    machine.join("a")
    machine.join("b")
    settle(machine)
    machine.leave("b", until=30.0)
    assert settle(machine, now=29.0) == {"a": {"": 4}}
    assert settle(machine, now=30.0) == {"a": {"": 8}}


def test_workers_beyond_the_smallest_limit_stand_by():
    machine = ShareMachine({"": 8, "video": 2})
    for worker in "abc":
        machine.join(worker)
    assert machine.workers == ["a", "b"]
    assert settle(machine)["c"] == {"": 0, "video": 0}
    machine.leave("a", until=0.0)
    assert settle(machine, now=1.0)["c"] == {"": 4, "video": 1}


@given(
    st.lists(st.tuples(st.sampled_from(["join", "leave", "tell", "answer", "later"]), st.integers(0, 3)), max_size=60)
)
def test_all_together_never_use_more_than_there_is(steps):
    """Workers use all that they were told, and give up only what they have heard is not theirs any more."""
    total = {"": 7, "image": 3}
    machine = ShareMachine(total)
    told: dict[str, dict[str, int]] = {}
    unanswered: dict[str, dict[str, int]] = {}
    dead: list[tuple[float, dict[str, int]]] = []
    now = 0.0
    for what, number in steps:
        worker = f"w{number}"
        if what == "join" and worker not in told:
            machine.join(worker)
            told[worker] = dict.fromkeys(total, 0)
        elif what == "leave" and worker in told:
            machine.leave(worker, now + 5)
            dead.append((now + 5, told.pop(worker)))
            unanswered.pop(worker, None)
        elif what == "tell" and worker in told and worker not in unanswered:
            offered = machine.offer(worker, now)
            unanswered[worker] = offered
            told[worker] = {limit: max(told[worker][limit], offered[limit]) for limit in total}
        elif what == "answer" and worker in unanswered:
            offered = unanswered.pop(worker)
            told[worker] = offered
            machine.note(worker, offered, offered)
        elif what == "later":
            now += number
        dead = [(until, used) for until, used in dead if until > now]
        for limit, size in total.items():
            assert sum(used[limit] for used in [*told.values(), *(used for _, used in dead)]) <= size


REFUSED, OPEN = (1, False, 4), (1, True, 0)


def turns_of(*workers):
    turns = WindowTurns()
    for worker in workers:
        turns.join(worker)
    return turns


def test_once_a_worker_was_refused_one_at_a_time_finds_out_whether_there_is_room():
    turns = turns_of("a", "b", "c")
    turns.note("a", {"m": REFUSED}, 0.0)
    assert [turns.held(worker) for worker in "abc"] == [{"m": 4}, {}, {"m": 4}]
    turns.note("c", {"m": REFUSED}, 0.1)  # of the time before: who has the turn keeps it
    assert turns.held("b") == {}
    turns.note("b", {"m": (2, False, 5)}, 0.2)
    assert [turns.held(worker) for worker in "abc"] == [{"m": 5}, {"m": 5}, {}]


def test_all_take_steps_again_when_the_window_of_the_one_that_has_the_turn_is_open():
    turns = turns_of("a", "b")
    turns.note("a", {"m": REFUSED}, 0.0)
    turns.note("b", {"m": REFUSED}, 0.1)
    turns.note("a", {"m": REFUSED}, 0.2)
    turns.note("a", {"m": OPEN}, 0.3)
    assert [turns.held(worker) for worker in "ab"] == [{}, {}]
    assert not turns.is_refusing


def test_turn_of_a_worker_that_is_gone_or_finds_out_nothing_ends():
    turns = turns_of("a", "b", "c")
    turns.note("a", {"m": REFUSED}, 0.0)
    turns.leave("b", 1.0)
    assert turns.held("a") == {}
    turns.note("c", {}, 1.0 + TURN)
    assert turns.held("a") == {}
    turns.note("c", {}, 1.1 + TURN)
    assert (turns.held("a"), turns.held("c")) == ({"m": 4}, {})


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.sampled_from(["join", "leave", "note"]),
            st.dictionaries(st.sampled_from("mn"), st.tuples(st.integers(1, 4), st.booleans(), st.integers(0, 9))),
        )
    )
)
def test_one_worker_at_least_may_always_take_steps(steps):
    turns, there = WindowTurns(), set()
    for number, (worker, step, states) in enumerate(steps):
        if step == "join":
            there.add(worker)
            turns.join(worker)
        elif step == "leave":
            there.discard(worker)
            turns.leave(worker, number)
        elif worker in there:
            turns.note(worker, states, number)
        for model in "mn":
            free = [one for one in there if model not in turns.held(one)]
            assert len(free) in (0 if not there else 1, len(there))
