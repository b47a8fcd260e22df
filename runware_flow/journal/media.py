"""Large media of a journal: files in a folder beside it, each named by the hash of its content."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec

from runware_flow.errors import JournalError
from runware_flow.files import is_link, make_private_folder, open_private_file, read_regular_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ("LARGE_BYTES", "MediaFolder", "sync_folder")

LARGE_BYTES = 64 * 1024
"""Texts inside an item that are longer go to a file of their own."""

_MOST_BYTES = 512 * 1024 * 1024
"""A larger file is none that a run has put away: no reply of the service is that long."""

_MARK = "__journal_file__"
_NAME = re.compile("[0-9a-f]{64}")


class MediaFolder:
    """The folder beside a journal. A file appears whole or not at all, and is on the disk before its row is.

    A journal may come from elsewhere: only a regular file whose content has the hash in its name is read, and no link
    is followed.
    """

    def __init__(self, journal: Path) -> None:
        self.path = Path(f"{journal}.media")

    def put_away(self, item: bytes) -> bytes:
        """Replace each large text of a JSON object by the name of a file that holds it.

        `{"__journal_file__": "<name>"}` stands for a text. An object of that very form that came from outside is kept
        as `{"__journal_file__": [<value>]}`.
        """
        if len(item) <= LARGE_BYTES and _MARK.encode() not in item:
            return item
        try:
            value = msgspec.json.decode(item)
        except (msgspec.MsgspecError, ValueError):
            return item
        return msgspec.json.encode(self._walk_out(value))

    def bring_back(self, item: bytes) -> bytes:
        """Undo `put_away`.

        Raises:
            JournalError: a file is gone, or is not what was put away.
        """
        if _MARK.encode() not in item:
            return item
        return msgspec.json.encode(self._walk_in(msgspec.json.decode(item)))

    def _walk_out(self, value: Any) -> Any:
        if isinstance(value, str) and len(value) > LARGE_BYTES:
            return {_MARK: self._write(value.encode())}
        if isinstance(value, dict):
            named = {name: self._walk_out(inner) for name, inner in cast("dict[str, Any]", value).items()}
            return {_MARK: [named[_MARK]]} if named.keys() == {_MARK} else named
        if isinstance(value, list):
            return [self._walk_out(inner) for inner in cast("Iterable[Any]", value)]
        return value

    def _walk_in(self, value: Any) -> Any:
        if isinstance(value, dict):
            named = cast("dict[str, Any]", value)
            if named.keys() == {_MARK}:
                return self._unmark(named[_MARK])
            return {name: self._walk_in(inner) for name, inner in named.items()}
        if isinstance(value, list):
            return [self._walk_in(inner) for inner in cast("Iterable[Any]", value)]
        return value

    def _unmark(self, marked: Any) -> Any:
        if isinstance(marked, str) and _NAME.fullmatch(marked):
            return self._read(marked)
        if isinstance(marked, list):
            escaped = cast("Sequence[Any]", marked)
            if len(escaped) == 1:
                return {_MARK: self._walk_in(escaped[0])}
        return {_MARK: self._walk_in(marked)}  # a journal of an earlier version kept it as it came

    def _write(self, content: bytes) -> str:
        name = hashlib.sha256(content).hexdigest()
        target = self.path / name
        self._check_folder()
        if target.is_file() and not is_link(target) and target.stat().st_size == len(content):
            return name
        is_new = not self.path.exists()
        make_private_folder(self.path)
        partial = self.path / f"{name}.{os.urandom(4).hex()}.partial"
        try:
            with os.fdopen(open_private_file(partial), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
        sync_folder(self.path)
        if is_new:
            sync_folder(self.path.parent)
        return name

    def _check_folder(self) -> None:
        if is_link(self.path):
            raise JournalError(
                f"the journal's folder {self.path} is a link, which a journal does not follow: put the folder itself"
                " there"
            )

    def _read(self, name: str) -> str:
        self._check_folder()
        try:
            content = read_regular_file(self.path / name, most=_MOST_BYTES)
        except OSError as error:
            raise JournalError(f"the journal's file {self.path / name} cannot be read: {error.strerror}") from error
        if hashlib.sha256(content).hexdigest() != name:
            raise JournalError(
                f"the journal's file {self.path / name} has been changed: its content no longer has the"
                " hash in its name. Restore it from a copy"
            )
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise JournalError(
                f"the journal's file {self.path / name} is not text in UTF-8, so a run did not write it. Restore it"
                " from a copy"
            ) from error

    def copy_to(self, other: MediaFolder) -> None:
        """Copy what is whole into the folder of another journal."""
        if is_link(self.path) or not self.path.is_dir():
            return
        for file in sorted(self.path.iterdir()):
            if _NAME.fullmatch(file.name):
                try:
                    text = self._read(file.name)
                except JournalError:
                    continue
                other._write(text.encode())


def sync_folder(path: Path) -> None:
    if os.name != "posix":
        return
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
