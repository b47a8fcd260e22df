"""Large media in what a journal keeps: files beside it, named by their content."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec

from runware_flow.errors import JournalError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ("LARGE_BYTES", "MediaFolder")

LARGE_BYTES = 64 * 1024
"""Texts inside an item that are longer go to a file of their own."""

_MARK = "__journal_file__"


class MediaFolder:
    """The folder beside a journal. A file appears whole or not at all, and is on the disk before its row is."""

    def __init__(self, journal: Path) -> None:
        self.path = Path(f"{journal}.media")

    def put_away(self, item: bytes) -> bytes:
        """Replace each large text of a JSON object by the name of a file that holds it."""
        if len(item) <= LARGE_BYTES:
            return item
        try:
            value = msgspec.json.decode(item)
        except (msgspec.MsgspecError, ValueError):
            return item
        return msgspec.json.encode(self._walk_out(value))

    def bring_back(self, item: bytes) -> bytes:
        """Undo `put_away`.

        Raises:
            JournalError: a file is gone.
        """
        if _MARK.encode() not in item:
            return item
        return msgspec.json.encode(self._walk_in(msgspec.json.decode(item)))

    def _walk_out(self, value: Any) -> Any:
        if isinstance(value, str) and len(value) > LARGE_BYTES:
            return {_MARK: self._write(value.encode())}
        if isinstance(value, dict):
            return {name: self._walk_out(inner) for name, inner in cast("dict[str, Any]", value).items()}
        if isinstance(value, list):
            return [self._walk_out(inner) for inner in cast("Iterable[Any]", value)]
        return value

    def _walk_in(self, value: Any) -> Any:
        if isinstance(value, dict):
            named = cast("dict[str, Any]", value)
            if named.keys() == {_MARK}:
                return self._read(str(named[_MARK]))
            return {name: self._walk_in(inner) for name, inner in named.items()}
        if isinstance(value, list):
            return [self._walk_in(inner) for inner in cast("Iterable[Any]", value)]
        return value

    def _write(self, content: bytes) -> str:
        name = hashlib.sha256(content).hexdigest()
        target = self.path / name
        if target.exists():
            return name
        is_new = not self.path.exists()
        self.path.mkdir(exist_ok=True)
        partial = self.path / f"{name}.partial"
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
        _sync_folder(self.path)
        if is_new:
            _sync_folder(self.path.parent)
        return name

    def _read(self, name: str) -> str:
        try:
            return (self.path / Path(name).name).read_text(encoding="utf-8")
        except OSError as error:
            raise JournalError(f"the journal's file {self.path / name} cannot be read: {error.strerror}") from error


def _sync_folder(path: Path) -> None:
    if os.name != "posix":
        return
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
