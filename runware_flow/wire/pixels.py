"""Pictures in memory, of Pillow or as arrays: their hashes and their encoded files.

By duck typing: an array is what has `__array_interface__` (numpy and all that follow it), a Pillow image also has a
mode. Pillow encodes both, as PNG, which loses nothing.
"""

from __future__ import annotations

import hashlib
import io
from typing import Any

__all__ = ("Pixels", "array_problem", "is_array", "is_pillow_image")


def _has_pixels(value: object) -> bool:
    # Asked of the class: the property of a Pillow image copies the picture.
    return hasattr(type(value), "__array_interface__")


def is_pillow_image(value: Any) -> bool:
    """Tell whether `value` is an image of Pillow."""
    return _has_pixels(value) and hasattr(value, "mode") and hasattr(value, "tobytes")


def is_array(value: Any) -> bool:
    """Tell whether `value` is an array, or a scalar, of numpy's kind."""
    return _has_pixels(value) and hasattr(value, "tobytes")


def array_problem(array: Any) -> str | None:
    """Say why an array is no picture; `None` if it is one."""
    facts: dict[str, Any] = array.__array_interface__
    shape, kind = tuple(facts["shape"]), str(facts["typestr"])
    is_picture = len(shape) == 2 or (len(shape) == 3 and shape[2] in (3, 4))
    if kind.lstrip("|<>") == "u1" and is_picture and 0 not in shape:
        return None
    spelled = " x ".join(map(str, shape))
    return f"is an array of {spelled} ({array.dtype}): a picture is H x W, H x W x 3 or H x W x 4, of uint8"


class Pixels:
    """A picture in memory that becomes a file when it is sent."""

    def __init__(self, source: Any) -> None:
        """Args: source: an image of Pillow, or an array that is a picture."""
        self.source = source

    def __repr__(self) -> str:
        return f"a picture of {type(self.source).__module__.partition('.')[0]}"

    def digest(self) -> str:
        """A hash of the pixels, the same in all processes and with all versions of Pillow."""
        if is_pillow_image(self.source):
            image = self._prepared()
            facts = f"{image.mode} {image.size} {image.getpalette()} {image.info.get('transparency')!r}"
            pixels = image.tobytes()
        else:
            facts, pixels = str(self.source.__array_interface__["shape"]), self.source.tobytes()
        found = hashlib.sha256(facts.encode())
        found.update(pixels)
        return found.hexdigest()

    def encode(self) -> bytes:
        """The picture as the bytes of a PNG, turned as its EXIF data say.

        Raises:
            ImportError: an array, and there is no Pillow.
            OSError, ValueError: Pillow cannot read or write it.
        """
        file = io.BytesIO()
        self._prepared().save(file, "PNG", compress_level=1)
        return file.getvalue()

    def _prepared(self) -> Any:
        """The picture as it is written: turned as its EXIF data say, in a mode that PNG has."""
        from PIL import Image, ImageOps

        image = ImageOps.exif_transpose(self.source if is_pillow_image(self.source) else Image.fromarray(self.source))
        if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
            image = image.convert("RGBA" if image.mode in ("RGBa", "PA", "La") else "RGB")
        return image
