"""How the package is built, in numbers: files and lines, circles and chains of imports, what one image passes.

    python -m benchmarks.house [CHECKOUT]

Files and lines are counted by folder. A circle is a set of modules that import each other, imports for types and
inside functions included. The longest chain counts modules, each of which imports the next; a circle is one module. One
image is a flow of one node through a connected client, on an emulator in the same process; its calls, functions and
classes are those of the package, without the emulator, that cProfile sees. Of another checkout the files are measured;
the image is that of the package that PYTHONPATH has first.
"""

from __future__ import annotations

import argparse
import ast
import cProfile
import re
from functools import cache
from pathlib import Path
from typing import Any

import anyio

import runware_flow
from runware_flow import Client, Flow
from runware_flow.emulator import Emulator
from runware_flow.tasks import ImageInference


def imports_of(source: str, modules: set[str]) -> set[str]:
    """The modules of the package that a source names in absolute imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & modules
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found |= {inner if inner in modules else node.module} & modules
    return found


def reached_from(start: str, graph: dict[str, set[str]]) -> set[str]:
    """The modules that a module imports, through others too."""
    seen: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting.extend(graph[module])
    return seen


def import_graph(package: Path) -> dict[str, set[str]]:
    """The modules of a package with those that each imports, for type checking and inside functions too."""
    sources = {
        ".".join(file.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__"): file.read_text(
            encoding="utf-8"
        )
        for file in package.rglob("*.py")
    }
    del sources[package.name]  # it loads the public names on first use, so an import of it stands for none of them
    return {module: imports_of(source, set(sources)) - {module} for module, source in sources.items()}


def circles(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    """The sets of modules that reach one another."""
    reached = {module: reached_from(module, graph) for module in graph}
    return {
        frozenset(other for other in reached[module] if module in reached[other])
        for module in graph
        if module in reached[module]
    }


def measure_imports(package: Path) -> None:
    """Print the circles and the longest chain."""
    graph = import_graph(package)
    found = circles(graph)
    print("circles of imports, by size:", sorted(map(len, found), reverse=True) or "none")
    of = {one: min(next((circle for circle in found if one in circle), [one])) for one in graph}

    @cache
    def depth(one: str) -> int:
        after = {of[other] for module in graph if of[module] == one for other in graph[module]} - {one}
        return 1 + max(map(depth, after), default=0)

    print("longest chain of imports:", max(map(depth, set(of.values()))), "modules")


def measure_files(package: Path) -> None:
    """Print files and lines by folder, overloads, and lines that say `Any`."""
    texts = {file.relative_to(package): file.read_text() for file in package.rglob("*.py")}
    folders = sorted({file.parts[0] for file in texts if len(file.parts) > 1})
    for folder in folders:
        inside = [text for file, text in texts.items() if file.parts[0] == folder]
        print(f"  {folder + '/':12} {len(inside):4} files {sum(text.count(chr(10)) for text in inside):6} lines")
    print(f"  {'all':12} {len(texts):4} files {sum(text.count(chr(10)) for text in texts.values()):6} lines")
    print("overloads:", sum(len(re.findall(r"^ *@overload$", text, re.MULTILINE)) for text in texts.values()))
    running = [text for file, text in texts.items() if file.parts[0] in ("run", "runner", "flow", "batch")]
    lines = [line for text in running for line in text.splitlines() if re.search(r"\bAny\b", line)]
    print("lines that say Any in flow/, runner/ and batch/ (once run/):", len(lines))


async def one_image() -> cProfile.Profile:
    """Profile a flow of one node."""
    profile = cProfile.Profile()
    async with Emulator(seed=1, latency=0.05) as emulator, Client(**emulator.client_options) as client:
        for name in ("warm-up", "measured"):
            flow = Flow(name)
            flow.then(ImageInference(model="runware:400@1", positive_prompt="a kite", width=512, height=512))
            if name == "measured":
                profile.enable()
            await flow.execute(client)
            profile.disable()
    return profile


def measure_image() -> None:
    """Print what the image passes of the package that is imported."""
    root = str(Path(runware_flow.__file__).parent)
    entries: list[Any] = one_image_entries()
    ours = [
        entry
        for entry in entries
        if not isinstance(entry.code, str)
        and entry.code.co_filename.startswith(root)
        and "/emulator/" not in entry.code.co_filename
    ]
    functions = {(entry.code.co_filename, entry.code.co_qualname) for entry in ours}
    classes = {(file, name.split(".")[0]) for file, name in functions if re.match(r"_?[A-Z]\w*\.", name)}
    print(
        f"one image: {sum(entry.callcount for entry in ours)} calls of {len(functions)} functions,"
        f" {len(classes)} classes, {len({file for file, _ in functions})} files"
    )


def one_image_entries() -> list[Any]:
    """What the profile has."""
    return anyio.run(one_image).getstats()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", nargs="?", type=Path, default=Path(runware_flow.__file__).parents[1])
    package = parser.parse_args().checkout / "runware_flow"
    measure_files(package)
    measure_imports(package)
    measure_image()


if __name__ == "__main__":
    main()
