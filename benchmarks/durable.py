"""What a durable step costs, beside other libraries that keep one in SQLite.

    python -m benchmarks.durable [--steps 5000] [--peers 200] [--backend asyncio]

A step is an async function that does nothing; its value is on the disk (`synchronous=FULL`) before the next step that
needs it begins. Here: a map of no-op steps at concurrency 64, as a plain run and with a journal. LangGraph 1.2: a graph
of one no-op node that loops, with its SQLite checkpointer, a checkpoint a step. DBOS 3.4: a workflow that calls a no-op
step, on its SQLite system database. The peers run their steps one after the other, since that is what a chain of
durable steps is with them; `chain` is the same shape here. All in one process, on one disk, one after the other. Beside
the times stand counts, which a busy machine does not change: commits (each of them one `fsync`) and Python calls for a
step of the map.

The peers are the dependency group `peers` (`pip install --group peers`); one that is not installed is left out.
"""

from __future__ import annotations

import argparse
import cProfile
import importlib.util
import logging
import sqlite3
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import anyio

from runware_flow import Flow
from runware_flow.journal.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runware_flow.journal.store import Change, Entry


class CountingStore(SqliteStore):
    """A journal that counts its commits."""

    commits = 0

    def apply(self, changes: Sequence[Change]) -> list[Entry | None]:
        """Carry out changes in one transaction."""
        self.commits += 1
        return super().apply(changes)


def counts(count: int, path: Path, backend: str) -> tuple[float, float]:
    """Commits and Python calls for a durable step of a map; calls in the thread of the database are not among them."""
    store = CountingStore(path)
    profiler = cProfile.Profile()
    profiler.runcall(anyio.run, wide, count, store, backend=backend)
    return store.commits / count, sum(entry.callcount for entry in profiler.getstats()) / count


async def nothing(number: int) -> int:
    """The step."""
    return number


async def one_more(number: int) -> int:
    """A step whose calls differ, as those of the peers do."""
    return number + 1


async def wide(count: int, journal: Any) -> float:
    """Microseconds a step of a map at concurrency 64."""
    flow = Flow("steps", concurrency=64, journal=journal)
    flow.map(range(count), nothing)
    started = time.perf_counter()
    await flow.execute()
    return (time.perf_counter() - started) / count * 1e6


async def chain(count: int, journal: Any) -> float:
    """Microseconds a step where each waits for the one before."""
    flow = Flow("steps", journal=journal)

    async def first() -> int:
        return 0

    node = flow.then(first)
    for _ in range(count - 1):
        node = node.then(one_more)
    started = time.perf_counter()
    await flow.execute()
    return (time.perf_counter() - started) / count * 1e6


def commits(path: Path) -> float:
    """Microseconds of a bare commit of one row, the floor of whatever is durable one step at a time."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE step (value)")
    started = time.perf_counter()
    for number in range(200):
        connection.execute("INSERT INTO step VALUES (?)", (number,))
    taken = time.perf_counter() - started
    connection.close()
    return taken / 200 * 1e6


class State(TypedDict):
    """What the graph of LangGraph passes on."""

    number: int


async def langgraph(count: int, folder: Path) -> float:
    """Microseconds a step of LangGraph with its SQLite checkpointer."""
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
    from langgraph.graph import END, START, StateGraph

    async def step(state: State) -> State:
        return {"number": state["number"] + 1}

    graph: Any = StateGraph(State)
    graph.add_node("step", step)
    graph.add_edge(START, "step")
    graph.add_conditional_edges("step", lambda state: "step" if state["number"] < count else END)
    async with AsyncSqliteSaver.from_conn_string(str(folder / "langgraph.sqlite")) as saver:
        compiled = graph.compile(checkpointer=saver)
        options = {"configurable": {"thread_id": "1"}, "recursion_limit": count + 10}
        started = time.perf_counter()
        await compiled.ainvoke({"number": 0}, options, durability="sync")
        return (time.perf_counter() - started) / count * 1e6


def dbos(count: int, folder: Path) -> float:
    """Microseconds a step of DBOS on SQLite."""
    from dbos import DBOS

    logging.disable(logging.WARNING)
    DBOS(config={"name": "steps", "system_database_url": f"sqlite:///{folder / 'dbos.sqlite'}"})

    @DBOS.step()
    def step(number: int) -> int:
        return number

    @DBOS.workflow()
    def workflow(count: int) -> float:
        started = time.perf_counter()
        for number in range(count):
            step(number)
        return (time.perf_counter() - started) / count * 1e6

    DBOS.launch()
    try:
        return workflow(count)
    finally:
        DBOS.destroy()
        logging.disable(logging.NOTSET)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--chain", type=int, default=300)
    parser.add_argument("--peers", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--backend", choices=("asyncio", "trio"), action="append")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"a bare commit of SQLite: {commits(folder / 'bare.sqlite'):.0f} us")
        for backend in options.backend or ("asyncio", "trio"):
            anyio.run(wide, 500, folder / f"{backend}-warm.sqlite", backend=backend)
            without = min(anyio.run(wide, options.steps, None, backend=backend) for _ in range(options.rounds))
            journals = [folder / f"{backend}-{number}.sqlite" for number in range(options.rounds)]
            durable = min(anyio.run(wide, options.steps, journal, backend=backend) for journal in journals)
            one = anyio.run(chain, options.chain, folder / f"{backend}-chain.sqlite", backend=backend)
            print(
                f"{backend}: {without:.0f} us a step, {durable:.0f} us a durable step of a map, {one:.0f} us a durable"
                " step of a chain"
            )
            commits_a_step, calls = counts(options.steps, folder / f"{backend}-counts.sqlite", backend)
            print(f"{backend}: {commits_a_step:.4f} commits and {calls:.0f} Python calls a durable step of a map")
        if importlib.util.find_spec("langgraph") and importlib.util.find_spec("aiosqlite"):
            print(f"LangGraph with its SQLite saver: {anyio.run(langgraph, options.peers, folder):.0f} us a step")
        else:
            print("LangGraph and its SQLite saver are not installed: pip install --group peers")
        if importlib.util.find_spec("dbos"):
            print(f"DBOS on SQLite: {dbos(options.peers, folder):.0f} us a step")
        else:
            print("DBOS is not installed: pip install --group peers")


if __name__ == "__main__":
    main()
