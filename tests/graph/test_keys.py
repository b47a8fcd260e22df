"""The compact set of keys, beside a plain set."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runware_flow.graph.fingerprint import Ordinals
from runware_flow.graph.keys import KeySet


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
