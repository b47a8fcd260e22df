"""The command line as a user meets it: what it prints, where, and how it exits."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.request

import pytest
from PIL import Image

COMMAND = [sys.executable, "-m", "runware_flow"]


def call(*arguments, **options):
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60, check=False, **options)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_demo_leaves_pictures_and_a_report(tmp_path, backend):
    done = call("demo", "--out", str(tmp_path / "out"), "--backend", backend)
    assert done.returncode == 0
    assert re.search(r"demo: .*generate 6 of 6, upscale 6 of 6, picture 6 of 6, caption 6 of 6  done", done.stderr)
    assert re.search(r"18 tasks in \d+\.\d s; a real service would have billed \$0\.\d+", done.stdout)
    pictures = sorted((tmp_path / "out").glob("*.jpg"))
    assert len(pictures) == 6
    for picture in pictures:
        with Image.open(picture) as opened:
            assert opened.size == (1536, 1024)
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("data:image/") >= 12  # also those that were not saved: their addresses are gone with the emulator
    assert "neither saved nor kept" not in page
    assert "A red kite over green hills" in page


def test_demo_into_a_place_that_cannot_be_written_is_one_sentence():
    done = call("demo", "--out", "/proc/nowhere")
    assert done.returncode == 1
    assert done.stderr == "runware-flow: /proc/nowhere: No such file or directory\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["demo", "--backend", "curio"], "'--backend'"),
        (["serve", "--port", "80000"], "'--port'"),
        (["serve", "--latency", "soon"], "'soon' is neither seconds (0.05) nor a range (0.5..3)"),
        (["serve", "--fault", "nonsense"], "there is no fault 'nonsense'; there are: "),
        (["emulate", "--fault", "fail:nth=x", "--", "true"], "'nth=x' is not a number, as nth wants"),
        (["emulate"], "name the command to run"),
    ],
)
def test_wrong_usage_says_what_is_wrong_and_exits_with_two(arguments, sentence):
    done = call(*arguments)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_serve_prints_its_options_answers_and_stops_cleanly():
    with subprocess.Popen([*COMMAND, "serve"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        options = json.loads(process.stdout.readline())
        assert set(options) == {
            "api_key",
            "http_base_url",
            "ws_base_url",
            "schemas_base_url",
            "content_base_url",
            "serverless_base_url",
        }
        with urllib.request.urlopen(options["schemas_base_url"] + "/registry.json") as reply:
            assert "models" in json.load(reply)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=10)
    assert (process.returncode, errors) == (0, "")


def test_emulate_runs_a_command_in_the_emulators_environment_and_gives_its_exit_code():
    program = "import os; print(os.environ['RUNWARE_WS_BASE_URL'], os.environ['RUNWARE_API_KEY']); raise SystemExit(7)"
    done = call("emulate", "--", sys.executable, "-c", program)
    assert done.returncode == 7
    assert done.stdout.startswith("ws://127.0.0.1:")


def test_interrupted_demo_leaves_no_traceback(tmp_path):
    command = [*COMMAND, "demo", "--out", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stderr.readline()  # the run has begun
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in errors


def test_journal_salvage_says_what_it_saved_and_what_is_lost(tmp_path):
    from runware_flow.journal.sqlite import SqliteStore
    from runware_flow.journal.store import Begin, NodeKey, Settle

    path = tmp_path / "run.sqlite"
    store = SqliteStore(path)
    store.open()
    for number in range(3):
        [entry] = store.apply(
            [Begin(NodeKey("flow", f"n{number}", "ab" * 32), 1.0, f"u{number}", "caption", None, b"{}")]
        )
        if number:
            store.apply([Settle(entry.number, 2.0, is_done=True, items=(b"{}",))])
    store.close()
    with path.open("r+b") as file:
        file.write(b"\xa5" * 4096)
    done = call("journal", "salvage", str(path))
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        f"2 finished, 0 failed and 1 open requests are in {tmp_path / 'run.salvaged.sqlite'}",
        "none is missing before the last one that was found; what stood behind it cannot be known",
    ]
    again = call("journal", "salvage", str(path))
    assert again.returncode == 1
    assert "run.salvaged.sqlite exists already" in again.stderr
    assert "Traceback" not in again.stderr


def test_cache_prune_forgets_what_is_old(tmp_path):
    from msgspec import Raw

    from runware_flow.cache.store import Cache, Cached

    Cache(tmp_path).put(Cached("ab" * 32, 1.0, (Raw(b"{}"),)))
    done = call("cache", "prune", str(tmp_path))
    assert done.stdout == "0 answers were older than 30 days and are gone\n"
    done = call("cache", "prune", str(tmp_path), "--days", "0")
    assert done.stdout == "1 answers were older than 0 days and are gone\n"
    assert call("cache", "prune", str(tmp_path / "none")).returncode == 2


def test_interrupt_while_the_package_is_imported_is_one_sentence():
    program = """
import sys
from runware_flow.cli import main

class Interrupts:
    def find_spec(self, name, *_):
        if name == "runware_flow.cli.program":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupts())
main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (130, "runware-flow: interrupted\n")
