"""Output of the command line: the one place where text reaches the terminal, without control characters."""

from __future__ import annotations

import io
import json
import logging
import sys

from runware_flow.view.terminal import visible_lines

__all__ = ("echo", "echo_json", "prepare_output", "say")


class _VisibleFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return visible_lines(super().format(record))


def prepare_output() -> None:
    """Let no text fail that the console has no characters for: it is shown as an escape.

    What a command tells was paid for by then.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    if logging.lastResort is not None:  # where warnings go unless the program has set up its logging
        logging.lastResort.setFormatter(_VisibleFormatter())


def echo(text: object = "", *, is_laid_out: bool = False) -> None:
    """Print on standard output; whatever a terminal would obey in it is shown as an escape.

    Args:
        is_laid_out: its lines are lines of a table or a diagram; those of other texts are indented after the first.
    """
    print(visible_lines(text, indents=not is_laid_out), flush=True)


def echo_json(value: object, *, indent: int | None = None) -> None:
    """Print JSON in ASCII, which any console can show and no terminal obeys."""
    text = json.dumps(value, indent=indent)
    print(text.replace("\x7f", "\\u007f"), flush=True)


def say(text: object) -> None:
    """Say a sentence on standard error, as `echo` does."""
    if sys.stderr is not None:
        sys.stderr.write(f"runware-flow: {visible_lines(text)}\n")
        sys.stderr.flush()
