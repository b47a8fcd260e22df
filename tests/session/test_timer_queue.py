"""What is due when."""

from __future__ import annotations

from math import inf

from hypothesis import given
from hypothesis import strategies as st

from runware_flow.session.timer_queue import TimerQueue

KEYS = st.sampled_from("abcdef")
TIMES = st.integers(0, 20).map(float)
STEPS = st.one_of(
    st.tuples(st.just("set"), KEYS, TIMES),
    st.tuples(st.just("drop"), KEYS, TIMES),
    st.tuples(st.just("pop"), KEYS, TIMES),
)


@given(st.lists(STEPS, max_size=60))
def test_timer_queue_any_history_agrees_with_a_dict(steps: list[tuple[str, str, float]]) -> None:
    timers: TimerQueue[str] = TimerQueue()
    model: dict[str, float] = {}
    for verb, key, at in steps:
        if verb == "set":
            timers.set(key, at)
            model[key] = at
        elif verb == "drop":
            timers.drop(key)
            model.pop(key, None)
        else:
            due = timers.pop_due(at)
            assert [model[each] for each in due] == sorted(model[each] for each in due)
            assert set(due) == {each for each, when in model.items() if when <= at}
            for each in due:
                del model[each]
        assert timers.next_at == min(model.values(), default=inf)
        assert len(timers) == len(model)
        assert all((each in timers) == (each in model) for each in "abcdef")


def test_timer_queue_leftovers_do_not_pile_up():
    timers: TimerQueue[str] = TimerQueue()
    for number in range(10_000):
        timers.set("key", float(number))
    assert len(timers._heap) < 100
    timers.clear()
    assert timers.next_at == inf


def test_timer_queue_keys_that_come_and_go_behind_the_first_do_not_pile_up():
    timers: TimerQueue[str] = TimerQueue()
    timers.set("first", 0.0)
    for number in range(10_000):
        timers.set(f"key {number}", 1.0 + number)
        timers.drop(f"key {number}")
    assert len(timers._heap) < 100
    assert timers.first == "first"


def test_timer_queue_what_is_dropped_behind_the_first_does_not_stay():
    timers: TimerQueue[int] = TimerQueue()
    for number in range(1000):
        timers.set(number, float(number))
    for number in range(1, 1000):
        timers.drop(number)
    assert len(timers._heap) < 100
    assert timers.next_at == 0.0
