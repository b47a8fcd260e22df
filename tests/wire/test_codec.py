"""The codec: what a task looks like on the wire, and what is refused by name."""

from __future__ import annotations

import enum
import json
import math
from collections import deque
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runware_flow.errors import RunwareError
from runware_flow.results import CaptionResult, ImageResult, ThreeDResult
from runware_flow.tasks import (
    Caption,
    ImageInference,
    ImageUpload,
    PromptEnhance,
    TextInference,
    Upscale,
    VideoInference,
)
from runware_flow.types import UNSET, Result, Task
from runware_flow.wire.codec import LocalMedia, delivery_of, encode, place, slots_of, to_wire

IMAGE = ImageResult(task_uuid="U1", image_url="https://im/1.jpg", image_uuid="I1")


class Node:
    """What a node of a flow looks like from here."""

    __runware_node__: ClassVar[bool] = True


class Size(enum.IntEnum):
    BIG = 1024


class Word(enum.StrEnum):
    KITE = "a red kite"


def wire_of(task: Task[Any] | dict[str, Any]) -> dict[str, Any]:
    wire, local = to_wire(task)
    assert local == []
    return wire


def refusal(task: Any) -> RunwareError:
    with pytest.raises(RunwareError) as caught:
        to_wire(task)
    assert (caught.value.code, caught.value.raw_code) == ("validation", "invalidParameter")
    return caught.value


def test_to_wire_uses_exact_wire_names_and_leaves_out_what_is_unset() -> None:
    task = ImageInference(
        model="runware:400@1",
        task_uuid="U1",
        positive_prompt="x",
        cfg_scale=3.5,
        true_cfg_scale=1.0,
        webhook_url="https://h",
        control_net=[{"model": "m", "guideImage": "https://g"}],
        include_cost=True,
    )
    assert wire_of(task) == {
        "taskType": "imageInference",
        "taskUUID": "U1",
        "model": "runware:400@1",
        "positivePrompt": "x",
        "CFGScale": 3.5,
        "trueCFGScale": 1.0,
        "webhookURL": "https://h",
        "controlNet": [{"model": "m", "guideImage": "https://g"}],
        "includeCost": True,
    }


def test_to_wire_none_is_sent_as_null() -> None:
    assert wire_of({"taskType": "x", "seed": None})["seed"] is None


def test_to_wire_extra_is_merged_and_wins() -> None:
    task = ImageInference(model="m", width=512, extra={"width": 640, "brandNew": {"a_b": 1}})
    wire = wire_of(task)
    assert (wire["width"], wire["brandNew"]) == (640, {"a_b": 1})
    assert "extra" not in wire


def test_to_wire_nested_names_are_never_converted() -> None:
    assert wire_of(ImageInference(model="m", settings={"snake_case": 1}))["settings"] == {"snake_case": 1}


def test_to_wire_gives_new_containers() -> None:
    inputs = {"image": "https://x", "tags": ["a"]}
    wire = wire_of({"taskType": "caption", "inputs": inputs})
    wire["inputs"]["tags"].append("b")
    assert inputs["tags"] == ["a"]


def test_to_wire_plain_subclasses_become_plain() -> None:
    wire = wire_of({"width": Size.BIG, "positivePrompt": Word.KITE, "inputs": MappingProxyType({"a": (1, 2)})})
    assert json.loads(encode(wire)) == {"width": 1024, "positivePrompt": "a red kite", "inputs": {"a": [1, 2]}}
    assert type(wire["width"]) is int
    assert type(wire["positivePrompt"]) is str


def test_to_wire_sequences_become_lists() -> None:
    assert wire_of({"inputs": {"a": deque([1]), "b": range(2)}})["inputs"] == {"a": [1], "b": [0, 1]}


def test_to_wire_unset_inside_is_left_out() -> None:
    assert wire_of({"a": UNSET, "inputs": {"b": UNSET, "c": 1}}) == {"inputs": {"c": 1}}


def test_to_wire_result_becomes_its_reference() -> None:
    wire = wire_of(Upscale(model="m", inputs={"image": IMAGE}))
    assert wire["inputs"] == {"image": "https://im/1.jpg"}
    solid = ThreeDResult(outputs={"files": [{"uuid": "F1", "url": "https://f"}]})
    assert wire_of({"inputs": {"meshes": [solid]}})["inputs"] == {"meshes": ["https://f"]}


def test_to_wire_local_media_are_listed_with_their_place() -> None:
    task = VideoInference(
        model="m",
        inputs={"frameImages": [IMAGE, {"image": b"png", "frame": "last"}, Path("a.png")], "audios": [bytearray(b"w")]},
    )
    wire, local = to_wire(task)
    assert local == [
        LocalMedia(("inputs", "frameImages", 1, "image"), b"png"),
        LocalMedia(("inputs", "frameImages", 2), Path("a.png")),
        LocalMedia(("inputs", "audios", 0), b"w"),
    ]
    assert wire["inputs"] == {"frameImages": ["https://im/1.jpg", {"frame": "last"}, None], "audios": [None]}
    for medium in local:
        place(wire, medium.path, "M")
    assert wire["inputs"]["frameImages"] == ["https://im/1.jpg", {"frame": "last", "image": "M"}, "M"]


def test_to_wire_local_medium_at_the_top_is_left_out_until_placed() -> None:
    wire, (medium,) = to_wire(ImageUpload(image=Path("a.png")))
    assert "image" not in wire
    place(wire, medium.path, "data:...")
    assert wire["image"] == "data:..."


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (Node(), "use node.then"),
        (Caption(model="m", inputs={}), "a Caption, a task and not its result"),
        (CaptionResult(text="x"), "not a medium"),
        (ImageResult(task_uuid="U9"), "U9"),
        (Result(), "not a medium"),
        (math.nan, "JSON cannot carry"),
        (-math.inf, "JSON cannot carry"),
        ({1, 2}, "a set"),
        (object(), "an object, which cannot be sent"),
        (1j, "a complex"),
        ("\ud800", "surrogate"),
        ({1: 2}, "the key 1"),
        ({"\ud800": 2}, "surrogate"),
        (iter([1]), "cannot be sent"),
        (len, "cannot be sent"),
    ],
)
def test_to_wire_anything_else_is_refused_by_name(value: object, says: str) -> None:
    error = refusal(Upscale(model="m", inputs={"image": value}))  # type: ignore[dict-item]
    assert error.parameter == "inputs.image"
    assert says in error.message
    listed = refusal({"inputs": {"images": ["https://x", value]}})
    assert listed.parameter == "inputs.images[1]"
    assert listed.message.startswith("inputs.images[1] ")


@pytest.mark.parametrize("value", [b"x", Path("x"), IMAGE])
def test_to_wire_medium_where_a_text_belongs_is_refused(value: object) -> None:
    assert refusal({"positivePrompt": value}).parameter == "positivePrompt"


def test_to_wire_node_at_the_top_is_refused() -> None:
    assert "use node.then" in refusal({"positivePrompt": Node()}).message


@pytest.mark.parametrize("task", [None, "x", 5, [("taskType", "x")]])
def test_to_wire_of_no_task_is_refused(task: object) -> None:
    assert "not a task" in refusal(task).message


def test_to_wire_extra_of_no_dict_is_refused() -> None:
    assert refusal(ImageInference(model="m", extra=[1])).parameter == "extra"  # type: ignore[arg-type]


def test_to_wire_dict_that_holds_itself_is_refused() -> None:
    inputs: dict[str, Any] = {}
    inputs["inputs"] = inputs
    assert "nested too deeply" in refusal(inputs).message


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=15,
)


@given(st.dictionaries(st.text(max_size=5), plain, max_size=5))
def test_to_wire_plain_json_is_encoded_as_the_standard_library_would(task: dict[str, Any]) -> None:
    wire = wire_of(task)
    assert wire == task
    assert json.loads(encode(wire)) == task


anything = st.recursive(
    st.none() | st.floats() | st.text() | st.binary(max_size=3) | st.just(IMAGE) | st.just(Node()) | st.just({1}),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3),
    max_leaves=10,
)


@given(anything)
def test_to_wire_gives_encodable_json_or_refuses(value: Any) -> None:
    try:
        wire, local = to_wire({"inputs": value})
    except RunwareError:
        return
    for medium in local:
        place(wire, medium.path, "M")
    assert json.loads(encode(wire)).keys() == {"inputs"}


@pytest.mark.parametrize(
    ("task", "slots"),
    [
        (ImageInference(model="m"), 1),
        (ImageInference(model="m", number_results=4), 4),
        (PromptEnhance(prompt="x", prompt_versions=3), 3),
        ({"taskType": "promptEnhance", "numberResults": 4}, 1),
        ({"taskType": "imageInference", "numberResults": "many"}, 1),
        ({"taskType": "imageInference", "numberResults": 0}, 1),
        ({"taskType": "imageInference", "numberResults": True}, 1),
    ],
)
def test_slots_count_the_results_to_come(task: Any, slots: int) -> None:
    assert slots_of(wire_of(task)) == slots


@pytest.mark.parametrize(
    ("task", "delivery"),
    [
        (ImageInference(model="m"), "sync"),
        (ImageInference(model="m", delivery_method="async"), "async"),
        (TextInference(model="m", messages=[], delivery_method="stream"), "stream"),
        (VideoInference(model="m"), "async"),
        (Caption(model="m", inputs={"video": "https://v"}), "async"),
        (Caption(model="m", inputs={"image": "https://i"}), "sync"),
        ({"taskType": "training", "deliveryMethod": "pigeon"}, "async"),
    ],
)
def test_delivery_is_what_the_wire_says_or_the_services_default(task: Any, delivery: str) -> None:
    assert delivery_of(wire_of(task)) == delivery
