"""The governor against a model of a service: what it settles at, and that it does not shrink for nothing."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runware_flow.errors import RunwareError
from runware_flow.session.governor import START, Governor, is_strain


def even(low, high):
    return lambda chance, number: chance.uniform(low, high)


def exactly(seconds):
    return lambda chance, number: seconds


DURATIONS = {
    "the same": (exactly(1.0), 1.0),
    "0.5 to 3 s": (even(0.5, 3.0), 1.75),
    "exponential": (lambda chance, number: chance.expovariate(0.5), 2.0),
    "a few long ones": (lambda chance, number: chance.lognormvariate(0.0, 1.0), 1.65),
    "one of two kinds": (lambda chance, number: chance.choice((0.5, 5.0)), 2.75),
}


@dataclass
class Queue:
    """A model with one queue: `parallel` tasks at a time; more than `capacity` in all are refused.

    There are always tasks that wait to be sent, and at most `bound` are in flight.
    """

    duration: object
    parallel: int | None = None
    capacity: int | None = None
    seed: int = 1
    bound: int = 64
    governor: Governor = field(default_factory=Governor)
    now: float = 0.0
    limits: list[int] = field(default_factory=list)
    refused: int = 0
    most_refused_in_a_row: int = 0

    def __post_init__(self):
        self.chance = random.Random(self.seed)
        self.lanes: list[float] = []
        self.events: list[tuple] = []
        self.sent = self.inside = self.in_a_row = 0

    def run(self, count):
        """Work until so many tasks are done; returns itself."""
        done = 0
        while done < count:
            while self.governor.has_room(self.now) and self.governor.in_flight < self.bound:
                self.send()
            if not self.events:
                self.now = self.governor.opens_at
                continue
            done += self.settle()
            self.limits.append(self.governor.limit)
        return self

    def send(self):
        sample = self.governor.begin()
        self.sent += 1
        if self.capacity is not None and self.inside >= self.capacity:
            heapq.heappush(self.events, (self.now + 0.02, self.sent, sample, None))
            return
        self.inside += 1
        seconds = self.duration(self.chance, self.sent)
        if self.parallel is None:
            ready = self.now + seconds
        elif len(self.lanes) < self.parallel:
            ready = self.now + seconds
            heapq.heappush(self.lanes, ready)
        else:
            ready = max(self.now, self.lanes[0]) + seconds
            heapq.heapreplace(self.lanes, ready)
        heapq.heappush(self.events, (ready, self.sent, sample, self.now))

    def settle(self):
        self.now, _, sample, sent_at = heapq.heappop(self.events)
        if sent_at is None:
            self.refused += 1
            self.in_a_row += 1
            self.most_refused_in_a_row = max(self.most_refused_in_a_row, self.in_a_row)
            self.governor.strained(sample, self.now)
        else:
            self.in_a_row = 0
            self.inside -= 1
            self.governor.succeeded(sample, self.now - sent_at)
        self.governor.end()
        return sent_at is not None

    @property
    def settled_limit(self):
        """The mean limit in the second half."""
        later = self.limits[len(self.limits) // 2 :]
        return sum(later) / len(later)


@pytest.mark.parametrize("durations", list(DURATIONS))
@pytest.mark.parametrize("seed", range(3))
def test_governor_without_a_queue_grows_to_what_is_used(durations, seed):
    duration, mean = DURATIONS[durations]
    queue = Queue(duration, seed=seed).run(2_000)
    assert queue.settled_limit > 60
    assert queue.now < 2.2 * 2_000 * mean / 64


@pytest.mark.parametrize("durations", list(DURATIONS))
@pytest.mark.parametrize("parallel", [4, 8, 16, 32])
def test_governor_with_a_queue_keeps_the_service_busy_and_the_queue_short(durations, parallel):
    duration, mean = DURATIONS[durations]
    queue = Queue(duration, parallel=parallel).run(2_000)
    assert queue.now < 1.35 * 2_000 * mean / parallel
    assert queue.settled_limit < 3.5 * parallel
    assert queue.governor.cuts


def test_governor_starts_at_four_and_doubles_with_each_round():
    queue = Queue(exactly(1.0), bound=1_000)
    assert queue.governor.limit == START == 4
    at_the_end_of = {}
    for _ in range(300):
        queue.run(1)
        at_the_end_of[round(queue.now)] = queue.governor.limit
    rounds = list(at_the_end_of.values())[:6]
    assert rounds[0] == 5  # most of the first round is what later ones are compared with
    assert all(1.8 * before <= after <= 2 * before for before, after in pairwise(rounds))


def test_governor_does_not_grow_past_twice_what_is_used():
    governor = Governor()
    for _ in range(200):
        samples = [governor.begin() for _ in range(3)]
        for sample in samples:
            governor.succeeded(sample, 1.0)
            governor.end()
    assert governor.limit <= 6


@pytest.mark.parametrize("capacity", [2, 6, 20])
def test_governor_refusals_halve_it_and_one_burst_is_one_cut(capacity):
    queue = Queue(even(0.5, 3.0), capacity=capacity).run(1_000)
    assert 0.6 * capacity < queue.settled_limit <= capacity + 1
    assert queue.refused < 130
    assert queue.governor.cuts <= queue.refused


def test_governor_retry_after_lets_nothing_go_until_then():
    governor = Governor()
    sample, other = governor.begin(), governor.begin()
    governor.strained(sample, 10.0, retry_after=5.0)
    governor.strained(other, 10.1, retry_after=2.0)
    governor.end()
    governor.end()
    assert not governor.has_room(14.9)
    assert governor.has_room(15.0)
    assert governor.limit == 1
    assert governor.cuts == 1


def test_governor_with_tasks_that_take_longer_by_nature_learns_that_and_recovers():
    queue = Queue(lambda chance, number: 1.0 if number < 1_000 else 3.0).run(6_000)
    assert queue.limits[-1] >= 64
    assert queue.governor.statistics().baseline == pytest.approx(3.0, rel=0.1)


def test_governor_latency_never_cuts_below_the_start():
    queue = Queue(exactly(1.0), parallel=1).run(500)
    assert min(queue.limits) == START
    assert queue.settled_limit < 8


def test_governor_polls_that_blur_short_tasks_are_no_queue():
    queue = Queue(even(0.05, 0.14)).run(2_000)
    assert queue.governor.cuts == 0
    assert queue.settled_limit > 64


calls = st.lists(
    st.one_of(
        st.just("begin"),
        st.tuples(st.just("ok"), st.integers(0, 99), st.floats(0.0, 100.0)),
        st.tuples(st.just("strain"), st.integers(0, 99), st.one_of(st.none(), st.floats(0.0, 50.0))),
        st.tuples(st.just("lost"), st.integers(0, 99)),
    ),
    max_size=300,
)


@given(calls)
@settings(max_examples=200)
def test_governor_whatever_happens_there_is_room_for_one_in_the_end(calls):
    governor, flying, now = Governor(), [], 0.0
    for call in calls:
        now += 0.5
        if call == "begin":
            flying.append(governor.begin())
            continue
        if not flying:
            continue
        sample = flying.pop(call[1] % len(flying))
        before = governor.limit
        if call[0] == "ok":
            governor.succeeded(sample, call[2])
        elif call[0] == "strain":
            governor.strained(sample, now, call[2])
            assert governor.limit <= before
        governor.end()
        assert governor.limit >= 1
        assert governor.in_flight == len(flying)
    for sample in flying:
        governor.succeeded(sample, 1.0)
        governor.end()
    assert governor.in_flight == 0
    assert governor.has_room(max(now, governor.opens_at))


@pytest.mark.parametrize(
    ("error", "strains"),
    [
        (RunwareError("slow down", code="rateLimit", raw_code="inferenceRateLimitExceeded"), True),
        (RunwareError("full", code="provider", raw_code="noAvailableServer"), True),
        (RunwareError("no", code="serverError", status_code=503), True),
        (RunwareError("no", code="timeout", status_code=504), True),
        (RunwareError("no", code="serverError", raw_code="internalServerError", status_code=500), False),
        (RunwareError("no", code="validation", status_code=400), False),
        (RunwareError("paused", code="quota", raw_code="environmentPaused", status_code=429), False),
        (RunwareError("late", code="timeout", raw_code="timeout"), False),
    ],
)
def test_strain_is_what_says_that_there_is_too_much_to_do(error, strains):
    assert is_strain(error) is strains
