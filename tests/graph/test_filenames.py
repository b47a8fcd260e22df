"""Names of files: what is put into a template, and that nothing chooses a folder."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runware_flow.graph.filenames import Template, harmless


def fill(text: str, **changes: Any) -> str:
    values: dict[str, Any] = {"flow": "f", "label": "art", "indexes": [], "keys": [], "uuid": "u-1", **changes}
    return Template(text).fill(**values)


@pytest.mark.parametrize(
    ("text", "changes", "name"),
    [
        ("out/{label}-{index}", {}, "out/art-0"),
        ("out/{label}-{index}", {"indexes": [7]}, "out/art-7"),
        ("out/{index:04}.png", {"indexes": [7]}, "out/0007.png"),
        ("out/{index:03}", {"indexes": [7, 12]}, "out/007-012"),
        ("out/{key}", {"keys": ["red", "kite"]}, "out/red-kite"),
        ("{flow}/{uuid}", {}, "f/u-1"),
        ("out/{uuid}", {"uuid": None}, "out/0"),
        ("100%/{{{label}}}", {}, "100%/{art}"),
        ("plain.jpg", {}, "plain.jpg"),
        ("../{label}", {"label": "a fine label"}, "../a fine label"),
    ],
)
def test_template_is_filled(text, changes, name) -> None:
    assert fill(text, **changes) == name


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "names no file"),
        ("out/", "end it with a name"),
        ("out/..", "names a folder"),
        (".", "names a folder"),
        ("out/\0{label}", "no file's name can have"),
        ("out/{nam}", "there are: {flow}, {index}, {key}, {label}, {uuid}"),
        ("out/{}", "nothing is put into"),
        ("out/{label.__class__}", "nothing is put into"),
        ("out/{0}", "nothing is put into"),
        ("out/{label", "is not a template"),
        ("out/{label:>9}", "only a width for the index"),
        ("out/{index:x}", "only a width for the index"),
        ("out/{index:99999}", "only a width for the index"),
    ],
)
def test_template_that_cannot_work_says_what_would(text, sentence) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        Template(text)


def test_template_tells_items_apart_by_what_differs() -> None:
    assert [Template(text).distinguishes_items for text in ("{label}", "{index}", "{key}", "{uuid}", "{flow}")] == [
        False,
        True,
        True,
        True,
        False,
    ]


@given(st.text())
def test_whatever_is_put_in_stays_one_part_of_a_path(value: str) -> None:
    part = harmless(value)
    assert not set(part) & set('/\\:*?"<>|\0\n')
    assert part not in ("", ".", "..") or value == ""
    assert not part.startswith(".")
    assert len(part.encode()) <= 109


@pytest.mark.parametrize("text", ["{label}", "{label}-{index}", "{flow} {label} {key} {uuid}", "{key}" * 9])
@pytest.mark.parametrize("letter", ["x", "灯", "é", "\U0001d538"])
def test_name_fits_into_a_file_system_with_its_extension_and_while_it_is_written(text: str, letter: str) -> None:
    long = letter * 300
    name = fill(text, flow=long, label=long, keys=[long, long], uuid=long)
    assert len(f".{name}.{'0' * 8}.part".encode()) <= 255


@given(st.text(), st.text())
def test_different_texts_stay_different(one: str, other: str) -> None:
    assert (harmless(one) == harmless(other)) == (one == other)
