"""A batch on workers of Dask: real processes, a real database, the emulator in a process of its own."""

from __future__ import annotations

import anyio
import pytest

from benchmarks.cluster import finish, poster, start_driver
from benchmarks.shared import bought
from runware_flow import Batch, ClientStateError, DeclarationError
from runware_flow.engines import DaskEngine
from runware_flow.journal.sqlite import SqliteStore

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
