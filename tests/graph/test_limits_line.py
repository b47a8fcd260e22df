"""`FlowMachine` with `Limits` and a `Line`: the bound and the limits always hold; all waiters get permits."""

from __future__ import annotations

from flow_world import Driver, Reference, place_of
from hypothesis import given
from hypothesis import strategies as st
from test_machine_properties import QUICK, worlds

from runware_flow.graph.limits import Limits, Line, Need, modality_of

KEYS = ("a", "b", "c")


class LimitedDriver(Driver):
    """Admits each node that was taken, as a run does: with all that it needs, or parked."""

    def __init__(self, world, machine, sizes, needs):
        super().__init__(world, machine)
        self.limits = Limits(sizes)
        self.line = Line()
        self.needs = [Need(keys) for keys in needs]
        self.granted = {}
        self.held = []
        self.waiting = []

    def need_of(self, step):
        return self.needs[sum(map(ord, step.spec.path)) % len(self.needs)]

    def start(self):
        job = self.machine.take()
        if job is None:
            return False
        need = self.granted.pop(job, None)
        if need is None:
            need = self.need_of(job[1])
            if self.line.has(need) or not self.limits.have_room(need.limits):
                self.machine.park(*job)
                self.line.add(need, job)
                self.waiting.append(job)
                return True
            self.limits.take(need.limits)
        self.running.append(job)
        self.held.append(need)
        self.started.append(place_of(*job))
        self.check()
        return True

    def settle(self, choice=0):
        need = self.held.pop(choice % len(self.held))
        self.limits.give_back(need.limits)
        while (called := self.line.call(need.keys, lambda other: self.limits.have_room(other.limits))) is not None:
            other, job = called
            self.check_order(other, job)
            self.limits.take(other.limits)
            self.granted[job] = other
            self.machine.unpark(*job)
        super().settle(choice)
        self.check()

    def check_order(self, need, job):
        """No waiter with the same need has waited longer, and no waiter that has waited longer could go."""
        before = self.waiting[: self.waiting.index(job)]
        assert all(not self.limits.have_room(self.need_of(step).limits) for _, step in before)
        self.waiting.remove(job)

    def check(self):
        assert self.machine.in_flight == len(self.running) <= self.machine.concurrency
        taken = dict.fromkeys(KEYS, 0)
        for need in (*self.held, *self.granted.values()):
            for key in need.limits:
                taken[key] += 1
        assert taken == self.limits.taken
        assert all(taken[key] <= size for key, size in self.limits.sizes.items())
        # Nobody waits who could go: a place was never lost.
        assert all(not self.limits.have_room(self.need_of(step).limits) for _, step in self.waiting)


needs = st.lists(st.lists(st.sampled_from(KEYS), unique=True).map(tuple), min_size=1, max_size=4)
sizes = st.fixed_dictionaries({key: st.integers(1, 3) for key in KEYS})


@given(worlds(with_choices=False), st.integers(1, 5), sizes, needs, st.data())
@QUICK
def test_limits_hold_at_each_step_and_all_is_done(world, concurrency, sizes, needs, data):
    driver = LimitedDriver(world, world.machine(concurrency=concurrency), sizes, needs)
    for _ in range(10_000):
        if driver.machine.is_finished:
            break
        moves = [driver.start, driver.pull]
        if driver.running:
            moves.append(lambda: driver.settle(data.draw(st.integers(0, 7))))
        order = data.draw(st.permutations(moves))
        assert any(move() is not False for move in order), f"cannot go on: {driver.describe()}"
    assert driver.outcomes() == Reference(world).outcomes()
    assert len(driver.started) == len(set(driver.started))
    assert not driver.line
    assert not any(driver.limits.taken.values())
    assert not driver.machine.waiting


def test_line_skips_waiters_that_left():
    line, need = Line(), Need(("a",))
    first, second = line.add(need, "first"), line.add(need, "second")
    first.who = None
    assert line.has(need)
    second.who = None
    assert not line.has(need)
    assert not line
    assert line.call(("a",), lambda need: True) is None


def test_line_costs_nothing_for_each_waiter():
    """What is looked at grows with the number of needs, not of those who wait."""
    line, need, asked = Line(), Need(("a",)), 0

    def can_go(need):
        nonlocal asked
        asked += 1
        return True

    for number in range(10_000):
        line.add(need, number)
    assert [line.call(("a",), can_go)[1] for _ in range(100)] == list(range(100))
    assert asked == 100


def test_modality_is_what_a_task_makes():
    assert modality_of({"taskType": "imageInference"}) == "image"
    assert modality_of({"taskType": "upscale", "inputs": {"image": "x"}}) == "image"
    assert modality_of({"taskType": "upscale", "inputs": {"video": "x"}}) == "video"
    assert modality_of({"taskType": "caption", "inputs": {"video": "x"}}) == "text"
    assert modality_of({"taskType": "training"}) is None
