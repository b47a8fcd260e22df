"""Real processes that share a batch: together, frozen, killed, and on a database that is restarted."""

from __future__ import annotations

import json
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import anyio
import psycopg
import pytest
from postgres_server import PostgresServer

sys.path.append(str(Path(__file__).parents[2]))
from benchmarks.crash import prompts, service
from benchmarks.shared import bought, start
from runware_flow import Client, Ok
from runware_flow.journal import collect
from runware_flow.journal.rows import STATES

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

ITEMS = 40


@contextmanager
def running(url, environment, *, lease=30.0, backends=("asyncio", "trio")):
    """Two processes, one on each event loop's library."""
    processes = [start(url, ITEMS, environment, lease, 6, backend) for backend in backends]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stdout.close()
            process.stderr.close()


def finish(process, first=""):
    """The lines of a process that runs to its end, and what it said on standard error."""
    out, err = process.stdout.read(), process.stderr.read()  # not communicate(), which loses what readline() has read
    assert process.wait(30) == 0, err
    lines = [json.loads(line) for line in (first + out).splitlines()]
    assert sorted(line["index"] for line in lines[:-1]) == list(range(ITEMS)), err
    for line in lines[:-1]:
        assert f'"{prompts(ITEMS)[line["index"]]}"' in line["text"], line
    assert lines[-1]["ok"] == ITEMS
    return lines, err


def check_bought_once(environment):
    told = bought(environment)
    assert (told["submissions"], told["ids"], told["bills"]) == (3 * ITEMS, 3 * ITEMS, 3 * ITEMS), told


def own(lines):
    return {line["index"] for line in lines[:-1] if not line["restored"]}


def test_two_processes_share_a_batch_each_item_once(database):
    with service("0.05..0.2", ()) as environment, running(database, environment) as (one, other):
        first, _ = finish(one)
        second, _ = finish(other)
        assert own(first)
        assert own(second)
        assert not own(first) & own(second)
        assert len(own(first) | own(second)) == ITEMS
        check_bought_once(environment)


def test_collect_while_processes_run_harms_neither(database):
    """Both record what came of a request: it is bought and counted once."""
    found = []

    async def collect_again_and_again(processes, options):
        async with Client(**options) as client:
            while any(process.poll() is None for process in processes):
                found.extend(await collect(database, client, timeout=5))

    with service("0.05..0.2", ()) as environment, running(database, environment) as processes:
        first = processes[0].stdout.readline()
        names = ("api_key", "http_base_url", "ws_base_url")
        options = {name: environment[f"RUNWARE_{name.upper()}"] for name in names}
        anyio.run(collect_again_and_again, processes, options)
        finish(processes[0], first)
        finish(processes[1])
        check_bought_once(environment)
    assert any(isinstance(one.outcome, Ok) for one in found)
    with psycopg.connect(database) as connection:
        [[spent]] = connection.execute("SELECT sum(micro_usd) FROM runware_flow.spending").fetchall()
        [[paid]] = connection.execute("SELECT sum(micro_usd) FROM runware_flow.node").fetchall()
        [states] = connection.execute("SELECT array_agg(DISTINCT state) FROM runware_flow.node").fetchall()
    assert (spent, states) == (paid, ([STATES.index("done")],))


def test_process_killed_its_items_are_finished_by_the_other_under_their_ids(database):
    with service("0.2..0.5", ()) as environment, running(database, environment, lease=2.0) as (one, other):
        one.stdout.readline()
        one.kill()
        finish(other)
        check_bought_once(environment)


@pytest.mark.parametrize("backends", [("asyncio", "trio"), ("trio", "asyncio")])
def test_process_that_was_frozen_sends_nothing_more_for_items_that_were_taken(database, backends):
    shape = {"lease": 1.5, "backends": backends}
    with service("0.2..0.5", ()) as environment, running(database, environment, **shape) as (one, other):
        first = one.stdout.readline()
        one.send_signal(signal.SIGSTOP)
        lines, _ = finish(other)
        assert lines[-1]["ok"] == ITEMS
        check_bought_once(environment)
        one.send_signal(signal.SIGCONT)
        _, said = finish(one, first)
        assert "its lease was lost and another process has it" in said
        check_bought_once(environment)


def test_database_restarted_during_a_run_loses_nothing():
    with PostgresServer() as server, service("0.1..0.3", ()) as environment:
        with running(server.url(), environment) as (one, other):
            first = one.stdout.readline()
            server.stop(signal.SIGQUIT)
            time.sleep(0.5)  # both have something to write meanwhile
            server.start()
            finish(one, first)
            finish(other)
            check_bought_once(environment)
