"""The progress board: counts in, lines and numbers out; no clock, no terminal."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from runware_flow import Abandoned, Failed, Flow, Ok, Skipped
from runware_flow.tasks import ImageInference
from runware_flow.view.bars import bars
from runware_flow.view.notebook import board_bundle
from runware_flow.view.progress import (
    ProgressBoard,
    SharedStages,
    Stage,
    duration,
    expected_counts,
    money,
    pictures_line,
)


async def step(value):
    return value


def picture(prompt="a kite", **more):
    return ImageInference(model="runware:400@1", positive_prompt=prompt, **more)


def board_at(seconds, settled, *, total=10, running=2):
    board = ProgressBoard("posters", 8, {"art": total})
    board.tick(0.0)
    for _ in range(settled):
        board.start("art")
        board.settle("art", Ok(1), was_running=True)
    for _ in range(running):
        board.start("art")
    board.tick(seconds)
    return board


def test_counts_by_outcome_and_what_is_left():
    board = ProgressBoard("posters", 8, {"art": 6})
    for outcome in (Ok(1), Failed(ValueError()), Skipped("x"), Abandoned(None, may_be_billed=False)):
        board.settle("art", outcome, was_running=False)
    stage = board.stages["art"]
    assert (stage.ok, stage.failed, stage.skipped, stage.abandoned, stage.running, stage.left) == (1, 1, 1, 1, 0, 2)
    board.settle("late", Ok(1), was_running=False)
    assert board.stages["late"].left is None


def test_rate_and_eta_follow_the_last_seconds_and_need_a_known_total():
    board = board_at(2.0, 4)
    assert board.rate == pytest.approx(2.0)
    assert board.eta == pytest.approx(3.0)
    board.tick(100.0)
    board.tick(101.0)
    assert board.rate == 0.0
    assert board.eta is None, "at a standstill nobody knows"
    board = board_at(2.0, 4, total=None)
    assert (board.rate, board.eta) == (pytest.approx(2.0), None)


def test_history_is_bounded():
    board = ProgressBoard("long", 1)
    for tick in range(10_000):
        board.tick(tick / 10)
    assert len(board._history) < 200


def test_line_says_all_of_it_and_ends_with_the_end():
    board = board_at(65.0, 4)
    board.queued, board.cost, board.unknown_count, board.budget = 3, 0.0123, 2, 5.0
    line = (
        "posters: 1:05  art 4 of 10 (2 running)  2 in flight  3 queued  0.1/s  1:38 left"
        "  $0.0123 of $5.0000  2 of unknown cost"
    )
    assert board.line() == line
    board.end = "done"
    assert "in flight" not in board.line()
    assert "done" in board.line()


def test_line_stays_short_with_many_stages():
    board = ProgressBoard("wide", 8, {f"stage {number}": 1 for number in range(500)})
    board.settle("stage 0", Ok(1), was_running=False)
    assert "stage 1 0 of 1" in board.line()
    assert "494 more stages" in board.line()
    assert len(board.line()) < 250


def test_restored_and_never_begun_are_counted_apart():
    board = ProgressBoard("posters", 8, {"art": 10})
    for number in range(5):
        board.settle("art", Ok(1), was_running=False, is_restored=number < 3)
    assert board.count(board.stages["art"]) == "5 of 10 (3 restored)"
    board.end = "stopped"
    assert "art 5 of 10 (3 restored, 5 never begun)" in board.line()
    assert board.snapshot()["stages"][0]["restored"] == 3


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
def test_footer_keeps_cost_and_time_left_where_it_is_narrow(columns):
    board = board_at(65.0, 4)
    board.name = "a name that is quite long"
    board.queued, board.refused, board.cost, board.unknown_count = 3, 12, 0.0123, 2
    name, said = board.footer(columns)
    assert len(f"{name}  {said}") <= columns
    assert "1:38 left" in said
    assert "$0.0123" in said
    assert ("in flight" in said) == (columns > 80)
    board.budget = 5.0
    name, said = board.footer(columns)
    assert len(f"{name}  {said}") <= columns
    assert "1:38 left" in said


def test_pictures_line_says_how_far_a_report_is():
    assert pictures_line(212, 500) == "writing report: 212 of 500 pictures"


def test_snapshot_is_json():
    snapshot = json.loads(json.dumps(board_at(2.0, 4).snapshot()))
    assert snapshot["flow"] == "posters"
    assert snapshot["stages"] == [
        {"label": "art", "total": 10, "running": 2, "ok": 4, "restored": 0, "failed": 0, "skipped": 0, "abandoned": 0}
    ]
    assert (snapshot["in_flight"], snapshot["queued"], snapshot["end"], snapshot["items"]) == (2, None, None, None)


def test_items_of_a_batch_are_what_the_pace_is_measured_by():
    board = board_at(2.0, 4, total=None)
    board.items = Stage("items", 8)
    board.tick(3.0)
    board.items.ok = 2
    board.tick(5.0)
    assert board.rate == pytest.approx(0.4)
    assert board.eta == pytest.approx(15.0)
    assert board.line().startswith("posters: 5.0 s  items 2 of 8, art 4 (2 running) ")


@pytest.mark.parametrize("height", [24, 6])
def test_bars_fit_their_terminal_whatever_the_labels(height):
    board = ProgressBoard("w" * 200, 8, {f"[red]{number}" + "x" * 100: number % 3 or None for number in range(40)})
    for label in list(board.stages)[:7]:
        board.start(label)
        board.settle(label, Failed(ValueError()), was_running=True)
    board.tick(1.0)
    console = Console(file=io.StringIO(), width=80, height=height, color_system=None)
    console.print(bars(board, height=height))
    lines = console.file.getvalue().splitlines()
    assert len(lines) <= height
    assert all(len(line) <= 80 for line in lines)
    assert "[red]" in lines[0], "a label is no markup"


def test_notebook_bundle_is_escaped():
    board = ProgressBoard("<img src=x>", 1, {"<script>": 3})
    html = board_bundle(board)["text/html"]
    assert "<script>" not in html
    assert "<img" not in html


def test_expected_counts_by_label_without_consuming_a_source():
    flow = Flow()
    one = flow.then(picture(), label="one")
    once = iter([1, 2])
    flow.map([1, 2, 3], step, label="sized").then(step, label="after").pick(str)
    flow.map(once, step, label="unsized")
    flow.each(picture(number_results=4), label="each").then(step, label="variant")
    flow.each({"model": "runware:400@1", "positivePrompt": "x", "numberResults": 2}, label="dict").then(step, label="d")
    one.map(step, label="late")
    assert expected_counts(flow.declaration) == {
        "one": 1,
        "each": 1,
        "dict": 1,
        "sized": 3,
        "after": 3,
        "unsized": None,
        "variant": 4,
        "d": 2,
        "late": None,
    }
    assert list(once) == [1, 2]


def test_money_and_durations_are_short_and_never_hide_a_cost():
    assert [money(usd) for usd in (0, 0.00005, 0.0123, 12.5)] == ["$0.0000", "<$0.0001", "$0.0123", "$12.5000"]
    assert [duration(seconds) for seconds in (0.04, 59.94, 60, 3725)] == ["0.0 s", "59.9 s", "1:00", "1:02:05"]


COUNTS = st.tuples(*[st.integers(0, 5)] * 6)


def test_shared_stages_count_what_a_lost_worker_did_not_deliver_no_more():
    stages = SharedStages()
    stages.report("a", {"art": (2, 3, 0, 0, 0, 0)})
    stages.deliver("a", {"art": (0, 1, 0, 0, 0, 0)})
    stages.report("b", {"art": (1, 1, 0, 0, 0, 0), "text": (0, 1, 0, 0, 0, 0)})
    assert stages.counts() == {"art": (3, 4, 0, 0, 0, 0), "text": (0, 1, 0, 0, 0, 0)}
    stages.lose("a")
    stages.lose("a")
    assert stages.counts() == {"art": (1, 2, 0, 0, 0, 0), "text": (0, 1, 0, 0, 0, 0)}


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["item", "tell", "lose"]), COUNTS), max_size=20))
def test_shared_stages_end_with_what_was_delivered_whatever_was_told_and_lost(steps):
    stages, counted, delivered = SharedStages(), {"a": (0,) * 6, "b": (0,) * 6}, (0,) * 6

    def added(one, other):
        return tuple(map(sum, zip(one, other, strict=True)))

    for name, step, numbers in steps:
        if step == "item":
            counted[name], delivered = added(counted[name], numbers), added(delivered, numbers)
            stages.deliver(name, {"art": numbers})
        elif step == "tell":
            stages.report(name, {"art": counted[name]})
        else:
            counted[name] = (0,) * 6
            stages.lose(name)
        assert stages.counts().get("art", (0,) * 6) == delivered
