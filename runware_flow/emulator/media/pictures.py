"""Draws pictures with Pillow: real images, the same for the same prompt, size and seed.

The prompt is drawn into the picture, so that a person and a test can see which picture it is, and written into its
metadata, so that a caption can tell what it shows after it was downloaded and sent back. All functions block: call
them in a thread. Pillow is imported on first use.
"""

from __future__ import annotations

import base64
import colorsys
import hashlib
import io
import json
from typing import TYPE_CHECKING, Any

from runware_flow.emulator.jsonvalues import as_object
from runware_flow.emulator.media.store import Recipe
from runware_flow.emulator.problems import Problem

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

__all__ = ("as_data_uri", "encode", "find_subjects", "read_picture", "render", "resize")

MAX_PIXELS = 64_000_000
"""A picture with more pixels than this is refused before it is decoded."""

_PILLOW_NAMES = {"JPG": "JPEG", "PNG": "PNG", "WEBP": "WEBP", "BMP": "BMP", "GIF": "GIF"}
_FORMATS = {"JPEG": "JPG", "MPO": "JPG", "PNG": "PNG", "WEBP": "WEBP", "BMP": "BMP", "GIF": "GIF"}
_MARK = "runware_flow emulator"


def render(recipe: Recipe) -> Image.Image:
    """Draw the picture that a recipe describes."""
    if recipe.process == "stored":
        return _decode(recipe.data)
    if recipe.process == "generated":
        return _generate(recipe)
    if recipe.source is None:
        raise Problem("internalServerError", f"The process {recipe.process!r} needs a source.")
    source = render(recipe.source)
    if recipe.process == "cutout":
        return _cut_out(source, recipe.detail)
    if recipe.process == "mask":
        return _mask(source)
    if recipe.process == "guide":
        return _guide(source, recipe.detail)
    from PIL import Image

    return resize(source, (recipe.width, recipe.height), resample=Image.Resampling.LANCZOS)


def resize(image: Any, size: tuple[int, int], **options: Any) -> Image.Image:
    """Return `image` in that size. Pillow's own signature names types of numpy, which is not needed here."""
    resized: Image.Image = image.resize(size, **options)
    return resized


def _threshold(image: Any, level: int) -> Image.Image:
    """Return black below `level`, white from it on."""
    result: Image.Image = image.point([0] * level + [255] * (256 - level))
    return result


def encode(recipe: Recipe, format_: str, quality: int = 95) -> bytes:
    """Draw a picture and encode it as JPG, PNG or WEBP (BMP or GIF for uploads), with what it shows in its metadata."""
    if recipe.process == "stored" and recipe.format == format_:
        return recipe.data
    image = render(recipe)
    note = json.dumps(
        {"made by": _MARK, "prompt": recipe.prompt, "seed": recipe.seed, "width": recipe.width, "height": recipe.height}
    )
    options: dict[str, Any] = {"quality": quality}
    if format_ == "JPG":
        image = _flatten(image)
        options["comment"] = note.encode()
    elif format_ == "PNG":
        from PIL import PngImagePlugin

        text = PngImagePlugin.PngInfo()
        text.add_itxt("Comment", note)
        options = {"pnginfo": text, "compress_level": 1}
    elif format_ == "WEBP":
        options["method"] = 0
        options["xmp"] = note.encode()
    out = io.BytesIO()
    image.save(out, _PILLOW_NAMES[format_], **options)
    return out.getvalue()


def _flatten(image: Image.Image) -> Image.Image:
    """Put a picture with an alpha channel on white: JPEG has none."""
    if image.mode != "RGBA":
        return image.convert("RGB")
    from PIL import Image

    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def read_picture(data: bytes, *, parameter: str) -> Recipe:
    """Read a picture that a client sent: its size, format, and the prompt if it was drawn here.

    Raises:
        Problem: the bytes are no picture that the service takes (jpeg, png, webp, bmp, gif [doc]).
    """
    image = _decode(data, parameter=parameter)
    format_ = _FORMATS[str(image.format)]
    note = _note(image)
    prompt = str(note.get("prompt", ""))
    detail = "" if prompt else _dominant_colour(image)
    seed = note.get("seed")
    return Recipe(
        process="stored",
        width=image.width,
        height=image.height,
        prompt=prompt,
        seed=seed if isinstance(seed, int) else 0,
        detail=detail,
        data=data,
        format=format_,
    )


def _decode(data: bytes, *, parameter: str = "inputs.image") -> Image.Image:
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP", "BMP", "GIF"))
        if image.width * image.height > MAX_PIXELS:
            raise Problem("valueTooLarge", "The image has too many pixels.", parameter=parameter)
        image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        message = f"The value of '{parameter}' cannot be read as an image."
        raise Problem("invalidParameter", message, parameter=parameter, type="media") from error
    return image


def _note(image: Image.Image) -> dict[str, Any]:
    for key in ("Comment", "comment", "xmp"):
        found = image.info.get(key)
        text = found.decode("utf-8", "replace") if isinstance(found, bytes) else found
        if isinstance(text, str) and _MARK in text:
            try:
                note = json.loads(text)
            except ValueError:
                return {}
            return as_object(note)
    return {}


_COLOURS = {
    "black": (0, 0, 0),
    "white": (255, 255, 255),
    "grey": (128, 128, 128),
    "red": (200, 30, 30),
    "orange": (240, 140, 30),
    "yellow": (240, 220, 50),
    "green": (40, 150, 60),
    "cyan": (40, 200, 210),
    "blue": (40, 70, 200),
    "purple": (130, 50, 170),
    "pink": (240, 130, 180),
    "brown": (120, 75, 40),
}


def _dominant_colour(image: Image.Image) -> str:
    pixel = resize(image.convert("RGB"), (1, 1)).getpixel((0, 0))
    red, green, blue = pixel if isinstance(pixel, tuple) else (128, 128, 128)
    distances = {name: (red - r) ** 2 + (green - g) ** 2 + (blue - b) ** 2 for name, (r, g, b) in _COLOURS.items()}
    return min(distances, key=lambda name: distances[name])


def _generate(recipe: Recipe) -> Image.Image:
    """Draw two colours that run into each other, a few shapes, and the prompt on a dark band."""
    from PIL import Image, ImageDraw

    key = f"{recipe.prompt}\0{recipe.width}x{recipe.height}\0{recipe.seed}"
    digest = hashlib.sha256(key.encode()).digest()
    size = (recipe.width, recipe.height)
    if recipe.source is None:
        first, second = (_colour(digest[at], digest[at + 1]) for at in (0, 2))
        ramp = resize(Image.linear_gradient("L").rotate(90 * (digest[4] % 4)), size)
        image = Image.composite(Image.new("RGB", size, first), Image.new("RGB", size, second), ramp)
    else:
        image = resize(render(recipe.source).convert("RGB"), size)
    draw = ImageDraw.Draw(image)
    for at in range(5, 29, 6):
        x, y = digest[at] * recipe.width // 256, digest[at + 1] * recipe.height // 256
        radius = (16 + digest[at + 2] % 64) * min(size) // 256
        box = (x - radius, y - radius, x + radius, y + radius)
        fill = _colour(digest[at + 3], digest[at + 4])
        (draw.ellipse if digest[at + 5] % 2 else draw.rectangle)(box, fill=fill)
    return _write(image, recipe.prompt) if recipe.prompt else image


def _colour(hue: int, shade: int) -> tuple[int, int, int]:
    red, green, blue = colorsys.hls_to_rgb(hue / 256, 0.35 + shade / 640, 0.55)
    return int(red * 255), int(green * 255), int(blue * 255)


def _write(image: Image.Image, text: str) -> Image.Image:
    """Draw `text`, wrapped, in the largest size at which all of it fits, white on a darkened band."""
    from PIL import Image, ImageDraw

    draw = ImageDraw.Draw(image)
    lines, font, height = _fit(draw, text, image.width, image.height)
    band = len(lines) * height + height
    top = (image.height - band) // 2
    box = (0, max(0, top), image.width, min(image.height, top + band))
    shade = Image.new("RGB", (box[2] - box[0], box[3] - box[1]), (16, 16, 24))
    image.paste(Image.blend(image.crop(box), shade, 0.65), box)
    for number, line in enumerate(lines):
        x = (image.width - draw.textlength(line, font=font)) / 2
        draw.text((x, top + height / 2 + number * height), line, font=font, fill=(255, 255, 255))
    return image


def _fit(
    draw: ImageDraw.ImageDraw, text: str, width: int, height: int
) -> tuple[list[str], ImageFont.FreeTypeFont | ImageFont.ImageFont, int]:
    from PIL import ImageFont

    shown = text if len(text) <= 600 else text[:599] + "…"
    size = max(10, width // 14)
    while True:
        font = ImageFont.load_default(size)
        lines = _wrap(draw, shown, font, width * 0.9)
        line_height = round(size * 1.25)
        if size <= 9 or (len(lines) + 1) * line_height <= height:
            return lines, font, line_height
        size = size * 4 // 5


def _wrap(
    draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float
) -> list[str]:
    lines = [""]
    pieces = (word[at : at + 24] for word in text.split() for at in range(0, len(word), 24))
    for word in pieces:
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and draw.textlength(longer, font=font) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _mask(source: Image.Image) -> Image.Image:
    """White where the subject is: what differs most from the colour of the border, or the middle if nothing does."""
    from PIL import Image, ImageChops, ImageDraw

    picture = source.convert("RGB")
    border = resize(picture, (1, 1), box=(0, 0, picture.width, max(1, picture.height // 20)))
    difference = ImageChops.difference(picture, resize(border, picture.size)).convert("L")
    mask = _threshold(difference, 48)
    if mask.getbbox() is None:
        mask = Image.new("L", picture.size, 0)
        quarter = (picture.width // 4, picture.height // 4, picture.width * 3 // 4, picture.height * 3 // 4)
        ImageDraw.Draw(mask).ellipse(quarter, fill=255)
    return mask


def _cut_out(source: Image.Image, background: str) -> Image.Image:
    """The subject alone, or in front of a colour, given as `red,green,blue,alpha` with alpha from 0 to 1."""
    from PIL import Image

    picture = source.convert("RGBA")
    picture.putalpha(_mask(source))
    if background:
        red, green, blue, alpha = (*map(float, background.split(",")), 0.0, 0.0, 0.0, 1.0)[:4]
        colour = (int(red), int(green), int(blue), int(255 * alpha))
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, colour), picture)
    return picture


def find_subjects(recipe: Recipe) -> list[dict[str, int]]:
    """Return where the white of a mask is, in pixels."""
    box = render(recipe).convert("L").getbbox()
    return [] if box is None else [dict(zip(("x_min", "y_min", "x_max", "y_max"), box, strict=True))]


def _guide(source: Image.Image, process: str) -> Image.Image:
    """Compute a guide image: edges for the line-drawing preprocessors, a blurred or posterised picture for the rest."""
    from PIL import ImageFilter, ImageOps

    grey = source.convert("L")
    if process in {"canny", "lineart", "lineart-anime", "mlsd", "scribble", "softedge"}:
        edges = grey.filter(ImageFilter.FIND_EDGES)
        return edges if process == "softedge" else _threshold(edges, 40)
    if process in {"depth", "openpose"}:
        return grey.filter(ImageFilter.GaussianBlur(max(source.size) // 64))
    if process == "normalbae":
        return ImageOps.colorize(grey, "#3a3aff", "#ff8080")
    return ImageOps.posterize(source.convert("RGB"), 2)


def as_data_uri(data: bytes, content_type: str) -> str:
    """Return `data` as a data URI."""
    return f"data:{content_type};base64,{base64.b64encode(data).decode()}"
