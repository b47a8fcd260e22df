"""What a task costs in Python calls: the least of three counts, since a busy machine adds some."""

from __future__ import annotations

import anyio
import pytest

from benchmarks import calls
from benchmarks.service import emulator_process

ABOVE_THE_WIRE = 300
"""Calls more than a client that does nothing but the wire; what was measured is 210 to 260."""


def count_calls(who, backend):
    with emulator_process(latency="0.01") as service:
        return sum(anyio.run(calls.profile, who, service, "sync", backend, 192, backend=backend).values())


@pytest.mark.exhaustive
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_task_costs_few_calls_above_the_wire(backend):
    counts = {}
    for who in (calls.wire, calls.client, calls.flow):
        counts[who.__name__] = min(count_calls(who, backend) for _ in range(3))
    floor = counts.pop("wire")
    assert {who: count for who, count in counts.items() if count > floor + ABOVE_THE_WIRE} == {}
