"""What waits leaves together, in bounded frames."""

from __future__ import annotations

from runware_flow.client.bundles import MAX_BYTES, MAX_TASKS, bundle
from runware_flow.session.commands import Lane, Outgoing


def entry(name, lane=Lane.SUBMIT, *, joins=True, size=10):
    return Outgoing(body=name.encode().ljust(size), lane=lane, joins=joins)


def names(bundles):
    return [[item.body.decode().strip() for item in group] for group in bundles]


def test_bundle_on_a_socket_keeps_the_order_and_lets_lanes_share():
    entries = [entry("a"), entry("p", Lane.POLL), entry("alone", joins=False), entry("b")]
    assert names(bundle(entries, by_lane=False)) == [["a", "p"], ["alone"], ["b"]]


def test_bundle_by_lane_gathers_each_kind_and_leaves_sync_tasks_alone():
    entries = [
        entry("p1", Lane.POLL),
        entry("s1", joins=False),
        entry("a1"),
        entry("p2", Lane.POLL),
        entry("s2", joins=False),
        entry("a2"),
    ]
    bundled = sorted(names(bundle(entries, by_lane=True)))
    assert bundled == [["a1", "a2"], ["p1", "p2"], ["s1"], ["s2"]]


def test_bundle_caps_tasks_and_bytes():
    many = bundle([entry(str(number)) for number in range(2 * MAX_TASKS + 1)], by_lane=False)
    assert [len(group) for group in many] == [MAX_TASKS, MAX_TASKS, 1]
    heavy = [entry(str(number), size=MAX_BYTES // 2) for number in range(3)]
    assert max(sum(len(item.body) for item in group) for group in bundle(heavy, by_lane=False)) <= MAX_BYTES


def test_bundle_of_nothing_is_nothing():
    assert bundle([], by_lane=True) == []
