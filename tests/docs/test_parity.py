"""The table beside the official clients: every row names a test of ours that exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "reference" / "parity.md"


def rows():
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("|") and len(cells) == 5 and not cells[0].startswith(("---", "method", "option", "member")):
            yield cells


@cache
def names(path):
    tree = ast.parse((TESTS / path).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("cells", [pytest.param(cells, id=cells[0]) for cells in rows()])
def test_row_names_a_test_that_exists(cells):
    what, here, *_, tests = cells
    assert what
    assert here not in ("", "no"), "a row is about something that is here"
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", tests)
    assert named
    for path, name in named:
        assert name in names(path), f"{path} has no {name}"


def test_every_test_of_a_fault_of_the_official_clients_is_named_or_is_about_one():
    """The faults have names that tell them apart, so that a reader finds them by their text."""
    faults = {name for name in names("client/test_official_faults.py") if name.startswith("test_")}
    assert all(name.startswith(("test_fault_", "test_typescript_fault_")) for name in faults)
    assert len(faults) > 20


def test_table_is_not_shorter_than_what_it_is_about():
    assert len(list(rows())) > 90
