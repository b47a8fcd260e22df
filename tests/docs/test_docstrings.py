"""Every public name says what it is, is on a page of the reference, and tells what a cancel leaves behind."""

from __future__ import annotations

import inspect
import json
import re
from importlib import import_module
from pathlib import Path

import pytest

import runware_flow

API = Path(__file__).parents[2] / "docs" / "reference" / "api"
MODULES = ("errors", "journal", "emulator", "testing.playbook", "testing.plugin", "tasks", "results")
HOMES = [import_module(f"runware_flow.{name}") for name in ("client.options", "flow.options", "runner.settings")]
KEYWORDS = (
    "client.options.ClientKeywords",
    "client.options.ClientOptions",
    "runner.settings.FlowOptions",
    "flow.options.PolicyOptions",
)

# They ask and change nothing: a cancel ends the waiting, and there is nothing to say about it.
QUESTIONS = {
    *("account_management", "clear_validator_cache", "get_response", "get_task", "get_task_details"),
    *("look_up_prices", "model_search", "refresh_registry", "file_to_data_uri", "wait_changed"),
}


def public():
    """Each public name with its object."""
    yield from ((name, getattr(runware_flow, name)) for name in runware_flow.__all__)
    for module in map(import_module, (f"runware_flow.{name}" for name in MODULES)):
        yield from ((f"{module.__name__}.{name}", getattr(module, name)) for name in module.__all__)


def with_members():
    """The same, with the methods and properties of the classes."""
    for name, thing in public():
        yield name, thing
        if inspect.isclass(thing) and not name.startswith(("runware_flow.tasks", "runware_flow.results")):
            for kind in thing.__mro__:
                if kind.__module__.startswith("runware_flow"):
                    yield from ((f"{name}.{key}", value) for key, value in vars(kind).items() if key[0] != "_")


def is_documentable(thing):
    return inspect.isclass(thing) or inspect.isroutine(thing) or isinstance(thing, property)


EVERYTHING = {name: thing for name, thing in with_members() if is_documentable(thing)}
COROUTINES = {
    name: thing
    for name, thing in EVERYTHING.items()
    if inspect.iscoroutinefunction(inspect.unwrap(thing) if callable(thing) else thing)
}


def test_every_public_name_has_a_docstring_of_its_own():
    def text(thing):
        return (vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__) or ""

    # msgspec and dataclasses write a signature where a class has no docstring
    assert [name for name, thing in EVERYTHING.items() if not re.match(r"\W*\w[^(]", text(thing))] == []


def arguments_told(thing):
    """The names under `Args:` in a docstring, and those on a line of their own after `a, b:`."""
    _, found, rest = inspect.cleandoc(thing.__doc__ or "").partition("\nArgs:\n")
    block = re.split(r"^\S", rest, maxsplit=1, flags=re.MULTILINE)[0] if found else ""
    return {
        name.strip("* ") for line in re.findall(r"^    (\S[^:]*):", block, re.MULTILINE) for name in line.split(",")
    }


def arguments_taken(thing):
    """The parameters of a callable, with the keywords behind an `Unpack[...]`."""
    for name, parameter in inspect.signature(thing).parameters.items():
        yield name
        keywords = re.search(r"Unpack\[(\w+)\]", str(parameter.annotation))
        if keywords:
            yield from next(vars(home)[keywords[1]] for home in HOMES if keywords[1] in vars(home)).__annotations__


@pytest.mark.parametrize("name", [name for name, thing in EVERYTHING.items() if arguments_told(thing)])
def test_docstring_tells_of_arguments_that_exist(name):
    assert arguments_told(EVERYTHING[name]) <= set(arguments_taken(EVERYTHING[name]))


@pytest.mark.parametrize("home", KEYWORDS)
def test_every_keyword_of_an_options_dict_has_a_docstring(home):
    module, _, name = home.rpartition(".")
    home = import_module(f"runware_flow.{module}")
    source = inspect.getsource(home)
    for key in getattr(home, name).__annotations__:
        assert re.search(rf'^    {key}: .*\n    """', source, re.MULTILINE), f"{name}.{key}"


@pytest.mark.parametrize("name", [name for name in COROUTINES if name.rpartition(".")[2] not in QUESTIONS])
def test_public_coroutine_says_what_a_cancel_leaves_behind(name):
    says = "cancel" in (COROUTINES[name].__doc__ or "").lower()
    assert says, "its docstring does not say it; one that only asks belongs in QUESTIONS"


def test_pages_made_from_docstrings_show_every_public_name():
    pages = "".join(page.read_text(encoding="utf-8") for page in API.glob("*.md"))
    shown = set(re.findall(r"^::: runware_flow\.(\S+)$", pages, re.MULTILINE))
    shown |= {name for module in MODULES if module in shown for name in import_module(f"runware_flow.{module}").__all__}
    missing = set(runware_flow.__all__) - shown
    assert not missing, "add a line `::: runware_flow.NAME` to the page of docs/reference/api where it belongs"


def shown_members():
    """Each method and property that a page made from docstrings shows, by name of the page."""
    block = re.compile(r"^::: (\S+)\n((?: +.*\n)*)", re.MULTILINE)
    for page in API.glob("*.md"):
        for name, options in block.findall(page.read_text(encoding="utf-8")):
            filters = [json.loads(line) for line in re.findall(r"filters: (\[.*\])", options)] or [["!^_"]]
            home, _, member = name.rpartition(".")
            thing = getattr(import_module(home), member, None)
            if inspect.isclass(thing) and "members:" not in options:
                for key, value in vars(thing).items():
                    hidden = any(re.search(pattern[1:], key) for pattern in filters[0])
                    if not hidden and is_documentable(value) and value.__doc__:
                        yield page.name, f"{member}.{key}"


def test_pages_made_from_docstrings_show_no_member_that_the_reference_does_not_name():
    text = "".join(page.read_text(encoding="utf-8") for page in API.parent.glob("*.md"))
    text += "".join(page.read_text(encoding="utf-8") for page in API.parents[1].glob("how-to/*.md"))
    named = set(re.findall(r"\w+", " ".join(re.findall(r"```python\n.*?```|`[^`\n]+`", text, re.DOTALL))))
    unnamed = [(page, name) for page, name in shown_members() if name.rpartition(".")[2] not in {*named, "__getitem__"}]
    assert unnamed == [], "name it in docs/reference, or hide it with `filters:` on its page in docs/reference/api"
