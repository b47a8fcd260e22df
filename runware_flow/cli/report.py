"""`runware-flow report`: writes the page of a journal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runware_flow.runner.journal_report import journal_report
from runware_flow.runner.report import check_target, write_report

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from runware_flow.journal.address import JournalAddress

__all__ = ("report_command",)


def report_command(journal: JournalAddress, out: Path, *, flow: str | None, files: Sequence[Path] = ()) -> Path:
    """Write the page of a journal, or of one flow in it, and return where it is."""
    check_target(out)
    return write_report(journal_report(journal, out, flow=flow, files=files), out)
