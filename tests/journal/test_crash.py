"""SIGKILL on real processes; the long form is `python -m benchmarks.crash`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.exhaustive
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is of POSIX")
@pytest.mark.parametrize(
    ("backend", "options"),
    [
        ("asyncio", ["--delivery=async", "--faults"]),
        ("trio", ["--delivery=sync", "--batch"]),
    ],
)
def test_batch_killed_again_and_again_buys_everything_exactly_once(backend, options):
    shape = ["--items=40", "--kills=3", "--life=0.6", "--latency=0.3..0.5", f"--backend={backend}", *options]
    command = [sys.executable, "-m", "benchmarks.crash", *shape]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=55)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["kills"], told["submissions"], told["bills"]) == (3, 120, 120)


@pytest.mark.exhaustive
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is of POSIX")
@pytest.mark.parametrize(
    ("backend", "options"),
    [
        ("asyncio", ["--batch"]),
        ("trio", []),
        ("asyncio", ["--transport=rest", "--delivery=sync"]),
        ("trio", ["--transport=rest", "--batch"]),
    ],
)
def test_races_hedges_fallbacks_and_equal_requests_are_bought_as_scripted_whatever_is_killed(backend, options):
    shape = ["--choices", "--items=10", "--kills=3", "--life=0.8", "--latency=0.2..0.4", f"--backend={backend}"]
    command = [sys.executable, "-m", "benchmarks.crash", *shape, *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=55)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["kills"], told["submissions"], told["bills"], told["again"]) == (3, 82, 72, 0)


@pytest.mark.exhaustive
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is of POSIX")
def test_batch_killed_again_and_again_keeps_to_its_budget():
    shape = ["--items=40", "--kills=3", "--life=0.6", "--latency=0.3..0.5", "--backend=asyncio", "--budget=0.06"]
    command = [sys.executable, "-m", "benchmarks.crash", *shape]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=55)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["reserved"] == 0
    assert 0.0587 <= told["usd"] <= 0.06
