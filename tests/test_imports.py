"""Modules import each other without a circle, imports for type checking and inside functions included."""

from __future__ import annotations

import ast
from pathlib import Path

import runware_flow

PACKAGE = Path(runware_flow.__file__).parent


def module_name(file: Path, root: Path) -> str:
    parts = file.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(source: str, modules: set[str]) -> set[str]:
    """The modules of the package that a source names in absolute imports, wherever they stand in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & modules
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found |= {inner if inner in modules else node.module} & modules
    return found


def circles(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    """The sets of modules that reach one another."""
    reached: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        waiting = list(graph[start])
        while waiting:
            module = waiting.pop()
            if module not in seen:
                seen.add(module)
                waiting.extend(graph[module])
        reached[start] = seen
    return {
        frozenset(other for other in reached[module] if module in reached[other])
        for module in graph
        if module in reached[module]
    }


def test_imports_have_no_circle() -> None:
    sources = {module_name(file, PACKAGE): file.read_text(encoding="utf-8") for file in PACKAGE.rglob("*.py")}
    del sources["runware_flow"]  # it loads the public names on first use, so an import of it stands for none of them
    graph = {module: imports_of(source, set(sources)) - {module} for module, source in sources.items()}
    assert [sorted(circle) for circle in circles(graph)] == []


def test_a_circle_is_found_through_type_checking_and_functions() -> None:
    first = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.b import B\n"
    second = "def load():\n    from p import a\n"
    modules = {"p", "p.a", "p.b", "p.c"}
    graph = {
        "p": set[str](),
        "p.a": imports_of(first, modules),
        "p.b": imports_of(second, modules),
        "p.c": imports_of("import p.a", modules),
    }
    assert circles(graph) == {frozenset({"p.a", "p.b"})}
