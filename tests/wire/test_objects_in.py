"""What users put into tasks: media and values of other libraries, recognised by their methods."""

from __future__ import annotations

import dataclasses
import enum
import io
import json
import subprocess
import sys
import uuid
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from pydantic import BaseModel, Field

from runware_flow import RunwareError
from runware_flow.client.request import prepare
from runware_flow.runner.media_digests import media_digests
from runware_flow.tasks import Caption, ImageInference
from runware_flow.wire.codec import encode, to_wire
from runware_flow.wire.pixels import Pixels

if TYPE_CHECKING:
    from pathlib import Path


def wire_of(**values: Any) -> dict[str, Any]:
    wire, local = to_wire({"taskType": "imageInference", **values})
    assert not local
    return json.loads(encode(wire))


class Size(enum.Enum):
    WIDE = 1024


class Word(enum.StrEnum):
    JPG = "JPG"


@dataclasses.dataclass
class Lora:
    model: str
    weight: float


class Settings(BaseModel):
    top_p: float = Field(default=1.0, alias="topP")
    seed: int = 7


NAME = uuid.UUID("9b61e87a-df70-40c0-8594-211cd407e83e")


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (np.int64(7), 7),
        (np.uint8(7), 7),
        (np.float32(0.5), 0.5),
        (np.bool_(1), True),
        (np.str_("kite"), "kite"),
        (np.array([1, 2]), [1, 2]),
        (np.array(3), 3),
        (Decimal("7.5"), 7.5),
        (Decimal(1024), 1024),
        (NAME, str(NAME)),
        (Size.WIDE, 1024),
        (Word.JPG, "JPG"),
        ([Lora("civitai:1@2", 0.5)], [{"model": "civitai:1@2", "weight": 0.5}]),
        (Settings(topP=0.5), {"topP": 0.5}),
    ],
)
def test_value_of_another_library_is_sent_as_json(given: Any, sent: Any) -> None:
    assert wire_of(seed=given)["seed"] == sent


@pytest.mark.parametrize("given", [object(), {1, 2}, Decimal("NaN"), np.float64("inf"), Lora, np.zeros((2, 2))])
def test_object_that_json_cannot_hold_is_refused_by_the_name_of_its_parameter(given: Any) -> None:
    with pytest.raises(RunwareError, match=r"settings\.seed") as caught:
        wire_of(settings={"seed": given})
    assert caught.value.parameter == "settings.seed"


def sources(image: Any) -> Any:
    prepared = prepare(Caption(model="runware:150@2", inputs={"image": image}))
    return prepared.local_media


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 3), (4, 6, 4)])
def test_array_is_a_png_of_its_pixels(shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    (medium,) = sources(array)
    with Image.open(io.BytesIO(medium.source.encode())) as image:
        assert (image.format, image.size) == ("PNG", (6, 4))
        assert (np.asarray(image) == array).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "F"])
def test_pillow_image_of_any_mode_is_a_png(mode: str) -> None:
    (medium,) = sources(Image.new(mode, (6, 4)))
    with Image.open(io.BytesIO(medium.source.encode())) as image:
        assert (image.format, image.size) == ("PNG", (6, 4))


def test_pillow_image_is_turned_as_its_exif_data_say() -> None:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 4)).save(file, "JPEG", exif=exif)
    (medium,) = sources(Image.open(file))
    with Image.open(io.BytesIO(medium.source.encode())) as image:
        assert image.size == (4, 6)


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 6), np.float32), np.zeros((4, 6, 2), np.uint8), np.zeros((0, 6), np.uint8), np.zeros((1, 4, 6, 3))],
)
def test_array_of_a_wrong_shape_says_which_shape_a_picture_has(array: Any) -> None:
    with pytest.raises(RunwareError, match=r"inputs\.image is an array of .*: a picture is H x W"):
        sources(array)


def test_files_and_bytes_of_every_kind_hold_the_same(tmp_path: Path) -> None:
    content = b"\x89PNG\r\n\x1a\n" + bytes(100)
    path = tmp_path / "kite.png"
    path.write_bytes(content)
    buffer = io.BytesIO()
    buffer.write(content)  # its position is at the end, as after Image.save
    for given in (content, bytearray(content), memoryview(content), buffer, buffer):
        (medium,) = sources(given)
        assert medium.source == content
    with path.open("rb") as file:
        assert [one.source for one in sources(file)] == [path]
    with path.open("r+b") as file:
        assert [one.source for one in sources(file)] == [content]
    assert [one.source for one in sources(str(path))] == [one.source for one in sources(path)] == [path]
    process = subprocess.Popen([sys.executable, "-c", "print('kite', end='')"], stdout=subprocess.PIPE)
    with process:
        assert [one.source for one in sources(process.stdout)] == [b"kite"]


@pytest.mark.parametrize(
    ("opened", "says"),
    [
        (lambda path: path.open(), 'open it with mode "rb"'),
        (lambda path: io.StringIO("kite"), 'open it with mode "rb"'),
        (lambda path: io.BytesIO(), "the file is empty"),
    ],
)
def test_file_that_cannot_be_sent_says_why(tmp_path: Path, opened: Any, says: str) -> None:
    path = tmp_path / "kite.png"
    path.write_bytes(b"kite")
    with opened(path) as file, pytest.raises(RunwareError, match=rf"inputs\.image: .*{says}"):
        sources(file)
    with pytest.raises(RunwareError, match=r"inputs\.image: the file is closed"):
        sources(file)


@pytest.mark.parametrize(
    "text",
    [
        "https://example.com/kite.jpg",
        "HTTP://example.com/kite.jpg",
        "c9d2f7a4-3a1f-4a86-9a1e-6d1a0b8a2f11",
        "data:image/png;base64,iVBORw0KGgo/abc.png",
        "iVBORw0KGgo/AAAA+BBBB==",
        "/9j/4AAQSkZJRgABAQ",
        "runware:400@1",
        "kite",
    ],
)
def test_text_that_names_no_file_is_sent_as_it_is(text: str) -> None:
    assert wire_of(inputs={"image": text, "referenceImages": [text]}, seedImage=text)["inputs"]["image"] == text


@pytest.mark.parametrize(
    "text", ["kite.jpg", "../kite", "/data/kite", "~/kite", "C:\\kite", "pictures/kite.webp", "düne.png"]
)
def test_text_that_looks_like_a_path_is_a_file(text: str) -> None:
    given = {"inputs": {"image": text, "referenceImages": [text], "frameImages": [{"image": text, "frame": "first"}]}}
    _, local = to_wire({"taskType": "imageInference", "positivePrompt": "like kite.jpg", **given})
    assert [str(medium.source) for medium in local] == [text] * 3
    assert not sources_of_prompt(text)


def sources_of_prompt(text: str) -> Any:
    return to_wire(ImageInference(model="m", positive_prompt=text))[1]


def digest(image: Any) -> str:
    prepared = prepare(Caption(model="runware:150@2", inputs={"image": image}))
    ((_, found),) = media_digests(prepared)
    return found


def test_picture_in_memory_is_known_by_its_pixels_in_every_process() -> None:
    code = """
import numpy as np
from PIL import Image
from tests.wire.test_objects_in import digest
print(digest(np.full((4, 6, 3), 7, np.uint8)), digest(Image.new("RGB", (6, 4), (7, 7, 7))))
"""
    again = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    pictures = [np.full((4, 6, 3), 7, np.uint8), Image.new("RGB", (6, 4), (7, 7, 7))]
    assert again == [digest(picture) for picture in pictures]
    others = [np.full((6, 4, 3), 7, np.uint8), np.full((4, 6, 3), 8, np.uint8), Image.new("RGB", (4, 6), (7, 7, 7))]
    assert len({*again, *map(digest, others)}) == 5


def test_pictures_that_are_sent_differently_have_different_digests():
    plain = Image.new("RGB", (4, 2), "red")
    plain.putpixel((0, 0), (0, 0, 255))
    turned = plain.copy()
    turned.getexif()[0x0112] = 6
    palette = plain.convert("P")
    clear = palette.copy()
    clear.info["transparency"] = 0
    pictures = [Pixels(image) for image in (plain, turned, palette, clear)]
    assert len({one.encode() for one in pictures}) == len({one.digest() for one in pictures}) == 4
    assert Pixels(plain.copy()).digest() == pictures[0].digest()
