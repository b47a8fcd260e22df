"""Results in the hands of others: JSON, pydantic, FastAPI, notebooks, pickles, and the errors of a slip."""

from __future__ import annotations

import base64
import copy
import json
import pickle
import subprocess
import sys
from typing import Any

import anyio
import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from runware_flow.results import RESULT_TYPES, ImageResult, TextResult, ThreeDResult, UpscaleResult, VideoResult
from runware_flow.tasks import ImageInference
from runware_flow.types import Result, attach_file, file_of
from runware_flow.wire.frames import decode_frame, decode_result

SENT = {"taskType": "imageInference", "taskUUID": "U1", "imageUUID": "I1", "imageURL": "https://i/1.jpg", "seed": 5}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def result(kind: type[Result], **members: Any) -> Any:
    (item,) = decode_frame(json.dumps({"data": [{"taskUUID": "U1", **members}]})).items
    return decode_result(item, kind)


def test_to_dict_is_what_came_by_wire_names_for_json() -> None:
    image = result(ImageResult, **SENT, new=[1])
    assert image.to_dict() == SENT
    assert image.raw == {**SENT, "new": [1]}
    image.to_dict()["seed"] = 6
    assert image.seed == 5


@given(kind=st.sampled_from(sorted({*RESULT_TYPES.values()}, key=lambda one: one.__name__)), data=st.data())
def test_to_dict_is_json_that_any_reader_takes_whatever_came(kind: type[Result], data: st.DataObject) -> None:
    names = [name for name in kind.__struct_encode_fields__ if name != "taskUUID"]
    members = data.draw(st.dictionaries(st.sampled_from(names), JSON, max_size=6))
    one = result(kind, **members)
    read = json.loads(json.dumps(one.to_dict(), allow_nan=False))
    assert read == one.to_dict()
    assert len(repr(one)) < 1000 * len(members) + 100
    assert pickle.loads(pickle.dumps(one)).to_dict() == copy.deepcopy(one).to_dict() == one.to_dict()


@pytest.mark.parametrize("size", [1000, 50_000, 5_000_000])
def test_repr_is_short_with_a_picture_inside(size: int) -> None:
    image = result(ImageResult, imageUUID="I1", imageBase64Data="A" * size)
    assert len(repr(image)) < 200
    assert f"({size:,} characters)" in repr(image)
    assert len(repr(list(image.__rich_repr__()))) < 250
    task = ImageInference(model="m", positive_prompt="p", inputs={"referenceImages": [b"\0" * size]})
    assert len(repr(task)) < 300


def test_repr_names_the_fields_that_came() -> None:
    assert repr(result(ImageResult, **SENT)) == (
        "ImageResult(task_type='imageInference', task_uuid='U1', image_url='https://i/1.jpg', image_uuid='I1', seed=5)"
    )


@pytest.mark.parametrize(
    ("ask", "kind", "says"),
    [
        (lambda image: image["imageURL"], TypeError, "ImageResult has attributes, no keys: use .image_url"),
        (lambda image: image["image_url"], TypeError, "ImageResult has attributes, no keys: use .image_url"),
        (lambda image: image.imageURL, AttributeError, "ImageResult has no 'imageURL': use .image_url"),
        (lambda image: image.NSFWContent, AttributeError, "ImageResult has no 'NSFWContent': use .nsfw_content"),
        (lambda image: image.imgae_url, AttributeError, r"is it .*\.image_url.*\?"),
        (lambda image: image.tiles, AttributeError, r"it came, but has no field; use \.raw\['tiles'\]"),
        (lambda image: image[0], TypeError, r"client\.run\(\) gives a list"),
        (lambda image: list(image), TypeError, "not iterable"),
        (lambda image: "imageURL" in image, TypeError, "not (iterable|a container)"),
    ],
)
def test_wrong_access_names_the_attribute(ask: Any, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says):
        ask(result(ImageResult, **SENT, tiles=4))


def test_every_wire_name_of_every_result_leads_to_its_field() -> None:
    for kind in RESULT_TYPES.values():
        for wire_name, name in zip(kind.__struct_encode_fields__, kind.__struct_fields__, strict=True):
            if wire_name == name:
                continue
            with pytest.raises(AttributeError, match=rf"use \.{name}$"):
                getattr(kind(), wire_name)


def test_pickle_and_copies_are_equal_and_hold_what_came() -> None:
    image = result(ImageResult, **SENT, new=[1])
    for other in (pickle.loads(pickle.dumps(image)), copy.copy(image), copy.deepcopy(image)):
        assert (other, other.raw) == (image, image.raw)


def test_pydantic_model_with_a_result_goes_to_json_and_back() -> None:
    class Card(BaseModel):
        title: str
        image: ImageResult
        more: list[Result] = []

    card = Card(title="kite", image=result(ImageResult, **SENT), more=[result(TextResult, text="hi")])
    assert card.model_dump()["image"] == json.loads(card.model_dump_json())["image"] == SENT
    again = Card.model_validate_json(card.model_dump_json())
    assert again.image == card.image
    assert again.image.raw == SENT
    with pytest.raises(ValidationError, match="seed"):
        TypeAdapter(ImageResult).validate_python({"seed": "much"})


def test_fastapi_takes_a_result_as_response_model() -> None:
    app = FastAPI()

    @app.get("/one")
    async def one() -> ImageResult:
        return result(ImageResult, **SENT)

    @app.get("/many")
    async def many() -> list[ImageResult]:
        return [result(ImageResult, **SENT)]

    either = ImageResult | VideoResult
    app.add_api_route("/both", lambda: result(VideoResult, videoURL="https://v"), response_model=either)

    async def main() -> Any:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as web:
            assert (await web.get("/one")).json() == SENT
            assert (await web.get("/many")).json() == [SENT]
            assert (await web.get("/both")).json()["videoURL"] == "https://v"
            return (await web.get("/openapi.json")).json()

    schema = anyio.run(main)
    told = schema["paths"]["/one"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert "imageURL" in json.dumps([told, schema.get("components")])


def test_pydantic_is_not_imported_by_itself() -> None:
    code = "import sys, runware_flow.results, runware_flow.types; assert 'pydantic_core' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


SVG = base64.b64encode(b"<svg xmlns='http://www.w3.org/2000/svg'/>").decode()


@pytest.mark.parametrize(
    ("shown", "html"),
    [
        (result(ImageResult, imageURL="https://i/1.jpg"), '<img src="https://i/1.jpg"'),
        (result(ImageResult, imageURL='https://i/"><script>'), '<img src="https://i/&quot;&gt;&lt;script&gt;"'),
        (result(ImageResult, imageBase64Data="AAAA"), '<img src="data:image/png;base64,AAAA"'),
        (result(ImageResult, imageBase64Data=SVG), '<img src="data:image/svg+xml;base64,'),
        (result(ImageResult, imageDataURI="data:image/webp;base64,AAAA"), '<img src="data:image/webp;base64,AAAA"'),
        (result(VideoResult, videoURL="https://v/1.mp4"), '<video src="https://v/1.mp4" controls'),
        (result(UpscaleResult, videoURL="https://v/1.mp4"), '<video src="https://v/1.mp4" controls'),
        (result(ThreeDResult, outputs={"files": [{"url": "https://m/1.glb"}]}), '<a href="https://m/1.glb">1.glb</a>'),
    ],
)
def test_notebook_shows_the_medium(shown: Any, html: str) -> None:
    assert shown._repr_html_().startswith(html)


@pytest.mark.parametrize(
    "shown",
    [
        result(ImageResult),
        result(ImageResult, imageURL="javascript:alert(1)"),
        result(ImageResult, imageDataURI="data:text/html,<script>"),
    ],
)
def test_notebook_shows_no_address_that_a_page_should_not_follow(shown: Any) -> None:
    assert shown._repr_html_() is None


def test_kept_file_stays_with_the_result() -> None:
    image = result(ImageResult, **SENT)
    attach_file(image, "kept.jpg")  # type: ignore[arg-type]
    for other in (image, pickle.loads(pickle.dumps(image)), copy.copy(image), copy.deepcopy(image)):
        assert file_of(other) == "kept.jpg"
