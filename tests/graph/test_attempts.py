"""What follows a failed attempt, as a rule without an event loop."""

from __future__ import annotations

import pytest

from runware_flow.errors import RunwareError
from runware_flow.graph.attempts import next_pause
from runware_flow.graph.policies import Policy

BUSY = RunwareError("busy", code="provider", raw_code="providerError")
LIMITED = RunwareError("slow down", code="rateLimit", raw_code="rateLimitExceeded", retry_after=7.0)
LOST = RunwareError("gone", code="connection", raw_code="connectionLost")


@pytest.mark.parametrize(
    ("error", "attempt", "buys", "pause"),
    [
        (BUSY, 1, True, 0.5),
        (BUSY, 2, True, 1.0),
        (BUSY, 8, True, 8.0),
        (BUSY, 9, True, None),
        (LIMITED, 1, True, 7.0),
        (LOST, 1, True, None),
        (ValueError("a bug"), 1, True, None),
        (ValueError("a bug"), 1, False, 0.0),
        (TimeoutError(), 1, False, None),
    ],
)
def test_next_pause_by_error_and_attempt(error, attempt, buys, pause):
    assert next_pause(error, Policy(retry=9), attempt=attempt, buys=buys, now=0.0) == pause


@pytest.mark.parametrize(("now", "pause"), [(92.9, 7.0), (93.0, None), (200.0, None)])
def test_next_pause_past_the_deadline_is_none(now, pause):
    assert next_pause(LIMITED, Policy(retry=3, deadline=100.0), attempt=1, buys=True, now=now) == pause
