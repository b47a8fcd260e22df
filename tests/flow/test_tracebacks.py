"""Typical mistakes: what is said, and how many lines of this library stand above it."""

from __future__ import annotations

import os
import re
import textwrap
import traceback

import pytest

import runware_flow
from runware_flow.tracebacks import FULL_TRACEBACKS

PACKAGE = os.path.dirname(runware_flow.__file__)

START = """
import anyio
from runware_flow import Client, Flow
from runware_flow.tasks import Caption, ImageInference, TextInference
flow = Flow("mistake")
ART = ImageInference(model="runware:400@1", positive_prompt="a kite", width=512, height=512)
def asks(work):
    async def main():
        async with Client() as client:
            return await work(client)
    anyio.run(main, backend=BACKEND)
"""

MISTAKES = {
    # what the program does: its last lines, what the traceback says
    "key of a dict": (
        "flow.then(ART).pick(lambda a: a['imageURL'])\nflow.run(backend=BACKEND)",
        r"\.image_url",
    ),
    "attribute": ("flow.then(ART).pick(lambda image: image.imageURL)\nflow.run(backend=BACKEND)", r"\.image_url"),
    "exception": (
        "flow.then(ART).pick(lambda a: 1 / 0)\nflow.run(backend=BACKEND)",
        "ZeroDivisionError|division",
    ),
    "missing key in a function": (
        "async def look(image): return {}['picture']\nflow.then(ART).then(look)\nflow.run(backend=BACKEND)",
        "picture",
    ),
    "missing file": (
        "flow.then(Caption(model='runware:150@2', inputs={'image': 'nowhere.png'}))\nflow.run(backend=BACKEND)",
        "there is no file .*nowhere.png",
    ),
    "request that is refused": (
        "flow.then(ImageInference(model='runware:400@1', positive_prompt='p'))\nflow.run(backend=BACKEND)",
        "length of .positivePrompt.",
    ),
    "value that JSON does not have": (
        "flow.then(Caption(model='m', inputs={}, prompt={1}))\nflow.run(backend=BACKEND)",
        "prompt holds a set",
    ),
    "no key": (
        "import os\nos.environ.pop('RUNWARE_API_KEY')\nflow.then(ART)\nflow.run(backend=BACKEND)",
        "no API key",
    ),
    "no key for a client": ("import os\nos.environ.pop('RUNWARE_API_KEY')\nClient()", "no API key"),
    "milliseconds": ("Client(timeout=600_000)", "not milliseconds"),
    "timeout of a node": ("flow.then(ART, timeout=0.001)\nflow.run(backend=BACKEND)", "give it more time"),
    "several results for one": (
        "asks(lambda client: client.run_one({'model': 'runware:400@1', 'positivePrompt': 'p', 'numberResults': 2}))",
        r"use client\.run\(\)",
    ),
    "missing file of a call": (
        "asks(lambda client: client.run(Caption(model='runware:150@2', inputs={'image': 'nowhere.png'})))",
        "there is no file",
    ),
    "refused call": (
        "asks(lambda client: client.run_one(ImageInference(model='runware:400@1', positive_prompt='p')))",
        "length of .positivePrompt.",
    ),
    "item of a batch": (
        (
            "from runware_flow import Batch\n"
            "batch = Batch(lambda flow, word: flow.then(ART).pick(lambda a: a['imageURL']))\n"
            "anyio.run(batch.collect, ['kite'], backend=BACKEND)"
        ),
        r"\.image_url",
    ),
    "misspelt parameter": ("ImageInference(model='m', positiv_prompt='p')", "or positive_prompt"),
}


def failure_of(program: str, backend: str) -> tuple[str, int]:
    """The traceback that Python would print for a script, and how many of its lines are of frames of this library."""
    code = compile(textwrap.dedent(START) + program, "script.py", "exec")
    try:
        exec(code, {"BACKEND": backend, "__name__": "__main__"})
    except Exception as error:  # noqa: BLE001  # what it shows is the matter
        error.__traceback__ = error.__traceback__.tb_next if error.__traceback__ else None  # the frame of this test
        lines = "".join(traceback.format_exception(error)).splitlines()
        ours, inside = 0, False
        for line in lines:
            if line.startswith(("  File ", "    | File")):
                inside = PACKAGE in line
            elif not line.startswith("    "):
                inside = False
            ours += inside and "^" not in line
        return "\n".join(lines), ours
    raise AssertionError("the program did not fail")


@pytest.fixture
def emulated(runware_emulator, monkeypatch):
    options = runware_emulator.client_options
    monkeypatch.setenv("RUNWARE_API_KEY", options["api_key"])
    for name in ("http_base_url", "ws_base_url", "schemas_base_url", "content_base_url", "serverless_base_url"):
        monkeypatch.setenv(f"RUNWARE_{name.upper()}", options[name])


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_shows_its_message_below_the_programs_own_frames(emulated, mistake, backend):
    program, says = MISTAKES[mistake]
    text, ours = failure_of(program, backend)
    assert re.search(says, text), text
    assert ours == 0, text
    assert 'File "script.py"' in text


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_all_frames_are_kept_on_demand(emulated, monkeypatch, backend):
    monkeypatch.setenv(FULL_TRACEBACKS, "1")
    _, ours = failure_of(MISTAKES["exception"][0], backend)
    assert ours > 10


def test_frame_of_an_installed_program_is_kept():
    from sysconfig import get_path

    from runware_flow import Flow

    file = os.path.join(get_path("purelib"), "myapp", "steps.py")
    names: dict[str, object] = {}
    exec(compile("async def look():\n    return {}['picture']\n", file, "exec"), names)
    flow = Flow("installed")
    flow.then(names["look"])
    with pytest.raises(Exception, match="picture") as caught:
        flow.run()
    frames = traceback.extract_tb(caught.value.__cause__.__traceback__)
    assert [frame.name for frame in frames if frame.filename == file] == ["look"]
