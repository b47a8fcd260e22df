"""Finds out whether a journal is on a network file system: SQLite's log needs memory that processes share."""

from __future__ import annotations

from pathlib import Path

__all__ = ("network_file_system",)

_NETWORK = frozenset(
    {"9p", "afs", "ceph", "cifs", "davfs", "fuse.sshfs", "glusterfs", "lustre", "nfs", "nfs4", "smb3", "smbfs"}
)


def network_file_system(path: Path, mounts: Path = Path("/proc/self/mounts")) -> str | None:
    """Name the network file system that `path` lies on; `None` if it is local, or cannot be told."""
    try:
        lines = mounts.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found, kind = Path("/"), ""
    for line in lines:
        parts = line.split()
        if len(parts) < 3:
            continue
        point = Path(parts[1].replace("\\040", " "))
        if path.is_relative_to(point) and len(point.parts) >= len(found.parts):
            found, kind = point, parts[2]
    return kind if kind in _NETWORK else None
