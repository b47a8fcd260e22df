"""The package from outside: what it exports, and what importing it does not load."""

from __future__ import annotations

import importlib
import json
import pkgutil
import pydoc
import subprocess
import sys

import pytest

import runware_flow

HEAVY = ("httpx", "httpcore", "websockets", "trio", "trio_websocket", "jsonschema", "starlette", "PIL", "typer", "rich")


@pytest.mark.parametrize(
    "program",
    [
        "import runware_flow",
        "import runware_flow.tasks, runware_flow.results",
        """
from runware_flow import Flow
from runware_flow.tasks import ImageInference
node = Flow('f').then(ImageInference(model='runware:400@1', positive_prompt='a kite'))
node.then(lambda image: ImageInference(model='runware:400@1', positive_prompt='another'))
""",
    ],
)
def test_import_loads_no_network_library(program):
    program = f"import sys, json\n{program}\nprint(json.dumps(sorted(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(json.loads(run.stdout))
    assert not loaded & set(HEAVY)


def test_import_of_the_package_alone_loads_none_of_its_parts():
    program = "import sys, runware_flow\nprint([name for name in sys.modules if name.startswith('runware_flow.')])"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("name", runware_flow.__all__)
def test_exported_name_exists_and_is_documented(name):
    value = getattr(runware_flow, name)
    assert name in dir(runware_flow)
    assert name == "Outcome" or (value.__doc__ or "").strip(), f"{name} has no docstring"


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Flwo'"):
        _ = runware_flow.Flwo


@pytest.mark.exhaustive
def test_help_on_every_module_works():
    """A struct whose annotations cannot be resolved breaks `help()` on its module, with a NameError from inside."""
    for found in pkgutil.walk_packages(runware_flow.__path__, "runware_flow."):
        if found.name != "runware_flow.__main__":
            module = importlib.import_module(found.name)
            assert pydoc.plain(pydoc.render_doc(module)).startswith("Python Library Documentation")


@pytest.mark.parametrize(
    ("extra", "program"),
    [
        ("live", "from runware_flow.live import LivePage; LivePage()"),
        ("emulator", "from runware_flow.emulator import run_in_thread; run_in_thread().__enter__()"),
    ],
)
def test_missing_extra_is_one_sentence_that_says_how_to_install_it(extra, program):
    program = f"import sys; sys.modules['hypercorn'] = None; {program}"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    told = f"runware_flow.extras.MissingExtra: hypercorn is not installed: pip install 'runware-flow[{extra}]'"
    assert run.stderr.strip().splitlines()[-1] == told


def test_command_names_the_extra_that_is_missing():
    program = "import sys; sys.modules['starlette.routing'] = None; from runware_flow.cli import main; main()"
    command = [sys.executable, "-c", program, "emulate", "--", "true"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    sentence = "starlette is not installed: pip install 'runware-flow[emulator]'"
    assert (run.returncode, run.stderr.strip()) == (1, f"runware-flow: {sentence}")
