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
    from runware_flow.cli.terminal import prepare_output, say

    prepare_output()
    try:
        from runware_flow.cli.app import app
    except ImportError:
        sys.exit("the command line needs its extra: pip install 'runware-flow[cli,emulator]'")
    from runware_flow.cli.program import UsageError, UserError
    from runware_flow.errors import RunwareFlowError
    from runware_flow.extras import MissingExtra
    from runware_flow.view.terminal import visible_lines

    code = 1
    try:
        app()  # ends in SystemExit, by itself for a wrong usage
        return
    except MissingExtra as error:
        say(error)
    except ImportError as error:
        say(f"{error.name} is not installed: pip install 'runware-flow[cli,emulator]'")
    except UsageError as error:
        say(error)
        code = 2
    except UserError as error:
        sys.stderr.write(visible_lines(error, indents=False) + "\n")
        say(f"the file of the flow raised {type(error.__cause__).__name__}, as shown above")
    except RunwareFlowError as error:
        say(getattr(error, "summary", error))
    except OSError as error:
        place = "" if error.filename is None else f"{error.filename}: "
        say(f"{place}{error.strerror or error}")
    sys.exit(code)
