"""`run` with a Batch, and the items of a journal as lines, rows and tables."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import pytest

from runware_flow.cli.batch import read_items
from runware_flow.cli.program import UsageError

PROGRAM = """
from runware_flow import Batch
from runware_flow.tasks import Caption, ImageInference

def poster(flow, row):
    task = ImageInference(model="runware:400@1", positive_prompt=row["prompt"], width=512, height=512)
    return flow.then(task, label="art").then(
        lambda image: Caption(model="runware:150@2", inputs={"image": image}), label="caption"
    )

batch = Batch(poster, on_error="continue")
"""


def command(folder, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "runware_flow", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory, journal):
    folder = tmp_path_factory.mktemp("batch")
    (folder / "posters.py").write_text(PROGRAM)
    (folder / "rows.csv").write_text('id,prompt\n1,a red kite\n2,"a boat, blue"\n3,x\n4,=1+1 kites\n')
    run = ("run", "posters.py", "--items", "rows.csv", "--key", "id", "--journal", journal, "--progress", "off")
    code, out, error = command(folder, "emulate", "--", sys.executable, "-m", "runware_flow", *run)
    assert code == 1, error
    assert "poster: 3 ok, 0 of them restored from the journal, 1 failed" in out
    assert '2: An image of "a boat, blue"' in out  # by its key, as `journal ls` names it
    assert error.startswith("runware-flow: 3 failed: The length of 'positivePrompt'")
    return folder


def test_run_of_a_batch_continues_from_its_journal(folder, journal):
    run = ("run", "posters.py", "--items", "rows.csv", "--key", "id", "--journal", journal, "--limit", "2", "--json")
    code, out, error = command(folder, "emulate", "--", sys.executable, "-m", "runware_flow", *run, "--progress", "off")
    assert code == 0, error
    told = [json.loads(line) for line in out.splitlines()]
    assert sorted(one["input"]["id"] for one in told) == ["1", "2"]
    assert sorted(one["key"] for one in told) == ["1", "2"]
    assert all(one["state"] == "ok" and one["value"]["taskType"] == "caption" for one in told)


def test_plan_of_a_batch_says_what_its_items_would_cost_and_sends_nothing(folder, journal):
    code, out, error = command(folder, "plan", "posters.py", "--items", "rows.csv", "--journal", journal)
    assert (code, error) == (0, "")
    assert out.splitlines()[0] == "batch 'poster': 4 items, 4 in the sample"
    assert "all items: 8 tasks, $0.006, about $0.006" in out
    code, out, _ = command(folder, "plan", "posters.py", "--items", "rows.csv", "--limit", "3", "--json")
    told = json.loads(out)
    assert (code, told["items"], len(told["sample"]), told["estimate"]) == (0, 3, 3, None)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("posters.py", "--items", "rows.csv", "--prices"), "a Batch learns its prices from --journal"),
        (("posters.py", "--items", "none.csv"), "--items none.csv does not exist"),
        (("posters.py",), "which needs items: --items FILE"),
        (("posters.py", "--limit", "3"), "--limit is for the --items of a Batch"),
    ],
)
def test_plan_of_a_batch_that_cannot_be_made_is_one_sentence(folder, arguments, sentence):
    code, out, error = command(folder, "plan", *arguments)
    assert (code, out) == (2, "")
    assert sentence in error


def test_journal_ls_has_a_line_for_each_item(folder, journal):
    code, out, _ = command(folder, "journal", "ls", journal)
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines()] == [["1", "ok"], ["2", "ok"], ["3", "failed"], ["4", "ok"]]
    _, out, _ = command(folder, "journal", "ls", "--failed", journal)
    assert [line.split()[0] for line in out.splitlines()] == ["3"]
    assert "positivePrompt" in out


def test_journal_show_tells_of_each_node_of_an_item(folder, journal):
    code, out, _ = command(folder, "journal", "show", journal, "2")
    assert code == 0
    assert "item[2]/art: ok" in out
    assert "asked: a boat, blue" in out
    code, _, error = command(folder, "journal", "show", journal, "9")
    assert code == 2
    assert f"has no item '9': `runware-flow journal ls {journal}` lists them" in error


def test_lines_of_items_without_a_key_begin_with_their_position(folder, journal):
    run = ("run", "posters.py", "--items", "rows.csv", "--progress", "off")
    code, out, error = command(folder, "emulate", "--", sys.executable, "-m", "runware_flow", *run)
    assert code == 1
    assert '1: An image of "a boat, blue"' in out
    assert error.startswith("runware-flow: 2 failed: The length of 'positivePrompt'")


def test_export_writes_rows_that_spreadsheets_and_scripts_read(folder, journal):
    code, _, error = command(folder, "export", journal, "-o", "out/rows.csv")
    assert code == 0, error
    with (folder / "out" / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["key"] for row in rows] == ["1", "2", "3", "4"]
    assert [row["state"] for row in rows] == ["ok", "ok", "failed", "ok"]
    assert rows[1]["input"] == "a boat, blue"
    assert rows[3]["input"] == "'=1+1 kites"  # no formula
    assert rows[0]["urls"].startswith("http://127.0.0.1:")
    assert {row["flow"] for row in rows} == {"poster"}
    code, out, _ = command(folder, "export", journal, "--format", "jsonl")
    assert [json.loads(line)["key"] for line in out.splitlines()] == ["1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.csv", "\ufeffid,p\n1,x\n", [{"id": "1", "p": "x"}]),
        ("a.tsv", "id\tp\n1\tx\n", [{"id": "1", "p": "x"}]),
        ("a.jsonl", '{"id": 1}\n\n["b"]\n', [{"id": 1}, ["b"]]),
        ("a.txt", "one\n\n two \n", ["one", "two"]),
    ],
)
def test_items_are_read_by_the_name_of_the_file(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text, encoding="utf-8")
    items, key = read_items(tmp_path / name, key=None, limit=None)
    assert list(items()) == list(items()) == expected
    assert key is None
    limited, _ = read_items(tmp_path / name, key=None, limit=1)
    assert list(limited()) == expected[:1]


@pytest.mark.parametrize(
    ("name", "text", "key", "sentence"),
    [
        ("a.csv", "id,p\n1,x\n", "nope", "have no 'nope'; they have id, p"),
        ("a.txt", "one\n", "id", "a text file has neither"),
        ("a.jsonl", "[1]\n", "id", "they have no names"),
    ],
)
def test_key_that_items_do_not_have_is_one_sentence(tmp_path, name, text, key, sentence):
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=sentence):
        read_items(tmp_path / name, key=key, limit=None)
    with pytest.raises(UsageError, match="does not exist"):
        read_items(tmp_path / "no.csv", key=None, limit=None)
