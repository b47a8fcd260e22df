"""The page of the design names files, symbols and tests that exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "explanation" / "design.md"
TEXT = PAGE.read_text(encoding="utf-8")


def rows():
    section = TEXT.partition("## Where to look for a rule")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")][1:]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]


@cache
def symbols(file):
    """Functions, classes and methods of a file, and its names that are assigned."""
    found = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            inner = [one for one in node.body if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef))]
            found.update(f"{node.name}.{one.name}" for one in inner)
    return found


def named(cell, folder):
    for one in re.findall(r"`([^`]+)`", cell):
        name, _, symbol = one.partition("::")
        yield (ROOT if name == "pyproject.toml" else ROOT / folder) / name, symbol


def missing(cell, folder):
    for file, symbol in named(cell, folder):
        if not file.is_file():
            yield str(file)
        elif symbol and symbol not in symbols(file):
            yield f"{file}::{symbol}"


@pytest.mark.parametrize("row", [pytest.param(row, id=row[0]) for row in rows()])
def test_row_names_a_file_a_symbol_and_a_test_that_exist(row):
    _, where, tests = row
    assert [*missing(where, "runware_flow"), *missing(tests, "tests")] == []
    assert where == "every module" or list(named(where, "runware_flow"))
    assert list(named(tests, "tests"))


def test_first_ten_rows_are_questions():
    assert all(row[0].endswith("?") for row in rows()[:10])
    assert len(rows()) >= 30


def test_walk_names_classes_that_exist_in_the_file_beside_them():
    """`Name` (`folder/file.py`): the file has the name."""
    walk = TEXT.partition("## One picture")[2].partition("\n## ")[0]
    pairs = re.findall(r"`([A-Za-z_.]+)`\s+\(`([a-z_/]+\.py)`", walk)
    assert len(pairs) > 10
    wrong = [f"{file}::{name}" for name, file in pairs if name not in symbols(ROOT / "runware_flow" / file)]
    assert wrong == []


def test_a_missing_symbol_is_found():
    assert len(list(missing("`graph/machine.py::FlowMachine.missing`, `graph/nowhere.py`", "runware_flow"))) == 2
