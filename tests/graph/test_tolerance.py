"""`tolerate=` has one rule, for fan-outs and batches."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runware_flow import Flow
from runware_flow.graph.machine import FlowMachine
from runware_flow.graph.plan import compile_plan
from runware_flow.graph.tolerance import Tolerance


def first_past(tolerance, outcomes):
    """How many items had settled when too many had failed."""
    for count, is_failed in enumerate(outcomes, 1):
        if tolerance.add(is_failed=is_failed):
            return count
    return None


def test_tolerance_of_nothing_ends_with_the_first_failure():
    assert first_past(Tolerance(0.0), [False, True, False]) == 2
    assert first_past(Tolerance(0.0, 3), [False, False, False]) is None


def test_tolerance_of_a_known_number_is_a_share_of_all():
    assert first_past(Tolerance(0.1, 20), [True, True, False, True]) == 4
    assert first_past(Tolerance(0.1, 20), [True, True] + [False] * 18) is None


def test_tolerance_of_an_unknown_number_never_ends_with_the_first_failure_before_the_source_has_ended():
    tolerance = Tolerance(0.1)
    assert first_past(tolerance, [True]) is None
    assert tolerance.is_past()
    assert first_past(Tolerance(0.1), [True, False, True]) == 3
    assert first_past(Tolerance(0.1), [False] * 290 + [True] * 40) == 290 + 33
    assert not Tolerance(0.1).is_past()


def test_tolerance_of_a_share_that_is_not_exact_in_binary():
    tolerance = Tolerance(0.07, 100)
    assert first_past(tolerance, [True] * 7 + [False] * 93) is None
    assert not tolerance.is_past()


def machine_past(share, total, outcomes):
    """The same for a `map`, whose items are pulled and settled one by one; also whether it is past it at the end."""
    flow = Flow("f")
    flow.map(lambda: iter(outcomes), lambda item: {"taskType": "caption", "model": "runware:150@2"}, tolerate=share)
    machine = FlowMachine(compile_plan(flow.declaration), concurrency=4, on_error="stop")
    for count, is_failed in enumerate(outcomes, 1):
        fan = machine.next_source()
        fan.length = total  # the shell notes it when it opens the source
        machine.item_pulled(fan, count, str(count))
        run, step = machine.take()
        if is_failed:
            machine.fail(run, step, OSError("no"))
        else:
            machine.succeed(run, step, count)
        if machine.stopped is not None:
            return count, True
    machine.source_ended(machine.next_source())
    return None, machine.stopped is not None


@given(st.sampled_from([0.0, 0.07, 0.1, 0.25, 0.5, 1.0]), st.booleans(), st.lists(st.booleans(), max_size=60))
def test_a_map_and_a_batch_have_the_same_rule(share, has_length, outcomes):
    total = len(outcomes) if has_length else None
    tolerance = Tolerance(share, total)
    count = first_past(tolerance, outcomes)
    assert machine_past(share, total, outcomes) == (count, count is not None or tolerance.is_past())
