"""Runs the command line: `python -m runware_flow` is `runware-flow`."""

from runware_flow.cli import main

main()
