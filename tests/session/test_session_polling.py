"""When tasks are polled: the rule by itself, the durations that are remembered, and both in virtual time."""

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
from runware_flow.session.polling import Durations, History, Poller, PollPolicy, first_poll, next_poll
from runware_flow.session.timer_queue import TimerQueue
from runware_flow.session.tracker import Tracker
from runware_flow.wire.items import Item

POLICY = PollPolicy()


def polls_until(end: float, samples: tuple[float, ...] = (), number: int = 0) -> list[float]:
    """The times at which a task is polled that is not ready before `end`; a reply takes no time."""
    asks = [0.0, first_poll(samples, number, POLICY)]
    while asks[-1] < end:
        asks.append(next_poll(samples, asks[-1], POLICY))
    return asks


@pytest.mark.parametrize("number", [0, POLICY.min_samples])
def test_without_history_polls_early_and_backs_off_with_the_elapsed_time(number):
    asks = polls_until(60.0, number=number)
    assert asks[1] == (POLICY.initial if number else POLICY.scout)
    steps = [round(after - before, 9) for before, after in pairwise(asks)]
    assert steps == sorted(steps)
    assert len(asks) < 60


def test_few_samples_are_not_believed():
    assert next_poll((5.0,) * (POLICY.min_samples - 1), 0.0, POLICY) == POLICY.initial


def test_known_duration_is_awaited_whole():
    assert next_poll((3.0,) * 10, 0.0, POLICY) == 3.0


def test_durations_close_together_are_found_by_one_poll():
    samples = tuple(1.0 + number / 1000 for number in range(20))
    assert next_poll(samples, 0.0, POLICY) == pytest.approx(1.019)


def test_one_that_took_far_longer_does_not_hold_up_the_others():
    assert next_poll((*(1.0,) * 19, 5.0), 0.0, POLICY) == 1.0


def test_spread_durations_are_walked_through_in_quantiles():
    samples = tuple(0.5 + number / 25 for number in range(64))
    first = next_poll(samples, 0.0, POLICY)
    assert first == samples[5]
    assert next_poll(samples, first, POLICY) == samples[6 + int(58 * POLICY.quantile)]


def test_task_that_outlasts_all_others_is_polled_by_share():
    assert next_poll((1.0,) * 10, 4.0, POLICY) == pytest.approx(4.4)


@given(
    samples=st.lists(st.floats(0.0, 1000.0), max_size=64).map(sorted),
    elapsed=st.floats(0.0, 10_000.0),
)
def test_next_poll_is_always_later_and_never_too_late(samples: list[float], elapsed: float) -> None:
    due = next_poll(samples, elapsed, POLICY)
    assert elapsed + POLICY.floor * 0.99 <= due <= elapsed + POLICY.ceiling


@given(
    samples=st.lists(st.floats(0.0, 1000.0), max_size=64).map(sorted),
    number=st.integers(0, 100),
)
def test_first_poll_is_the_usual_one_or_earlier_and_never_below_the_floor(samples: list[float], number: int) -> None:
    first, usual = first_poll(samples, number, POLICY), next_poll(samples, 0.0, POLICY)
    assert POLICY.floor <= first <= usual
    if len(samples) >= POLICY.min_samples and number % POLICY.probe_every:
        assert first == usual


def test_the_poll_after_an_early_one_in_vain_is_the_usual_one():
    for usual in (0.05, 0.3, 3.0, 9.0):
        probe = first_poll((usual,) * 10, POLICY.probe_every, POLICY)
        assert probe < usual
        assert next_poll((usual,) * 10, probe, POLICY) == usual


@given(st.lists(st.tuples(st.floats(0.0, 100.0), st.floats(0.001, 100.0)), max_size=80), st.integers(1, 70))
def test_what_is_remembered_lies_in_the_interval_that_was_seen(seen: list[tuple[float, float]], size: int) -> None:
    durations = Durations(size)
    for lower, width in seen:
        before = list(durations.ordered)
        durations.record(lower, lower + width)
        added = list(durations.ordered)
        for known in before[:] if len(before) < size else ():
            added.remove(known)
        assert len(durations.ordered) == min(size, len(before) + 1)
        assert durations.ordered == sorted(durations.ordered)
        if len(before) < size:
            assert lower <= added[0] <= lower + width


def test_what_is_remembered_is_spread_over_the_interval():
    durations = Durations(64)
    for _ in range(64):
        durations.record(1.0, 2.0)
    steps = [after - before for before, after in pairwise([1.0, *durations.ordered, 2.0])]
    assert max(steps) < 3 / 64


def test_first_poll_that_finds_its_task_ready_repeats_a_measured_duration():
    durations = Durations(8)
    durations.record(0.0, 4.0)
    assert 3.0 <= durations.ordered[0] <= 4.0, "a guess: nothing tells how long it had been ready"
    durations.record(0.9, 0.9)
    durations.record(2.0, 2.0)
    durations.record(0.0, 1.5)
    assert durations.ordered[:2] == [0.9, 0.9]
    assert durations.ordered[2] == 2.0


def test_model_that_becomes_faster_is_noticed_though_every_first_poll_finds_its_task_ready():
    durations = Durations(POLICY.samples)
    for _ in range(100):
        durations.record(1.0, 1.0)
    for number in range(1000):
        asked = first_poll(durations.ordered, number, POLICY)
        lower = 0.0
        while asked < 0.4:
            lower, asked = asked, next_poll(durations.ordered, asked, POLICY)
        durations.record(lower, asked)
    assert next_poll(durations.ordered, 0.0, POLICY) == pytest.approx(0.4, rel=POLICY.probe_share)


@given(
    usual=st.floats(0.3, 100.0),
    factor=st.floats(2.0, 100.0),
    begun=st.integers(0, POLICY.search_every),
)
def test_model_that_becomes_many_times_faster_is_noticed_within_a_hundred_tasks(
    usual: float, factor: float, begun: int
) -> None:
    durations, duration = Durations(POLICY.samples), usual / factor
    for _ in range(100):
        durations.record(usual, usual)
    for number in range(begun, begun + 3 * POLICY.search_every):
        lower, asked = 0.0, first_poll(durations.ordered, number, POLICY)
        while asked < duration:
            lower, asked = asked, next_poll(durations.ordered, asked, POLICY)
        durations.record(lower, asked)
    assert next_poll(durations.ordered, 0.0, POLICY) < 3.0 * max(duration, POLICY.floor)


def test_search_in_vain_costs_two_polls():
    samples = (3.2,) * 10
    first = first_poll(samples, POLICY.search_every, POLICY)
    second = next_poll(samples, first, POLICY)
    assert (first, second, next_poll(samples, second, POLICY)) == (pytest.approx(0.2), pytest.approx(0.8), 3.2)


@given(st.lists(st.floats(0.1, 100.0), max_size=50), st.integers(1, 8))
def test_the_most_recent_are_kept_sorted(taken: list[float], size: int) -> None:
    durations = Durations(size)
    for duration in taken:
        durations.record(duration, duration)
    assert durations.ordered == sorted(taken[-size:])


def test_history_forgets_the_kinds_used_least_recently():
    history = History(2)
    for number in range(History.kinds + 1):
        history.of(("t", str(number))).record(1.0, 1.0)
        history.of(("t", "0")).record(1.0, 1.0)
    assert history.of(("t", "0")).ordered == [1.0, 1.0]
    assert history.of(("t", "1")).ordered == []


def test_pressure_grows_is_bounded_and_fades():
    poller = Poller(POLICY)
    poller.strained(10.0, 5.0)
    assert (poller.pressure, poller.open_at) == (2.0, 15.0)
    assert poller.next_poll(Durations(8), 0.0) == 2 * POLICY.initial
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


def test_frames_of_polls_keep_their_distance():
    poller = Poller(POLICY)
    poller.note_poll(1.0)
    assert poller.open_at == 1.0 + POLICY.floor


def test_frames_of_polls_leave_at_a_steady_rate_once_there_are_many():
    poller = Poller(POLICY)
    sent, at = 0, 0.0
    while at < 10.0:
        poller.note_poll(at)
        sent += 1
        at = poller.open_at
    assert sent <= 10 * POLICY.frame_rate + POLICY.burst + 1
    poller.note_poll(20.0)
    assert poller.open_at == 20.0 + POLICY.floor, "a pause gives the burst back"


def held_until(results: int) -> tuple[Poller, float]:
    """The pace after more frames than may leave at once, the last of them at 1 s, and so many results since then."""
    poller = Poller(POLICY)
    for _ in range(3 * POLICY.burst):
        poller.note_poll(1.0)
    for _ in range(results):
        poller.note_result()
    return poller, poller.open_at


@given(results=st.integers(0, 64))
def test_each_result_pays_a_part_of_a_frame(results: int):
    frame = 1 / POLICY.frame_rate
    _, without = held_until(0)
    _, at = held_until(results)
    assert without == pytest.approx(1.0 + (2 * POLICY.burst) * frame)
    assert at == pytest.approx(max(1.0 + POLICY.floor, without - results * POLICY.frames_a_result * frame))


def test_result_of_a_task_that_an_earlier_process_sent_pays_too():
    commands: list[Any] = []
    options = SessionOptions(api_key=Secret(KEY), duplex=False)
    tracker = Tracker(options, TimerQueue(), commands.append, commands.append)
    task = submission("a", sent_before="yes")
    tracker.submit(task, 1.0)
    tracker.poll_due(1.0)
    for _ in range(2 * POLICY.burst):
        tracker.poller.note_poll(1.0)
    held = tracker.poller.open_at
    tracker.found_done(tracker.entries[task.task_id], Item(raw=b"{}"), 1.0)
    assert tracker.poller.open_at < held


def test_results_do_not_shorten_the_wait_that_the_service_asked_for():
    poller = Poller(POLICY)
    poller.note_poll(1.0)
    poller.strained(1.0, 5.0)
    for _ in range(1000):
        poller.note_result()
    assert poller.open_at == 6.0
    poller.note_poll(6.0)
    for _ in range(1000):
        poller.note_result()
    assert poller.open_at == 6.0 + POLICY.floor * poller.pressure


def test_results_of_a_quiet_time_do_not_pay_for_later_frames():
    poller, _ = held_until(10_000)
    sent, at = 0, 100.0
    while at < 110.0:
        poller.note_poll(at)
        sent += 1
        at = poller.open_at
    assert sent <= 10 * POLICY.frame_rate + POLICY.burst + 1


def test_no_task_is_polled_earlier_while_the_rate_holds_frames_back():
    poller, durations = Poller(POLICY), Durations(64)
    for _ in range(10):
        durations.record(1.0, 1.0)
    usual = [1.0] * (POLICY.probe_every - 1)
    at = 0.0
    for _ in range(3 * POLICY.burst):
        poller.note_poll(at)
        at += POLICY.floor
    assert at < poller.open_at
    assert [poller.first_poll(durations, at) for _ in range(POLICY.probe_every)] == [1.0, *usual]
    at = poller.open_at
    assert [poller.first_poll(durations, at) for _ in range(POLICY.probe_every)] == [
        pytest.approx(0.95, rel=0.01),
        *usual,
    ]


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
    assert world.execute(64) < 1.3 * pushed
    assert world.asks_a_task() < 2


def test_chains_of_varied_tasks_take_hardly_longer_than_with_pushed_results():
    pushed = chains(200, 3, 0.2, 1.0, delivery="sync").execute(64)
    world = chains(200, 3, 0.2, 1.0)
    assert world.execute(64) < 1.1 * pushed
    assert world.asks_a_task() < 8


def test_tasks_of_known_duration_are_polled_seldom():
    world = chains(40, 3, 10.0, 10.2)
    world.execute(4)
    assert world.delay() < 0.5
    assert world.asks_a_task() < 8
