"""Writing a report: thumbnails of the pictures that are at hand, and the file. Everything here blocks."""

from __future__ import annotations

import base64
import binascii
import errno
import importlib.util
import io
import os
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runware_flow.files import local_path
from runware_flow.view.report import page

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runware_flow.view.report import Report
    from runware_flow.view.story import Row

__all__ = ("check_place", "date_text", "keep_thumbnail", "pictures_of", "thumbnail", "write_report")

_SIDE = 360
"""Pixels of the longer side of a thumbnail."""
_MOST_PIXELS = 64_000_000
_MOST_BYTES = 64 * 1024 * 1024
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""What pictures come in. Pillow reads more, some of it (EPS) with a program of its own, which no server may start."""
_DATABASE = b"SQLite format 3\0"


def write_report(report: Report, path: str | os.PathLike[str]) -> Path:
    """Write the page to `path`, in one piece or not at all; returns where it is.

    Raises:
        OSError: it cannot be written there, as `check_place` says.
    """
    target = local_path(path)
    check_place(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.urandom(4).hex()}.part")
    try:
        partial.write_bytes(page(report).encode("utf-8", "replace"))
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def check_place(target: Path) -> None:
    """Refuse a place that no report can have, before there is something to lose.

    Raises:
        OSError: it is a folder, or a journal, which a report must never replace.
    """
    target = local_path(target)
    if target.is_dir():
        raise IsADirectoryError(
            errno.EISDIR, "is a folder: name a file for the report, such as report.html", str(target)
        )
    if target.is_file():
        with target.open("rb") as file:
            if file.read(len(_DATABASE)) == _DATABASE:
                raise FileExistsError(errno.EEXIST, "is a journal: name another file for the report", str(target))


def pictures_of(rows: Sequence[Row], *, most: int) -> tuple[dict[tuple[int, int], str], list[str]]:
    """Make thumbnails of what is at hand, the first `most` of them, and say what is missing."""
    can_scale = importlib.util.find_spec("PIL") is not None
    pictures: dict[tuple[int, int], str] = {}
    missing = left_out = 0
    files = {before: row.saved for row in rows if row.saved for before in row.after}
    for number, row in enumerate(rows):
        for place, (kind, result) in enumerate(row.media):
            if kind != "image":
                continue
            if len(pictures) >= most:
                left_out += 1
                continue
            picture = _noted(result, "_thumbnail") or (
                _thumbnail_at_hand(result, files.get(number)) if can_scale else None
            )
            if picture is None:
                missing += 1
            else:
                pictures[number, place] = picture
    return pictures, list(_notes(len(pictures), missing, left_out, can_scale=can_scale))


def _notes(shown: int, missing: int, left_out: int, *, can_scale: bool) -> Sequence[str]:
    notes: list[str] = []
    if missing and not can_scale:
        notes.append("Pictures are shown as links: thumbnails need Pillow, pip install 'runware-flow[report]'.")
    elif missing:
        notes.append(
            f"{missing:,} pictures are shown as links, which work for a limited time: they were neither saved nor kept."
            " client.save saves a picture; runware-flow run --report keeps all that it shows."
        )
    if left_out:
        notes.append(f"The first {shown:,} pictures are in this page; {left_out:,} more are links, to keep it small.")
    return notes


def _noted(result: Any, name: str) -> Any:
    """What was noted beside the fields of a result."""
    beside: dict[str, Any] = getattr(result, "__dict__", {})
    return beside.get(name)


def _thumbnail_at_hand(result: Any, file: str | None) -> str | None:
    saved = _noted(result, "_saved") or file
    if saved is not None:
        try:
            if os.stat(saved).st_size <= _MOST_BYTES:
                return thumbnail(Path(saved).read_bytes())
        except OSError:  # deleted since
            pass
    inline = getattr(result, "inline", None)
    if not isinstance(inline, str) or len(inline) > _MOST_BYTES:
        return None
    try:
        return thumbnail(base64.b64decode(inline.partition(",")[2] if inline.startswith("data:") else inline))
    except (binascii.Error, ValueError):
        return None


def thumbnail(content: bytes) -> str | None:
    """Scale a picture down to a data URI; `None` for what is no picture, or too large to open safely."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            if image.width * image.height > _MOST_PIXELS:
                return None
            image.draft("RGB", (2 * _SIDE, 2 * _SIDE))
            image.thumbnail((_SIDE, _SIDE))
            has_alpha = image.mode in ("RGBA", "LA", "P", "PA")
            small = io.BytesIO()
            image.convert("RGBA" if has_alpha else "RGB").save(small, "WEBP", quality=70)
    except Exception:  # noqa: BLE001 - its decoders raise anything for what is broken: RuntimeError, EOFError, ...
        return None
    return "data:image/webp;base64," + base64.b64encode(small.getvalue()).decode("ascii")


def keep_thumbnail(result: Any, content: bytes) -> None:
    """Remember the thumbnail of a result, for a report that is written later."""
    picture = thumbnail(content)
    if picture is not None:
        vars(result)["_thumbnail"] = picture


def date_text(timestamp: float | None) -> str:
    """Seconds since the epoch as people read them, in this machine's time zone; nothing for what is no date."""
    try:
        return "" if timestamp is None else f"{datetime.fromtimestamp(timestamp).astimezone():%Y-%m-%d %H:%M:%S %Z}"
    except (OverflowError, ValueError, OSError):
        return ""
