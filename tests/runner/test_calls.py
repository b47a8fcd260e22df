"""What a task costs in Python calls, counted in a new process, where no other test has turned anything on."""

from __future__ import annotations

import json
import subprocess
import sys

import anyio
import pytest

from benchmarks import calls, overhead
from benchmarks.service import emulator_process

ABOVE_THE_WIRE = 240
"""Calls more than a client that does nothing but the wire; what was measured is 60 to 212."""

CALLS_OF_A_NODE = 92
"""Calls of a function that does nothing but one checkpoint, as a node; what was measured is 76 to 86."""


@pytest.mark.exhaustive
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_function_node_costs_few_calls(backend):
    counted = subprocess.run([sys.executable, __file__, backend, "node"], stdout=subprocess.PIPE, check=True, text=True)
    assert json.loads(counted.stdout) <= CALLS_OF_A_NODE


@pytest.mark.exhaustive
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_task_costs_few_calls_above_the_wire(backend):
    counted = subprocess.run([sys.executable, __file__, backend], stdout=subprocess.PIPE, check=True, text=True)
    counts = json.loads(counted.stdout)
    floor = counts.pop("wire")
    assert {who: count for who, count in counts.items() if count > floor + ABOVE_THE_WIRE} == {}


def count_calls(who, backend):
    """The least of three counts: a busy machine adds some."""
    counts = []
    for _ in range(3):
        with emulator_process(latency="0.01") as service:
            profiled = anyio.run(calls.profile, who, service, "sync", backend, 192, backend=backend)
        counts.append(sum(profiled.values()))
    return min(counts)


def count_all(backend, what="task"):
    if what == "node":
        return anyio.run(overhead.calls, overhead.by_flow, backend=backend)
    return {who.__name__: count_calls(who, backend) for who in (calls.wire, calls.client, calls.flow)}


if __name__ == "__main__":
    print(json.dumps(count_all(*sys.argv[1:])))  # noqa: T201
