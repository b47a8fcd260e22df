"""Local files that the library writes: their paths, and permissions of private ones."""

from __future__ import annotations

import os
import stat
from pathlib import Path

__all__ = (
    "is_link",
    "local_path",
    "make_private_file",
    "make_private_folder",
    "open_private_file",
    "read_regular_file",
)

_PRIVATE_FILE = 0o600
_PRIVATE_FOLDER = 0o700


def local_path(path: str | os.PathLike[str]) -> Path:
    """Return a path as a user means it: `~` is the home folder. A name that has no home folder stays as it is."""
    given = Path(os.fspath(path))
    try:
        return given.expanduser()
    except RuntimeError:  # ~name without a user, or a system without home folders
        return given


def make_private_folder(path: Path) -> None:
    """Make a folder that only its owner can enter, and the folders above it; one that exists keeps its permissions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=_PRIVATE_FOLDER, exist_ok=True)


def make_private_file(path: Path) -> None:
    """Make an empty file that only its owner can read; a file that exists keeps its content and its permissions."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, _PRIVATE_FILE))
    except FileExistsError:
        return


def open_private_file(path: Path) -> int:
    """Make a file that only its owner can read, and return its descriptor, open for writing.

    Raises:
        FileExistsError: there is something of that name, which may be a link to elsewhere.
    """
    return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0), _PRIVATE_FILE)


def read_regular_file(path: Path, *, most: int) -> bytes:
    """Read a file that is no link, no pipe and no device, and has at most `most` bytes.

    Raises:
        OSError: it is, or cannot be read.
    """
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
    if is_link(path):  # where the system has no O_NOFOLLOW
        raise OSError(0, "it is a link", str(path))
    descriptor = os.open(path, flags)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(0, "it is no regular file", str(path))
        if status.st_size > most:
            raise OSError(0, f"it has {status.st_size} bytes, and at most {most} are read", str(path))
        return file.read(most)


def is_link(path: Path) -> bool:
    """Tell whether a path names a symbolic link, whatever that leads to."""
    return path.is_symlink()
