"""Files that are not pictures, made small and valid: sound as WAV, 3D as GLB, drawings as SVG, films as Motion JPEG."""

from __future__ import annotations

import io
import json
import math
import struct
import wave
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from runware_flow.emulator.gallery import Medium, Recipe
from runware_flow.emulator.pictures import encode, render, resize

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("make_file",)


def make_file(medium: Medium) -> bytes:
    """Return the bytes of a medium (blocking: call it in a thread)."""
    recipe = medium.recipe
    if recipe is None:
        return medium.data
    makers: dict[str, Callable[[Recipe, str], bytes]] = {
        "tone": _tone,
        "solid": _solid,
        "vector": _vector,
        "film": _film,
    }
    if recipe.process in makers:
        return makers[recipe.process](recipe, medium.format)
    if recipe.process == "stored" and recipe.format == medium.format:
        return recipe.data
    return encode(recipe, medium.format, medium.quality)


def _tone(recipe: Recipe, _format: str) -> bytes:
    """A soft tone, its pitch from the seed, `detail` seconds long (10 at most)."""
    rate = 8_000
    count = int(rate * min(10.0, float(recipe.detail or 2)))
    pitch = 220.0 * 2 ** ((recipe.seed % 24) / 12)
    samples = (int(8_000 * math.sin(2 * math.pi * pitch * at / rate)) for at in range(count))
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(b"".join(struct.pack("<h", sample) for sample in samples))
    return out.getvalue()


def _solid(recipe: Recipe, _format: str) -> bytes:
    """A GLB with one triangle, and the prompt in its `extras`."""
    points = struct.pack("<9f", 0, 0, 0, 1, 0, 0, 0, 1, 0)
    document = {
        "asset": {"version": "2.0", "generator": "runware_flow emulator", "extras": {"prompt": recipe.prompt}},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
        "buffers": [{"byteLength": len(points)}],
        "bufferViews": [{"buffer": 0, "byteLength": len(points)}],
        "accessors": [
            {
                "bufferView": 0,
                "componentType": 5126,
                "count": 3,
                "type": "VEC3",
                "min": [0, 0, 0],
                "max": [1, 1, 0],
            }
        ],
    }
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(points), 0x004E4942) + points
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def _vector(recipe: Recipe, _format: str) -> bytes:
    """An SVG of coloured squares, traced from the picture shrunk to 24 columns."""
    columns, rows = 24, max(1, round(24 * recipe.height / max(1, recipe.width)))
    source = resize(render(recipe.source or recipe).convert("RGB"), (columns, rows))
    raw = source.tobytes()
    colours = [raw[at : at + 3].hex() for at in range(0, len(raw), 3)]
    squares = "".join(
        f'<rect x="{at % columns}" y="{at // columns}" width="1.02" height="1.02" fill="#{colour}"/>'
        for at, colour in enumerate(colours)
    )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{recipe.width}" height="{recipe.height}"'
    return f'{head} viewBox="0 0 {columns} {rows}"><title>{escape(recipe.prompt)}</title>{squares}</svg>'.encode()


def _film(recipe: Recipe, _format: str) -> bytes:
    """A Motion JPEG film in a QuickTime container: the picture of the prompt, drawn anew for each second."""
    seconds = max(1, min(10, round(float(recipe.detail or 2))))
    width, height = min(640, recipe.width), min(640, recipe.height)
    stills = [
        encode(
            Recipe(
                process="generated",
                width=width,
                height=height,
                prompt=recipe.prompt or "film",
                seed=recipe.seed + second,
            ),
            "JPG",
            80,
        )
        for second in range(seconds)
    ]
    return _quicktime(stills, width, height)


def _atom(name: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), name) + body


_MATRIX = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)


def _quicktime(stills: list[bytes], width: int, height: int) -> bytes:
    """Write JPEG stills, one second each, as a QuickTime file (QuickTime File Format, 2001, chapters 2 and 3)."""
    scale, duration = 600, 600 * len(stills)
    kind = _atom(b"ftyp", b"qt  ", struct.pack(">I", 0x200), b"qt  ")
    offset = len(kind) + 8
    entry = struct.pack(
        ">6xH2H4s2IHHIIIH32sHh", 1, 0, 0, b"rwfl", 0, 512, width, height, 0x480000, 0x480000, 0, 1, b"\4jpeg", 24, -1
    )
    offsets = [offset + sum(len(still) for still in stills[:at]) for at in range(len(stills))]
    table = _atom(
        b"stbl",
        _atom(b"stsd", struct.pack(">II", 0, 1), _atom(b"jpeg", entry)),
        _atom(b"stts", struct.pack(">IIII", 0, 1, len(stills), scale)),
        _atom(b"stsc", struct.pack(">IIIII", 0, 1, 1, 1, 1)),
        _atom(b"stsz", struct.pack(">III", 0, 0, len(stills)), *(struct.pack(">I", len(still)) for still in stills)),
        _atom(b"stco", struct.pack(">II", 0, len(stills)), *(struct.pack(">I", at) for at in offsets)),
    )
    data = _atom(b"dinf", _atom(b"dref", struct.pack(">II", 0, 1), _atom(b"url ", struct.pack(">I", 1))))
    handler = _atom(b"hdlr", struct.pack(">I4s4s12x", 0, b"mhlr", b"vide"), b"\0")
    media_info = _atom(b"minf", _atom(b"vmhd", struct.pack(">I8x", 1)), data, table)
    media = _atom(b"mdia", _atom(b"mdhd", struct.pack(">IIIIIHH", 0, 0, 0, scale, duration, 0, 0)), handler, media_info)
    track_head = struct.pack(">IIIIII8xHHHH", 7, 0, 0, 1, 0, duration, 0, 0, 0, 0)
    track = _atom(b"trak", _atom(b"tkhd", track_head, _MATRIX, struct.pack(">II", width << 16, height << 16)), media)
    movie_head = struct.pack(">IIIIIIH10x", 0, 0, 0, scale, duration, 0x10000, 0x100)
    movie = _atom(b"moov", _atom(b"mvhd", movie_head, _MATRIX, bytes(24), struct.pack(">I", 2)), track)
    return kind + _atom(b"mdat", *stills) + movie
