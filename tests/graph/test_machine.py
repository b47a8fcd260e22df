"""`FlowMachine`, one rule at a time, with no event loop."""

from __future__ import annotations

import pytest
from flow_world import HERE, Boom, Driver, World

from runware_flow.errors import DeclarationError
from runware_flow.graph.declaration import NodeKind
from runware_flow.graph.outcomes import Abandoned, Failed, Ok, Skipped
from runware_flow.graph.scope_run import FanRun


def names(driver):
    return [path for path, _ in driver.started]


def test_take_first_nodes_in_the_order_of_declaration():
    world = World()
    for name in "abc":
        world.node(name=name)
    driver = Driver(world, world.machine())
    driver.finish()
    assert names(driver) == ["a", "b", "c"]


def test_take_prefers_the_rest_of_a_chain_to_new_chains():
    world = World()
    for name in "abc":
        first = world.node(name=name)
        world.node(first, name=name * 2)
    driver = Driver(world, world.machine(concurrency=1))
    driver.finish()
    assert names(driver) == ["a", "aa", "b", "bb", "c", "cc"]


def test_take_successors_in_the_order_of_declaration():
    world = World()
    first = world.node(name="first")
    for name in "abc":
        world.node(first, name=name)
    driver = Driver(world, world.machine(concurrency=1))
    driver.finish()
    assert names(driver) == ["first", "a", "b", "c"]


def test_take_never_gives_more_than_the_bound():
    world = World()
    for _ in range(5):
        world.node()
    machine = world.machine(concurrency=2)
    assert machine.take() is not None
    assert machine.take() is not None
    assert machine.take() is None
    assert machine.has_work


def test_next_source_waits_for_ready_nodes_and_for_a_free_worker():
    world = World()
    world.node()
    world.fan(width=3)
    machine = world.machine(concurrency=1)
    assert machine.next_source() is None
    run, step = machine.take()
    assert machine.next_source() is None
    machine.succeed(run, step, 1)
    assert isinstance(machine.next_source(), FanRun)
    assert machine.next_source() is None  # it is lent


def test_next_source_window_holds_unfinished_items_only():
    world = World()
    item = world.fan(width=9)
    late = world.node(name="late")
    world.node(item, late)
    machine = world.machine(concurrency=3)
    driver = Driver(world, machine)
    driver.start()
    for _ in range(3):
        assert driver.pull()
    assert not driver.pull()  # three items wait for `late`
    driver.settle()
    driver.start()
    assert not driver.pull()
    driver.settle()
    driver.finish()
    assert machine.is_finished


def test_next_source_innermost_first_and_equals_in_turn():
    world = World()
    outer = world.fan(width=2, name="outer")
    world.fan(width=2, name="other")
    inner = world.fan(outer, width=2, name="inner")
    world.node(inner)
    machine = world.machine(concurrency=2)
    pulled = []
    while not machine.is_finished:
        fan = machine.next_source()
        if fan is not None:
            pulled.append(fan.step.spec.path)
            Driver(world, machine).feed(fan)
            continue
        run, step = machine.take()
        machine.succeed(run, step, 0)
    assert pulled[:5] == ["outer", "outer/inner", "outer/inner", "outer/inner", "other"]


def test_join_of_one_node_twice_fires_once_with_both_arguments():
    world = World()
    first = world.node(name="first")
    world.node(first, first, name="both")
    driver = Driver(world, world.machine())
    driver.finish()
    assert names(driver) == ["first", "both"]
    assert driver.outcomes()["both", ()] == ("both", ("first",), ("first",))


def test_fail_skips_a_chain_of_any_length_without_recursion():
    world = World()
    node = world.node(name="first")
    for _ in range(20_000):
        node = world.node(node)
    world.fails = {("first", ())}
    driver = Driver(world, world.machine())
    driver.finish()
    assert driver.machine.skipped_count == 20_000
    assert driver.machine.root.outcome(node.slot).because == "first failed"


def test_fail_of_one_item_skips_the_gather_at_once_and_not_the_other_items():
    world = World(fails={("fan/node", (1,))})
    item = world.fan(width=3)
    node = world.node(item)
    gather = world.gather(node)
    settled = world.gather(node, NodeKind.SETTLED)
    driver = Driver(world, world.machine(concurrency=1))
    while driver.machine.failed_count == 0:
        if not driver.start() and not driver.pull():
            driver.settle()
    assert isinstance(driver.machine.root.outcome(gather.slot), Skipped)
    driver.finish()
    [first, second, third] = driver.machine.root.outcome(settled.slot).value
    assert (type(first), type(second), type(third)) == (Ok, Failed, Ok)


def test_broadcast_that_comes_after_the_item_was_skipped_changes_nothing():
    world = World(fails={("bad", ())})
    bad, good = world.node(name="bad"), world.node(name="good")
    item = world.fan(width=2)
    node = world.node(item, bad, good)
    driver = Driver(world, world.machine(concurrency=3))
    driver.start()
    driver.start()
    driver.pull()
    driver.settle(0)
    [run] = driver.machine.fan_run(item.scope.fan).items
    assert run.outcome(node.slot).because == "bad failed"
    driver.finish()
    assert driver.machine.skipped_count == 2


def test_fail_in_stop_mode_skips_what_is_ready_and_finishes_pure_steps():
    world = World(fails={("bad", ())})
    world.node(name="bad")
    kept = world.node(name="kept")
    pick = world.node(kept, name="pick", kind=NodeKind.PICK)
    call = world.node(kept, name="call")
    ready = world.node(name="ready")
    world.fan(width=5)
    machine = world.machine(concurrency=2, on_error="stop")
    driver = Driver(world, machine)
    driver.start()
    driver.start()
    driver.settle(0)
    assert machine.failure[1].spec.name == "bad"
    assert isinstance(machine.root.outcome(ready.slot), Skipped)
    driver.finish()
    assert machine.root.outcome(pick.slot) == Ok(("pick", ("kept",)))
    assert isinstance(machine.root.outcome(call.slot), Skipped)
    assert names(driver) == ["bad", "kept", "pick"]


def test_stop_twice_keeps_the_first_reason():
    world = World()
    node = world.node()
    machine = world.machine()
    machine.stop("first")
    machine.stop("second")
    assert machine.root.outcome(node.slot) == Skipped("first")
    assert machine.is_finished


def test_item_pulled_after_the_stop_is_dropped():
    world = World()
    item = world.fan(width=2)
    world.node(item)
    machine = world.machine()
    fan = machine.next_source()
    machine.stop("enough")
    assert not machine.is_finished  # the source is still lent
    assert machine.item_pulled(fan, 0) is None
    assert machine.is_finished
    assert fan.items == []


def test_source_failed_after_the_stop_only_ends_it():
    world = World()
    world.fan(width=2)
    machine = world.machine(on_error="stop")
    fan = machine.next_source()
    machine.stop("enough")
    machine.source_failed(fan, Boom())
    assert machine.is_finished
    assert machine.failure is None


def test_item_that_is_a_failure_fails_in_place():
    world = World()
    item = world.fan(width=1)
    node = world.node(item)
    machine = world.machine()
    run = machine.item_pulled(machine.next_source(), Failed(Boom()))
    assert isinstance(run.outcome(item.slot), Failed)
    assert isinstance(run.outcome(node.slot), Skipped)
    assert machine.failed_count == 1


def test_abandon_skips_what_follows_and_names_it():
    world = World()
    node = world.node(name="art")
    after = world.node(node)
    machine = world.machine()
    machine.abandon(*machine.take(), "uuid", may_be_billed=True)
    assert machine.root.outcome(node.slot) == Abandoned("uuid", may_be_billed=True)
    assert machine.root.outcome(after.slot) == Skipped("art was abandoned")
    assert machine.abandoned_count == machine.skipped_count == 1


def test_reprs_tell_the_state():
    world = World()
    item = world.fan(width=2)
    world.node(item)
    machine = world.machine()
    assert repr(machine.root) == "<ScopeRun of the flow, 1 of 1 nodes open>"
    fan = machine.next_source()
    assert repr(fan) == "<FanRun fan, lent, 0 pulled, 0 open>"
    run = machine.item_pulled(fan, 0, "key")
    assert repr(fan) == "<FanRun fan, queued, 1 pulled, 1 open>"
    assert repr(run) == "<ScopeRun fan[key], 1 of 2 nodes open>"
    assert run.path(run.plan.steps[1]) == "fan[key]/node"


def test_check_finds_a_cycle_made_by_hand_and_names_it():
    world = World()
    first = world.node(name="first")
    second = world.node(first, name="second")
    third = world.node(second, name="third")
    world.node(third, name="behind")
    first.deps = (third,)
    with pytest.raises(DeclarationError) as info:
        world.machine()
    text = str(info.value)
    assert "wait for each other" in text
    assert all(f"'{name}' (declared at {HERE})" in text for name in ("first", "second", "third"))
    assert "behind" not in text


def test_check_finds_a_cycle_through_a_gather():
    world = World()
    item = world.fan(width=1)
    node = world.node(item, name="node")
    gather = world.gather(node)
    node.deps = (item, gather)
    with pytest.raises(DeclarationError, match="wait for each other"):
        world.machine()


def test_scopes_whose_items_wait_for_all_items_have_no_window():
    world = World()
    plain = world.node(world.fan(width=1, name="plain"))
    world.gather(plain)
    item = world.fan(width=9, name="both")
    total = world.gather(world.node(item))
    world.node(item, total)
    assert world.declaration.two_pass_scopes() == {item.scope}
    driver = Driver(world, world.machine(concurrency=2))
    driver.finish()
    assert len(driver.started) == 1 + 9 + 9


def test_park_gives_the_slot_of_a_node_to_another():
    world = World()
    world.node(name="a")
    world.node(name="b")
    machine = world.machine(concurrency=1)
    first = machine.take()
    assert machine.take() is None
    machine.park(*first)
    second = machine.take()
    assert second is not None
    assert second != first
    machine.unpark(*first)
    assert machine.take() is None
    machine.succeed(*second, None)
    assert machine.take() == first
    assert not machine.is_finished
    machine.succeed(*first, None)
    assert machine.is_finished


def test_park_then_stop_skips_what_was_never_sent_and_fails_what_had_failed():
    world = World()
    world.node(name="new")
    world.node(name="tried")
    machine = world.machine(concurrency=2)
    new, tried = machine.take(), machine.take()
    machine.park(*new)
    error = Boom()
    machine.park(*tried, error)
    machine.stop("enough")
    assert machine.root.outcome(new[1].slot) == Skipped("enough")
    assert machine.root.outcome(tried[1].slot) == Failed(error)
    machine.unpark(*new)
    assert machine.take() is None
    assert machine.is_finished
    assert machine.in_flight == 0


@pytest.mark.parametrize("when", ["parked", "ready", "parked after", "not needed", "aborted"])
def test_park_what_the_service_may_have_is_abandoned_if_it_is_not_sent_again(when):
    world = World()
    node = world.node(name="node")
    if when == "not needed":
        world.race(node, world.node(name="other"))
    machine = world.machine(concurrency=2)
    job = machine.take()
    in_doubt = Abandoned("an id", may_be_billed=True)
    if when == "parked after":
        machine.stop("stopped")
    machine.park(*job, in_doubt)
    if when == "ready":
        machine.unpark(*job)
    if when == "not needed":
        machine.succeed(*machine.take(), "value")
    elif when == "aborted":
        machine.abort("cancelled")
    else:
        machine.stop("stopped")
    assert machine.is_finished
    assert machine.root.outcome(job[1].slot) == in_doubt
    assert machine.abandoned_count == 1


@pytest.mark.parametrize("is_needed", [True, False])
def test_park_an_error_that_counts_as_false_is_kept_like_any_other(is_needed):
    class Problems(Exception):
        def __len__(self):
            return 0

    world = World()
    node = world.node(name="node")
    if not is_needed:
        world.race(node, world.node(name="other"))
    machine = world.machine(concurrency=2)
    job = machine.take()
    error = Problems()
    machine.park(*job, error)
    if is_needed:
        machine.stop("stopped")
    else:
        machine.succeed(*machine.take(), "value")
    assert machine.root.outcome(job[1].slot) == Failed(error)


@pytest.mark.parametrize("when", ["ready", "parked again", "running", "parked after"])
def test_park_what_had_failed_keeps_its_error_until_it_settles(when):
    world = World()
    world.node(name="node")
    machine = world.machine()
    job = machine.take()
    error = Boom("not yet")
    machine.park(*job, error)
    machine.unpark(*job)
    if when != "ready":
        assert machine.take() == job
    if when == "parked again":  # for a limit, say, before the second attempt
        machine.park(*job)
    machine.stop("stopped")
    if when == "running":
        machine.succeed(*job, "value")
    elif when == "parked after":
        machine.park(*job)
    assert machine.is_finished
    assert machine.root.outcome(job[1].slot) == (Ok("value") if when == "running" else Failed(error))
    assert not machine.tried
