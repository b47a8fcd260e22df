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
        ("out/{nam}", "there are: {flow}, {index}, {key}, {label}, {uuid}"),
        ("out/{}", "nothing is put into"),
        ("out/{label.__class__}", "nothing is put into"),
        ("out/{0}", "nothing is put into"),
        ("out/{label", "is no template"),
        ("out/{label:>9}", "only a width for the index"),
        ("out/{index:x}", "only a width for the index"),
        ("out/{index:99999}", "only a width for the index"),
    ],
)
def test_template_that_cannot_work_says_what_would(text, sentence) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        Template(text)


def test_template_tells_items_apart_by_what_differs() -> None:
    assert [Template(text).tells_items_apart for text in ("{label}", "{index}", "{key}", "{uuid}", "{flow}")] == [
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
    assert len(part) <= 110


@given(st.text(), st.text())
def test_different_texts_stay_different(one: str, other: str) -> None:
    assert (harmless(one) == harmless(other)) == (one == other)
