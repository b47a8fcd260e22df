"""Makes small valid files other than pictures: sound as WAV, 3D as GLB, drawings as SVG, films as Motion JPEG."""

from __future__ import annotations

import io
import json
import math
import struct
import wave
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from runware_flow.emulator.media.films import write_film
from runware_flow.emulator.media.pictures import encode, render, resize

if TYPE_CHECKING:
    from collections.abc import Callable

    from runware_flow.emulator.media.store import Medium, Recipe

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
        "film": write_film,
        "weights": _weights,
    }
    if recipe.process in makers:
        return makers[recipe.process](recipe, medium.format)
    if recipe.process == "stored" and recipe.format == medium.format:
        return recipe.data
    return encode(recipe, medium.format, medium.quality)


def _weights(_recipe: Recipe, _format: str) -> bytes:
    """A safetensors file without a tensor: the length of its header, and the header."""
    return struct.pack("<Q", 2) + b"{}"


def _tone(recipe: Recipe, _format: str) -> bytes:
    """A soft tone, its pitch from the seed; `detail` has its seconds (10 are made at most), its rate and channels."""
    seconds, rate, channels = (*map(float, recipe.detail.split(",")), 8_000.0, 1.0)[:3]
    rate, channels = min(48_000, max(8_000, int(rate))), min(2, max(1, int(channels)))
    count = int(rate * min(10.0, max(0.1, seconds)))
    pitch = 220.0 * 2 ** ((recipe.seed % 24) / 12)
    period = max(1, round(rate / pitch))
    wave_ = b"".join(
        struct.pack("<h", int(8_000 * math.sin(2 * math.pi * at / period))) * channels for at in range(period)
    )
    whole, rest = divmod(count, period)
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(wave_ * whole + wave_[: rest * 2 * channels])
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
