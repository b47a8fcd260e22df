"""What follows a failed attempt, as a rule without an event loop."""

from __future__ import annotations

import pytest

from runware_flow import Retry
from runware_flow.errors import DeclarationError, JournalError, RunwareError, RunwareTimeoutError
from runware_flow.graph.attempts import Attempts, Next, RetryBudget, what_follows
from runware_flow.graph.policies import Policy, read_policy

BUSY = RunwareError("busy", code="provider", raw_code="providerError")
LIMITED = RunwareError("slow down", code="rateLimit", raw_code="rateLimitExceeded", retry_after=7.0)
LOST = RunwareError("gone", code="connection", raw_code="connectionLost")
UNSAFE = RunwareError("no", code="safety", raw_code="contentModeration")
LATE = RunwareTimeoutError("late", code="timeout")
HALF = RunwareError("half", code="provider", raw_code="providerError", results=[1])
END = Next("end")


def follows(error, retry, *, attempt=1, sends=True, now=0.0, deadline=None, **more):
    return what_follows(error, Policy(retry, deadline=deadline), attempt=attempt, sends=sends, now=now, **more)


@pytest.mark.parametrize(
    ("error", "attempt", "sends", "pause"),
    [
        (BUSY, 1, True, 0.5),
        (BUSY, 2, True, 1.0),
        (BUSY, 8, True, 8.0),
        (BUSY, 9, True, None),
        (LIMITED, 1, True, 7.0),
        (LOST, 1, True, None),
        (LATE, 1, True, None),
        (HALF, 1, True, None),
        (UNSAFE, 1, True, None),
        (ValueError("a bug"), 1, True, None),
        (ValueError("a bug"), 1, False, 0.5),
        (ValueError("a bug"), 3, False, 2.0),
        (TimeoutError(), 1, False, None),
        (LOST, 1, None, 0.5),
        (OSError("no space"), 1, None, 0.5),
        (RunwareError("gone", code="notFound", raw_code="mediaExpired"), 1, None, None),
        (ValueError("a bug"), 1, None, None),
    ],
)
def test_what_follows_by_error_and_attempt(error, attempt, sends, pause):
    expected = END if pause is None else Next("again", pause)
    assert follows(error, Retry(9), attempt=attempt, sends=sends) == expected


@pytest.mark.parametrize(("now", "pause"), [(92.9, 7.0), (93.0, None), (200.0, None)])
def test_what_follows_past_the_deadline_is_nothing(now, pause):
    found = follows(LIMITED, Retry(3), now=now, deadline=100.0)
    assert found == (END if pause is None else Next("again", pause))


@pytest.mark.parametrize(
    ("error", "on", "sends", "is_tried"),
    [
        (BUSY, ("provider",), True, True),
        (BUSY, ("providerError",), True, True),
        (BUSY, ("rateLimit",), True, False),
        (UNSAFE, ("safety",), True, True),  # the service has said that it made nothing
        (LOST, ("connection", "connectionLost"), True, False),  # the first purchase may stand
        (LATE, ("timeout",), True, False),
        (HALF, ("provider",), True, False),
        (BUSY, ("provider",), False, True),
        (OSError(), (OSError,), False, True),
        (FileNotFoundError(), (OSError,), False, True),
        (TimeoutError(), (TimeoutError,), False, True),
        (ValueError(), (OSError, "provider"), False, False),
        (LATE, (TimeoutError,), False, False),
    ],
)
def test_retry_on_narrows_and_widens_but_never_buys_what_may_stand(error, on, sends, is_tried):
    assert (follows(error, Retry(3, on), sends=sends).action == "again") == is_tried


def test_retry_backoff_doubles_up_to_sixteen_times_and_jitter_halves_it_at_most():
    pauses = [follows(BUSY, Retry(99, backoff=2.0), attempt=attempt).seconds for attempt in (1, 2, 3, 4, 5, 6, 50)]
    assert pauses == [2, 4, 8, 16, 32, 32, 32]
    assert follows(BUSY, Retry(backoff=2.0), jitter=1.0).seconds == 1.0
    assert follows(LIMITED, Retry(backoff=2.0), jitter=1.0).seconds == 7.0
    assert follows(BUSY, Retry(backoff=0)) == Next("again")


def test_retry_max_elapsed_counts_from_the_first_attempt():
    retry = Retry(9, max_elapsed=10.0)
    assert follows(LIMITED, retry, now=102.9, attempts=Attempts(100.0)).action == "again"
    assert follows(LIMITED, retry, now=103.0, attempts=Attempts(100.0)) == END


def test_fallback_has_its_turn_after_the_retries_and_its_own_retries():
    attempts = Attempts(0.0)
    assert follows(BUSY, Retry(2), attempt=1, attempts=attempts, has_fallback=True).action == "again"
    assert follows(BUSY, Retry(2), attempt=2, attempts=attempts, has_fallback=True).action == "fallback"
    attempts.fall_back(2, BUSY)
    assert follows(BUSY, Retry(2), attempt=3, attempts=attempts, has_fallback=True) == Next("again", 0.5)
    assert follows(BUSY, Retry(2), attempt=4, attempts=attempts, has_fallback=True) == END


@pytest.mark.parametrize(
    ("error", "sends", "falls"),
    [
        (LATE, True, True),
        (LOST, True, True),
        (UNSAFE, True, True),
        (OSError(), False, True),
        (KeyError("in the builder"), True, False),
        (DeclarationError("no task"), True, False),
        (DeclarationError("no value"), False, False),
        (JournalError("full"), True, False),
    ],
)
def test_fallback_stands_in_for_failures_and_not_for_mistakes(error, sends, falls):
    found = follows(error, Retry(1), sends=sends, has_fallback=True)
    assert (found.action == "fallback") == falls


def test_fallback_is_not_begun_past_the_deadline():
    assert follows(BUSY, Retry(1), now=5.0, deadline=5.0, has_fallback=True) == END


def test_retry_budget_lets_an_outage_cost_little_more_than_one_attempt_a_node():
    budget, sent = RetryBudget(), 0
    for _ in range(10_000):
        budget.earn()
        sent += 1
        for attempt in (1, 2):
            if follows(BUSY, Retry(3), attempt=attempt, budget=budget).action == "end":
                break
            sent += 1
    assert sent == pytest.approx(12_050, abs=1)
    found = follows(BUSY, Retry(3), budget=RetryBudget())
    assert found.action == "again"
    spent = RetryBudget()
    spent.left = 0.9
    assert follows(BUSY, Retry(3), budget=spent).note == (
        "it was not tried again: too many requests failed in this run, and its retries are used up"
    )
    assert follows(OSError(), Retry(3), sends=False, budget=spent).action == "again"
    assert follows(BUSY, Retry(3), budget=spent, has_fallback=True).action == "fallback"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"attempts": 0}, "whole number from 1"),
        ({"attempts": True}, "whole number from 1"),
        ({"on": "provider"}, r"Retry\(on=\) is a tuple of codes"),
        ({"on": ()}, r"Retry\(on=\)"),
        ({"on": (3,)}, r"Retry\(on=\)"),
        ({"on": (KeyboardInterrupt,)}, r"Retry\(on=\)"),
        ({"backoff": -1}, r"Retry\(backoff=\)"),
        ({"backoff": float("nan")}, r"Retry\(backoff=\)"),
        ({"max_elapsed": 0}, r"Retry: max_elapsed= is in seconds"),
    ],
)
def test_retry_refuses_what_makes_no_sense(wrong, message):
    with pytest.raises(ValueError, match=message):
        Retry(**wrong)


def test_read_policy_takes_a_number_or_a_retry():
    assert read_policy({"retry": 4}).retry == Retry(4)
    assert read_policy({"retry": Retry(2, ("provider",))}).retry.on == ("provider",)
    with pytest.raises(ValueError, match="idle= is in seconds"):
        read_policy({"idle": 0})
