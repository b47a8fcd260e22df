"""A cache in a folder: a file for each answer, which appears whole or not at all."""

from __future__ import annotations

import hashlib
import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import msgspec

from runware_flow.errors import DeclarationError
from runware_flow.files import local_path, make_private_folder, open_private_file

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ("Cache", "CacheStore", "Cached", "read_cache")

_FORMAT = 1
_KEY = re.compile("[0-9a-f]{64}")
_UNFINISHED_SECONDS = 3600.0
"""A file that was not written to for so long is no longer being written."""


class Cached(msgspec.Struct, frozen=True):
    """The answer to a request.

    Attributes:
        key: the fingerprint of the request, 64 hexadecimal digits.
        made_at: seconds since the epoch.
        items: the raw items that came, as JSON.
        cost: USD, what it cost when it was made; `None` is unknown.
        expires_at: when the service drops the files that the items name, if that is known.
        files: for each item, the name of the file that holds its medium here, or `None`.
    """

    key: str
    made_at: float
    items: tuple[msgspec.Raw, ...]
    task_type: str = ""
    model: str | None = None
    cost: float | None = None
    expires_at: float | None = None
    files: tuple[str | None, ...] = ()


@runtime_checkable
class CacheStore(Protocol):
    """Keeps answers. Its methods block, may be called from several threads, processes and machines at once."""

    def get(self, key: str) -> Cached | None:
        """Return the answer; `None` if there is none that can be read."""
        ...

    def put(self, answer: Cached) -> None:
        """Keep an answer, in place of one that there is."""
        ...

    def drop(self, key: str) -> None:
        """Forget an answer, if there is one."""
        ...


class Cache:
    """A cache in a folder, on any file system; any number of flows and processes share it.

    API keys are not part of a request and are not stored. A damaged file is ignored. The folder grows until `prune`.

    Args:
        path: the folder, which is made when it is needed.
        keep_media: download the medium of each result into the folder, so that `client.save` and `client.read` have it
            after the service has dropped it.
    """

    def __init__(self, path: str | os.PathLike[str], *, keep_media: bool = False) -> None:
        self.path = local_path(path)
        self.keep_media = keep_media

    def __repr__(self) -> str:
        return f"<Cache {str(self.path)!r}>"

    def open(self) -> None:
        """Make the folder.

        Raises:
            DeclarationError: it cannot be made or written.
        """
        try:
            make_private_folder(self.path)
            if self.keep_media:
                make_private_folder(self.path / "media")
        except OSError as error:
            raise DeclarationError(f"cache= names {self.path}, which cannot be used: {error.strerror}") from error
        if not os.access(self.path, os.W_OK):
            raise DeclarationError(f"cache= names {self.path}, which cannot be written")

    def get(self, key: str) -> Cached | None:
        """Return an answer; `None` if there is none that can be read."""
        path = self._path(key)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        answer = _decode(content)
        if answer is None or answer.key != key:
            with suppress(OSError):
                path.unlink()
            return None
        return answer

    def put(self, answer: Cached) -> None:
        """Keep an answer. A crash leaves the old one or the new one.

        Needs no lock between processes: the file is replaced in one step, so of two answers one is kept, whole.

        Raises:
            OSError: the disk is full, say.
        """
        path = self._path(answer.key)
        make_private_folder(path.parent)
        partial = path.with_name(f".{path.name}.{os.urandom(6).hex()}.part")
        try:
            with os.fdopen(open_private_file(partial), "wb") as file:
                file.write(_encode(answer))
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def drop(self, key: str) -> None:
        """Forget an answer and its media."""
        answer = self.get(key)
        with suppress(OSError):
            self._path(key).unlink(missing_ok=True)
            for name in () if answer is None else answer.files:
                if name is not None:
                    self.media_path(name).unlink(missing_ok=True)

    def media_path(self, name: str) -> Path:
        """Where a medium of that name is kept."""
        return self.path / "media" / Path(name).name

    def prune(self, *, older_than: float) -> int:
        """Forget the answers, with their media, that are older than so many seconds; returns how many there were.

        Unfinished files of a crash are removed too. Other files in the folder are kept.
        """
        oldest = time.time() - older_than
        count = 0
        for path in list(self._answers()):
            with suppress(OSError):
                if path.stat().st_mtime < oldest:
                    self.drop(path.stem)
                    count += 1
        for path in [*self.path.glob("[0-9a-f][0-9a-f]/.*.part"), *self.path.glob("media/.*.part")]:
            with suppress(OSError):
                if path.stat().st_mtime < oldest - _UNFINISHED_SECONDS:
                    path.unlink()
        return count

    def _answers(self) -> Iterator[Path]:
        found = self.path.glob("[0-9a-f][0-9a-f]/*.json")
        return (path for path in found if _KEY.fullmatch(path.stem) and path.stem.startswith(path.parent.name))

    def _path(self, key: str) -> Path:
        return self.path / key[:2] / f"{key}.json"


def _encode(answer: Cached) -> bytes:
    body = msgspec.json.encode({"format": _FORMAT, "answer": answer})
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


class _File(msgspec.Struct):
    format: int
    answer: Cached


def _decode(content: bytes) -> Cached | None:
    digest, _, body = content.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        return None
    try:
        file = msgspec.json.decode(body, type=_File)
    except (msgspec.MsgspecError, ValueError):
        return None
    return file.answer if file.format == _FORMAT else None


def read_cache(value: Any) -> CacheStore | None:
    """Return the store that a `cache=` names.

    Raises:
        ValueError: it names none.
    """
    if value is None or isinstance(value, CacheStore):
        return value
    if value != "" and (isinstance(value, str) or hasattr(value, "__fspath__")):
        return Cache(os.fspath(value))
    raise ValueError(f"cache= is the path of a folder, or a CacheStore such as Cache(path), not {value!r}")
