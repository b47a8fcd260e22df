"""What the numbers of a batch say."""

from __future__ import annotations

from runware_flow.graph.batches import BatchStatistics


def statistics(**more):
    plain = {"total": None, "begun": 0, "in_flight": 0, "ok": 0, "failed": 0, "restored": 0, "abandoned": 0}
    return BatchStatistics(**{**plain, "seconds": 2.0, "rate": None, "cost": 0.0, **more})


def test_statistics_say_what_is_left():
    now = statistics(total=10_000, ok=1_230, failed=6, restored=1_000, rate=118.0)
    assert now.settled == 1_236
    assert now.seconds_left == (10_000 - 1_236) / 118.0
    assert statistics(rate=2.0).seconds_left is None
    assert statistics(total=10).seconds_left is None
