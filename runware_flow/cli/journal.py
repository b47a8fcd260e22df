"""`runware-flow journal`: commands for the journals of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from runware_flow.cli.terminal import echo
from runware_flow.journal.address import JournalAddress, address_of

__all__ = ("JOURNAL_NAME", "FlowName", "JournalArgument", "complete_path", "journal_app", "read_journal")

JOURNAL_NAME = "FILE|URL"


def read_journal(text: str) -> JournalAddress:
    """Read what a command names a journal by: the path of a file, or a `postgresql://` URL.

    Raises:
        UsageError: it is the URL of something else, or shows its password.
    """
    from runware_flow.cli.program import UsageError
    from runware_flow.errors import JournalError

    try:
        return address_of(text)
    except JournalError as error:
        raise UsageError(str(error)) from None


def complete_path(incomplete: str) -> list[str]:
    """Complete the path of a file."""
    folder, name = Path(incomplete).parent, Path(incomplete).name
    if incomplete.endswith("/"):
        folder, name = Path(incomplete), ""
    return sorted(f"{path}/" if path.is_dir() else str(path) for path in folder.glob(f"{name}*"))


JournalArgument: TypeAlias = Annotated[
    Any,
    typer.Argument(
        parser=read_journal,
        autocompletion=complete_path,
        help="The journal of runs or batches: a file, or a postgresql:// URL.",
        metavar="JOURNAL",
    ),
]
FlowName: TypeAlias = Annotated[
    str | None, typer.Option("--flow", help="Only this flow or batch, if the journal has several.", metavar="NAME")
]

journal_app = typer.Typer(help="Look after the journals of runs.", no_args_is_help=True, rich_markup_mode=None)


@journal_app.command(no_args_is_help=True)
def flows(journal: JournalArgument) -> None:
    """Print a line for each flow and batch of a journal: name, requests by state, cost."""
    from runware_flow.cli.table import flows_command

    flows_command(journal)


@journal_app.command("ls", no_args_is_help=True)
def list_items(
    journal: JournalArgument,
    failed: Annotated[bool, typer.Option("--failed", help="Only the items that failed.")] = False,
    flow: FlowName = None,
) -> None:
    """Print a line for each item: key, state, cost, and what was asked."""
    from runware_flow.cli.table import list_command

    list_command(journal, failed=failed, flow=flow)


@journal_app.command(no_args_is_help=True)
def show(
    journal: JournalArgument,
    key: Annotated[str, typer.Argument(help="The key of an item, as `journal ls` prints it.", metavar="KEY")],
    flow: FlowName = None,
) -> None:
    """Print what became of each node of one item."""
    from runware_flow.cli.table import show_command

    show_command(journal, key, flow=flow)


@journal_app.command()
def salvage(
    journal: Annotated[
        Any,
        typer.Argument(
            parser=read_journal, help="The damaged journal, a file, which is not changed.", metavar="JOURNAL"
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The new one; by default beside it, named .salvaged.")
    ] = None,
) -> None:
    """Write what can be read of a damaged journal into a new one, and say what was lost."""
    from runware_flow.cli.program import UsageError, beside
    from runware_flow.journal import salvage as salvage_journal

    if not isinstance(journal, Path):
        raise UsageError(f"{journal} is a database, which is restored from a backup of its own: salvage is for files")
    target = out or beside(journal, f".salvaged{journal.suffix}")
    found = salvage_journal(journal, target)
    counts = found.counts
    echo(f"{counts['done']} finished, {counts['failed']} failed and {counts['open']} open requests are in {found.path}")
    if found.choices:
        echo(f"{found.choices} choices (which contestant won a race, which fallback answered) are there too")
    if found.reopened:
        echo(f"the outcomes of {found.reopened} of the open ones were lost: the next run collects them")
    if found.lost:
        echo(f"{found.lost} requests before the last one that was found are lost: a run would buy them again")
    else:
        echo("none is missing before the last one that was found; what stood behind it cannot be known")
