"""The commands of `runware-flow journal`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from runware_flow.cli.terminal import echo

__all__ = ("journal_app",)

journal_app = typer.Typer(help="Look after the journals of runs.", no_args_is_help=True, rich_markup_mode=None)


_Flow: TypeAlias = Annotated[str | None, typer.Option("--flow", help="Only this flow or batch, if there are several.")]
_Path: TypeAlias = Annotated[Path, typer.Argument(help="The journal of a run or of a batch.", metavar="JOURNAL")]


@journal_app.command("ls", no_args_is_help=True)
def list_items(
    journal: _Path,
    failed: Annotated[bool, typer.Option("--failed", help="Only the items that failed.")] = False,
    flow: _Flow = None,
) -> None:
    """Print a line for each item: key, state, cost, and what was asked."""
    from runware_flow.cli.table import list_command

    list_command(journal, failed=failed, flow=flow)


@journal_app.command(no_args_is_help=True)
def show(
    journal: _Path,
    key: Annotated[str, typer.Argument(help="The key of an item, as `journal ls` prints it.", metavar="KEY")],
    flow: _Flow = None,
) -> None:
    """Print what became of each node of one item."""
    from runware_flow.cli.table import show_command

    show_command(journal, key, flow=flow)


@journal_app.command()
def salvage(
    journal: Annotated[Path, typer.Argument(help="The damaged journal, which is not changed.", metavar="JOURNAL")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The new one; by default beside it, named .salvaged.")
    ] = None,
) -> None:
    """Write what can be read of a damaged journal into a new one, and say what was lost."""
    from runware_flow.cli.program import beside
    from runware_flow.journal import salvage as salvage_journal

    target = out or beside(journal, f".salvaged{journal.suffix}")
    found = salvage_journal(journal, target)
    counts = found.counts
    echo(f"{counts['done']} finished, {counts['failed']} failed and {counts['open']} open requests are in {found.path}")
    if found.choices:
        echo(f"{found.choices} choices (which contestant won a race, which fallback answered) are there too")
    if found.reopened:
        echo(f"the outcomes of {found.reopened} of the open ones were lost: the next run asks the service for them")
    if found.lost:
        echo(f"{found.lost} requests before the last one that was found are lost: a run would buy them again")
    else:
        echo("none is missing before the last one that was found; what stood behind it cannot be known")
