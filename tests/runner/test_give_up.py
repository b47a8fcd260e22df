"""Runs that are given up, in real processes: what they say of each node is what the service and the journal say.

A client process is interrupted (Ctrl-C), or one of its nodes fails; the emulator lives in a process of its own. Of each
node the run says one of three things, and `runware-flow collect` and the next run agree.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from benchmarks.crash import service

COUNT = 12

PROGRAM = str(Path(__file__).with_name("given_up.py"))


def submitted(environment):
    """The taskUUIDs that the service has taken, and what it has billed."""
    address = environment["RUNWARE_HTTP_BASE_URL"].removesuffix("/v1")
    with urllib.request.urlopen(f"{address}/__emulator__/log") as answer:
        log = json.load(answer)
    return {task["task_uuid"]: task["cost"] for task in log["tasks"] if task["task_type"] == "imageInference"}


def give_up(environment, backend, ending, journal):
    """Run the client until it is given up; returns what it said of each node."""
    command = [sys.executable, PROGRAM, backend, ending, str(journal)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            if ending == "interrupt":
                process.send_signal(signal.SIGINT)
            said = json.loads(process.stdout.read())
            assert process.wait(20) == 0
        finally:
            process.kill()  # leaving the block waits for it
    return said


@pytest.mark.exhaustive
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("ending", ["interrupt", "failure"])
def test_what_a_run_says_when_it_is_given_up_is_so(tmp_path, backend, ending):
    journal = tmp_path / "run.sqlite"
    with service("1.5", ()) as environment:
        said = give_up(environment, backend, ending, journal)
        bought = submitted(environment)
        never_sent = [one for one in said if one[0] == "Skipped" or (one[0] == "Abandoned" and not one[2])]
        in_flight = [one for one in said if one[0] == "Abandoned" and one[2]]
        assert in_flight
        # What it says was never sent was not; what may be billed is what the service has taken; the rest was collected.
        assert all(uuid not in bought for _, uuid, _ in never_sent)
        assert {uuid for _, uuid, _ in in_flight} <= bought.keys()
        assert {uuid for kind, uuid, _ in said if kind == "Ok"} <= bought.keys()
        assert len(bought) == len(said) - len(never_sent)

        told = subprocess.run(
            [sys.executable, "-m", "runware_flow", "collect", str(journal), "--timeout", "10", "--backend", backend],
            capture_output=True,
            text=True,
            env={**os.environ, **environment},
            timeout=50,
            check=False,
        )
        assert told.returncode == 0, told.stderr
        assert told.stdout.count("https://") + told.stdout.count("http://") >= len(in_flight)
        assert f"{len(in_flight)} of {len(in_flight)} collected" in told.stdout
        assert submitted(environment).keys() == bought.keys()  # collecting has bought nothing
