"""Slots: what counts as a new result, whatever the service repeats, splits or reorders."""

from __future__ import annotations

import json
import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from runware_flow.session.delivery import Tally, content
from runware_flow.wire.frames import ErrorItem, Item, decode_frame


def parts(*data: dict[str, Any], errors: list[dict[str, Any]] | None = None) -> list[Item | ErrorItem]:
    whole = {"data": [{"taskUUID": "t", **each} for each in data], "errors": errors or []}
    frame = decode_frame(json.dumps(whole).encode())
    return [*frame.items, *frame.errors]


def words(tally: Tally, *data: dict[str, Any], errors: list[dict[str, Any]] | None = None) -> list[Any]:
    """Take a frame; say what was new by its text, id or code."""
    taken = tally.take(parts(*data, errors=errors))
    members = [json.loads(part.raw) for _, part in taken]
    return [each.get("text", each.get("imageUUID", each.get("code", each.get("status")))) for each in members]


def test_placeholders_and_pending_items_fill_nothing():
    tally = Tally(1)
    assert words(tally, {}, {"status": "processing"}, {"status": "strange"}) == []
    assert not tally.is_full


def test_items_with_ids_are_new_once_in_any_frame():
    tally = Tally(3)
    assert words(tally, {"imageUUID": "a"}, {"imageUUID": "a"}) == ["a"]
    assert words(tally, {"imageUUID": "b"}) == ["b"]
    assert words(tally, {"imageUUID": "b", "status": "success"}, {"imageUUID": "c", "status": "success"}) == ["c"]
    assert tally.is_full


def test_items_without_ids_are_as_many_as_one_frame_shows():
    tally = Tally(3)
    assert words(tally, {"text": "x"}, {"text": "x"}) == ["x", "x"]
    assert words(tally, {"text": "x"}) == []
    assert words(tally, {"text": "x"}, {"text": "x"}, {"text": "x"}) == ["x"]
    assert tally.is_full


def test_items_without_ids_split_over_frames_are_counted_by_content():
    tally = Tally(2)
    assert words(tally, {"text": "x"}) == ["x"]
    assert words(tally, {"text": "y"}) == ["y"]
    assert tally.is_full


def test_merged_copies_of_one_result_fill_one_slot():
    tally = Tally(1)
    assert words(tally, {"text": "x"}, {"text": "x"}) == ["x"]


def test_pushed_polled_and_archived_copies_are_the_same_result():
    tally = Tally(2)
    assert words(tally, {"text": "x", "cost": 0.1}) == ["x"]
    assert words(tally, {"status": "success", "text": "x"}, {"status": "processing"}) == []
    assert words(tally, {"text": "x"}, {"text": "y"}) == ["y"]


def test_more_results_than_slots_are_all_delivered():
    tally = Tally(1)
    assert words(tally, {"imageUUID": "a"}, {"imageUUID": "b"}) == ["a", "b"]


def test_errors_fill_slots_and_are_recognised_when_repeated():
    failure = {"code": "providerError", "taskUUID": "t", "message": "m"}
    tally = Tally(3)
    assert words(tally, errors=[failure, failure]) == ["providerError", "providerError"]
    assert words(tally, errors=[failure, failure]) == []
    assert (tally.filled, tally.failed) == (2, 2)


def test_failure_inside_an_item_is_one_slot():
    tally = Tally(2)
    assert words(tally, {"status": "error", "error": {"code": "c"}}) == ["error"]
    assert (tally.filled, tally.failed) == (1, 1)


def test_position_is_the_index_else_the_place_in_a_cumulative_reply_else_the_order():
    tally = Tally(4)
    cumulative = parts({"status": "processing"}, {"status": "success", "imageUUID": "b"})
    assert [position for position, _ in tally.take(cumulative)] == [1]
    assert [position for position, _ in tally.take(parts({"imageUUID": "c"}))] == [1]
    assert [position for position, _ in tally.take(parts({"imageUUID": "d", "resultIndex": 3}))] == [3]


def test_content_of_unreadable_parts_is_their_bytes():
    assert content(Item(raw=b"[1]")) == b"[1]"
    assert content(ErrorItem(raw=b"{")) == b"{"


@settings(max_examples=200, deadline=None)
@given(
    texts=st.lists(st.text("ab", max_size=2), min_size=1, max_size=5, unique=True),
    named=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_sequence_of_partial_and_repeated_frames_delivers_each_result_once(
    texts: list[str],
    named: bool,
    seed: int,
) -> None:
    order = random.Random(seed)
    results = [
        {"text": text, **({"imageUUID": str(number) + "-"} if named else {})} for number, text in enumerate(texts)
    ]
    tally = Tally(len(results))
    taken: list[str] = []
    for _ in range(10):
        sample = order.sample(results, order.randint(0, len(results)))
        status = order.choice([{}, {"status": "success"}])
        taken += words(tally, *({**each, **status} for each in sample))
    taken += words(tally, *results)
    assert sorted(taken) == sorted(texts)
    assert tally.is_full
