"""The pages hold what they promise: their code runs, their commands exist, their links lead somewhere.

The rules, which docs/index.md tells the reader too:

- The Python blocks of a page run in order, in one namespace and one empty folder, against an emulator that RUNWARE_*
  names. A block with `await` outside of a function stands for the body of an `async def main()`.
- A block whose first line is `# not run: reason` is compiled only, and so is everything in docs/explanation.
- A block whose first line is `# file: name.py` is what the reader writes into that file; it is not run by itself.
- A `text` block right after a Python block is what that prints; `...` stands for anything.
- The commands of a `console` block exist. Where a page has files, those of RUN_COMMANDS whose output is shown are run,
  and print that.
"""

from __future__ import annotations

import ast
import doctest
import inspect
import os
import re
import shlex
import subprocess
import sys
import textwrap
import tomllib
import types
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, get_args, get_type_hints

import anyio
import pytest
from forward_proxy import run_proxy

from runware_flow.emulator import run_in_thread
from runware_flow.emulator.commands import environment

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("docs/**/*.md"), ROOT / "README.md", ROOT / "examples" / "README.md"])
RUN_PAGES = [page for page in PAGES if page.parent.name != "explanation"]
RUN_COMMANDS = ("pytest", *(f"runware-flow {name}" for name in ("emulate", "plan", "report")))
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


class Block(NamedTuple):
    language: str
    text: str
    line: int

    @property
    def first(self):
        return self.text.partition("\n")[0]

    def commands(self):
        """Each command of a console block, with the lines that follow it."""
        for part in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            yield command, output


def name_of(page):
    return str(page.relative_to(ROOT))


def blocks_of(page):
    text = page.read_text(encoding="utf-8")
    return [Block(m[2], textwrap.dedent(m[3]), text.count("\n", 0, m.start()) + 2) for m in FENCE.finditer(text)]


def every(language, pages=PAGES):
    return [
        pytest.param(block, id=f"{name_of(page)}:{block.line}")
        for page in pages
        for block in blocks_of(page)
        if block.language == language
    ]


def pages_with(predicate):
    return [pytest.param(page, id=name_of(page)) for page in RUN_PAGES if any(map(predicate, blocks_of(page)))]


def compiled(block, name="<page>"):
    tree = compile(
        "\n" * (block.line - 1) + block.text, name, "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    )
    return compile(tree, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def assert_prints(expected, printed):
    checker, options = doctest.OutputChecker(), doctest.ELLIPSIS
    if not checker.check_output(expected, printed, options):
        pytest.fail(checker.output_difference(doctest.Example("", expected), printed, options))


@pytest.fixture(scope="module")
def emulator():
    with run_in_thread(latency=0.02) as running:
        yield running


@pytest.fixture
def folder(emulator, tmp_path, monkeypatch):
    """An empty folder, with RUNWARE_* set, as the reader's shell has them."""
    for name, value in environment(emulator).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    emulator.faults.clear()


def runs(block):
    return block.language == "python" and not block.first.startswith(("# not run: ", "# file: "))


def awaits(block):
    return runs(block) and bool(compiled(block).co_flags & inspect.CO_COROUTINE)


def run_block(block, page, module, backend):
    code = compiled(block, name_of(page))
    if not code.co_flags & inspect.CO_COROUTINE:
        exec(code, vars(module))
        return

    async def main():
        with anyio.fail_after(20):
            await eval(code, vars(module))

    anyio.run(main, backend=backend)


@pytest.mark.parametrize(
    ("page", "backend"),
    [
        *(pytest.param(*page.values, "asyncio", id=f"{page.id}-asyncio") for page in pages_with(runs)),
        *(pytest.param(*page.values, "trio", id=f"{page.id}-trio") for page in pages_with(awaits)),
    ],
)
def test_page_python_blocks_run_and_print_what_follows(page, folder, capsys, monkeypatch, backend):
    if page.name != "proxies.md":
        return run_page(page, capsys, monkeypatch, backend)
    with run_proxy() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        run_page(page, capsys, monkeypatch, backend)
    assert {"POST", "GET", "CONNECT"} == set(proxy.methods)
    return None


def run_page(page, capsys, monkeypatch, backend):
    blocks = blocks_of(page)
    module = types.ModuleType("__main__")  # so that a whole program runs as one
    monkeypatch.setitem(sys.modules, "page", module)
    for block, after in zip(blocks, [*blocks[1:], Block("", "", 0)], strict=True):
        if runs(block):
            run_block(block, page, module, backend)
            printed = capsys.readouterr().out
            if after.language == "text":
                assert_prints(after.text, printed)


def has_files(block):
    return block.language == "python" and block.first.startswith("# file: ")


@pytest.mark.exhaustive
@pytest.mark.timeout(240)  # a tutorial's commands, one after the other, each in processes of its own
@pytest.mark.parametrize("page", pages_with(has_files))
def test_page_files_run_under_the_commands_shown(page, folder):
    for block in blocks_of(page):
        if has_files(block):
            (folder / block.first.removeprefix("# file: ")).write_text(block.text, encoding="utf-8")
        elif block.language == "console":
            for command, expected in block.commands():
                if expected.strip() and command.startswith(RUN_COMMANDS):
                    done = subprocess.run(
                        shlex.split(command),
                        stdout=subprocess.PIPE,
                        stderr=subprocess.STDOUT,
                        text=True,
                        timeout=40,
                        check=False,
                    )
                    assert_prints(expected, done.stdout)


@pytest.mark.parametrize("block", every("python"))
def test_python_block_compiles(block):
    compiled(block)
    if block.first.startswith("# not run"):
        assert block.first.removeprefix("# not run:").strip(), "say why it is not run"


@pytest.mark.parametrize("block", every("console"))
def test_console_block_names_commands_that_exist(block):
    import typer.main

    from runware_flow.cli.app import app

    known = typer.main.get_command(app).commands
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    commands = [shlex.split(command, comments=True) for command, _ in block.commands()]
    assert commands, "a console block starts with `$ `"
    for program, *words in commands:
        if program == "make":
            assert words[0] in targets
        if program == "runware-flow" and words != ["--help"]:
            ours = words[: words.index("--")] if "--" in words else words
            command = known[words[0]]
            if hasattr(command, "commands"):
                command = command.commands[words[1]]
            options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
            assert {word for word in ours if word.startswith("--")} <= options
        for word in words:
            assert not word.startswith("examples/") or (ROOT / word).exists()


def slug(heading):
    return re.sub(r"[^\w\- ]", "", heading.lower().replace("`", "")).strip().replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_page_relative_links_lead_somewhere(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in LINK.findall(text):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{target} leads nowhere"
        if anchor and file.suffix == ".md":
            assert anchor in map(slug, HEADING.findall(FENCE.sub("", file.read_text(encoding="utf-8")))), target


def test_design_draws_the_floors_that_the_linter_enforces():
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ][0]
    floors = re.findall(
        r"^\| \d-? \| (`.*?) \|", (ROOT / "docs" / "explanation" / "design.md").read_text("utf-8"), re.MULTILINE
    )
    drawn = [set(re.findall(r"`(\w+)`", floor)) for floor in floors]
    enforced = [set(re.findall(r"\w+", layer)) for layer in contract["layers"]]
    assert set().union(*drawn) == set().union(*enforced), "design.md draws other floors than pyproject.toml enforces"
    height = {name: number for number, layer in enumerate(enforced) for name in layer}
    assert all(max(map(height.get, upper)) <= min(map(height.get, lower)) for upper, lower in pairwise(drawn))


@pytest.mark.parametrize("page", sorted(set(PAGES) - set(RUN_PAGES)), ids=name_of)
def test_explanation_names_files_that_exist(page):
    named = re.findall(r"`(?:runware_flow/)?(\w+/(?:\w+/)*(?:\w+\.py)?)`", page.read_text(encoding="utf-8"))
    assert [
        name for name in named if not any((ROOT / home / name).exists() for home in (".", "runware_flow", "tests"))
    ] == []


@pytest.mark.parametrize(
    ("page", "folder"),
    [("graph.md", "graph"), ("graph.md", "flow"), ("graph.md", "runner"), ("session.md", "session")],
)
def test_explanation_says_where_each_module_is(page, folder):
    modules = {file.name for file in (ROOT / "runware_flow" / folder).glob("[!_]*.py")}
    text = (ROOT / "docs" / "explanation" / page).read_text(encoding="utf-8")
    assert modules - set(re.findall(r"`(?:\w+/)*(\w+\.py)`", text)) == set()


def test_index_leads_to_every_page():
    index = ROOT / "docs" / "index.md"
    linked = {(index.parent / target).resolve() for target in LINK.findall(index.read_text(encoding="utf-8"))}
    assert {page for page in PAGES if "docs" in page.parts} - {index} <= linked


def test_list_of_examples_leads_to_every_program():
    folder = ROOT / "examples"
    linked = set(LINK.findall((folder / "README.md").read_text(encoding="utf-8")))
    assert linked == {path.name for kind in ("*.py", "*.ipynb") for path in folder.glob(kind)}


def public_names():
    """What the reference has to name, by page."""
    import runware_flow
    from runware_flow import errors
    from runware_flow.client.http.content import Content
    from runware_flow.client.options import ClientOptions
    from runware_flow.client.utilities import Utilities
    from runware_flow.emulator import __all__ as emulator_names
    from runware_flow.errors import ErrorCode
    from runware_flow.flow.options import PolicyOptions
    from runware_flow.runner.settings import FlowOptions

    def methods(*kinds):
        return {name for kind in kinds for name in vars(kind) if not name.startswith("_")}

    flow = {
        *methods(runware_flow.Flow, runware_flow.Node, runware_flow.Many, runware_flow.Run, runware_flow.RunResult),
        *get_type_hints(FlowOptions),
        *get_type_hints(PolicyOptions),
        "current_run",
    }
    inside = {
        "add_call",
        "declaration",
        "declare_call",
        "declare_map",
        "fan_of",
        "handle_of",
        "require",
        "settings",
        "finish",
        "story",
    }
    client = methods(runware_flow.Client, Utilities, Content)
    yield "client.md", {*client, *ClientOptions.__annotations__, "Delivery", "Progress"}
    yield "flow.md", flow - inside
    yield "errors.md", {*errors.__all__, *get_args(ErrorCode)} - {"ErrorCode", "stable_code"}
    yield "emulator.md", set(emulator_names)
    everything = {name for page in (ROOT / "docs" / "reference").glob("*.md") for name in words(page)}
    assert set(runware_flow.__all__) <= everything


def words(page):
    return set(re.findall(r"\w+", page.read_text(encoding="utf-8")))


def test_reference_names_everything_public():
    for name, names in public_names():
        assert names <= words(ROOT / "docs" / "reference" / name), name


def test_command_line_reference_names_every_command():
    from runware_flow.cli.app import app

    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert known <= words(ROOT / "docs" / "reference" / "command-line.md")


@pytest.mark.parametrize("page", RUN_PAGES, ids=name_of)
def test_page_fences_are_closed_and_dashes_plain(page):
    text = page.read_text(encoding="utf-8")
    assert "```" not in FENCE.sub("", text)
    assert "\N{EM DASH}" not in text


def test_programs_that_pages_show_are_the_examples():
    shown = set()
    for page in PAGES:
        for _, language, text in FENCE.findall(page.read_text(encoding="utf-8")):
            name = re.match(r"# file: (\S+)\n", text)
            example = ROOT / "examples" / name[1] if language == "python" and name else None
            if example is not None and example.exists() and text.startswith(f'# file: {example.name}\n"""'):
                assert text.partition("\n")[2] == example.read_text(encoding="utf-8"), f"{page.name}: {example.name}"
                shown.add(example.name)
    assert shown >= {"best_of_four.py", "csv_rows.py", "fastapi_app.py", "product_photos.py", "storyboard.py"}
