"""Finding the flow in a file: names, functions with parameters, and what is said when there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from runware_flow.cli.program import UsageError, UserError, find_flow

HEAD = """
from pathlib import Path
from typing import Literal
from runware_flow import Batch, Flow

async def work():
    return 1

"""


@pytest.fixture
def program(tmp_path):
    def write(body, name="program.py"):
        path = tmp_path / name
        path.write_text(HEAD + body)
        return str(path)

    return write


BUILD = """
def build(prompts: list[str], size: int = 512, ratio: float = 1.0, big: bool = False,
          mode: Literal["a", "b"] = "a", out: Path | None = None, note="x",
          extra: dict[str, int] | None = None) -> Flow:
    flow = Flow("built")
    flow.given = (prompts, size, ratio, big, mode, out, note, extra)
    return flow
"""


@pytest.mark.parametrize(
    ("body", "suffix", "name"),
    [
        ("flow = Flow('a')\nother = Flow('b')", "", "a"),
        ("flow = Flow('a')\nother = Flow('b')", ":other", "b"),
        ("only = Flow('a')\nsame = only", "", "a"),
        ("def flow():\n    return Flow('made')", "", "made"),
        ("def make() -> Flow:\n    return Flow('made')\ndef other():\n    pass", "", "made"),
        ("class Box:\n    flow = Flow('in')", ":Box.flow", "in"),
        ("flow = Flow('a')\nif __name__ == '__main__':\n    raise SystemExit", "", "a"),
    ],
)
def test_the_flow_is_found(program, body, suffix, name):
    assert find_flow(program(body) + suffix).name == name


def test_parameters_are_converted_by_their_annotations(program):
    path = program(BUILD) + ":build"
    params = ['prompts=["a", "b"]', "size=1024", "ratio=0.5", "big=true", "mode=b", "out=x/y", 'extra={"a": 1}']
    assert find_flow(path, params).given == (["a", "b"], 1024, 0.5, True, "b", Path("x/y"), "x", {"a": 1})
    assert find_flow(path, ["prompts=one", "prompts=two", "note=a=b"]).given[0] == ["one", "two"]
    assert find_flow(path, ["prompts=one"]).given[0] == ["one"]


@pytest.mark.parametrize(
    ("body", "suffix", "params", "sentence"),
    [
        ("", "", [], "has no Flow"),
        ("def build():\n    return Flow()", "", [], "or name the function that builds one"),
        ("a = Flow()\nb = Flow()", "", [], "has several flows (a, b): name one, as in "),
        ("flow = Flow()", ":nope", [], "has no 'nope'; its flows are flow"),
        ("flow = Flow()", "", ["a=1"], "--param is for a function that builds a flow"),
        ("x = 1", ":x", [], "is a int, not a Flow"),
        (
            "b = Batch(lambda flow, item: flow.then(work))",
            "",
            [],
            "has the Batch 'lambda', which needs items: --items FILE",
        ),
        ("b = Batch(lambda flow, item: flow.then(work))", ":b", [], "has the Batch 'lambda', which needs items"),
        ("raise SystemExit(3)", "", [], "ended the program while it was read"),
        ("async def flow():\n    return Flow()", "", [], "is async: a function that builds a flow is a plain one"),
        ("def flow():\n    return 1", "", [], "returned a int, not a Flow"),
        (BUILD, ":build", [], "build needs a value for 'prompts': --param prompts=VALUE"),
        (BUILD, ":build", ["size"], "--param is KEY=VALUE, not 'size'"),
        (BUILD, ":build", ["width=1"], "build has no parameter 'width'; its parameters are: prompts, size"),
        (BUILD, ":build", ["prompts=a", "size=big"], "--param size='big' does not fit int"),
        (BUILD, ":build", ["prompts=a", "size=1", "size=2"], "--param size was given 2 times, but takes one value"),
        (BUILD, ":build", ["prompts=a", "mode=c"], "--param mode='c' does not fit"),
        (BUILD, ":build", ['prompts=["a"'], "--param prompts="),
    ],
)
def test_what_does_not_fit_is_one_sentence(program, body, suffix, params, sentence):
    with pytest.raises(UsageError) as caught:
        find_flow(program(body) + suffix, params)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("target", ["nowhere.py", "nowhere.py:flow", "."])
def test_a_path_without_a_file_is_one_sentence(target, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="name a Python file"):
        find_flow(target)


@pytest.mark.parametrize("body", ["def broken():\n    return 1 / 0\nbroken()", "def flow():\n    return 1 / 0"])
def test_an_exception_of_the_file_is_shown_from_that_file_on(program, body):
    with pytest.raises(UserError) as caught:
        find_flow(program(body))
    text = str(caught.value)
    assert text.startswith("Traceback")
    assert "return 1 / 0" in text
    assert "cli/program.py" not in text
    assert "importlib" not in text


def test_a_syntax_error_is_shown_with_its_line(program):
    with pytest.raises(UserError, match=r"(?s)program\.py.*def \(.*SyntaxError"):
        find_flow(program("def ("))


def test_neighbours_of_the_file_can_be_imported_and_its_name_hides_no_module(program):
    program("FLOW = Flow('beside')", name="neighbour_of_program.py")
    path = program("from neighbour_of_program import FLOW as flow", name="json.py")
    assert find_flow(path).name == "beside"
    import json

    assert json.dumps([]) == "[]"
