"""`FlowMachine` against a slow reference, over random declarations, failures and orders of events."""

from __future__ import annotations

from explaining import Judge, outcome_of
from flow_world import Driver, Reference, World, place_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runware_flow.graph.declaration import PURE, NodeKind
from runware_flow.graph.outcomes import Failed
from runware_flow.graph.scope_run import SETTLED, FanRun

CAN_FAIL = (NodeKind.CALL, NodeKind.PICK, NodeKind.TASK)

QUICK = settings(suppress_health_check=[HealthCheck.too_slow])


@st.composite
def worlds(draw, *, with_choices=True):
    """A declaration of up to 14 steps, nested fan-outs, gathers, broadcasts and branches included, and what goes wrong.

    With choices, there are races, `first` and fan-outs that tolerate failures too: what comes out depends on the order.
    """
    world = World()
    kinds = ["node", "node", "node", "join", "fan", "over", "gather", "settled", "pick", "branch"]
    kinds += ["race", "race", "first", "tolerant", "fallback", "fallback"] if with_choices else []
    for _ in range(draw(st.integers(1, 14))):
        nodes = [spec for spec in world.declaration.specs() if spec.kind is not NodeKind.FAN]
        if not nodes:
            world.node()
            continue
        kind = draw(st.sampled_from(kinds))
        first = draw(st.sampled_from(nodes))
        line = [spec for spec in nodes if spec.scope.holds(first.scope) or first.scope.holds(spec.scope)]
        grow(draw, world, kind, first, line)
    places = sorted(Reference(world).outcomes())
    calls = {spec.path for spec in world.declaration.specs() if spec.kind in CAN_FAIL}
    candidates = [place for place in places if place[0] in calls]
    if candidates:
        world.fails = draw(st.sets(st.sampled_from(candidates), max_size=4))
    decisions = [place for place in places if place[0] in world.decisions]
    if decisions:
        world.otherwise = draw(st.sets(st.sampled_from(decisions)))
    sources = sorted(path for path in world.widths)
    if sources and draw(st.integers(0, 3)) == 0:
        world.broken_sources = {draw(st.sampled_from(sources)): draw(st.integers(0, 3))}
    return world


def grow(draw, world, kind, first, line):
    if kind in ("fan", "tolerant"):
        item = world.fan(width=draw(st.integers(0, 6)))
        if kind == "tolerant":
            item.scope.fan.tolerate = draw(st.sampled_from([0.0, 0.3, 0.5, 1.0]))
    elif kind == "over" and first.scope.depth < 2:
        world.fan(first, width=draw(st.integers(0, 3)))
    elif kind in ("gather", "settled", "first") and first.scope.depth:
        world.gather(first, NodeKind(kind), count=draw(st.integers(1, 4)))
    elif kind in ("join", "race"):
        others = draw(st.lists(st.sampled_from(line), min_size=1, max_size=2))
        if all(one.scope.holds(other.scope) or other.scope.holds(one.scope) for one in others for other in others):
            (world.race if kind == "race" else world.node)(first, *others)
    elif kind == "fallback":
        if first.kind is not NodeKind.ITEM:
            world.fallback(first)
    elif kind == "branch":
        grow_branch(draw, world, first)
    else:
        world.node(first, kind=NodeKind.PICK if kind == "pick" else NodeKind.CALL)


def grow_branch(draw, world, first):
    decision, *ways = world.ways(first)
    since = len(world.declaration.order)
    ends = [world.node(way) if draw(st.booleans()) else way for way in ways]
    if draw(st.booleans()):
        ends[1] = world.node(name="fixed") if not first.scope.depth else ends[1]
        world.declaration.guard(ways[1], since)
    world.branch(decision, *ends)


def drive(driver, data, limit=10_000):
    """Take random steps until the run is finished or `limit` is reached."""
    driver.is_prompt = False
    for _ in range(limit):
        if driver.machine.is_finished:
            return
        moves = [driver.start, driver.pull]
        if driver.running:
            moves.append(lambda: driver.settle(data.draw(st.integers(0, 7))))
            if data.draw(st.integers(0, 5)) == 0:
                moves.append(lambda: driver.park(data.draw(st.integers(0, 7)), has_failed=data.draw(st.booleans())))
        if driver.parked:
            moves.append(lambda: driver.unpark(data.draw(st.integers(0, 7))))
        if driver.machine.dropped:
            moves.append(driver.obey)
        order = data.draw(st.permutations(moves))
        assert any(move() is not False for move in order), f"cannot go on: {driver.describe()}"
        driver.check()


@given(worlds(with_choices=False), st.integers(1, 5), st.data())
@QUICK
def test_machine_any_declaration_gives_the_outcomes_of_the_reference(world, concurrency, data):
    driver = Driver(world, world.machine(concurrency=concurrency))
    drive(driver, data)
    assert driver.outcomes() == Reference(world).outcomes()
    assert driver.machine.in_flight == 0
    assert not driver.machine.active
    assert not driver.machine.has_work


@given(worlds(), st.integers(1, 5), st.sampled_from(["continue", "stop", "cancel"]), st.data())
@QUICK
def test_machine_each_outcome_follows_from_those_before_it_whatever_was_chosen(world, concurrency, on_error, data):
    driver = Driver(world, world.machine(concurrency=concurrency, on_error=on_error))
    drive(driver, data)
    judge = Judge(driver)
    judge.judge()
    machine = driver.machine
    failures = judge.failures()
    if on_error == "continue":
        assert machine.stopped is None
    elif machine.failure is None:
        assert machine.stopped is None
        assert all(judge.is_tolerated(*failure) for failure in failures), failures
    else:
        run, step, error = machine.failure
        assert isinstance(outcome_of(run, step.slot), Failed)
        assert not judge.is_answered(step.spec, error)
    assert machine.in_flight == 0
    assert not machine.active
    assert not machine.waiting
    assert not machine.has_work


def is_part(outcome, whole, *, may_fail):
    """Tell whether a stopped run's outcome is that of a whole run, with skips in it; a settled() lists outcomes.

    A node that was stopped between two attempts has failed.
    """
    if isinstance(outcome, list) and isinstance(whole, list):
        return len(outcome) == len(whole) and all(
            is_part(one, other, may_fail=may_fail) for one, other in zip(outcome, whole, strict=True)
        )
    return outcome in (whole, "Skipped") or (may_fail and outcome == "Failed")


@given(worlds(with_choices=False), st.integers(1, 5), st.sampled_from(["stop", "cancel"]), st.data())
@QUICK
def test_machine_failure_that_stops_starts_nothing_that_could_send(world, concurrency, on_error, data):
    driver = Driver(world, world.machine(concurrency=concurrency, on_error=on_error))
    drive(driver, data)
    everything = Reference(world).outcomes()
    for place, outcome in driver.outcomes().items():
        assert is_part(outcome, everything[place], may_fail=driver.has_failed_attempts), place
    assert all(step.kind in PURE for step in driver.started_after_stop)
    assert (driver.machine.failure is None) == (driver.machine.stopped is None)
    assert not driver.machine.active


@given(worlds(), st.integers(1, 4), st.integers(0, 40), st.data())
@QUICK
def test_machine_abort_at_any_point_leaves_an_outcome_for_everything(world, concurrency, steps, data):
    driver = Driver(world, world.machine(concurrency=concurrency))
    machine = driver.machine
    drive(driver, data, limit=steps)
    before = {place: outcome for place, outcome in driver.outcomes().items() if outcome is not None}
    running = [place_of(*job) for job in driver.running]
    for run, step in driver.running:
        machine.abandon(run, step, "uuid", may_be_billed=True)
    if not machine.is_finished:
        machine.abort("the run was cancelled")
    assert machine.is_finished
    assert machine.in_flight == 0
    assert not machine.active
    after = driver.outcomes()
    assert None not in after.values()
    assert {place: after[place] for place in before if after[place] != "Skipped"}.items() <= before.items()
    assert all(after[place] == "Abandoned" for place in running)
    assert not machine.waiting


@given(worlds(), st.integers(1, 4), st.data())
@QUICK
def test_machine_watched_run_reports_each_outcome_once(world, concurrency, data):
    machine = world.machine(concurrency=concurrency)
    machine.watch = True
    driver = Driver(world, machine)
    drive(driver, data)
    told = [place_of(run, step) for run, step in machine.settled]
    assert len(told) == len(set(told))
    settled = set()
    runs = [machine.root]
    while runs:
        run = runs.pop()
        for step in run.plan.steps:
            assert run.cells[step.slot] >= SETTLED
            settled.add(place_of(run, step))
            if isinstance(run.values[step.slot], FanRun):
                runs.extend(run.values[step.slot].items)
    # The first steps of a declaration are made ready, not settled, before anybody can watch.
    assert set(told) == settled
