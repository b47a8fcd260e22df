"""A batch on workers of Dask: real processes, a real database, the emulator in a process of its own."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import pickle
import signal
import subprocess
import threading
import urllib.request
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import pytest
from waiting import wait_until

from benchmarks import cluster as benchmark
from benchmarks.cluster import finish, poster, show, start_driver
from benchmarks.crash import prompts, service
from benchmarks.shared import bought
from runware_flow import Batch, Budget, ClientStateError, DeclarationError, Failed, FlowFailed, Ok, RunwareError
from runware_flow.engines import DaskEngine, worker
from runware_flow.engines import dask as engine
from runware_flow.graph.events import NodeProgress, NodeSettled, NodeStarted, RunFinished, RunStarted
from runware_flow.journal.postgres import PostgresStore
from runware_flow.journal.sqlite import SqliteStore
from runware_flow.live import LivePage

ITEMS = 40
DATABASE = "postgresql://me@db.example/posters"


@pytest.mark.parametrize("journal", [None, "posters.sqlite", SqliteStore("posters.sqlite")])
def test_batch_without_a_shared_journal_is_refused_with_what_to_use(journal):
    with pytest.raises(DeclarationError, match=r'one in PostgreSQL.*journal="postgresql://user@host/name"'):
        Batch(poster, journal=journal).on(DaskEngine("tcp://127.0.0.1:1"))


def test_password_in_the_address_is_refused_without_showing_it():
    with pytest.raises(DeclarationError, match="PGPASSWORD") as caught:
        Batch(poster, journal="postgresql://me:S3cret@h/x").on(DaskEngine("tcp://127.0.0.1:1"))
    assert "S3cret" not in str(caught.value)


@pytest.mark.parametrize("given", [None, "", 5, object()])
def test_engine_without_an_address_is_refused(given):
    with pytest.raises(DeclarationError, match="DaskEngine takes the scheduler's address"):
        DaskEngine(given)


@pytest.mark.parametrize("workers", [0, True, "tcp://w:1"])
def test_workers_that_make_no_sense_are_refused(workers):
    with pytest.raises(DeclarationError, match="workers= is how many workers are used"):
        DaskEngine("tcp://127.0.0.1:1", workers=workers)


def test_client_of_the_callers_is_refused(run):
    batch = Batch(poster, journal=DATABASE).on(DaskEngine("tcp://127.0.0.1:1"))
    with pytest.raises(DeclarationError, match="leave client= out"):
        run(batch.collect, ["a"], object())


def test_trio_is_refused_in_one_sentence():
    batch = Batch(poster, journal=DATABASE).on(DaskEngine("tcp://127.0.0.1:1"))
    with pytest.raises(ClientStateError, match="DaskEngine runs on asyncio alone"):
        anyio.run(batch.collect, ["a"], backend="trio")


@pytest.mark.cluster
@pytest.mark.timeout(120)
def test_batch_on_two_workers_does_each_item_once_and_again_sends_nothing(cluster, database):
    first = start_driver(cluster.scheduler, database, ITEMS, 8)
    lines, report = finish(first, ITEMS)
    assert len(lines) == ITEMS
    assert (report["ok"], report["restored"]) == (ITEMS, 0)
    once = {"submissions": 3 * ITEMS, "ids": 3 * ITEMS, "bills": 3 * ITEMS, "conflicts": 0}
    assert bought(cluster.environment) == once
    lines, again = finish(start_driver(cluster.scheduler, database, ITEMS, 8), ITEMS)
    assert (again["ok"], again["restored"], again["cost"]) == (ITEMS, ITEMS, report["cost"])
    assert bought(cluster.environment) == once


def test_nothing_secret_is_in_what_is_sent_to_workers(monkeypatch):
    monkeypatch.setenv("RUNWARE_API_KEY", "K3y-of-the-service")
    monkeypatch.setenv("PGPASSWORD", "S3cret")
    budget = Budget(5.0, prices={"runware:400@1": 0.01})
    batch = Batch(poster, journal=DATABASE, budget=budget, limits={"image": 4}).on(DaskEngine("tcp://127.0.0.1:1"))
    sent = engine.pack_job(batch._spec(), PostgresStore(DATABASE), "id", "name")
    assert b"K3y" not in sent
    assert b"S3cret" not in sent
    job = pickle.loads(sent)
    assert job.journal == DATABASE
    assert job.spec.settings.budget.usd == 5.0
    assert job.spec.settings.journal is None


def test_pipeline_that_cannot_be_sent_is_refused_in_one_sentence():
    lock = threading.Lock()
    batch = Batch(lambda flow, item: flow.then(lambda: lock), journal=DATABASE, name="b")
    with pytest.raises(DeclarationError, match="batch 'b' cannot be sent to workers"):
        engine.pack_job(batch._spec(), PostgresStore(DATABASE), "id", "name")


def test_scheduler_that_does_not_answer_is_one_sentence():
    pytest.importorskip("distributed")
    batch = Batch(poster, journal=DATABASE).on(DaskEngine("tcp://127.0.0.1:1"))
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(RunwareError, match=r"no Dask scheduler answers at tcp://127.0.0.1:1"),
    ):
        patch.setattr(engine, "_CONNECT_SECONDS", 0.2)
        anyio.run(batch.collect, ["a"])


class Unpicklable(Exception):
    def __init__(self, why):
        super().__init__(why)
        self.lock = threading.Lock()


def test_outcome_that_cannot_be_sent_is_a_failure_that_says_so():
    def unpacked(outcome):
        return pickle.loads(worker.packed(outcome))

    assert unpacked(Ok(5)) == Ok(5)
    assert str(unpacked(Failed(Unpicklable("it broke"))).error) == "Unpicklable: it broke"
    assert "cannot be sent to the driver" in str(unpacked(Ok(threading.Lock())).error)
    error = unpacked(Failed(RunwareError("no", code="safety", task_uuid="u"))).error
    assert (error.code, error.task_uuid, str(error)) == ("safety", "u", "no")


def test_event_whose_value_cannot_be_sent_shows_it_instead():
    def unpacked(outcome):
        return pickle.loads(worker.packed_event(NodeSettled(1.0, "item[a]/n", "n", outcome, attempts=1))).outcome

    assert unpacked(Ok(5)) == Ok(5)
    assert "lock" in unpacked(Ok(threading.Lock())).value
    assert str(unpacked(Failed(Unpicklable("it broke"))).error) == "Unpicklable: it broke"
    assert pickle.loads(worker.packed_event(NodeStarted(1.0, "p", "n", 1))) == NodeStarted(1.0, "p", "n", 1)


@pytest.mark.cluster
@pytest.mark.timeout(120)
def test_driver_hears_of_each_node_of_the_workers_once_and_in_order(shared_cluster, database):
    told = []

    def take(event):
        told.append(event)

    async def main():
        batch = Batch(poster, concurrency=8, journal=database, name="events", progress=take)
        return await batch.on(DaskEngine(shared_cluster.scheduler)).collect(prompts(20))

    report = anyio.run(main)
    assert report.ok_count == 20
    assert isinstance(told[0], RunStarted)
    assert isinstance(told[-1], RunFinished)
    assert (told[-1].end, told[-1].ok_count) == ("done", 20)
    by_path = {}
    for event in told[1:-1]:
        by_path.setdefault(event.path, []).append(event)
    assert len(by_path) == 3 * 20
    for events in by_path.values():
        assert [type(event) for event in events if not isinstance(event, NodeProgress)] == [NodeStarted, NodeSettled]
        assert isinstance(events[-1].outcome, Ok)
        assert 0 <= events[0].time <= events[-1].time <= told[-1].time
    assert {event.index for event in told[1:-1]} == set(range(20))


@pytest.mark.cluster
@pytest.mark.timeout(120)
def test_live_page_shows_the_items_of_the_workers_and_stops_them(shared_cluster, database):
    def ask(url, *, headers=None, method="GET"):
        request = urllib.request.Request(url, headers=headers or {}, method=method)
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.read()

    def stop():
        ask(f"{page.url}stop", headers={"Origin": page.url.removesuffix(urlsplit(page.url).path)}, method="POST")

    async def main():
        batch = Batch(poster, concurrency=4, journal=database, name="page", progress=page)
        async with batch.on(DaskEngine(shared_cluster.scheduler)).run(prompts(200)) as outcomes:
            async for item in outcomes:
                if item.index == 4:
                    await anyio.to_thread.run_sync(stop)
        return outcomes.report

    with LivePage() as page:
        report = anyio.run(main)
        shown = ask(page.url).decode()
        picture = ask(f"{page.url}picture/0.0")
    assert 5 <= report.ok_count < 200
    assert shown.count("<article ") == report.ok_count
    assert ">stopped<" in shown
    assert picture[8:12] == b"WEBP"


@pytest.mark.cluster
@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", ["nthreads", "run"])
def test_cancel_that_comes_out_of_dask_ends_no_run(shared_cluster, database, monkeypatch, name):
    import distributed

    original, calls = getattr(distributed.Client, name), itertools.count(1)

    async def call(self, *args, **more):
        if next(calls) == 3:
            raise asyncio.CancelledError
        return await original(self, *args, **more)

    async def main():
        batch = Batch(poster, concurrency=8, journal=database, name="stray")
        return await batch.on(DaskEngine(shared_cluster.scheduler)).collect(prompts(20))

    monkeypatch.setattr(distributed.Client, name, call)
    assert anyio.run(main).ok_count == 20
    assert next(calls) > 3


@pytest.mark.cluster
@pytest.mark.timeout(120)
def test_callback_that_is_slow_misses_nothing(shared_cluster, database):
    told = []

    async def take(event):
        told.append(event)
        await anyio.sleep(0.002)

    async def number(value):
        return value

    def nodes(flow, item):
        return flow.map(range(60), number).gather()

    async def main():
        batch = Batch(nodes, concurrency=8, journal=database, name="slow", progress=take)
        return await batch.on(DaskEngine(shared_cluster.scheduler)).collect(range(20))

    report = anyio.run(main)
    assert report.ok_count == 20
    settled = [event for event in told if isinstance(event, NodeSettled) and event.label == "number"]
    assert len({event.path for event in settled}) == len(settled) == 20 * 60


@pytest.mark.cluster
@pytest.mark.timeout(120)
def test_progress_of_the_driver_counts_the_nodes_of_the_workers(shared_cluster, database, capsys):
    async def main():
        batch = Batch(poster, concurrency=8, journal=database, name="counts", progress="json", on_error="continue")
        await batch.on(DaskEngine(shared_cluster.scheduler)).collect(prompts(20))

    for restored in (0, 20):
        anyio.run(main)
        last = json.loads(capsys.readouterr().err.splitlines()[-1])
        items, stages = last["items"], last["stages"]
        assert (items["ok"], items["restored"]) == (20, restored)
        assert [(stage["ok"], stage["restored"], stage["running"]) for stage in stages] == [(20, restored, 0)] * 3


@pytest.mark.cluster
@pytest.mark.timeout(300)
def test_workers_and_driver_are_killed_and_the_database_restarted_and_each_item_is_bought_once():
    pytest.importorskip("distributed")
    told = show(items=100, workers=3, kills=2, concurrency=12, latency="0.1..0.2")
    assert (told["submissions"], told["bills"]) == (300, 300)
    assert told["most_at_once"] <= 12


@pytest.mark.cluster
@pytest.mark.timeout(240)
def test_ctrl_c_ends_the_run_everywhere_says_what_may_be_billed_and_the_same_call_goes_on(cluster, database):
    import distributed

    def start():
        return start_driver(cluster.scheduler, database, ITEMS, 8, errors=subprocess.DEVNULL)

    with start() as first:
        first.stdout.readline()
        first.send_signal(signal.SIGINT)
        left = [json.loads(line) for line in first.stdout.read().splitlines()][-1]
    assert first.returncode != 0
    assert left["abandoned"]
    assert all(one["task_uuid"] or not one["may_be_billed"] for one in left["abandoned"])
    with distributed.Client(cluster.scheduler, set_as_default=False) as client:
        anyio.run(wait_until, lambda: set(client.run(benchmark.open_runs).values()) == {0})
    submitted = bought(cluster.environment)["submissions"]
    assert submitted < 3 * ITEMS
    _, report = finish(start(), ITEMS)
    assert report["ok"] == ITEMS
    once = bought(cluster.environment)
    assert (once["submissions"], once["ids"], once["bills"]) == (3 * ITEMS, 3 * ITEMS, 3 * ITEMS)


@pytest.mark.cluster
@pytest.mark.timeout(300)
def test_worker_that_is_frozen_loses_its_items_and_does_no_harm_when_it_wakes_up(cluster, database):
    driver = start_driver(cluster.scheduler, database, ITEMS, 8)
    lines = [json.loads(driver.stdout.readline()) for _ in range(6)]
    frozen = cluster.pids()[0]
    os.kill(frozen, signal.SIGSTOP)
    try:
        # It has four items in flight at least, so that these come from the other worker, which took them over.
        lines += [json.loads(driver.stdout.readline()) for _ in range(ITEMS - 3 - len(lines))]
    finally:
        os.kill(frozen, signal.SIGCONT)
    with driver:
        lines += [json.loads(line) for line in driver.stdout.read().splitlines()]
    assert driver.returncode == 0
    assert sorted(line["index"] for line in lines[:-1]) == list(range(ITEMS))
    assert lines[-1]["ok"] == ITEMS
    once = {"submissions": 3 * ITEMS, "ids": 3 * ITEMS, "bills": 3 * ITEMS}
    assert bought(cluster.environment).items() >= once.items()
    _, again = finish(start_driver(cluster.scheduler, database, ITEMS, 8), ITEMS)  # both workers take part
    assert again["restored"] == ITEMS
    assert bought(cluster.environment).items() >= once.items()


@pytest.mark.cluster
@pytest.mark.timeout(300)
def test_scheduler_that_dies_is_one_sentence_and_the_same_call_goes_on_with_another_one(server, database, tmp_path):
    pytest.importorskip("distributed")
    with service("0.1..0.3", ()) as environment, (tmp_path / "errors").open("w+") as errors:
        with benchmark.cluster(2, environment) as running:
            driver = start_driver(running.scheduler, database, ITEMS, 8, errors=errors)
            driver.stdout.readline()
            os.kill(running.pid, signal.SIGKILL)
            with driver:
                driver.stdout.read()
        assert driver.returncode != 0
        errors.seek(0)
        assert "the Dask scheduler at tcp://127.0.0.1:" in errors.read()
        with benchmark.cluster(2, environment) as running:
            _, report = finish(start_driver(running.scheduler, database, ITEMS, 8), ITEMS)
        assert report["ok"] == ITEMS
        once = bought(environment)
        assert (once["submissions"], once["ids"], once["bills"]) == (3 * ITEMS, 3 * ITEMS, 3 * ITEMS)


@pytest.mark.cluster
@pytest.mark.timeout(240)
def test_budget_of_all_workers_is_overspent_by_no_more_than_what_is_in_flight(cluster, database):
    usd, most, at_once = 0.03, 0.0013, 8

    async def main():
        batch = Batch(poster, concurrency=at_once, journal=database, name="budget", budget=usd)
        await batch.on(DaskEngine(cluster.scheduler)).collect(prompts(ITEMS))

    def billed():
        with urllib.request.urlopen(f"{address}/__emulator__/log") as reply:
            return sum(task["cost"] for task in json.load(reply)["tasks"])

    address = cluster.environment["RUNWARE_HTTP_BASE_URL"].removesuffix("/v1")
    with pytest.raises(FlowFailed, match="budget"):
        anyio.run(main)
    spent = billed()
    assert 0.5 * usd < spent <= usd + at_once * most
    with pytest.raises(FlowFailed, match="budget"):
        anyio.run(main)  # what is spent is in the journal
    assert billed() <= usd + at_once * most


@pytest.mark.cluster
@pytest.mark.timeout(120)
def test_key_and_password_are_in_no_task_log_or_state_of_the_cluster(cluster, database, tmp_path):
    import distributed

    driver = start_driver(cluster.scheduler, database, ITEMS, 8)
    first = driver.stdout.readline()
    with distributed.Client(cluster.scheduler, set_as_default=False) as client:
        client.dump_cluster_state(str(tmp_path / "state"), format="yaml")
        told = (tmp_path / "state.yaml").read_text()
        told += f"{client.get_worker_logs()} {client.get_scheduler_logs()} {client.get_events()}"
    with driver:
        assert first
        driver.stdout.read()
    assert "cluster-" in told
    assert cluster.environment["RUNWARE_API_KEY"] not in told
    assert "S3cret" not in told
