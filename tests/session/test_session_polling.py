"""When to ask: the rule by itself, what is learnt, and what it comes to in virtual time."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from session_world import KEY, Plan, World, submission

from runware_flow.secret import Secret
from runware_flow.session.commands import Command, Settle
from runware_flow.session.options import SessionOptions
from runware_flow.session.polling import History, Poller, PollPolicy, next_ask

POLICY = PollPolicy()
KIND = ("imageInference", "m")


def test_without_history_asks_early_and_backs_off_with_the_elapsed_time():
    asks = [0.0]
    while asks[-1] < 60:
        asks.append(next_ask((), asks[-1], POLICY))
    assert asks[1] == POLICY.initial
    steps = [round(after - before, 9) for before, after in pairwise(asks)]
    assert steps == sorted(steps)
    assert len(asks) < 60


def test_few_samples_are_not_believed():
    assert next_ask((5.0,) * (POLICY.min_samples - 1), 0.0, POLICY) == POLICY.initial


def test_known_duration_is_awaited_whole():
    assert next_ask((3.0,) * 10, 0.0, POLICY) == 3.0


def test_durations_close_together_are_found_by_one_ask():
    samples = tuple(1.0 + number / 1000 for number in range(20))
    assert next_ask(samples, 0.0, POLICY) == pytest.approx(1.018)


def test_spread_durations_are_walked_through_in_quantiles():
    samples = tuple(0.5 + number / 25 for number in range(64))
    first = next_ask(samples, 0.0, POLICY)
    assert first == samples[6]
    assert next_ask(samples, first, POLICY) == samples[7 + int(57 * 0.1)]


def test_task_that_outlasts_all_others_is_asked_for_by_share():
    assert next_ask((1.0,) * 10, 4.0, POLICY) == pytest.approx(4.4)


@given(
    samples=st.lists(st.floats(0.0, 1000.0), max_size=64).map(sorted),
    elapsed=st.floats(0.0, 10_000.0),
)
def test_next_ask_is_always_later_and_never_too_late(samples: list[float], elapsed: float) -> None:
    due = next_ask(samples, elapsed, POLICY)
    assert elapsed + POLICY.floor * 0.99 <= due <= elapsed + POLICY.ceiling


def test_history_remembers_the_middle_and_less_when_the_first_ask_hit():
    history = History(8)
    history.record(KIND, 1.0, 2.0)
    history.record(KIND, 0.0, 2.0)
    history.record(KIND, 3.0, 3.0)
    assert list(history.durations(KIND)) == [1.2, 1.5, 3.0]
    assert list(history.durations(("other", None))) == []


@given(st.lists(st.floats(0.1, 100.0), max_size=50), st.integers(1, 8))
def test_history_keeps_the_most_recent_sorted(durations: list[float], size: int) -> None:
    history = History(size)
    for duration in durations:
        history.record(KIND, duration, duration)
    assert list(history.durations(KIND)) == sorted(durations[-size:])


def test_history_forgets_the_kinds_used_least_recently():
    history = History(2)
    for number in range(History.kinds + 1):
        history.record(("t", str(number)), 1.0, 1.0)
        history.record(("t", "0"), 1.0, 1.0)
    assert list(history.durations(("t", "0"))) == [1.0, 1.0]
    assert list(history.durations(("t", "1"))) == []


def test_pressure_grows_is_bounded_and_fades():
    poller = Poller(POLICY)
    poller.strained(10.0, 5.0)
    assert (poller.pressure, poller.open_at) == (2.0, 15.0)
    assert poller.next_ask(KIND, 0.0) == 2 * POLICY.initial
    for step in range(20):
        poller.strained(11.0 + 5 * step, None)
    assert poller.pressure == 16.0
    for step in range(20):
        poller.relieved(200.0 + step)
    assert poller.pressure == 1.0


def test_pressure_of_a_burst_counts_once_and_outlasts_the_answers_beside_it():
    poller = Poller(POLICY)
    for _ in range(20):
        poller.strained(10.0, None)
        poller.relieved(10.0)
    assert poller.pressure == 2.0


def test_lost_reply_is_awaited_by_what_replies_take():
    poller = Poller(POLICY)
    assert [poller.reply_wait(number) for number in (0, 1, 99)] == [2.0, 3.0, 10.0]
    poller.answered(1.01, 1.0)
    assert poller.reply_wait(0) == POLICY.reply_floor
    for _ in range(50):
        poller.answered(11.0, 1.0)
    assert poller.reply_wait(0) == POLICY.reply_timeout


def test_frames_of_asks_keep_their_distance():
    poller = Poller(POLICY)
    poller.asked(1.0)
    assert poller.open_at == 1.0 + POLICY.floor


def test_batches_are_given_up_after_three_refusals():
    poller = Poller(POLICY)
    assert poller.may_join
    poller.rejected_batches = 3
    assert not poller.may_join


def test_unknown_waits_grow_and_are_bounded():
    assert [POLICY.unknown_wait(number) for number in (1, 2, 3, 99)] == [0.25, 0.5, 1.0, 2.0]


class Chains(World):
    """Chains of tasks, each submitted when the one before has settled, so many at a time."""

    latency = 0.001

    def __init__(
        self, count: int, length: int, shortest: float, longest: float, delivery: str, *, duplex: bool
    ) -> None:
        super().__init__(SessionOptions(api_key=Secret(KEY), duplex=duplex))
        durations = random.Random(7)
        self.length = length
        self.delivery = delivery
        self.plan = {
            (chain, step): Plan([durations.uniform(shortest, longest)])
            for chain in range(count)
            for step in range(length)
        }
        self.waiting = iter(range(count))

    def _act(self, command: Command) -> None:
        super()._act(command)
        if isinstance(command, Settle):
            chain, step = map(int, command.task_id.split("-"))
            self.after(0.0, self.pull if step + 1 == self.length else lambda: self.begin(chain, step + 1))

    def begin(self, chain: int, step: int) -> None:
        kinds = ("imageInference", "upscale", "caption")
        task = submission(f"{chain}-{step}", self.delivery, task_type=kinds[step % 3])
        self.submit(task, self.plan[chain, step])

    def pull(self) -> None:
        chain = next(self.waiting, None)
        if chain is not None:
            self.begin(chain, 0)

    def execute(self, concurrency: int) -> float:
        for _ in range(concurrency):
            self.pull()
        while len(self.settled) < len(self.plan):
            at = self._next()
            assert at is not None
            self._step(at)
        return self.now

    def delay(self) -> float:
        """The mean time from ready to settled."""
        delays = [at - self.service.known[task_id].finished_at() for task_id, at in self.settled_at.items()]
        return sum(delays) / len(delays)

    def asks_a_task(self) -> float:
        return sum(self.asks.values()) / len(self.settled)


def chains(*args: Any, delivery: str = "async", duplex: bool = True) -> Chains:
    return Chains(*args, delivery, duplex=duplex)


@pytest.mark.parametrize("duplex", [True, False])
def test_a_thousand_tasks_at_once_are_found_within_a_tenth_of_a_second(duplex: bool) -> None:
    world = chains(1000, 1, 0.5, 3.0, duplex=duplex)
    world.execute(1000)
    assert world.delay() < 0.1
    assert world.asks_a_task() < 20
    polls = world.frames_sent - (1000 if not duplex else 0)
    assert polls < 100, "asks that are due together leave together"


def test_short_chains_take_little_longer_than_with_pushed_results():
    pushed = chains(200, 3, 0.05, 0.05, delivery="sync").execute(64)
    world = chains(200, 3, 0.05, 0.05)
    assert world.execute(64) < 1.6 * pushed
    assert world.asks_a_task() < 2


def test_chains_of_varied_tasks_take_hardly_longer_than_with_pushed_results():
    pushed = chains(200, 3, 0.2, 1.0, delivery="sync").execute(64)
    world = chains(200, 3, 0.2, 1.0)
    assert world.execute(64) < 1.1 * pushed
    assert world.asks_a_task() < 8


def test_tasks_of_known_duration_are_asked_for_seldom():
    world = chains(40, 3, 10.0, 10.2)
    world.execute(4)
    assert world.delay() < 0.5
    assert world.asks_a_task() < 8
