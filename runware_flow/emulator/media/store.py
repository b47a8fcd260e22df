"""The storage of the emulated service: media as recipes, drawn only when they are fetched.

A picture is a description of how to make it. Captions are read off that description, and a picture is rendered (see
`pictures.py`) when its address is fetched, when its data was asked for, or when it goes where a real picture must.
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from urllib.parse import urlsplit

__all__ = ("MediaStore", "Medium", "Recipe", "make_uuid")


def make_uuid(*parts: object) -> str:
    """Return a UUID version 4 that depends on nothing but `parts`."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return str(uuid.UUID(bytes=digest[:16], version=4))


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a picture is made.

    Attributes:
        process: `generated`, `resized`, `cutout`, `mask`, `guide`, or `stored` (then `data` has its bytes).
        prompt: the words it shows, handed down by whatever is made from it.
        source: the picture it is made from.
        detail: what the process needs beyond that (the name of a preprocessor, say).
    """

    process: str
    width: int
    height: int
    prompt: str = ""
    seed: int = 0
    source: Recipe | None = None
    detail: str = ""
    data: bytes = b""
    format: str = "PNG"

    def derived(self, process: str, *, width: int = 0, height: int = 0, detail: str = "") -> Recipe:
        """Return the recipe of what a process makes from this; of the same size, unless one is given."""
        size = (width or self.width, height or self.height)
        return Recipe(
            process=process,
            width=size[0],
            height=size[1],
            prompt=self.prompt,
            seed=self.seed,
            source=self,
            detail=detail,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Medium:
    """Something with an address: a picture by its recipe, or a file by its bytes."""

    medium_id: str
    path: str
    format: str
    recipe: Recipe | None = None
    data: bytes = b""
    quality: int = 95
    expires_at: float | None = None

    @property
    def content_type(self) -> str:
        """The MIME type it is served with."""
        return CONTENT_TYPES.get(self.format, "application/octet-stream")


CONTENT_TYPES = {
    "JPG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "SVG": "image/svg+xml",
    "WAV": "audio/wav",
    "MP3": "audio/mpeg",
    "FLAC": "audio/flac",
    "OGG": "audio/ogg",
    "MP4": "video/mp4",
    "WEBM": "video/webm",
    "MOV": "video/quicktime",
    "GLB": "model/gltf-binary",
    "SAFETENSORS": "application/octet-stream",
    "GIF": "image/gif",
    "BMP": "image/bmp",
}


class MediaStore:
    """The media of one service, by UUID; the last part of an address is the UUID and an extension."""

    def __init__(self, *, retained: int = 800_000) -> None:
        """Args: retained: how many media are kept; the oldest are forgotten first."""
        self._media: dict[str, Medium] = {}
        self._retained = retained

    def __len__(self) -> int:
        return len(self._media)

    def add(self, medium: Medium) -> Medium:
        """Store `medium` under its id."""
        self._media[medium.medium_id] = medium
        if len(self._media) > self._retained:
            del self._media[next(iter(self._media))]
        return medium

    def remove(self, medium_id: str) -> bool:
        """Forget a medium; False if there was none."""
        return self._media.pop(medium_id.lower(), None) is not None

    def by_id(self, medium_id: str, now: float) -> Medium | None:
        """Return the medium of that UUID unless its time to live is over."""
        medium = self._media.get(medium_id.lower())
        if medium is None or (medium.expires_at is not None and now >= medium.expires_at):
            return None
        return medium

    def by_path(self, path: str, now: float) -> Medium | None:
        """Return the medium at that path, or None; the extension must be right too."""
        name = urlsplit(path).path.rsplit("/", 1)[-1]
        medium = self.by_id(name.rpartition(".")[0], now)
        return medium if medium is not None and medium.path.endswith(name) else None
