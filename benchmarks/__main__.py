"""Lists the benchmarks with their first sentence, or runs all of them with `--all`."""

from __future__ import annotations

import ast
import runpy
import sys
from pathlib import Path


def main() -> None:
    """List or run."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py") if path.stem != "service")
    for name in names:
        if "--all" in sys.argv[1:]:
            print(f"\n== python -m benchmarks.{name}")
            runpy.run_module(f"benchmarks.{name}", run_name="__main__")
        else:
            source = Path(__file__).with_name(f"{name}.py").read_text()
            print(f"python -m benchmarks.{name:10} {(ast.get_docstring(ast.parse(source)) or '').splitlines()[0]}")


if __name__ == "__main__":
    main()
