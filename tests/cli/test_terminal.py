"""What reaches the terminal: nothing that it would obey, and nothing that fails because it cannot be shown."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from runware_flow.emulator import run_in_thread
from runware_flow.emulator.commands import environment
from runware_flow.view.bars import bars
from runware_flow.view.progress import ProgressBoard
from runware_flow.view.terminal import visible, visible_lines

PROGRAM = """
from runware_flow import Flow
from runware_flow.tasks import Caption, ImageInference

EVIL = "a kite \\x1b]0;title\\x07 \\x9b31m \\r\\nrunware-flow: all is well \\u202e \\U0001f3a8"

def build(fails: bool = False, on_error: str = "stop") -> Flow:
    flow = Flow("posters \\x1b[2J", on_error=on_error)
    art = flow.then(
        ImageInference(model="runware:400@1", positive_prompt="\\U0001f3a8 a kite", width=512, height=512),
        label="art \\x1b[31m\\nrunware-flow: forged",
    )
    async def words(image):
        if fails:
            raise ValueError(EVIL)
        return EVIL
    art.then(words, label="words")
    return flow
"""


@pytest.fixture(scope="module")
def emulator():
    with run_in_thread(latency=0.01) as running:
        yield running


def call(folder, emulator, *arguments, encoding="utf-8"):
    return subprocess.run(
        [sys.executable, "-m", "runware_flow", *arguments],
        capture_output=True,
        timeout=50,
        check=False,
        cwd=folder,
        env={**os.environ, **environment(emulator), "PYTHONIOENCODING": encoding},
    )


def check_harmless(done, encoding="utf-8"):
    for stream in (done.stdout, done.stderr):
        text = stream.decode(encoding)
        assert not [one for one in text if unicodedata.category(one) == "Cc" and one not in "\n\t"], text
        assert "\u202e" not in text
        assert "\nrunware-flow: all is well" not in text
        assert "\nrunware-flow: forged" not in text


@pytest.mark.exhaustive
@pytest.mark.parametrize("progress", ["auto", "rich", "json"])
@pytest.mark.parametrize("more", [(), ("-p", "fails=true"), ("-p", "fails=true", "-p", "on_error=continue")])
def test_captions_errors_and_labels_are_shown_as_escapes(tmp_path, emulator, progress, more):
    (tmp_path / "posters.py").write_text(PROGRAM)
    done = call(tmp_path, emulator, "run", "posters.py:build", "--progress", progress, "--journal", "run.sqlite", *more)
    assert done.returncode == (1 if more else 0)
    check_harmless(done)
    assert b"\\x1b" in done.stdout + done.stderr
    for command in (("plan", "posters.py:build"), ("plan", "posters.py:build", "--json"), ("collect", "run.sqlite")):
        check_harmless(call(tmp_path, emulator, *command))


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1"])
def test_text_that_the_console_has_no_characters_for_is_shown_as_escapes(tmp_path, emulator, encoding):
    (tmp_path / "posters.py").write_text(PROGRAM)
    done = call(tmp_path, emulator, "run", "posters.py:build", encoding=encoding)
    assert done.returncode == 0, done.stderr
    check_harmless(done, encoding)
    assert b"\\U0001f3a8" in done.stdout
    as_json = call(tmp_path, emulator, "run", "posters.py:build", "--json", encoding=encoding)
    assert "\U0001f3a8" in json.loads(as_json.stdout)["nodes"][1]["text"]


def test_names_of_files_are_shown_as_escapes(tmp_path, emulator):
    name = "run\x1b[31m\nrunware-flow: forged.sqlite"
    (tmp_path / name).write_text("no journal, but long enough to be taken for one" * 100)
    done = call(tmp_path, emulator, "report", name)
    assert done.returncode == 1
    check_harmless(done)


@given(st.text())
def test_visible_text_is_one_line_without_control_characters(text):
    shown = visible(text)
    assert not [one for one in shown if unicodedata.category(one) in ("Cc", "Cs", "Zl", "Zp")]
    assert len(shown.splitlines()) <= 1
    shown.encode()
    assert visible(shown) == shown


@given(st.text())
def test_visible_lines_after_the_first_begin_with_space(text):
    lines = visible_lines(text).split("\n")
    assert all(not line or line[0] in " \t" for line in lines[1:])
    assert len(lines) == len(text.split("\n"))


def test_bars_on_a_terminal_show_labels_as_escapes():
    board = ProgressBoard("posters \x1b[2J", 4, {"art \x1b[31m\x07": 3})
    board.start("art \x1b[31m\x07")
    shown = io.StringIO()
    Console(file=shown, force_terminal=True, color_system=None, width=120).print(bars(board))
    assert "\x1b[31m" not in shown.getvalue()
    assert "\x1b[2J" not in shown.getvalue()
    assert "\x07" not in shown.getvalue()
    assert "\\x1b[31m" in shown.getvalue()


def test_ordinary_text_stays_as_it_is():
    for text in ("Ein Drachen über grünen Hügeln", "赤い凧", "👩‍🚀 a\u00a0kite", "שלום"):
        assert visible(text) == text
