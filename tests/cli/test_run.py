"""`runware-flow run`, `plan` and `report` as a user meets them: output, files, exit codes, interrupts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from runware_flow.emulator import run_in_thread
from runware_flow.emulator.commands import environment
from runware_flow.journal import Journal

COMMAND = [sys.executable, "-m", "runware_flow"]
PROGRAM = """
import anyio
from runware_flow import Flow
from runware_flow.tasks import Caption, ImageInference

def broken(image):
    raise ValueError("my own mistake")

def build(prompts: list[str], on_error: str = "stop", breaks: bool = False) -> Flow:
    flow = Flow("posters", concurrency=2, on_error=on_error)
    art = flow.map(
        prompts,
        lambda prompt: ImageInference(model="runware:400@1", positive_prompt=prompt, width=512, height=512),
        label="art",
    )
    art.then(broken if breaks else lambda image: Caption(model="runware:150@2", inputs={"image": image}), label="text")
    return flow
"""


@pytest.fixture(scope="module")
def emulator():
    with run_in_thread(latency={"imageInference": 0.05, "*": 0.05}) as running:
        yield running


@pytest.fixture(scope="module")
def slow_emulator():
    with run_in_thread(latency=1.5) as running:
        yield running


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "posters.py").write_text(PROGRAM)
    return tmp_path


def call(folder, emulator, *arguments):
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        cwd=folder,
        env={**os.environ, **environment(emulator)},
    )


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_run_with_parameters_journal_and_report(folder, emulator, backend):
    command = ("run", "posters.py", "-p", "prompts=a red kite", "-p", "prompts=a blue boat", "--journal", "run.sqlite")
    done = call(folder, emulator, *command, "--report", "out/report.html", "--backend", backend)
    assert done.returncode == 0, done.stderr
    assert 'art[0]/text: An image of "a red kite"' in done.stdout
    assert "posters: done in " in done.stdout
    assert "4 ok; $0.0" in done.stdout
    assert "art 2 of 2, text 2 of 2  done" in done.stderr
    page = (folder / "out" / "report.html").read_text()
    assert page.count("data:image/webp;base64,") == 2, "the pictures are kept"
    again = json.loads(call(folder, emulator, *command, "--json", "--progress", "off").stdout)
    assert [node["restored"] for node in again["nodes"]] == [True] * 4
    told = call(folder, emulator, "report", "run.sqlite")
    assert told.stdout == "run.html\n"
    assert "made from a journal" in (folder / "run.html").read_text()


def test_a_failed_run_is_a_sentence_with_hints_exit_code_1_and_a_report(folder, emulator):
    emulator.faults.add("fail:prompt=doomed")
    try:
        command = ("run", "posters.py", "-p", "prompts=a doomed kite", "--progress", "off", "--report", "r.html")
        done = call(folder, emulator, *command)
        tolerated = call(folder, emulator, *command, "-p", "on_error=continue")
    finally:
        emulator.faults.clear()
    assert done.returncode == 1
    sentence, *hints = done.stderr.splitlines()
    assert sentence.startswith("runware-flow: flow 'posters': ")
    assert all(hint.startswith("  ") for hint in hints)
    assert "What to do:" in (folder / "r.html").read_text()
    assert (tolerated.returncode, tolerated.stderr) == (1, "runware-flow: art[0]/art failed: The task failed.\n")


def test_of_many_tolerated_failures_the_first_are_reported(folder, emulator):
    emulator.faults.add("fail:prompt=doomed")
    try:
        prompts = [f"--param=prompts=doomed kite {number}" for number in range(5)]
        done = call(folder, emulator, "run", "posters.py", *prompts, "-p", "on_error=continue", "--progress", "off")
    finally:
        emulator.faults.clear()
    *told, rest = done.stderr.splitlines()
    assert told == [f"runware-flow: art[{number}]/art failed: The task failed." for number in range(3)]
    assert rest == "runware-flow: 2 more failed; --report FILE lists them all"


def test_an_exception_of_the_users_builder_is_shown_with_its_line(folder, emulator):
    done = call(folder, emulator, "run", "posters.py", "-p", "prompts=a kite", "-p", "breaks=1", "--progress", "off")
    assert done.returncode == 1
    assert 'raise ValueError("my own mistake")' in done.stderr
    assert "performer.py" not in done.stderr


def test_a_budget_that_is_too_small_is_one_sentence(folder, emulator):
    done = call(folder, emulator, "run", "posters.py", "-p", "prompts=a kite", "--budget", "0", "--progress", "off")
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert "budget" in done.stderr.lower()


def test_wrong_usage_is_one_sentence_and_exit_code_2(folder, emulator):
    done = call(folder, emulator, "run", "posters.py")
    assert (done.returncode, done.stderr) == (
        2,
        "runware-flow: build needs a value for 'prompts': --param prompts=VALUE\n",
    )


def test_without_a_key_is_one_sentence(folder):
    names = {name: value for name, value in os.environ.items() if not name.startswith("RUNWARE_")}
    done = subprocess.run(
        [*COMMAND, "run", "posters.py", "-p", "prompts=a kite"],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=names,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("runware-flow: no API key")


def test_plan_sends_nothing(folder, emulator):
    before = len(emulator.log.tasks)
    done = call(folder, emulator, "plan", "posters.py", "-p", "prompts=a kite")
    assert done.returncode == 0
    assert "would send 2 tasks" in done.stdout
    told = json.loads(call(folder, emulator, "plan", "posters.py", "-p", "prompts=a kite", "--json").stdout)
    assert [stage["task_type"] for stage in told["stages"]] == ["imageInference", "caption"]
    diagram = call(folder, emulator, "plan", "posters.py", "-p", "prompts=a kite", "--mermaid").stdout
    assert diagram.startswith("flowchart TD\n")
    told = call(folder, emulator, "plan", "posters.py", "-p", "prompts=a kite", "--prices").stdout
    assert told.startswith("flow 'posters' would send 2 tasks; cost: $0.0021")
    assert len(emulator.log.tasks) == before


def test_report_of_a_file_that_is_not_a_journal_is_one_sentence(folder, emulator):
    for name in ("nowhere.sqlite", "posters.py"):
        done = call(folder, emulator, "report", name)
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1
        assert "Traceback" not in done.stderr


def test_a_report_replaces_no_journal(folder, emulator):
    command = ("run", "posters.py", "-p", "prompts=a kite", "--progress", "off", "--journal", "run.html")
    assert call(folder, emulator, *command).returncode == 0
    for more in (("report", "run.html"), ("report", "run.html", "-o", "run.html"), (*command, "--report", "run.html")):
        done = call(folder, emulator, *more)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "runware-flow: run.html: is a journal: name another file for the report\n"
    with Journal(folder / "run.html") as journal:
        assert journal.summary().done_count == 2
    done = call(folder, emulator, *command[:-1], "new.sqlite", "--report", "new.sqlite")
    assert (done.returncode, done.stderr) == (2, "runware-flow: the report and the journal cannot both be new.sqlite\n")


@pytest.mark.parametrize(
    "command", [("report", "."), ("journal", "salvage", "/"), ("run", "posters.py", "--report", ".")]
)
def test_a_folder_in_the_place_of_a_file_is_one_sentence(folder, emulator, command):
    more = ("-p", "prompts=a kite") if command[0] == "run" else ()
    before = len(emulator.log.tasks)
    done = call(folder, emulator, *command, *more)
    assert done.returncode in (1, 2)
    assert "is a folder: name " in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert len(emulator.log.tasks) == before, "nothing is bought for a report that cannot be"


def test_a_report_that_cannot_be_written_does_not_hide_what_the_run_brought(folder, emulator):
    done = call(folder, emulator, "run", "posters.py", "-p", "prompts=a kite", "--report", "posters.py/report.html")
    assert done.returncode == 1
    assert "posters: done in " in done.stdout
    assert "the report could not be written: posters.py" in done.stderr


def started(folder, emulator, *more, presses):
    """Run with slow tasks and interrupt as often as `presses`, once it has begun; returns the process' end."""
    command = ["run", "posters.py", *(f"--param=prompts=kite {n}" for n in range(6)), "--progress", "json", *more]
    with subprocess.Popen(
        [*COMMAND, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, **environment(emulator)},
    ) as process:
        process.stderr.readline()  # a second of the run is over
        said = ""
        for _ in range(presses):
            process.send_signal(signal.SIGINT)
            while "Interrupt again" not in said:
                said += process.stderr.readline()
        out, errors = process.communicate(timeout=30)
    assert "Traceback" not in errors
    return process.returncode, out, said + errors


def states(path):
    with Journal(path) as journal:
        return [entry.state for entry in journal.entries()]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_one_interrupt_settles_and_journals_what_is_in_flight(folder, slow_emulator, backend):
    more = ("--journal", "run.sqlite", "--report", "r.html", "--backend", backend)
    code, out, errors = started(folder, slow_emulator, *more, presses=1)
    assert code == 130
    assert "stopping: nothing new is sent; 2 in flight may be billed and are waited for" in errors
    assert "interrupted; nothing was left in flight, and run.sqlite has every result" in errors
    assert set(states(folder / "run.sqlite")) == {"done"}
    assert "posters: stopped in" in out
    assert (folder / "r.html").exists()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_two_interrupts_leave_at_once_and_say_what_may_be_billed(folder, slow_emulator, backend):
    more = ("--journal", "run.sqlite", "--report", "r.html", "--backend", backend)
    code, out, errors = started(folder, slow_emulator, *more, presses=2)
    assert code == 130
    assert "interrupted; 2 requests were left in flight and may be billed" in errors
    assert "`runware-flow collect run.sqlite` collects them" in errors
    assert states(folder / "run.sqlite").count("open") == 2
    call(folder, slow_emulator, "report", "run.sqlite", "-o", "journal.html")
    assert "The outcome of 2 of its requests is not known" in (folder / "journal.html").read_text()
    assert "posters: cancelled in" in out
    assert (folder / "r.html").exists()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("journal", ["run.sqlite", None])
def test_an_interrupted_script_says_what_it_leaves_and_how_to_go_on(folder, slow_emulator, backend, journal):
    (folder / "script.py").write_text(
        "import sys\nfrom posters import build\n"
        f"build([f'kite {{n}}' for n in range(6)]).run(backend={backend!r}, journal={journal!r}, progress='json')\n"
    )
    with subprocess.Popen(
        [sys.executable, "script.py"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, **environment(slow_emulator)},
    ) as process:
        process.stderr.readline()  # a second of the run is over
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    *_, error, note = errors.splitlines()
    assert error == "KeyboardInterrupt"
    assert note.startswith("flow 'posters' was interrupted; 2 requests were left in flight and may be billed: ")
    if journal:
        assert "`runware-flow collect run.sqlite` collects them" in note
        assert note.endswith("0 nodes had finished; the same program continues from it")
        assert states(folder / "run.sqlite").count("open") == 2
    else:
        assert "their task ids: " in note
        assert note.endswith("0 nodes had finished; journal= makes a run continue where it stopped")


def test_the_summary_tells_what_came_from_the_journal(folder, emulator):
    arguments = ("run", "posters.py", "--param=prompts=kite", "--journal", "run.sqlite", "--progress", "off")
    assert "2 ok; $" in call(folder, emulator, *arguments).stdout
    assert "2 ok, 2 of them restored from the journal; $" in call(folder, emulator, *arguments).stdout


def test_a_plan_without_prices_says_how_to_get_them(folder, emulator):
    asked = ("plan", "posters.py", "--param=prompts=kite")
    assert "--prices asks the service for unknown prices" in call(folder, emulator, *asked).stdout
    assert "--prices" not in call(folder, emulator, *asked, "--prices").stdout


def test_a_plan_tells_of_a_model_that_the_catalog_lacks(folder, emulator):
    program = (folder / "posters.py").read_text()
    (folder / "typo.py").write_text(program.replace("runware:400@1", "runware:400@l"))
    told = "runware:400@l is not in the catalog of this package, which has runware:400@1"
    assert told in call(folder, emulator, "plan", "typo.py", "--param=prompts=kite").stdout
    assert "not in the catalog" not in call(folder, emulator, "plan", "posters.py", "--param=prompts=kite").stdout
