"""Makes short valid films: Motion JPEG, as MP4 (ISO/IEC 14496-12 and -14) or as a QuickTime movie.

No light library writes H.264. Motion JPEG is a registered codec of MP4 (object type 0x6C), and ffmpeg, VLC and what is
built on them play it; browsers do not.
"""

from __future__ import annotations

import struct

from runware_flow.emulator.media.pictures import encode
from runware_flow.emulator.media.store import Recipe

__all__ = ("write_film",)

_MATRIX = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
_SCALE = 600
_JPEG_IN_MP4 = 0x6C


def write_film(recipe: Recipe, format_: str) -> bytes:
    """Return a film (blocking): the picture of the prompt, drawn anew for each second; `detail` starts with how many.

    At most 10 seconds are made, and no side is longer than 640 pixels.
    """
    seconds = max(1, min(10, round(float(recipe.detail.split(",")[0] or 2))))
    width, height = min(640, recipe.width), min(640, recipe.height)
    prompt = recipe.prompt or "film"
    stills = [
        encode(
            Recipe(process="generated", width=width, height=height, prompt=prompt, seed=recipe.seed + second),
            "JPG",
            80,
        )
        for second in range(seconds)
    ]
    return _write(stills, width, height, is_quicktime=format_ == "MOV")


def _atom(name: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), name) + body


def _write(stills: list[bytes], width: int, height: int, *, is_quicktime: bool) -> bytes:
    """Write JPEG stills, one second each, before the tables that say where they are."""
    duration = _SCALE * len(stills)
    brands = (b"qt  ", b"qt  ") if is_quicktime else (b"isom", b"isommp42")
    kind = _atom(b"ftyp", brands[0], struct.pack(">I", 0x200), brands[1])
    media_info = _atom(
        b"minf",
        _atom(b"vmhd", struct.pack(">I8x", 1)),
        _atom(b"dinf", _atom(b"dref", struct.pack(">II", 0, 1), _atom(b"url ", struct.pack(">I", 1)))),
        _tables(stills, len(kind) + 8, _sample_entry(width, height, is_quicktime=is_quicktime)),
    )
    handler = struct.pack(">I4s4s12x", 0, b"mhlr" if is_quicktime else bytes(4), b"vide")
    language = 0 if is_quicktime else 0x55C4  # "und"
    media = _atom(
        b"mdia",
        _atom(b"mdhd", struct.pack(">IIIIIHH", 0, 0, 0, _SCALE, duration, language, 0)),
        _atom(b"hdlr", handler, b"\0"),
        media_info,
    )
    track_head = struct.pack(">IIIIII8xHHHH", 7, 0, 0, 1, 0, duration, 0, 0, 0, 0)
    track = _atom(b"trak", _atom(b"tkhd", track_head, _MATRIX, struct.pack(">II", width << 16, height << 16)), media)
    movie_head = struct.pack(">IIIIIIH10x", 0, 0, 0, _SCALE, duration, 0x10000, 0x100)
    movie = _atom(b"moov", _atom(b"mvhd", movie_head, _MATRIX, bytes(24), struct.pack(">I", 2)), track)
    return kind + _atom(b"mdat", *stills) + movie


def _tables(stills: list[bytes], offset: int, entry: bytes) -> bytes:
    count = len(stills)
    offsets = [offset + sum(len(still) for still in stills[:at]) for at in range(count)]
    return _atom(
        b"stbl",
        _atom(b"stsd", struct.pack(">II", 0, 1), entry),
        _atom(b"stts", struct.pack(">IIII", 0, 1, count, _SCALE)),
        _atom(b"stsc", struct.pack(">IIIII", 0, 1, 1, 1, 1)),
        _atom(b"stsz", struct.pack(">III", 0, 0, count), *(struct.pack(">I", len(still)) for still in stills)),
        _atom(b"stco", struct.pack(">II", 0, count), *(struct.pack(">I", at) for at in offsets)),
    )


def _sample_entry(width: int, height: int, *, is_quicktime: bool) -> bytes:
    """Say how the samples are coded: `jpeg` in QuickTime, in MP4 `mp4v` with the object type of JPEG."""
    vendor = (b"rwfl", 0, 512) if is_quicktime else (bytes(4), 0, 0)
    fields = (1, 0, 0, *vendor, width, height, 0x480000, 0x480000, 0, 1, b"\4jpeg", 24, -1)
    entry = struct.pack(">6xH2H4s2IHHIIIH32sHh", *fields)
    if is_quicktime:
        return _atom(b"jpeg", entry)
    decoder = struct.pack(">BB3xII", _JPEG_IN_MP4, 0x11, 0, 0)
    described = struct.pack(">HB", 1, 0) + _descriptor(4, decoder) + _descriptor(6, b"\2")
    return _atom(b"mp4v", entry, _atom(b"esds", bytes(4), _descriptor(3, described)))


def _descriptor(tag: int, body: bytes) -> bytes:
    return bytes([tag, len(body)]) + body
