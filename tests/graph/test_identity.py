"""Fingerprints of requests, keys of items, and the rule for what may be tried again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from runware_flow.errors import RunwareError, RunwareTimeoutError
from runware_flow.graph.fingerprint import Ordinals, fingerprint, item_key
from runware_flow.graph.policies import NO_POLICY, Policy, may_be_collected, may_try_again, read_policy

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON, max_size=5), st.randoms())
def test_fingerprint_does_not_depend_on_the_order_of_keys(wire, random):
    names = list(wire)
    random.shuffle(names)
    assert fingerprint(wire) == fingerprint({name: wire[name] for name in names})


def test_fingerprint_leaves_out_what_changes_from_sending_to_sending():
    wire = {"taskType": "upscale", "inputs": {"image": "x", "taskUUID": "inner"}}
    sent = {**wire, "taskUUID": "a", "webhookURL": "b", "deliveryMethod": "async", "includeCost": True}
    assert fingerprint(sent) == fingerprint(wire)
    assert len(fingerprint(wire)) == 64
    assert fingerprint(wire) != fingerprint({**wire, "inputs": {"image": "x"}})
    assert fingerprint(wire, [("inputs.image", "1")]) != fingerprint(wire, [("inputs.image", "2")]) != fingerprint(wire)


def test_fingerprint_is_the_same_in_every_version():
    assert fingerprint({"taskType": "ping", "n": [1, 2.5, None, "é"]}) == (
        "8611becb54d291ede387d91b39e3b3d54fc7d8792ad12b212549b7bd3d8f42de"
    )


@dataclass
class Prompt:
    text: str


class Product(BaseModel):
    name: str
    parts: list[Product] = []


class Opaque:
    pass


def test_item_key_is_a_hash_of_what_the_item_is():
    assert item_key("kite") == item_key("kite") != item_key("boat")
    assert item_key({"a": 1, "b": 2}) == item_key({"b": 2, "a": 1})
    assert item_key(Prompt("a")) == item_key(Prompt("a")) != item_key(Prompt("b"))
    assert item_key(Product(name="a")) == item_key(Product(name="a")) != item_key(Product(name="b"))
    assert item_key(Product(name="a", parts=[Product(name="b")])) != item_key(Product(name="a"))
    assert item_key(PurePosixPath("a")) != item_key(PurePosixPath("b"))
    assert item_key(Opaque()) == item_key(Opaque())
    assert item_key({1: Opaque(), (2, 3): "x"}) == item_key({1: Opaque(), (2, 3): "x"})
    assert len(item_key(b"bytes")) == 16


@given(st.lists(st.sampled_from(["a", "a-2", "a-2-2", "b"])))
def test_ordinals_never_give_a_name_twice_and_depend_only_on_the_order(keys):
    ordinals, again = Ordinals(), Ordinals()
    given_names = [ordinals.name(key) for key in keys]
    assert len(set(given_names)) == len(keys)
    assert given_names == [again.name(key) for key in keys]


def test_ordinals_first_of_its_kind_keeps_its_key():
    ordinals = Ordinals()
    assert [ordinals.name(key) for key in ("a", "b", "a", "a")] == ["a", "b", "a-2", "a-3"]


def test_read_policy_of_nothing_is_the_shared_one():
    assert read_policy({}) is NO_POLICY
    assert read_policy({"timeout": 3}) == Policy(timeout=3)


@pytest.mark.parametrize("bad", [{"retry": True}, {"retry": 1.5}, {"timeout": float("nan")}, {"deadline": "1"}])
def test_read_policy_of_nonsense_is_an_error(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        read_policy(bad)


def test_may_try_again_a_function_is_the_users_own_code():
    assert may_try_again(OSError(), sends=False)
    assert not may_try_again(TimeoutError(), sends=False)
    assert not may_try_again(OSError(), sends=True)
    lost = RunwareError("lost", code="connection", raw_code="connectionLost")
    assert not may_try_again(lost, sends=False)


@pytest.mark.parametrize(
    ("error", "may_be"),
    [
        (RunwareError("broke off", code="connection", raw_code="streamTruncated"), True),
        (RunwareError("lost", code="connection", raw_code="connectionLost", may_be_billed=True), True),
        (RunwareError("a gateway", code="serverError", status_code=502, may_be_billed=True), True),
        (RunwareError("known", code="validation", raw_code="conflictTaskUUID"), True),
        (RunwareError("no connection", code="connection", raw_code="connectionFailed"), False),
        (RunwareError("left", code="aborted", raw_code="aborted"), False),
        (RunwareError("failed", code="provider", raw_code="providerUnavailable"), False),
        (RunwareTimeoutError("too late", code="timeout", may_be_billed=True), False),
    ],
)
def test_stream_that_failed_is_asked_for_unless_the_service_judged_it_or_cannot_have_it(error, may_be):
    assert may_be_collected(error) is may_be
