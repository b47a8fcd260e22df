"""Waits before trying again."""

from __future__ import annotations

import pytest

from runware_flow.session.retry import LONGEST, backoff, reconnect_delay, spread
from runware_flow.types import TaskId


@pytest.mark.parametrize(
    ("strategy", "waits"),
    [("exponential", [1, 2, 4, 8]), ("linear", [1, 2, 3, 4])],
)
def test_backoff_grows_as_its_name_says(strategy, waits):
    assert [backoff(attempt, 1.0, strategy, 0.0) for attempt in (1, 2, 3, 4)] == waits


def test_backoff_is_bounded_however_many_attempts():
    assert backoff(10_000, 1.0, "exponential", 0.0) == LONGEST
    assert backoff(10_000, 1.0, "linear", 0.99) < 1.3 * LONGEST


def test_reconnecting_starts_at_once_and_backs_off():
    assert reconnect_delay(1, 1.0, "exponential", 0.0) == 0.0
    assert reconnect_delay(1, 1.0, "exponential", 1.0) == 0.25
    assert [reconnect_delay(attempt, 1.0, "exponential", 0.0) for attempt in (2, 3, 4)] == [1, 2, 4]


def test_spread_is_repeatable_and_even():
    values = [spread(TaskId(f"task-{number}"), 1) for number in range(1000)]
    assert values == [spread(TaskId(f"task-{number}"), 1) for number in range(1000)]
    assert all(0 <= value < 1 for value in values)
    assert 0.45 < sum(values) / len(values) < 0.55
