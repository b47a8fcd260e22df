"""The command line: thin commands over the library; an error is one sentence on standard error and a non-zero exit."""

from __future__ import annotations

import sys
from typing import NoReturn

__all__ = ("main",)


def main() -> NoReturn:
    """Run the command that `sys.argv` names and exit: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    try:
        _run()
    except KeyboardInterrupt:  # also while this package, or the user's file, is imported
        sys.stderr.write("runware-flow: interrupted\n")
        sys.exit(130)
    sys.exit(0)


def _run() -> None:
    try:
        from runware_flow.cli.app import app
    except ImportError:
        sys.exit("the command line needs its extra: pip install 'runware-flow[cli,emulator]'")
    from runware_flow.cli.program import UsageError, UserError
    from runware_flow.errors import RunwareFlowError

    try:
        app()  # ends in SystemExit, by itself for a wrong usage
    except ImportError as error:
        sys.exit(f"runware-flow: {error.name} is not installed: pip install 'runware-flow[cli,emulator]'")
    except UsageError as error:
        sys.stderr.write(f"runware-flow: {error}\n")
        sys.exit(2)
    except UserError as error:
        sys.exit(f"{error}\nrunware-flow: the file of the flow raised {type(error.__cause__).__name__}, as shown above")
    except RunwareFlowError as error:
        sys.exit(f"runware-flow: {getattr(error, 'summary', error)}")
    except OSError as error:
        place = "" if error.filename is None else f"{error.filename}: "
        sys.exit(f"runware-flow: {place}{error.strerror or error}")
