"""What a run looks like while it runs: events in, counts and one line out."""

from __future__ import annotations

import pytest

from runware_flow.errors import RunwareError
from runware_flow.graph.events import NodeSettled, NodeStarted, RunFinished, RunStarted
from runware_flow.graph.outcomes import Failed, Ok, Skipped
from runware_flow.view.progress import ProgressBoard, money


def settled(label, outcome, *, time=1.0, attempts=1, cost=None):
    return NodeSettled(time=time, path=label, label=label, outcome=outcome, attempts=attempts, cost=cost)


def started(label, attempt=1):
    return NodeStarted(time=0.5, path=label, label=label, attempt=attempt)


def test_board_counts_each_stage_in_the_order_of_its_first_node():
    board = ProgressBoard()
    assert board.line() == "   0.0 s  starting  $0.0000"
    failed = Failed(RunwareError("no"))
    for event in (
        RunStarted(time=0.0, flow="f", concurrency=2),
        started("art"),
        started("art"),
        started("art", attempt=2),
        settled("art", Ok(1), cost=0.002),
        started("big"),
        settled("art", failed),
        settled("text", Skipped("art failed"), attempts=0),
    ):
        board.take(event)
    assert board.line() == "   1.0 s  art 1, 1 failed · big 0 (+1 running) · text 0, 1 not done  $0.0020"
    assert [stage.settled for stage in board.stages.values()] == [2, 0, 1]
    assert not board.is_finished


def test_board_knows_the_end():
    board = ProgressBoard()
    board.take(RunFinished(2.5, "done", 1, 0, 0, 0, 0.1))
    assert board.is_finished
    assert board.seconds == 2.5


@pytest.mark.parametrize(
    ("micro_usd", "text"), [(0, "$0.0000"), (7, "$0.000007"), (1300, "$0.0013"), (12_345_678, "$12.3457")]
)
def test_money_shows_what_is_there(micro_usd, text):
    assert money(micro_usd) == text
