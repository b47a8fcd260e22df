"""Pictures: real, the same for the same request, and telling what they show."""

from __future__ import annotations

import io
import json
import struct
import wave

import av
import pytest
from PIL import Image

from runware_flow.emulator.media.files import make_file
from runware_flow.emulator.media.pictures import encode, find_subjects, read_picture, render
from runware_flow.emulator.media.store import Medium, Recipe
from runware_flow.emulator.problems import Problem
from runware_flow.emulator.service.texts import describe


def batched(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def recipe(prompt: str = "a red kite over a long beach", **changes) -> Recipe:
    return Recipe(**{"process": "generated", "width": 320, "height": 192, "prompt": prompt, "seed": 5, **changes})


@pytest.mark.parametrize("format_", ["JPG", "PNG", "WEBP"])
def test_picture_is_the_same_for_the_same_prompt_size_and_seed(format_) -> None:
    first, again = encode(recipe(), format_), encode(recipe(), format_)
    assert first == again
    assert first != encode(recipe(seed=6), format_)
    assert first != encode(recipe("a blue kite"), format_)
    opened = Image.open(io.BytesIO(first))
    assert opened.size == (320, 192)
    assert opened.format == {"JPG": "JPEG"}.get(format_, format_)


def test_picture_shows_its_prompt_in_white_letters() -> None:
    plain, written = render(recipe("")), render(recipe("A KITE"))
    white = [pixel for pixel in batched(written.tobytes(), 3) if min(pixel) > 240]
    assert len(white) > 100
    assert plain.tobytes() != written.tobytes()


@pytest.mark.parametrize("prompt", ["x" * 3000, "word " * 600, "ß 東京 🏠", "a\nb\tc", "<b>&amp;"])
def test_picture_takes_any_prompt(prompt) -> None:
    assert encode(recipe(prompt, width=128, height=128), "JPG")


@pytest.mark.parametrize("format_", ["JPG", "PNG", "WEBP"])
def test_picture_read_back_tells_its_prompt(format_) -> None:
    read = read_picture(encode(recipe("“Türkiye” 東京"), format_), parameter="inputs.image")
    assert (read.prompt, read.seed, read.width) == ("“Türkiye” 東京", 5, 320)
    assert "“Türkiye” 東京" in describe(read)


def test_picture_from_elsewhere_is_described_by_its_pixels() -> None:
    out = io.BytesIO()
    Image.new("RGB", (40, 30), (30, 60, 210)).save(out, "PNG")
    assert (
        describe(read_picture(out.getvalue(), parameter="x"))
        == "A picture, mostly blue, 40 x 30 pixels, in PNG format."
    )


def test_upscaled_picture_is_the_source_resized_and_keeps_its_words() -> None:
    small = recipe()
    big = Recipe(process="resized", width=640, height=384, prompt=small.prompt, seed=small.seed, source=small)
    back = render(big).resize((320, 192))
    difference = sum(abs(a - b) for a, b in zip(back.tobytes(), render(small).tobytes(), strict=True))
    assert difference / len(back.tobytes()) < 4
    assert read_picture(encode(big, "JPG"), parameter="x").prompt == small.prompt


def test_background_is_removed_with_an_alpha_channel() -> None:
    cut = render(Recipe(process="cutout", width=320, height=192, source=recipe()))
    assert cut.mode == "RGBA"
    alpha = cut.getchannel("A").getextrema()
    assert alpha == (0, 255)


@pytest.mark.parametrize("data", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 40, b"GIF89a"])
def test_bytes_that_are_no_picture_are_a_problem(data) -> None:
    with pytest.raises(Problem) as caught:
        read_picture(data, parameter="inputs.image")
    assert caught.value.parameter == "inputs.image"


def test_picture_cut_short_is_a_problem() -> None:
    data = encode(recipe(), "PNG")
    with pytest.raises(Problem):
        read_picture(data[: len(data) // 2], parameter="x")


def test_huge_picture_is_refused_before_it_is_decoded() -> None:
    out = io.BytesIO()
    Image.new("1", (9000, 9000)).save(out, "PNG")
    with pytest.raises(Problem) as caught:
        read_picture(out.getvalue(), parameter="x")
    assert caught.value.code == "valueTooLarge"


def medium(format_: str, **changes) -> Medium:
    return Medium(medium_id="m", path=f"/x/m.{format_.lower()}", format=format_, recipe=recipe(**changes))


def test_other_media_are_valid_files() -> None:
    with wave.open(io.BytesIO(make_file(medium("WAV", process="tone", detail="1"))), "rb") as sound:
        assert sound.getnframes() == sound.getframerate()
    solid = make_file(medium("GLB", process="solid"))
    magic, version, length = struct.unpack("<4sII", solid[:12])
    assert (magic, version, length) == (b"glTF", 2, len(solid))
    size = struct.unpack("<I", solid[12:16])[0]
    assert json.loads(solid[20 : 20 + size])["asset"]["version"] == "2.0"
    drawing = make_file(medium("SVG", process="vector", source=recipe()))
    assert drawing.startswith(b"<svg ")


@pytest.mark.parametrize("format_", ["MP4", "MOV"])
def test_film_plays_in_ffmpeg(format_) -> None:
    film = make_file(medium(format_, process="film", detail="3"))
    assert film[4:12] == {"MP4": b"ftypisom", "MOV": b"ftypqt  "}[format_]
    with av.open(io.BytesIO(film)) as opened:
        (stream,) = opened.streams
        frames = [frame.to_image() for frame in opened.decode(stream)]
        assert stream.codec_context.name == "mjpeg"
        assert float(opened.duration / av.time_base) == 3.0
    assert [frame.size for frame in frames] == [(320, 192)] * 3
    assert len({frame.tobytes() for frame in frames}) == 3


def test_sound_plays_in_ffmpeg_at_the_rate_that_was_asked_for() -> None:
    sound = make_file(medium("WAV", process="tone", detail="1.5,22050,2"))
    with av.open(io.BytesIO(sound)) as opened:
        (stream,) = opened.streams
        assert (stream.rate, stream.channels) == (22050, 2)
        assert sum(frame.samples for frame in opened.decode(stream)) == 33075


def test_mask_says_where_its_subjects_are() -> None:
    masked = Recipe(process="mask", width=320, height=192, source=recipe())
    (box,) = find_subjects(masked)
    white = render(masked).convert("L").crop((box["x_min"], box["y_min"], box["x_max"], box["y_max"]))
    assert white.getbbox() == (0, 0, *white.size)
    assert render(masked).convert("L").point([0] * 255 + [1]).getbbox() == tuple(box.values())


def test_background_is_a_colour_where_one_was_asked_for_and_white_in_a_jpeg() -> None:
    cut = Recipe(process="cutout", width=320, height=192, source=recipe())
    mask = render(cut).getchannel("A")
    outside = next((x, y) for y in range(192) for x in range(320) if mask.getpixel((x, y)) == 0)
    red = Recipe(process="cutout", width=320, height=192, source=recipe(), detail="255,0,0,1")
    assert render(red).getpixel(outside) == (255, 0, 0, 255)
    jpeg = Image.open(io.BytesIO(encode(cut, "JPG")))
    assert min(jpeg.getpixel(outside)) > 230
