"""Finds the files of a run's media, and makes thumbnails of them. Everything here blocks.

Which file belongs to a medium is known from the run: the node or the function that was given the medium and returned
a path, `client.save`, or a cache that keeps media. A journal may come from elsewhere and name any file of this machine,
so of a journal only files are shown that lie below the folder of the journal, or below a folder that the user names.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import importlib.util
import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from runware_flow.types import file_of
from runware_flow.view.gallery import MediumFile, address_of
from runware_flow.view.request import references_to

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from runware_flow.view.story import Row

__all__ = ("Finder", "Found", "MediaFiles", "keep_thumbnail", "media_files", "picture_of", "served_files", "thumbnail")

_SIDE = 360
"""Pixels of the longer side of a thumbnail."""
_MOST_PIXELS = 64_000_000
_MOST_BYTES = 64 * 1024 * 1024
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""What pictures come in. Pillow reads more, some of it (EPS) with a program of its own, which no server may start."""
_SUFFIXES = {
    "image": frozenset({".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}),
    "video": frozenset({".m4v", ".mov", ".mp4", ".webm"}),
    "audio": frozenset({".aac", ".flac", ".m4a", ".mp3", ".ogg", ".opus", ".wav"}),
    "file": frozenset({".fbx", ".glb", ".gltf", ".obj", ".ply", ".stl", ".usdz", ".zip"}),
}
"""How files are named that a page links to; a picture's vector format is not among them, since it may hold a script."""


class Found(msgspec.Struct, frozen=True):
    """Attributes: path: of the file, if it is there and may be shown; note: why it is not shown, if there was one."""

    path: Path | None = None
    note: str = ""


class Finder:
    """Finds the files of media.

    Args:
        rows: of the run.
        bases: folders that relative paths are tried in, in this order.
        roots: what lies below one of these is shown; `None` for a run of this process, which names only its own files.
        caches: folders of caches, for media whose rows tell a fingerprint.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        *,
        bases: Sequence[Path] = (),
        roots: Sequence[Path] | None = None,
        caches: Sequence[Path] = (),
    ) -> None:
        self._bases = list(bases) or [Path()]
        self._roots = None if roots is None else [Path(os.path.realpath(root)) for root in roots]
        self._caches = list(caches)
        self._saved: dict[str, str] = {}
        self._cached: dict[str, dict[str, Path]] = {}
        self.note(rows)

    def note(self, rows: Iterable[Row]) -> None:
        """Take what rows tell of files that were saved."""
        for row in rows:
            if row.saved:
                for name in row.uses:
                    self._saved[name] = row.saved

    def find(self, row: Row, place: int, kind: str) -> Found:
        """Find the file of one medium of a row."""
        result = row.media[place][1]
        named = [text for name in references_to(result) if (text := self._saved.get(name)) is not None]
        own = [path for path in (_noted(result, "_saved"), file_of(result)) if path is not None]
        told = ""
        for path in [*own, *named]:
            found = self._look(Path(path), kind)
            if found.path is not None:
                return found
            told = told or found.note
        kept = self._in_cache(row.fingerprint, place)
        if kept is not None:
            return self._look(kept, kind)
        return Found(None, told)

    def _look(self, path: Path, kind: str) -> Found:
        outside = False
        for base in self._bases:
            target = Path(os.path.realpath(base / path))
            if not target.is_file():
                continue
            if target.suffix.lower() not in _SUFFIXES[kind]:
                return Found(None, f"{path.name} is no {kind} that a page shows")
            if self._roots is None or any(target.is_relative_to(root) for root in self._roots):
                return Found(target)
            outside = True
        if outside:
            return Found(None, f"{path.name} lies outside the journal's folder")
        return Found(None, f"{path.name} has moved: it is not in {_short(path.parent)} any more")

    def _in_cache(self, fingerprint: str, place: int) -> Path | None:
        for cache in self._caches if fingerprint else ():
            names = self._cached.get(str(cache))
            if names is None:
                try:
                    names = {path.stem: path for path in (cache / "media").iterdir()}
                except OSError:
                    names = {}
                self._cached[str(cache)] = names
            found = names.get(f"{fingerprint}-{place}")
            if found is not None:
                return found
        return None


def _short(folder: Path) -> str:
    """A folder without what is before its last two names: reports are sent around."""
    parts = folder.parts
    return "/".join(parts) if len(parts) <= 2 and not folder.is_absolute() else ".../" + "/".join(parts[-2:])


class MediaFiles(msgspec.Struct):
    """How a page shows the media of a run, by row and number of the medium in it; and what it says about them."""

    files: dict[tuple[int, int], MediumFile]
    notes: list[str]


def media_files(rows: Sequence[Row], finder: Finder, page: Path, *, most: int) -> MediaFiles:
    """Find the files and make the thumbnails for a page.

    Args:
        rows: of the run.
        finder: finds files.
        page: where the page will be; files are named relative to it.
        most: how many thumbnails go into the page itself. If there are more, all of them become files, in a folder
            beside the page with its name and `.files`.
    """
    can_scale = importlib.util.find_spec("PIL") is not None
    files: dict[tuple[int, int], MediumFile] = {}
    sources: list[tuple[tuple[int, int], Path | None, Any]] = []
    missing = outside = 0
    for number, row in enumerate(rows):
        for place, (kind, result) in enumerate(row.media):
            found = finder.find(row, place, kind)
            address = _relative(found.path, page.parent) if found.path is not None else ""
            name = found.path.name if found.path is not None else ""
            files[number, place] = MediumFile(file=address, name=name, note=found.note)
            outside += "outside" in found.note
            has_source = found.path is not None or _noted(result, "_thumbnail") or getattr(result, "inline", None)
            if kind == "image" and has_source and (can_scale or _noted(result, "_thumbnail")):
                sources.append(((number, place), found.path, result))
            missing += found.path is None and not (kind == "image" and has_source)
    folder = page.with_name(f"{page.stem}.files") if len(sources) > most else None
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        thumbnails = [pool.submit(_thumbnail_of, path, result, folder) for _, path, result in sources]
        for (key, _, _), thumbnail_of in zip(sources, thumbnails, strict=True):
            made = thumbnail_of.result()
            if made is None:
                missing += not files[key].file
            else:
                files[key] = msgspec.structs.replace(files[key], thumbnail=made)
    return MediaFiles(files, _notes(missing, outside, folder, can_scale=can_scale))


def served_files(rows: Sequence[Row], finder: Finder, *, may_fetch: bool) -> dict[tuple[int, int], MediumFile]:
    """Say by which addresses a served page gets its media, relative to its own.

    Args:
        rows: of the run.
        finder: finds files.
        may_fetch: pictures that are only at the service have thumbnails too.
    """
    files: dict[tuple[int, int], MediumFile] = {}
    for number, row in enumerate(rows):
        for place, (kind, result) in enumerate(row.media):
            found = finder.find(row, place, kind)
            has_source = found.path is not None or getattr(result, "inline", None) is not None
            has_picture = kind == "image" and (has_source or (may_fetch and address_of(result) != ""))
            files[number, place] = MediumFile(
                thumbnail=f"picture/{number}.{place}" if has_picture else "",
                file=f"file/{number}.{place}" if found.path is not None else "",
                name=found.path.name if found.path is not None else "",
                note=found.note,
            )
    return files


def _notes(missing: int, outside: int, folder: Path | None, *, can_scale: bool) -> list[str]:
    notes: list[str] = []
    if not can_scale:
        notes.append("Pictures have no thumbnails: they need Pillow, pip install 'runware-flow[report]'.")
    if folder is not None:
        notes.append(f"The thumbnails are files in the folder {folder.name}, which goes with this page.")
    if outside:
        notes.append(
            f"{outside:,} files lie outside the journal's folder and are not shown: a journal may name any file."
            " If you trust this one, name their folder with --files."
        )
    if missing > outside:
        notes.append(
            f"{missing - outside:,} media are not here: they were neither saved nor kept, or have moved. node.save and"
            " client.save save one; runware-flow run --report keeps the pictures that it shows."
        )
    return notes


def _relative(path: Path, folder: Path) -> str:
    """The address of a file for a page in a folder."""
    try:
        return quote(Path(os.path.relpath(path, os.path.realpath(folder))).as_posix())
    except ValueError:  # on another drive
        return path.as_uri()


def _noted(result: Any, name: str) -> Any:
    """What was noted beside the fields of a result."""
    beside: dict[str, Any] = getattr(result, "__dict__", {})
    return beside.get(name)


def _thumbnail_of(path: Path | None, result: Any, folder: Path | None) -> str | None:
    """Make a thumbnail: the data URI, or the address of its file in `folder`, beside the page."""
    target: Path | None = None
    if folder is not None and path is not None:
        try:
            state = path.stat()
        except OSError:
            return None
        digest = hashlib.sha256(f"{path}\0{state.st_mtime_ns}\0{state.st_size}".encode()).hexdigest()[:24]
        target = folder / f"{digest}.webp"
        if target.is_file():
            return _relative(target, folder.parent)
    noted = _noted(result, "_thumbnail")
    content = base64.b64decode(noted.partition(",")[2]) if noted else _scaled(path, result)
    if content is None:
        return None
    if folder is None:
        return _data_uri(content)
    target = target or folder / f"{hashlib.sha256(content).hexdigest()[:24]}.webp"
    folder.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    return _relative(target, folder.parent)


def _scaled(path: Path | None, result: Any) -> bytes | None:
    if path is not None:
        try:
            if path.stat().st_size <= _MOST_BYTES:
                return scaled(path.read_bytes())
        except OSError:  # deleted since
            pass
    inline = getattr(result, "inline", None)
    if not isinstance(inline, str) or len(inline) > _MOST_BYTES:
        return None
    try:
        return scaled(base64.b64decode(inline.partition(",")[2] if inline.startswith("data:") else inline))
    except (binascii.Error, ValueError):
        return None


def picture_of(path: Path | None, result: Any, content: bytes | None = None) -> bytes | None:
    """Make the thumbnail of one picture, as WebP: of its content, else of its file, else of what came inside it."""
    return _scaled(path, result) if content is None else scaled(content)


def scaled(content: bytes) -> bytes | None:
    """Scale a picture down to WebP; `None` for what is no picture, or too large to open safely."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            if image.width * image.height > _MOST_PIXELS:
                return None
            image.draft("RGB", (2 * _SIDE, 2 * _SIDE))
            image.thumbnail((_SIDE, _SIDE), reducing_gap=2.0)
            has_alpha = image.mode in ("RGBA", "LA", "P", "PA")
            small = io.BytesIO()
            image.convert("RGBA" if has_alpha else "RGB").save(small, "WEBP", quality=70, method=2)
    except Exception:  # noqa: BLE001 - its decoders raise anything for what is broken: RuntimeError, EOFError, ...
        return None
    return small.getvalue()


def thumbnail(content: bytes) -> str | None:
    """Scale a picture down to a data URI; `None` for what is no picture, or too large to open safely."""
    small = scaled(content)
    return None if small is None else _data_uri(small)


def _data_uri(content: bytes) -> str:
    return "data:image/webp;base64," + base64.b64encode(content).decode("ascii")


def keep_thumbnail(result: Any, content: bytes) -> None:
    """Remember the thumbnail of a result, for a report that is written later."""
    picture = thumbnail(content)
    if picture is not None:
        vars(result)["_thumbnail"] = picture
