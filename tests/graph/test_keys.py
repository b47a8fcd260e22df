"""The compact set of keys, beside a plain set."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runware_flow import Flow
from runware_flow.graph.fingerprint import Ordinals, item_key
from runware_flow.graph.keys import KeySet
from runware_flow.graph.machine import FlowMachine
from runware_flow.graph.plan import compile_plan


@given(st.lists(st.text(max_size=3)))
def test_keys_are_new_once_as_in_a_plain_set(keys):
    compact, plain = KeySet(), set()
    for key in keys:
        assert compact.add(key) == (key not in plain)
        plain.add(key)


@pytest.mark.exhaustive
def test_keys_hundred_thousand_take_less_than_forty_bytes_each():
    tracemalloc.start()
    try:
        keys = KeySet()
        before = tracemalloc.get_traced_memory()[0]
        assert all(keys.add(f"{number:016x}") for number in range(100_000))
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert taken < 40 * 100_000
    assert not any(keys.add(f"{number:016x}") for number in range(100_000))


def test_ordinals_never_give_one_name_twice_also_when_keys_look_like_names():
    ordinals = Ordinals()
    assert [ordinals.name(key) for key in ["a", "a-2", "a", "a", "a-2"]] == ["a", "a-2", "a-3", "a-4", "a-2-2"]


@given(st.lists(st.tuples(st.sampled_from(["a", "b", 1, ["a"]]), st.booleans(), st.lists(st.integers(0, 5)))))
def test_keys_do_not_depend_on_when_they_are_worked_out(pulled):
    flow = Flow()
    flow.map([], lambda item: item)
    machine = FlowMachine(compile_plan(flow.declaration), concurrency=100, on_error="stop")
    ordinals, expected, runs = Ordinals(), [], []
    for item, is_named_at_once, asked in pulled:
        fan = machine.next_source() if not runs else runs[0].fan
        fan.ordinals = fan.ordinals or Ordinals()
        runs.append(machine.item_pulled(fan, item, fan.name_next(item_key(item)) if is_named_at_once else None))
        expected.append(ordinals.name(item_key(item)))
        for index in asked:
            if index < len(runs):
                assert runs[index].key == expected[index]
    assert [run.key for run in runs[::-1]] == expected[::-1]
