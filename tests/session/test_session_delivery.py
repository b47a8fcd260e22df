"""Slots: what counts as a new result, whatever the service repeats, splits or reorders."""

from __future__ import annotations

import json
import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from runware_flow.session.delivery import ResultSlots, content
from runware_flow.wire.frames import ErrorItem, Item, decode_frame


def parts(*data: dict[str, Any], errors: list[dict[str, Any]] | None = None) -> list[Item | ErrorItem]:
    whole = {"data": [{"taskUUID": "t", **each} for each in data], "errors": errors or []}
    frame = decode_frame(json.dumps(whole).encode())
    return [*frame.items, *frame.errors]


def words(slots: ResultSlots, *data: dict[str, Any], errors: list[dict[str, Any]] | None = None) -> list[Any]:
    """Take a frame; say what was new by its text, id or code."""
    taken = slots.take(parts(*data, errors=errors))
    members = [json.loads(part.raw) for _, part in taken]
    return [each.get("text", each.get("imageUUID", each.get("code", each.get("status")))) for each in members]


def test_placeholders_and_pending_items_fill_nothing():
    slots = ResultSlots(1)
    assert words(slots, {}, {"status": "processing"}, {"status": "strange"}) == []
    assert not slots.is_full


def test_items_with_ids_are_new_once_in_any_frame():
    slots = ResultSlots(3)
    assert words(slots, {"imageUUID": "a"}, {"imageUUID": "a"}) == ["a"]
    assert words(slots, {"imageUUID": "b"}) == ["b"]
    assert words(slots, {"imageUUID": "b", "status": "success"}, {"imageUUID": "c", "status": "success"}) == ["c"]
    assert slots.is_full


def test_items_without_ids_are_as_many_as_one_frame_shows():
    slots = ResultSlots(3)
    assert words(slots, {"text": "x"}, {"text": "x"}) == ["x", "x"]
    assert words(slots, {"text": "x"}) == []
    assert words(slots, {"text": "x"}, {"text": "x"}, {"text": "x"}) == ["x"]
    assert slots.is_full


def test_items_without_ids_split_over_frames_are_counted_by_content():
    slots = ResultSlots(2)
    assert words(slots, {"text": "x"}) == ["x"]
    assert words(slots, {"text": "y"}) == ["y"]
    assert slots.is_full


def test_merged_copies_of_one_result_fill_one_slot():
    slots = ResultSlots(1)
    assert words(slots, {"text": "x"}, {"text": "x"}) == ["x"]


def test_pushed_polled_and_archived_copies_are_the_same_result():
    slots = ResultSlots(2)
    assert words(slots, {"text": "x", "cost": 0.1}) == ["x"]
    assert words(slots, {"status": "success", "text": "x"}, {"status": "processing"}) == []
    assert words(slots, {"text": "x"}, {"text": "y"}) == ["y"]


def test_more_results_than_slots_are_all_delivered():
    slots = ResultSlots(1)
    assert words(slots, {"imageUUID": "a"}, {"imageUUID": "b"}) == ["a", "b"]


def test_errors_fill_slots_and_are_recognised_when_repeated():
    failure = {"code": "providerError", "taskUUID": "t", "message": "m"}
    slots = ResultSlots(3)
    assert words(slots, errors=[failure, failure]) == ["providerError", "providerError"]
    assert words(slots, errors=[failure, failure]) == []
    assert (slots.filled, slots.failed) == (2, 2)


def test_failure_inside_an_item_is_one_slot():
    slots = ResultSlots(2)
    assert words(slots, {"status": "error", "error": {"code": "c"}}) == ["error"]
    assert (slots.filled, slots.failed) == (1, 1)


def test_position_is_the_index_else_the_place_in_a_cumulative_reply_else_the_order():
    slots = ResultSlots(4)
    cumulative = parts({"status": "processing"}, {"status": "success", "imageUUID": "b"})
    assert [position for position, _ in slots.take(cumulative)] == [1]
    assert [position for position, _ in slots.take(parts({"imageUUID": "c"}))] == [1]
    assert [position for position, _ in slots.take(parts({"imageUUID": "d", "resultIndex": 3}))] == [3]


def test_content_of_unreadable_parts_is_their_bytes():
    assert content(Item(raw=b"[1]")) == b"[1]"
    assert content(ErrorItem(raw=b"{")) == b"{"


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
    slots = ResultSlots(len(results))
    taken: list[str] = []
    for _ in range(10):
        sample = order.sample(results, order.randint(0, len(results)))
        status = order.choice([{}, {"status": "success"}])
        taken += words(slots, *({**each, **status} for each in sample))
    taken += words(slots, *results)
    assert sorted(taken) == sorted(texts)
    assert slots.is_full
