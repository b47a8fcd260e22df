"""The reference page has every fault and every setting, in the words of the code."""

from __future__ import annotations

import ast
import re
from dataclasses import MISSING, fields
from pathlib import Path

from runware_flow.emulator import settings as module
from runware_flow.emulator.network.faults import BYTE_FAULTS, FAULT_KINDS, Fault
from runware_flow.emulator.service.log import CallEntry, Log, TaskEntry
from runware_flow.emulator.settings import Settings

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "emulator.md"


def table(heading: str) -> list[list[str]]:
    """The rows of the first table below a heading, code marks taken off the first two columns."""
    section = PAGE.read_text(encoding="utf-8").split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.strip("|").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip().strip("`") for cell in row[:-1]] + [row[-1].strip()] for row in rows]


def described() -> dict[str, str]:
    """The docstrings of the settings, on one line each."""
    source = Path(str(module.__file__)).read_text(encoding="utf-8")
    tree = next(node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    found: dict[str, str] = {}
    for name, text in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(name, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            assert isinstance(name.target, ast.Name)
            found[name.target.id] = " ".join(str(text.value.value).split())
    return found


def test_page_has_every_setting_with_its_default_and_its_words() -> None:
    rows = {name: (default, text) for name, default, text in table("Settings")}
    words = described()
    for field in fields(Settings):
        default = field.default if field.default is not MISSING else field.default_factory()
        assert rows.pop(field.name) == (repr(default), words[field.name])
    assert not rows


def test_page_says_which_defaults_are_guesses() -> None:
    guesses = {name for name, text in described().items() if "guess" in text}
    assert guesses >= {"retention", "max_tasks", "max_frame_bytes", "unauthenticated_code", "call_attempts"}
    assert guesses >= {"webhook_shape", "conflict_after_retention", "mixed_status", "overdue", "unknown_task"}


def test_page_has_every_fault_in_the_words_of_the_code() -> None:
    rows = {kind: text for kind, text in table("Faults") if "=" not in kind}  # the rest are conditions
    assert rows == {kind: text for kind, text in FAULT_KINDS.items() if kind not in BYTE_FAULTS}
    assert dict(table("Faults of bytes")) == BYTE_FAULTS


def test_page_has_every_condition_of_a_fault() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for field in fields(Fault):
        assert re.search(rf"`{field.name}[`=]", text), field.name


def test_page_names_what_the_log_holds() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for entry in (Log, TaskEntry, CallEntry):
        for field in fields(entry):
            assert f"`{field.name}`" in text, field.name
