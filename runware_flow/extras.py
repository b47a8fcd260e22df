"""The optional dependencies of the package: one sentence says which extra is missing."""

from __future__ import annotations

from importlib import import_module

__all__ = ("MissingExtra", "import_extra")


class MissingExtra(ModuleNotFoundError):
    """A module of an extra is not installed; the message says how to install the extra."""


def import_extra(extra: str, *modules: str) -> None:
    """Import the modules of an extra, which blocks.

    Raises:
        MissingExtra: one of them is not installed.
    """
    for name in modules:
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            missing = (error.name or name).partition(".")[0]
        else:
            continue
        raise MissingExtra(f"{missing} is not installed: pip install 'runware-flow[{extra}]'", name=missing)
