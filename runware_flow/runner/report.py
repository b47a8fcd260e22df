"""Writes a report to a file, in one piece or not at all. Everything here blocks."""

from __future__ import annotations

import errno
import os
from datetime import datetime
from typing import TYPE_CHECKING

from runware_flow.files import local_path
from runware_flow.view.report import page

if TYPE_CHECKING:
    from pathlib import Path

    from runware_flow.view.report import Report

__all__ = ("check_target", "date_text", "write_report")

_DATABASE = b"SQLite format 3\0"


def write_report(report: Report, path: str | os.PathLike[str]) -> Path:
    """Write the page to `path`, in one piece or not at all; returns where it is.

    Raises:
        OSError: it cannot be written there, as `check_target` says.
    """
    target = local_path(path)
    check_target(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.urandom(4).hex()}.part")
    try:
        partial.write_bytes(page(report).encode("utf-8", "replace"))
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def check_target(target: Path) -> None:
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


def date_text(timestamp: float | None) -> str:
    """Seconds since the epoch as people read them, in this machine's time zone; nothing for what is no date."""
    try:
        return "" if timestamp is None else f"{datetime.fromtimestamp(timestamp).astimezone():%Y-%m-%d %H:%M:%S %Z}"
    except (OverflowError, ValueError, OSError):
        return ""
