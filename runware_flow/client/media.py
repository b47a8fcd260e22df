"""Prepares local media for a request: small ones are put into it, large ones are uploaded once and named."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import anyio
import anyio.to_thread

from runware_flow.errors import RunwareError
from runware_flow.files import local_path
from runware_flow.wire.codec import LocalMedia, place
from runware_flow.wire.media_type import HEAD_BYTES, media_type_of
from runware_flow.wire.pixels import Pixels

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Sequence


__all__ = (
    "INLINE_LIMIT_BYTES",
    "PIECE_BYTES",
    "LocalFile",
    "LocalMediaPlacer",
    "file_to_data_uri",
    "inline_media",
    "open_local",
    "readable",
    "take_in",
)

INLINE_LIMIT_BYTES = 256 * 1024
"""Media up to this size are sent inside the request that uses them."""

PIECE_BYTES = 3 * 256 * 1024
"""Of an upload, read and encoded at a time; in base64 three bytes are four."""

_REMEMBERED_UPLOADS = 4096


def take_in(media: Sequence[LocalMedia]) -> tuple[LocalMedia, ...]:
    """Replace open files by what they hold, so that a request can be identified, and sent again, if the files change.

    A file that can be sought in is taken whole, from its beginning, and its position stays. One on a disk that is open
    for reading alone is known by its path and read when it is sent.

    Raises:
        RunwareError: `code="validation"`, naming the parameter: a file that is closed, empty or open for text, or an
            array where there is no Pillow.
    """
    return tuple(LocalMedia(medium.path, _taken_in(medium)) for medium in media)


def _taken_in(medium: LocalMedia) -> Any:
    source = medium.source
    if isinstance(source, Pixels) and importlib.util.find_spec("PIL") is None:
        raise _invalid(medium, "a picture in an array is encoded by Pillow, which is not installed: pip install pillow")
    if isinstance(source, (bytes, Path, Pixels)):
        return source
    if getattr(source, "closed", False):
        raise _invalid(medium, "the file is closed; send it inside its `with` block, or give its path")
    path = _path_of(source)
    if path is not None:
        return path
    try:
        content = _content_of(source)
    except (OSError, ValueError) as error:
        raise _invalid(medium, f"the file cannot be read: {error}") from error
    if isinstance(content, str):
        raise _invalid(medium, 'the file is open for text; open it with mode "rb"')
    if not content:
        raise _invalid(medium, "the file is empty, or has been read to its end already")
    return bytes(content)


def _path_of(file: Any) -> Path | None:
    """The path of an open file, if reading that gives the same."""
    name = getattr(file, "name", None)
    if not isinstance(name, str) or getattr(file, "mode", None) not in ("rb", "rb+") or file.writable():
        return None
    try:
        is_same = os.path.samestat(os.fstat(file.fileno()), os.stat(name))
    except OSError:
        return None
    return Path(name).absolute() if is_same else None


def _content_of(file: Any) -> Any:
    if not (hasattr(file, "seekable") and file.seekable()):
        return file.read()
    position = file.tell()
    file.seek(0)
    try:
        return file.read()
    finally:
        file.seek(position)


async def file_to_data_uri(
    source: str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO, *, media_type: str | None = None
) -> str:
    """Encode a local file or bytes as a `data:` URI, for any parameter that takes a medium.

    Args:
        source: a path, the bytes themselves, or a file that is open for reading bytes, which is read to its end.
        media_type: such as `image/png`; by default taken from the content, else from the file's name.

    Raises:
        RunwareError: `code="validation"`: `source` is something else, or a file that is open for text.
        OSError: the file cannot be read.
    """
    if isinstance(source, str) and source.startswith(("http://", "https://", "data:")):
        raise _not_a_file("a URL or a data URI, which a task takes as it is")
    if not isinstance(source, (str, os.PathLike)):
        content = await _content(source)
        return _data_uri(content, media_type or media_type_of(content))
    path = local_path(source)
    content = await anyio.Path(path).read_bytes()
    return _data_uri(content, media_type or media_type_of(content, path.name))


async def _content(source: Any) -> bytes:
    if isinstance(source, (bytes, bytearray)):
        return bytes(source)
    if isinstance(source, memoryview):
        return source.tobytes()
    if not callable(getattr(source, "read", None)):
        raise _not_a_file(f"{type(source).__name__}")
    content = await anyio.to_thread.run_sync(source.read)
    if not isinstance(content, bytes):
        raise _not_a_file('a file that is open for text; open it with mode "rb"')
    return content


def _not_a_file(given: str) -> RunwareError:
    return RunwareError(
        f"file_to_data_uri takes a path, bytes or a file that is open for reading bytes, not {given}",
        code="validation",
        raw_code="invalidParameter",
        parameter="source",
    )


def _data_uri(content: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


class LocalFile:
    """A local medium that is read, hashed and encoded piece by piece: it never lies in memory as a whole."""

    def __init__(self, source: bytes | Path, size: int, media_type: str) -> None:
        """Args: size: in bytes. media_type: `image/png`, say."""
        self.source = source
        self.size = size
        self.media_type = media_type

    @property
    def prefix(self) -> str:
        """What comes before the content in a data URI."""
        return f"data:{self.media_type};base64,"

    @property
    def encoded_size(self) -> int:
        """Bytes of the content in base64."""
        return (self.size + 2) // 3 * 4

    async def digest(self) -> bytes:
        """A hash of the content."""
        return await anyio.to_thread.run_sync(self._digest)

    async def encode(self, at: int) -> bytes:
        """The piece in base64 that begins at byte `at`, of `PIECE_BYTES` or less.

        Raises:
            OSError: the file cannot be read, or has become shorter.
        """
        return await anyio.to_thread.run_sync(self._encode, at)

    def _digest(self) -> bytes:
        if isinstance(self.source, bytes):
            return hashlib.sha256(self.source).digest()
        with self.source.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()

    def _encode(self, at: int) -> bytes:
        size = min(PIECE_BYTES, self.size - at)
        if isinstance(self.source, bytes):
            return base64.b64encode(memoryview(self.source)[at : at + size])
        with self.source.open("rb") as file:  # opened for each piece: nothing is left open, whatever ends the upload
            file.seek(at)
            piece = file.read(size)
        if len(piece) < size:
            raise OSError(f"{self.source} became shorter while it was being uploaded")
        return base64.b64encode(piece)


class LocalMediaPlacer:
    """Replaces paths and bytes in a request by what the service can read.

    The same content is uploaded once in a client's life, also when several requests need it at once. A cancel during an
    upload leaves nothing behind here; the next request that needs the content uploads it.
    """

    def __init__(self, upload: Callable[[LocalFile], Awaitable[str]]) -> None:
        """Args: upload: stores a medium at the service and returns its UUID."""
        self._upload = upload
        self._uploaded: dict[bytes, str] = {}
        self._uploading: dict[bytes, anyio.Lock] = {}

    async def place(self, wire: dict[str, Any], local_media: Sequence[LocalMedia], *, inline: bool = False) -> None:
        """Put every medium of `local_media` at its place in `wire`, which is changed; `inline` uploads none of them.

        Raises:
            RunwareError: `code="validation"`, naming the parameter, for a file that cannot be read.
        """
        for medium in local_media:
            with readable(medium):
                encoded = await _encoded(medium)
                reference = await (inline_media(encoded) if inline else self._reference(encoded))
            place(wire, medium.path, reference)

    async def _reference(self, medium: LocalMedia) -> str:
        file = await open_local(medium.source)
        if file.size <= INLINE_LIMIT_BYTES:
            return await inline_media(medium)
        digest = await file.digest()
        # Of equal media that are sent at the same time the first is uploaded, and the others wait for its UUID.
        lock = self._uploading.setdefault(digest, anyio.Lock())
        async with lock:
            known = self._uploaded.get(digest)
            if known is None:
                known = await self._upload(file)
                self._uploaded[digest] = known
                if len(self._uploaded) > _REMEMBERED_UPLOADS:
                    del self._uploaded[next(iter(self._uploaded))]
        if not lock.statistics().tasks_waiting:
            self._uploading.pop(digest, None)
        return known


async def open_local(source: bytes | Path) -> LocalFile:
    """Look at a local medium: how large it is, and of what type.

    Raises:
        OSError: the file cannot be read.
    """
    if isinstance(source, bytes):
        return LocalFile(source, len(source), media_type_of(source[:HEAD_BYTES]))
    path = local_path(source)
    return await anyio.to_thread.run_sync(_look_at, path)


def _look_at(path: Path) -> LocalFile:
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        size = file.seek(0, os.SEEK_END)
    if not size:
        raise OSError(f"{path} is empty")
    return LocalFile(path, size, media_type_of(head, path.name))


async def _encoded(medium: LocalMedia) -> LocalMedia:
    """The medium with the file of a picture in memory, which a thread encodes."""
    if not isinstance(medium.source, Pixels):
        return medium
    try:
        return LocalMedia(medium.path, await anyio.to_thread.run_sync(medium.source.encode))
    except (ImportError, OSError, ValueError, TypeError) as error:
        raise _invalid(medium, f"the picture cannot be encoded: {error}") from error


@contextmanager
def readable(medium: LocalMedia) -> Generator[None]:
    """Name the parameter whose file cannot be read."""
    try:
        yield
    except RunwareError:
        raise  # an upload that took too long is an OSError too, and no fault of the file
    except FileNotFoundError as error:
        raise _invalid(medium, f"there is no file {local_path(medium.source).absolute()}") from error
    except OSError as error:
        problem = f"cannot read {medium.source!s}: {error.strerror}" if error.strerror else str(error)
        raise _invalid(medium, problem) from error


def _invalid(medium: LocalMedia, problem: str) -> RunwareError:
    parameter = ".".join(str(step) for step in medium.path)
    return RunwareError(f"{parameter}: {problem}", code="validation", raw_code="invalidParameter", parameter=parameter)


async def inline_media(medium: LocalMedia) -> str:
    """A local medium as a data URI, whatever its size.

    Raises:
        RunwareError: `code="validation"`, naming the parameter, for a file that cannot be read.
    """
    medium = await _encoded(medium)
    if isinstance(medium.source, bytes):
        return _data_uri(medium.source, media_type_of(medium.source))
    with readable(medium):
        content = await anyio.Path(local_path(medium.source)).read_bytes()
        if not content:
            raise OSError(f"{medium.source} is empty")
    return _data_uri(content, media_type_of(content, medium.source.name))
