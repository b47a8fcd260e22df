"""Typical mistakes: what is said, and how many lines of this library stand above it."""

from __future__ import annotations

import os
import re
import sys
import textwrap
import traceback
from pathlib import Path

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

RUN = "\nflow.run(backend=BACKEND)"

MISTAKES = {
    # as the table of docs/reference/errors.md has them: what the program does, its last lines, and what is said
    "`image['imageURL']` in a node": ("flow.then(ART).pick(lambda image: image['imageURL'])" + RUN, "use .image_url"),
    "`image.imageURL` in a node": ("flow.then(ART).pick(lambda image: image.imageURL)" + RUN, "use .image_url"),
    "a plain function of a node fails": ("flow.then(ART).pick(lambda image: 1 / 0)" + RUN, "division by zero"),
    "an async function of a node fails": (
        "async def look(image): return {}['picture']\nflow.then(ART).then(look)" + RUN,
        "KeyError: 'picture'",
    ),
    "a file that does not exist": (
        "flow.then(Caption(model='runware:150@2', inputs={'image': 'nowhere.png'}))" + RUN,
        "inputs.image: there is no file",
    ),
    "the service refuses the request": (
        "flow.then(ImageInference(model='runware:400@1', positive_prompt='p'))" + RUN,
        "The length of 'positivePrompt' must be",
    ),
    "a value that JSON does not have": (
        "flow.then(Caption(model='m', inputs={}, prompt={1}))" + RUN,
        "prompt holds a set, which cannot be sent",
    ),
    "no API key": (
        "import os\nos.environ.pop('RUNWARE_API_KEY')\nflow.then(ART)" + RUN,
        "no API key: pass Client(api_key=...) or set RUNWARE_API_KEY",
    ),
    "no API key for a client": ("import os\nos.environ.pop('RUNWARE_API_KEY')\nClient()", "no API key"),
    "milliseconds as a timeout": ("Client(timeout=600_000)", "times are in seconds, not milliseconds"),
    "a time-out of a node": ("flow.then(anyio.sleep_forever, timeout=0.001)" + RUN, "give it more time"),
    "several results for `run_one`": (
        "asks(lambda client: client.run_one({'model': 'runware:400@1', 'positivePrompt': 'p', 'numberResults': 2}))",
        "use client.run()",
    ),
    "several results for `then`": (
        "flow.then(ImageInference(model='runware:400@1', positive_prompt='a kite', number_results=4))",
        "asks for 4 results, but a node has one: use flow.each",
    ),
    "several results for `map`": (
        "flow.map(['a kite'], lambda p: ImageInference(model='runware:400@1', positive_prompt=p, number_results=4))"
        + RUN,
        "flow.map(items).each(builder)",
    ),
    "a node used as a value": (
        "flow.then(Caption(model='runware:150@2', inputs={'image': flow.then(ART)}))",
        "a node is not a value yet; use node.then",
    ),
    "a node in an f-string": ("f'{flow.then(ART)}'", "cannot be formatted into a text"),
    "a result's attribute of a node": ("flow.then(ART).url", "has no 'url'; if the result has it, use node.then"),
    "a text in place of a list": ("flow.map('abc', lambda letter: ART)", "was given one str, not many"),
    "a builder that returns nothing": ("flow.then(ART).then(lambda image: None)" + RUN, "returned None"),
    "the result of a failed node": (
        "node = flow.then(ART).pick(lambda image: 1 / 0)\nflow.run(backend=BACKEND, on_error='continue')[node]",
        "failed: ",
    ),
    "the node of another flow": (
        "flow.then(ART)\nflow.run(backend=BACKEND)[Flow('other').then(ART)]",
        "does not belong",
    ),
    "a misspelt parameter of a task": ("ImageInference(model='m', positiv_prompt='p')", "is it positive_prompt"),
    "a medium as a parameter": (
        "from runware_flow.tasks import Upscale\nUpscale(model='m', image='a.png')",
        "is it inputs={'image': ...}?",
    ),
    "the model without its name": ("ImageInference('runware:400@1', 'a kite')", "takes parameters by name"),
    "a node in a builder": (
        "art = flow.then(ART)\nflow.then(lambda: Caption(model='runware:150@2', inputs={'image': art}))" + RUN,
        "flow.then(a, b, lambda a, b: ...)",
    ),
    "an item of a node": ("flow.map(['a kite'], lambda p: ART)[0]", "a run has result[many]"),
    "a label in place of a node": ("flow.then(ART, label='art')\nflow.run(backend=BACKEND)['art']", "not a label"),
    "a label as an attribute": ("flow.then(ART, label='art')\nflow.run(backend=BACKEND).art", "is result[node]"),
    "a class without a JSON schema": (
        "class Scene: pass\n"
        "flow.then(TextInference(model='google:gemini@3.5-flash', messages=[], json_schema=Scene))" + RUN,
        "give a dataclass, a TypedDict, a msgspec.Struct, a pydantic model",
    ),
    "a misspelt keyword of `Flow`": (
        "Flow(max_concurrency=3)",
        "Did you mean 'concurrency'?" if sys.version_info >= (3, 13) else "is it concurrency?",  # Python's own words
    ),
    "a refused task in `client.submit`": (
        """
async def work(client):
    async with client.submit(ImageInference(model='runware:400@1', positive_prompt='p')) as delivery:
        async for image in delivery: pass
asks(work)""",
        "The length of 'positivePrompt' must be",
    ),
    "a refused task in `client.stream`": (
        """
async def work(client):
    async with client.stream(TextInference(model='google:gemma@4-31b', messages=[])) as stream:
        async for word in stream.text: pass
asks(work)""",
        "Missing value for 'messages' parameter",
    ),
    "a block without `async with`": (
        """
async def work(client):
    async for image in client.submit(ART): pass
asks(work)""",
        "async with client.submit(task) as delivery:",
    ),
    "a block that is awaited": (
        """
async def work(client):
    await client.stream(TextInference(model='google:gemma@4-31b', messages=[]))
asks(work)""",
        "async with client.stream(task) as stream:",
    ),
    "a stream in place of its text": (
        """
async def work(client):
    task = TextInference(model='google:gemma@4-31b', messages=[{'role': 'user', 'content': 'hello'}])
    async with client.stream(task) as stream:
        async for word in stream: pass
asks(work)""",
        "iterate over stream.text",
    ),
    "a node in place of its result": (
        "asks(lambda client: client.save(flow.then(ART), 'kite'))",
        "run the flow and save result[node]",
    ),
    "`image['imageURL']` after `client.run_one`": (
        """
async def work(client):
    return (await client.run_one(ART))['imageURL']
asks(work)""",
        "use .image_url",
    ),
    "a missing file for a utility": (
        "asks(lambda client: client.image_upload('nowhere.png'))",
        "image: there is no file",
    ),
    "an empty id for `client.content`": (
        "asks(lambda client: client.content.get_model(''))",
        "are named by an id, a slug or an AIR",
    ),
    "a failure inside `flow.start`": (
        """
async def work(client):
    flow.then(ART).pick(lambda image: 1 / 0)
    async with flow.start(client) as run:
        await run.wait()
asks(work)""",
        "division by zero",
    ),
    "a node for `run.as_completed`": (
        """
async def work(client):
    node = flow.then(ART)
    async with flow.start(client) as run:
        async for item in run.as_completed(node): pass
asks(work)""",
        "as_completed takes a Many",
    ),
    "an item of a batch fails": (
        """
from runware_flow import Batch
batch = Batch(lambda flow, word: flow.then(ART).pick(lambda image: image['imageURL']))
anyio.run(batch.collect, ['kite'], backend=BACKEND)""",
        "use .image_url",
    ),
    "`flow.run()` where a loop runs": (
        "async def main(): flow.run()\nanyio.run(main, backend=BACKEND)",
        "starts an event loop of its own",
    ),
    "a client that is closed": (
        """
async def main():
    async with Client() as client: pass
    await client.run(ART)
anyio.run(main, backend=BACKEND)""",
        "this client is closed; make another Client",
    ),
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
    assert says in text, text
    assert ours == 0, text
    assert 'File "script.py"' in text


def test_table_of_the_documentation_says_what_is_shown(emulated, runware_emulator, monkeypatch):
    rows = []
    for mistake, (program, says) in MISTAKES.items():
        monkeypatch.setenv("RUNWARE_API_KEY", runware_emulator.client_options["api_key"])  # some take it away
        text, ours = failure_of(program, "asyncio")
        rows.append(f"| {mistake} | `{says}` | {len(text.splitlines())}, {ours} |")
    page = (Path(__file__).parents[2] / "docs" / "reference" / "errors.md").read_text(encoding="utf-8")
    shown = [line for line in page.splitlines() if re.fullmatch(r"\|.*\| \d+, \d+ \|", line)]
    if sys.version_info[:2] != (3, 11):  # other versions mark other lines, and some messages are Python's own
        rows, shown = [[line.split(" | ")[0] for line in lines] for lines in (rows, shown)]
    assert shown == rows, "the table should be:\n" + "\n".join(rows)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_all_frames_are_kept_on_demand(emulated, monkeypatch, backend):
    monkeypatch.setenv(FULL_TRACEBACKS, "1")
    _, ours = failure_of(MISTAKES["a plain function of a node fails"][0], backend)
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
