"""The page of protections: each names a test that exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "explanation" / "protections.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE)


def test_every_protection_names_a_test():
    rows = [line for line in PAGE.splitlines() if line.startswith("|") and "---" not in line and "| test |" not in line]
    assert rows
    assert [row for row in rows if not re.search(r"`[\w/]+\.py::\w+`", row)] == []


@pytest.mark.parametrize(("path", "name"), NAMED, ids=[name for _, name in NAMED])
def test_protection_names_a_test_that_exists(path, name):
    assert re.search(rf"^def {name}\(", (ROOT / "tests" / path).read_text(encoding="utf-8"), re.MULTILINE)
