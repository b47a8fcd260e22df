"""Random flows with a journal: stopped anywhere, run again, edited and run again, they buy nothing twice.

The runner, the graph, the journal and the cache are those of a user; the service is in memory, and time is virtual.
`RUNWARE_FLOW_PROGRAMS=5000` takes that many instead of 50, other ones each time.
"""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import pytest
from flow_programs import Cloud, Declarer, Program, moved, programs, relabelled, with_new_line
from hypothesis import HealthCheck, Phase, given, reject, settings
from hypothesis import strategies as st
from virtual_time import run_in_virtual_time

from runware_flow import DeclarationError, Failed, Flow, FlowFailed
from runware_flow.graph.scope_run import FAILED, FanRun

PROGRAMS = int(os.environ.get("RUNWARE_FLOW_PROGRAMS", "50"))
OPEN, DONE = 0, 1

examples = settings(
    max_examples=PROGRAMS,
    derandomize=PROGRAMS == 50,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],  # a program that fails is short enough to be read, and shrinking it takes minutes
)


@dataclass
class Ending:
    """How a run ended: to its end or not, and how many tasks it bought."""

    is_whole: bool
    has_failures: bool
    bought: int


class Story:
    """One program and its runs with one journal."""

    def __init__(self, folder: str, program: Program, backend: str) -> None:
        self.path = Path(folder) / "run.sqlite"
        self.cache = Path(folder) / "cache"
        self.backend = backend
        self.program = program
        self.cloud = Cloud(program)
        self.is_strict = True
        """No failure was left unhandled so far, and no edit may have changed what follows."""

    def run(self, program: Program | None = None, *, seconds: float = float("inf"), calls: int = -1) -> Ending:
        """Run the program; it is cancelled after so many seconds, or that many steps of the journal and the cache."""
        self.program = self.cloud.program = program or self.program
        before = len(self.cloud.sent)
        left, scopes = calls, list[anyio.CancelScope]()

        def on_call() -> None:
            nonlocal left
            left -= 1
            if left == -1:
                for scope in scopes:
                    scope.cancel()

        async def main() -> Ending:
            self.cloud.start()
            cache = self.cache if self.program.has_cache else None
            flow = Flow("random", journal=self.path, cache=cache, on_error=self.program.on_error)
            try:
                Declarer(self.program, flow).declare()
            except DeclarationError:
                reject()
            is_whole, has_failures = False, True
            run = None
            with anyio.move_on_after(seconds) as scope:
                scopes.append(scope)
                async with flow.start(self.cloud) as run:
                    try:
                        await run.wait()
                    except FlowFailed:
                        pass
                    else:
                        is_whole = True
                        has_failures = has_unhandled_failures(run)
            self.cloud.stop()
            if run is not None and has_unhandled_failures(run):
                self.is_strict = False  # the failure is tried again, and what used it asks for something else then
            return Ending(is_whole, has_failures, len(self.cloud.sent) - before)

        ending = run_in_virtual_time(self.backend, main, on_call=on_call)
        self.check()
        return ending

    def check(self) -> None:
        """What holds after each run."""
        assert not self.cloud.problems, self.cloud.problems
        if not self.path.exists() or not self.path.stat().st_size:
            assert not self.cloud.sent
            return
        with closing(sqlite3.connect(self.path)) as journal:
            rows = journal.execute(
                "SELECT item, hex(fingerprint), ordinal, hedge, state, task_uuid FROM node WHERE task_uuid IS NOT NULL"
            ).fetchall()
        items = {row[5]: row[0] for row in rows}
        assert set(self.cloud.sent) <= set(items), "something was sent that is not on record"
        slots = Counter(row[:4] for row in rows if row[4] in (OPEN, DONE))
        assert all(count == 1 for count in slots.values()), f"two requests in one slot: {slots.most_common(1)}"
        paid = Counter(self.key(task_uuid, items) for task_uuid in self.cloud.sent if self.cloud.is_paid(task_uuid))
        for (name, *more), count in paid.items():
            assert count <= self.allowed(name), f"{name} {more}: {count} were paid for"

    def key(self, task_uuid: str, items: dict[str, str]) -> tuple[Any, ...]:
        job = self.cloud.jobs[task_uuid]
        if job.name == "twin":
            return ("twin",)
        place = job.chain or items[task_uuid]  # what follows the answer of a fallback does not say for which item it is
        return (job.name, place) if self.is_strict else (job.name, place, job.prompt)

    @property
    def lines(self) -> dict[str, Any]:
        return {line.name: line for line in self.program.all_lines()}

    def allowed(self, name: str) -> int:
        if name == "twin":
            return 1 if self.program.has_cache else sum(line.op == "twin" for line in self.lines.values())
        line = self.lines.get(name) or self.lines.get(name[:-1])
        return 2 if line is not None and "hedge_after" in dict(line.policy) else 1


def has_unhandled_failures(run: Any) -> bool:
    machine = run._runner.machine
    todo = [machine.root]
    while todo:
        scope = todo.pop()
        for step in scope.plan.steps:
            value = scope.values[step.slot]
            if isinstance(value, FanRun):
                todo += value.items
                value = value.problem_outcome
            has_failed = isinstance(value, Failed) and scope.cells[step.slot] == FAILED
            if has_failed and not machine._is_handled(step, value.error):
                return True
    return False


@pytest.fixture(params=["asyncio", "trio"])
def backend(request):
    return request.param


@pytest.mark.timeout(60 + PROGRAMS)
@given(programs(), st.data())
@examples
def test_random_flow_buys_nothing_twice_and_finished_nothing_at_all(backend, program, data):
    with TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        story = Story(folder, program, backend)
        for _ in range(data.draw(st.integers(0, 2), label="stops")):
            if data.draw(st.booleans()):
                story.run(seconds=data.draw(st.floats(0, 12), label="seconds"))
            else:
                story.run(calls=data.draw(st.integers(0, 40), label="calls"))
        ending = story.run()
        if not ending.is_whole or ending.has_failures:
            return
        assert story.run().bought == 0
        if program.has_equals:  # their results may change hands, and what follows asks for something else then
            story.is_strict = False
            story.run(moved(program, data.draw))
            assert story.run().bought == 0
            return
        assert story.run(relabelled(program)).bought == 0
        assert story.run(moved(program, data.draw)).bought == 0
        assert story.run(with_new_line(program, data.draw, "new")).bought == 1
        assert story.run().bought == 0
