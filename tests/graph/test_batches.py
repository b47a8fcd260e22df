"""How many items of a batch may fail, and what its numbers say."""

from __future__ import annotations

from runware_flow.graph.batches import BatchStatistics, Tolerance


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


def test_tolerance_of_an_unknown_number_judges_hundred_items_at_least_until_the_end():
    tolerance = Tolerance(0.1)
    assert first_past(tolerance, [True] * 10) is None
    assert tolerance.is_past()
    assert first_past(Tolerance(0.1), [True] * 11) == 11
    assert first_past(Tolerance(0.1), [False] * 290 + [True] * 40) == 290 + 33
    assert not Tolerance(0.1).is_past()


def statistics(**more):
    plain = {"total": None, "begun": 0, "in_flight": 0, "ok": 0, "failed": 0, "restored": 0, "abandoned": 0}
    return BatchStatistics(**{**plain, "seconds": 2.0, "rate": None, "cost": 0.0, **more})


def test_statistics_say_what_is_left():
    now = statistics(total=10_000, ok=1_230, failed=6, restored=1_000, rate=118.0)
    assert now.settled == 1_236
    assert now.seconds_left == (10_000 - 1_236) / 118.0
    assert statistics(rate=2.0).seconds_left is None
    assert statistics(total=10).seconds_left is None
