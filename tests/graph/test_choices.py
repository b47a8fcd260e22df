"""Races, branches, `first` and tolerance: one rule at a time, with no event loop."""

from __future__ import annotations

import pickle

import pytest
from flow_world import Boom, Driver, World

from runware_flow.errors import TooFewSucceeded
from runware_flow.graph.answered import was_answered
from runware_flow.graph.choice_records import ChoiceRecord, Contestant
from runware_flow.graph.declaration import NodeKind
from runware_flow.graph.outcomes import Abandoned, Failed, Ok, Skipped
from runware_flow.graph.scope_run import FanRun


def names(driver):
    return [path for path, _ in driver.started]


def outcome(driver, spec):
    return driver.machine.root.outcome(spec.slot)


def start_all(driver):
    while driver.start() or driver.pull():
        pass


def settle(driver, path):
    [place] = [place for place, (_, step) in enumerate(driver.running) if step.spec.path == path]
    driver.settle(place)


def running(driver):
    return sorted(step.spec.path for _, step in driver.running)


# Races


def test_race_first_to_succeed_wins_and_what_follows_does_not_wait_for_the_others():
    world = World()
    a, b = world.node(name="a"), world.node(name="b")
    race = world.race(a, b)
    world.node(race, name="after")
    machine = world.machine()
    driver = Driver(world, machine)
    start_all(driver)
    run, step = driver.running.pop(1)
    machine.succeed(run, step, "b's")
    assert outcome(driver, race) == Ok("b's")
    assert machine.dropped == [(machine.root, machine.root.plan.steps[a.slot])]
    assert driver.start()
    assert names(driver) == ["a", "b", "after"]
    driver.obey()
    driver.finish()
    assert outcome(driver, a) == Abandoned("uuid", may_be_billed=True)


def test_race_what_has_not_begun_is_skipped_with_all_that_only_it_needed():
    world = World()
    fast = world.node(name="fast")
    slow = world.node(world.node(name="slow"), name="slower")
    world.race(fast, slow)
    driver = Driver(world, world.machine(concurrency=1))
    driver.finish()
    assert names(driver) == ["fast"]
    assert outcome(driver, slow).because == "race was decided without it"
    assert driver.machine.skipped_count == 2
    assert not driver.machine.has_work


def test_race_loser_that_others_need_is_left_alone():
    world = World()
    shared, only = world.node(name="shared"), world.node(name="only")
    kept = world.node(shared, name="kept")
    world.race(world.node(name="fast"), kept, world.node(shared, name="lost"), only)
    wanted = world.node(kept, name="wanted")
    driver = Driver(world, world.machine())
    start_all(driver)
    settle(driver, "fast")
    driver.finish()
    assert isinstance(outcome(driver, wanted), Ok)
    assert driver.outcomes()["lost", ()] == "Skipped"
    assert driver.outcomes()["only", ()] == "Abandoned"


@pytest.mark.parametrize("on_error", ["stop", "cancel", "continue"])
def test_race_failure_of_one_ends_nothing_and_that_of_all_is_the_race_s(on_error):
    world = World(fails={("a", ()), ("feeds", ())})
    world.race(world.node(name="a"), world.node(world.node(name="feeds"), name="b"), world.node(name="c"))
    driver = Driver(world, world.machine(on_error=on_error))
    driver.finish()
    assert driver.outcomes()["race", ()] == ("c",)
    assert driver.machine.failure is None

    world.fails.add(("c", ()))
    driver = Driver(world, world.machine(on_error=on_error))
    driver.finish()
    failed = driver.machine.root.outcome(driver.machine.root.plan.size - 1)
    assert isinstance(failed.error, TooFewSucceeded)
    assert str(failed.error) == "all nodes of 'race' failed: a: a; b: feeds failed; c: c"
    assert [type(error) for error in failed.error.errors] == [Boom] * 3
    if on_error != "continue":
        _, step, error = driver.machine.failure
        assert (step.spec.path, error) == ("race", failed.error)
    copy = pickle.loads(pickle.dumps(failed.error))
    assert str(copy) == str(failed.error)


def test_race_in_a_race_fails_quietly_too():
    world = World(fails={("a", ()), ("b", ())})
    inner = world.race(world.node(name="a"), world.node(name="b"), name="inner")
    outer = world.race(inner, world.node(name="c"), name="outer")
    driver = Driver(world, world.machine(on_error="stop"))
    driver.finish()
    assert isinstance(outcome(driver, inner), Failed)
    assert outcome(driver, outer) == Ok(("c",))


def test_race_failure_that_something_else_needs_stops_the_run():
    world = World(fails={("a", ())})
    a = world.node(name="a")
    race = world.race(a, world.node(name="b"))
    world.node(a, name="other")
    driver = Driver(world, world.machine(on_error="stop", concurrency=1))
    driver.finish()
    assert driver.machine.failure is not None
    assert isinstance(outcome(driver, race), Skipped)


def test_race_lost_by_a_fan_out_ends_its_source_and_its_items():
    world = World()
    items = world.gather(world.node(world.node(world.fan(width=9), name="one"), name="two"))
    race = world.race(items, world.node(name="fast"))
    machine = world.machine(concurrency=3)
    driver = Driver(world, machine)
    driver.start()
    driver.pull()
    driver.start()
    settle(driver, "fast")
    assert outcome(driver, race) == Ok(("fast",))
    driver.finish()
    assert driver.outcomes()["fan/one", (0,)] == "Abandoned"
    assert driver.outcomes()["fan/two", (0,)] == "Skipped"
    assert isinstance(outcome(driver, items), Skipped)
    assert names(driver) == ["fast", "fan/one"]


@pytest.mark.parametrize("kind", [NodeKind.FIRST, NodeKind.GATHER])
def test_race_lets_go_what_only_its_losers_needed_in_items_that_are_collected_elsewhere(kind):
    world = World()
    one = world.node(world.fan(width=2), name="one")
    two = world.node(one, name="two")
    everything = world.gather(one)
    quick = world.node(name="quick")
    race = world.race(world.gather(two, kind), quick)
    driver = Driver(world, world.machine(concurrency=6))
    start_all(driver)
    driver.settle(names(driver).index("fan/one"))
    start_all(driver)
    assert running(driver) == ["fan/one", "fan/two", "quick"]
    settle(driver, "quick")
    assert running(driver) == ["fan/one"]  # nothing waits for `two` any more
    driver.finish()
    assert outcome(driver, race) == Ok(("quick",))
    assert len(outcome(driver, everything).value) == 2
    assert driver.outcomes()["fan/two", (0,)] == "Abandoned"
    assert driver.outcomes()["fan/two", (1,)] == "Skipped"


def test_race_loser_that_parks_meanwhile_is_not_tried_again():
    world = World()
    slow = world.node(name="slow")
    world.race(world.node(name="fast"), slow)
    machine = world.machine()
    driver = Driver(world, machine)
    start_all(driver)
    job = driver.running[0]
    machine.succeed(*driver.running.pop(1), "won")
    driver.running.clear()
    machine.park(*job, Boom("again"))
    machine.unpark(*job)
    assert isinstance(outcome(driver, slow), Failed)
    assert machine.is_finished
    assert machine.take() is None


def test_race_a_chain_of_any_length_is_decided_without_recursion():
    world = World()
    node = first = world.node(name="first")
    for _ in range(5_000):
        node = world.race(node, first)
    driver = Driver(world, world.machine())
    driver.finish()
    assert outcome(driver, node) == Ok(("first",))


def test_race_that_an_outer_node_has_won_before_its_item_comes():
    world = World()
    won, late = world.node(name="won"), world.node(name="late")
    item = world.fan(width=1)
    race = world.race(won, world.race(item, late))
    join = world.node(race, late, name="join")
    driver = Driver(world, world.machine())
    driver.start()
    driver.settle()
    driver.machine.take()  # `late`, which the join waits for
    driver.pull()
    [run] = driver.machine.root.values[item.scope.fan.slot].items
    assert run.outcome(race.slot) == Ok(("won",))
    assert run.outcome(item.slot) == Ok(0)
    assert run.outcome(join.slot) is None
    assert driver.machine.take() is None
    driver.machine.succeed(driver.machine.root, driver.machine.root.plan.steps[late.slot], 1)
    driver.finish()
    assert names(driver) == ["won", "fan/join"]


# Branches


@pytest.mark.parametrize("taken", [True, False])
def test_branch_takes_one_path_and_the_other_is_skipped_without_a_failure(taken):
    world = World(otherwise=set() if taken else {("when", ())})
    first = world.node(name="first")
    decision, then, otherwise = world.ways(first)
    ends = world.node(then, name="then"), world.node(world.node(otherwise, name="other"), name="otherwise")
    branch = world.branch(decision, *ends)
    join = world.node(first, branch, name="join")
    driver = Driver(world, world.machine(on_error="stop"))
    driver.finish()
    assert isinstance(outcome(driver, join), Ok)
    way, lost = ends if taken else ends[::-1]
    assert outcome(driver, branch) == outcome(driver, way)
    assert outcome(driver, lost).because == "when took the other path"
    assert driver.machine.failure is None
    assert driver.machine.failed_count == 0


def test_branch_fails_with_the_path_that_is_taken_and_with_its_decision():
    world = World(fails={("then", ())})
    decision, then, otherwise = world.ways(world.node(name="first"))
    branch = world.branch(decision, world.node(then, name="then"), otherwise)
    driver = Driver(world, world.machine())
    driver.finish()
    assert outcome(driver, branch).because == "then failed"
    world.fails = {("when", ())}
    driver = Driver(world, world.machine())
    driver.finish()
    assert outcome(driver, branch).because == "when failed"


def test_branch_that_ends_outside_of_its_path_is_still_decided_by_it():
    world = World(otherwise={("when", ())})
    first, ready = world.node(name="first"), world.node(name="ready")
    decision, then, _ = world.ways(first)
    branch = world.branch(decision, world.node(then, name="then"), ready)
    driver = Driver(world, world.machine())
    driver.finish()
    assert outcome(driver, branch) == Ok(("ready",))


def test_nodes_that_a_path_declares_without_using_its_node_belong_to_the_path():
    world = World()
    decision, then, otherwise = world.ways(world.node(name="first"))
    since = len(world.declaration.order)
    fixed = world.node(name="fixed")
    items = world.gather(world.node(world.fan(width=2, name="many"), name="one"))
    end = world.node(fixed, items, name="end")
    world.declaration.guard(otherwise, since)
    branch = world.branch(decision, then, end)
    driver = Driver(world, world.machine())
    driver.finish()
    assert names(driver) == ["first", "when"]
    assert outcome(driver, branch) == Ok(("first",))
    assert isinstance(outcome(driver, fixed), Skipped)
    assert end.after == ()

    world.otherwise = {("when", ())}
    driver = Driver(world, world.machine())
    driver.finish()
    assert outcome(driver, branch) == outcome(driver, end)
    assert outcome(driver, end).value[1] == ("fixed",)


# The first few


def test_first_has_the_values_in_the_order_of_completion_and_begins_no_more():
    world = World()
    one = world.node(world.fan(width=9), name="one")
    two = world.node(one, name="two")
    first = world.gather(two, NodeKind.FIRST, count=2)
    world.node(first, name="after")
    machine = world.machine(concurrency=3, on_error="stop")
    driver = Driver(world, machine)
    for _ in range(3):
        driver.pull()
        driver.start()
    driver.settle(1)
    driver.start()
    settle(driver, "fan/two")
    assert outcome(driver, first) is None
    driver.pull()
    driver.start()
    driver.settle(1)  # the third item
    driver.start()
    settle(driver, "fan/two")
    assert outcome(driver, first) == Ok([("fan/two", ("fan/one", 1)), ("fan/two", ("fan/one", 2))])
    assert [type(one) for one in machine.dropped] == []  # `obey` has closed the source
    assert driver.start()
    assert names(driver)[-1] == "after"
    assert machine.next_source() is None
    driver.finish()
    assert names(driver).count("fan/one") == 4
    assert driver.outcomes()["fan/one", (0,)] == ("fan/one", 0)  # collected: it was in flight
    assert driver.outcomes()["fan/two", (0,)] == "Skipped"
    assert machine.failure is None
    assert not machine.active


def test_first_goes_on_where_something_else_needs_the_items():
    world = World()
    one = world.node(world.fan(width=5), name="one")
    world.gather(one, NodeKind.FIRST, count=1)
    everything = world.gather(one)
    driver = Driver(world, world.machine(concurrency=1))
    driver.finish()
    assert len(outcome(driver, everything).value) == 5


@pytest.mark.parametrize("on_error", ["stop", "continue"])
def test_first_tolerates_failures_and_fails_when_too_few_are_left(on_error):
    world = World(fails={("fan/one", (0,)), ("fan/one", (2,))})
    one = world.node(world.fan(width=4), name="one")
    first = world.gather(one, NodeKind.FIRST, count=2)
    driver = Driver(world, world.machine(concurrency=2, on_error=on_error))
    driver.finish()
    assert outcome(driver, first) == Ok([("fan/one", 1), ("fan/one", 3)])
    first.work = 3
    driver = Driver(world, world.machine(concurrency=2, on_error=on_error))
    driver.finish()
    error = outcome(driver, first).error
    assert str(error) == "first wants the first 3, but only 2 of 4 succeeded; the last error: fan/one"
    assert (driver.machine.failure is not None) == (on_error == "stop")


@pytest.mark.parametrize("on_error", ["stop", "cancel", "continue"])
def test_first_of_a_fan_out_that_never_began_fails_as_what_was_before_it_did(on_error):
    """That alone excuses the failure, so a run in which it were only skipped would end as if nothing had failed."""
    world = World(fails={("before", ())})
    one = world.node(world.fan(world.node(name="before"), width=2), name="one")
    first = world.gather(one, NodeKind.FIRST)
    driver = Driver(world, world.machine(on_error=on_error))
    driver.finish()
    error = outcome(driver, first).error
    assert str(error) == "first wants the first 1, but there are no items: before failed"
    assert [type(one) for one in error.errors] == [Boom]
    if on_error != "continue":
        _, step, failure = driver.machine.failure
        assert (step.spec.path, failure) == ("first", error)


def test_first_is_satisfied_by_what_a_broken_source_gave():
    world = World(broken_sources={"fan": 2})
    first = world.gather(world.node(world.fan(width=9), name="one"), NodeKind.FIRST, count=2)
    driver = Driver(world, world.machine(concurrency=4, on_error="stop"))
    driver.finish()
    assert len(outcome(driver, first).value) == 2
    first.work = 3
    driver = Driver(world, world.machine(concurrency=4, on_error="stop"))
    driver.finish()
    assert isinstance(outcome(driver, first).error, TooFewSucceeded)
    assert driver.machine.failure is not None


# Tolerance


def tolerant(share, width, fails, *, length=None, concurrency=1):
    world = World(fails={("fan/one", (index,)) for index in fails})
    item = world.fan(width=width)
    item.scope.fan.tolerate = share
    world.node(item, name="one")
    machine = world.machine(concurrency=concurrency, on_error="stop")
    driver = Driver(world, machine)
    fan = machine.root.values[item.scope.fan.slot]
    assert isinstance(fan, FanRun)
    fan.length = length
    driver.finish()
    return driver


def test_tolerate_known_length_stops_with_the_failure_that_is_one_too_many():
    assert tolerant(0.25, 8, [0, 1], length=8).machine.failure is None
    driver = tolerant(0.25, 8, [0, 1, 2], length=8)
    assert driver.machine.failure[0].index == 2
    assert names(driver) == ["fan/one"] * 3


def test_tolerate_unknown_length_counts_pulled_items_and_tolerates_the_first_failure():
    assert tolerant(0.25, 8, [0]).machine.failure is None
    driver = tolerant(0.25, 8, [0, 1])
    assert names(driver) == ["fan/one"] * 2  # two of two, when one of four would do
    assert tolerant(0.25, 8, [0, 7]).machine.failure is None


def test_tolerate_is_judged_once_more_when_the_source_has_ended():
    driver = tolerant(0.25, 3, [0])
    assert driver.machine.failure[0].index == 0
    assert names(driver) == ["fan/one"] * 3


@pytest.mark.parametrize(("share", "fails", "is_past"), [(0, [3], True), (1, range(8), False), (0.5, range(5), True)])
def test_tolerate_at_its_ends(share, fails, is_past):
    assert (tolerant(share, 8, fails, length=8).machine.failure is not None) == is_past


def test_tolerate_counts_an_item_once_whatever_of_it_fails_and_inner_ones_outside():
    world = World()
    outer = world.fan(width=4, name="outer")
    outer.scope.fan.tolerate = 0.25
    inner = world.fan(outer, width=3, name="inner")
    world.node(inner, name="one")
    world.node(outer, name="beside")
    world.fails = {("outer/inner/one", (0, index)) for index in range(3)} | {("outer/beside", (0,))}
    driver = Driver(world, world.machine(concurrency=1, on_error="stop"))
    driver.machine.root.values[outer.scope.fan.slot].length = 4
    driver.finish()
    assert driver.machine.failure is None
    assert driver.machine.failed_count == 4


def test_fallback_that_a_race_leaves_out_while_it_is_looked_up_ends_with_all_that_waits_for_it():
    world = World()
    node = world.node(name="node")
    fallback = world.fallback(node)
    race = world.race(node, fallback)
    machine = world.machine()
    machine.is_recorded = machine.has_past = True
    run, step = machine.take()
    machine.succeed(run, step, "value")
    asked = [step.slot for _, step in machine.inquiries]
    assert set(asked) == {fallback.slot, race.slot}
    for slot in (race.slot, fallback.slot):  # what an earlier run chose is known: nothing
        machine.know_choice(run, run.plan.steps[slot], None)
        while machine.decisions:
            machine.confirm(machine.decisions.pop())
    assert machine.is_finished
    assert not machine.is_deciding
    assert machine.root.outcome(race.slot) == Ok("value")


@pytest.mark.parametrize("now", ["instead", "other"])
@pytest.mark.parametrize("fingerprint", ["answered", "new"])
@pytest.mark.parametrize("has_failed", [True, False])
def test_fallback_that_was_changed_holds_back_only_what_it_has_answered(now, fingerprint, has_failed):
    world = World()
    before, beside = world.node(name="before"), world.node(name="beside")
    fallback = world.fallback(world.node(before, beside, name="node"))
    machine = world.machine()
    machine.is_recorded = machine.has_past = True
    steps = machine.root.plan.steps
    step = steps[fallback.slot]
    contestants = tuple(Contestant(None, name) for name in (None, "instead", "answered"))
    place = machine.take()
    machine.note_lead(machine.root, step, 1, now)
    machine.know_choice(machine.root, step, ChoiceRecord(7, "node_fallback", "fallback", contestants, (1,)))
    other = machine.take()
    if has_failed:
        machine.fail(*other, Boom())
    else:
        machine.succeed(*other, "beside")
    [contest] = [one for one in steps[before.slot].role.contests if one.step is step]
    machine.note_fallback_before(*place, contest, fingerprint)
    is_held = machine.is_held(*place)
    assert is_held is not (now == "other" and fingerprint == "new" and not has_failed)
    assert [decision.choice.winners for decision in machine.decisions] == ([] if is_held else [()])


def test_fallback_that_was_changed_is_not_begun_if_its_node_has_succeeded():
    world = World()
    node = world.node(name="node")
    fallback = world.fallback(node)
    machine = world.machine()
    machine.is_recorded = machine.has_past = True
    step = machine.root.plan.steps[fallback.slot]
    machine.note_lead(machine.root, step, 1, "other")
    contestants = tuple(Contestant(None, name) for name in ("node", "instead"))
    machine.know_choice(machine.root, step, ChoiceRecord(7, "node_fallback", "fallback", contestants, (1,)))
    machine.succeed(*machine.take(), "value")
    assert machine.take() is None
    assert machine.root.outcome(fallback.slot) == Ok("value")


# Failures that were answered


def answered(world, *failed, stops_after=None):
    """Run a flow whose choices are recorded; tell of nodes that have failed whether that was answered."""
    machine = world.machine(on_error="stop")
    machine.is_recorded = True
    driver = Driver(world, machine)
    while not machine.is_finished:
        if len(driver.started) == stops_after:
            machine.abort("cancelled")
        elif not driver.start() and not driver.pull():
            driver.settle()
        while machine.decisions:
            machine.confirm(machine.decisions.pop(0))
    assert [step.slot for _, step in machine.excused] == [spec.slot for spec in failed]
    return [was_answered(run, step, machine.stopped) for run, step in machine.excused]


def answered_in_items(width=2):
    world = World(fails={("outer", ())})
    outer = world.node(name="outer")
    world.fallback(world.node(world.fan(width=width), outer, name="both"))
    return world, outer


def test_failure_that_each_item_answers_is_one_that_stays():
    world, outer = answered_in_items()
    assert answered(world, outer) == [True]


def test_failure_that_a_fallback_of_one_item_does_not_answer_is_tried_again():
    world, outer = answered_in_items()
    world.fails.add(("fan/both.fallback.task", (1,)))
    assert answered(world, outer) == [False]


def test_failure_that_nothing_has_answered_yet_as_the_run_ends_is_undecided():
    world, outer = answered_in_items(width=9)
    assert answered(world, outer, stops_after=4) == [None]


def test_failure_of_a_node_whose_items_do_not_come_is_answered():
    world, outer = answered_in_items(width=0)
    assert answered(world, outer) == [True]


def test_failure_that_is_answered_in_its_own_scope_is_told_by_the_record_of_that():
    world = World(fails={("node", ())})
    world.fallback(world.node(name="node"))
    assert answered(world) == []


def test_failure_among_outcomes_that_a_fallback_follows_is_answered_as_they_have_been_used():
    world = World(fails={("fan/one", (1,))})
    one = world.node(world.fan(width=3), name="one")
    world.fallback(world.node(world.gather(one, NodeKind.SETTLED), name="after"))
    assert answered(world, one) == [True]


@pytest.mark.parametrize("on_error", ["stop", "cancel"])
def test_failure_before_a_fan_out_is_not_excused_by_what_would_answer_in_its_items(on_error):
    world = World(fails={("before", ())})
    world.fallback(world.node(world.fan(world.node(name="before"), width=2), name="one"))
    driver = Driver(world, world.machine(on_error=on_error))
    driver.finish()
    assert driver.machine.failure[1].spec.path == "before"


def test_failure_before_a_fan_out_is_excused_by_what_follows_its_items():
    world = World(fails={("before", ())})
    one = world.node(world.fan(world.node(name="before"), width=2), name="one")
    fallback = world.fallback(world.node(world.gather(world.fallback(one)), name="after"))
    driver = Driver(world, world.machine(on_error="stop"))
    driver.finish()
    assert driver.machine.failure is None
    assert isinstance(outcome(driver, fallback), Ok)


def test_failure_of_a_source_is_not_excused_by_what_would_answer_in_its_items():
    world = World(broken_sources={"fan": 1})
    world.fallback(world.node(world.fan(width=2), name="one"))
    driver = Driver(world, world.machine(on_error="stop"))
    driver.finish()
    assert driver.machine.failure[1].spec.path == "fan"
