"""Modules import each other without a circle, imports for type checking and inside functions included."""

from __future__ import annotations

from pathlib import Path

import runware_flow
from benchmarks.house import circles, import_graph, imports_of

PACKAGE = Path(runware_flow.__file__).parent


def test_imports_have_no_circle() -> None:
    assert [sorted(circle) for circle in circles(import_graph(PACKAGE))] == []


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
