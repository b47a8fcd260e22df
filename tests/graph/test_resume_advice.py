"""What a journal says about a node, without a journal."""

from __future__ import annotations

import pytest

from runware_flow.graph.resume import RequestRecord, advise


def history(*states):
    return [RequestRecord(number + 10, number + 1, state, f"uuid-{number}") for number, state in enumerate(states)]


@pytest.mark.parametrize(
    ("states", "action", "attempt"),
    [
        ((), "buy", 1),
        (("open",), "collect", 1),
        (("done",), "restore", 1),
        (("failed",), "buy", 2),
        (("failed", "open"), "collect", 2),
        (("failed", "failed"), "buy", 3),
        (("failed", "done"), "restore", 2),
        (("done", "open"), "restore", 1),
        (("open", "failed"), "collect", 1),
    ],
)
def test_advice_buys_again_only_after_the_service_said_that_all_before_failed(states, action, attempt):
    advice = advise(history(*states))
    assert (advice.action, advice.attempt) == (action, attempt)
    assert (advice.record is None) == (action == "buy")
    if advice.record is not None:
        assert advice.record.attempt == attempt
