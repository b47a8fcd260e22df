"""`runware-flow cache`: commands for the caches of flows."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  # typer reads the annotations
from typing import Annotated

import typer

from runware_flow.cli.terminal import echo

__all__ = ("cache_app",)

cache_app = typer.Typer(help="Look after the caches of flows.", no_args_is_help=True, rich_markup_mode=None)


@cache_app.callback()
def _group() -> None:  # with a single command typer would make it the group itself
    pass


@cache_app.command()
def prune(
    folder: Annotated[Path, typer.Argument(help="The folder that `cache=` names.", metavar="FOLDER")],
    days: Annotated[float, typer.Option(help="Forget what was made longer ago.", min=0.0)] = 30.0,
) -> None:
    """Forget the answers in a cache that are old, with their files."""
    from runware_flow.cache.store import Cache
    from runware_flow.files import local_path

    folder = local_path(folder)
    if not folder.is_dir():
        raise typer.BadParameter(f"there is no folder {folder}")
    count = Cache(folder).prune(older_than=days * 86_400)
    echo(f"{count} answers were older than {days:g} days and are gone")
