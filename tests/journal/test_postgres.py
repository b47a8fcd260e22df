"""A journal in PostgreSQL: several processes at once, a database that is lost, a password that is not shown."""

from __future__ import annotations

import signal
import threading
import traceback
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import psycopg
import pytest
from postgres_server import PostgresServer
from service import Service, art, caption, fails, upscale
from waiting import cancel_when, wait_until

from runware_flow import Batch, Budget, BudgetExceeded, DeclarationError, Flow, FlowFailed, JournalError
from runware_flow.errors import RunwareFlowError
from runware_flow.journal import Journal, collect
from runware_flow.journal.address import DatabaseAddress
from runware_flow.journal.postgres import PostgresStore
from runware_flow.journal.store import Begin, EndLeases, NodeKey, Settle, TakeLeases

pytestmark = pytest.mark.cluster


def begin(number=0, task_uuid="uuid-1", lease=0):
    return Begin(
        NodeKey("flow", f"item[{number}]/node", "ab" * 32, f"[{number}]"), 1.0, task_uuid, "imageInference", lease=lease
    )


def opened(url, **more):
    store = PostgresStore(url, **{"patience": 20, **more})
    store.open()
    return store


@pytest.mark.parametrize("address", ["postgresql://me:S3cret@db.example/x", "postgres://me:S3cret@[::1]:5/x?a=b"])
def test_address_shows_no_password(address):
    shown = DatabaseAddress(address)
    assert "S3cret" not in f"{shown} {shown!r} {shown.__dict__} {PostgresStore(address)!r}"
    assert str(shown) == address.replace(":S3cret", "")
    flow = Flow("f", journal=address)
    assert "S3cret" not in f"{flow!r} {flow.settings!r} {Batch(lambda flow, item: flow.then(item), journal=address)!r}"


@pytest.mark.parametrize(
    "address",
    ["postgresql://me:S3cret@127.0.0.1:1/x", "postgresql://me:S3cret@h:port/x", "postgresql://me:S3cret@h/x?a=b"],
)
def test_failure_to_connect_is_one_sentence_without_the_password(address):
    with pytest.raises(JournalError) as caught:
        PostgresStore(address).open()
    error = caught.value.with_traceback(caught.tb.tb_next)  # without this test's own frame, which has the address
    told = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    assert "S3cret" not in told
    assert "\n" not in str(caught.value)
    assert "me@" in str(caught.value)


def test_password_as_a_parameter_is_refused_without_showing_it():
    with pytest.raises((DeclarationError, JournalError), match="PGPASSWORD") as caught:
        Flow("f", journal="postgresql://h/x?password=S3cret")
    assert "S3cret" not in str(caught.value)


def test_tables_of_a_newer_version_are_refused(database):
    opened(database).close()
    with psycopg.connect(database) as connection:
        connection.execute("UPDATE runware_flow.format SET version = 99")
    with pytest.raises(JournalError, match="has format 99"):
        opened(database)


def test_stores_opened_at_once_make_the_tables_once(database):
    stores = [PostgresStore(database) for _ in range(4)]
    threads = [threading.Thread(target=store.open) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, store in enumerate(stores):
        store.apply([begin(number)])
        store.close()
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM runware_flow.node").fetchone() == (4,)


def test_equal_request_of_two_processes_is_bought_once(database):
    first, second = opened(database), opened(database)
    answers = {}

    def work(name, store):
        answers[name] = [
            store.apply([begin(number, f"{name}-{number}") for number in range(start, start + 10)])
            for start in range(0, 100, 10)
        ]

    threads = [threading.Thread(target=work, args=pair) for pair in (("a", first), ("b", second))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    flat = {name: [entry for group in groups for entry in group] for name, groups in answers.items()}
    for one, other in zip(flat["a"], flat["b"], strict=True):
        assert {one.advice.action, other.advice.action} == {"buy", "collect"}
        assert one.task_uuid == other.task_uuid
    first.close()
    second.close()


def test_group_of_changes_takes_a_few_statements(database, monkeypatch):
    store, queries = opened(database), []
    execute = store._connection.execute
    monkeypatch.setattr(
        store._connection, "execute", lambda query, *args: queries.append(query) or execute(query, *args)
    )
    entries = store.apply([begin(number, f"uuid-{number}") for number in range(100)])
    store.apply([Settle(entry.number, 2.0, is_done=True, items=(b"{}",), cost=0.5) for entry in entries])
    store.apply([begin(number, f"new-{number}") for number in range(100)])
    monkeypatch.undo()
    store.close()
    assert len(queries) <= 6
    assert spent_there(database) == 50.0


def take(store, *items):
    [entry] = store.apply([TakeLeases("flow", items)])
    return entry.leases


def test_write_under_a_lease_that_was_taken_is_refused_and_others_are_carried_out(database):
    slow, quick = opened(database, lease=0.0), opened(database, lease=60.0)
    [mine, other] = take(slow, "[0]", "[1]")
    [bought] = slow.apply([begin(0, "uuid-a", mine.number)])
    [taken] = take(quick, "[0]")
    assert taken.number > mine.number
    refused, kept = slow.apply(
        [Settle(bought.number, 2.0, is_done=True, lease=mine.number), begin(1, "b", other.number)]
    )
    assert "another process took this item over" in str(refused)
    assert kept.advice.action == "buy"
    assert slow.renew_leases([mine.number, other.number]) == [mine.number]
    [collected] = quick.apply([begin(0, "new", taken.number)])
    assert (collected.advice.action, collected.task_uuid) == ("collect", "uuid-a")
    assert take(slow, "[0]")[0].number == 0
    quick.apply([EndLeases(((taken.number, b"{}"),))])
    assert take(slow, "[0]")[0].has_ended
    later = opened(database)
    assert take(later, "[0]")[0].number  # a later run tries a failure again
    for store in (slow, quick, later):
        store.close()


def test_lease_that_has_expired_is_not_waited_for_while_its_owner_writes_under_it(database):
    """Processes that waited for each other's expired leases did so in circles, until PostgreSQL ended one of them."""
    slow, quick = opened(database, lease=0.0), opened(database, lease=60.0, patience=5)
    [mine, _] = take(slow, "[0]", "[1]")
    with psycopg.connect(database) as writing:  # as the owner does
        writing.execute(b"SELECT number FROM runware_flow.lease WHERE number = %s FOR SHARE", (mine.number,))
        assert [lease.number > 0 for lease in take(quick, "[0]", "[1]", "[2]")] == [False, True, True]
    assert take(quick, "[0]")[0].number > mine.number
    for store in (slow, quick):
        store.close()


def test_store_outlives_a_crash_of_the_database():
    with PostgresServer() as server:
        store = opened(server.url())
        entry = store.apply([begin(0, "uuid-a")])[0]
        server.stop(signal.SIGQUIT)
        later = threading.Timer(0.5, server.start)
        later.start()
        [again] = store.apply([begin(1, "uuid-b")])
        later.join()
        assert again.advice.action == "buy"
        store.apply([Settle(entry.number, 2.0, is_done=True, items=(b"{}",))])
        store.close()


def test_database_that_stays_away_stops_everything_with_one_sentence():
    with PostgresServer() as server:
        store = opened(server.url(), patience=0.5)
        server.stop()
        with pytest.raises(JournalError, match=r"has not answered for 0\.5 s .*nothing more is sent") as caught:
            store.apply([begin(1, "uuid-b")])
        assert "\n" not in str(caught.value)
        store.close()


def test_run_whose_database_comes_up_after_it_waits_for_it(run, caplog):
    async def main():
        with PostgresServer() as server:
            url = server.url()
            server.stop()
            later = threading.Timer(0.5, server.start)
            later.start()
            flow = Flow("f", journal=url)
            node = flow.then(art("a"))
            result = await flow.execute(Service())
            later.join()
            assert result[node]

    run(main)
    assert len(caplog.messages) == 1
    assert "does not answer" in caplog.messages[0]
    assert "is tried again for 60 s" in caplog.messages[0]


def test_run_whose_database_stays_away_fails_within_the_patience(run):
    async def main():
        store = PostgresStore("postgresql://me:S3cret@127.0.0.1:1/x", patience=0.3)
        flow = Flow("f", journal=store)
        flow.then(art("a"))
        service = Service()
        with pytest.raises(JournalError, match=r"me@127.0.0.1:1/x does not answer .* was tried for 0\.3 s") as caught:
            await flow.execute(service)
        assert "S3cret" not in str(caught.value)
        assert service.sent == []

    run(main)


def test_run_whose_database_has_too_many_connections_waits_for_one(database, run, caplog):
    with psycopg.connect(database, autocommit=True) as connection:
        role = f"limited{urlsplit(database).path[1:]}"
        connection.execute(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 1".encode())
        connection.execute(f"GRANT CREATE ON DATABASE {urlsplit(database).path[1:]} TO {role}".encode())
    url = database.replace("tester", role)

    async def main():
        caplog.clear()
        flow = Flow("f", journal=url)
        node = flow.then(art("a"))
        results = []

        async def execute():
            results.append(await flow.execute(Service()))

        async with anyio.create_task_group() as group:
            with psycopg.connect(url):
                group.start_soon(execute)
                await wait_until(lambda: caplog.messages)
        assert results[0][node]

    run(main)
    assert len(caplog.messages) == 1
    assert "has no connection left" in caplog.messages[0]
    assert "is tried again for 60 s" in caplog.messages[0]


@pytest.mark.parametrize(
    ("text", "is_full"),
    [
        ("FATAL:  sorry, too many clients already", True),
        ("FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute", True),
        ('FATAL:  too many connections for database "x"', True),
        ("FATAL:  no more connections allowed (max_client_conn)", True),
        ('FATAL:  password authentication failed for user "too many"', False),
    ],
)
def test_refusal_for_too_many_connections_is_told_from_others(text, is_full):
    assert DatabaseAddress("postgresql://h/x").is_full(psycopg.OperationalError(text)) is is_full


def test_outcome_that_two_processes_write_at_the_same_moment_is_spent_once(database):
    """As `collect` and a run may do."""
    stores = [opened(database), opened(database)]
    [entry] = stores[0].apply([begin(0, "uuid-a")])
    done = Settle(entry.number, 2.0, is_done=True, items=(b"{}",), cost=0.5)
    threads = [threading.Thread(target=store.apply, args=([done],)) for store in stores]
    blocked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with psycopg.connect(database, autocommit=True) as watch, psycopg.connect(database) as holder:
        holder.execute("SELECT FROM runware_flow.node FOR UPDATE")
        for thread in threads:
            thread.start()
        anyio.run(wait_until, lambda: watch.execute(blocked).fetchone() == (2,))
        holder.rollback()
        for thread in threads:
            thread.join()
    for store in stores:
        store.close()
    assert spent_there(database) == 0.5


@pytest.mark.parametrize("wrong", ["database", "user"])
def test_database_that_refuses_is_not_waited_for(database, wrong, caplog):
    url = database.replace("/journal_", "/no_journal_") if wrong == "database" else database.replace("tester", "other")
    flow = Flow("f", journal=url)
    flow.then(art("a"))
    with pytest.raises(JournalError, match="does not exist"):
        anyio.run(flow.execute, Service())
    assert caplog.messages == []


def test_answer_to_a_commit_that_was_lost_is_bought_once(database):
    """The group is carried out, the connection breaks before its answer: the second try finds its own request."""
    store = opened(database)
    apply_all = store._apply_all
    broken = []

    def break_after_commit(connection, changes):
        answers = apply_all(connection, changes)
        if not broken:
            broken.append(True)
            connection._connection.execute("COMMIT")
            raise psycopg.OperationalError("the connection broke")
        return answers

    store._apply_all = break_after_commit
    [entry] = store.apply([begin(0, "uuid-a")])
    assert (entry.advice.action, entry.task_uuid) == ("buy", "uuid-a")
    store.close()
    again = opened(database)
    assert again.apply([begin(0, "new")])[0].task_uuid == "uuid-a"
    again.close()


def poster(flow, prompt):
    return flow.then(art(prompt)).then(upscale).then(caption)


def test_batch_on_a_database_run_again_sends_nothing(database, run):
    async def main():
        first, second = Service(), Service()
        batch = Batch(poster, concurrency=4, journal=database)
        prompts = [f"picture {number}" for number in range(10)]
        report = await batch.collect(prompts, first)
        assert (report.ok_count, len(first.sent)) == (10, 30)
        report = await batch.collect(prompts, second)
        assert (report.ok_count, report.restored_count, second.sent) == (10, 10, [])

    run(main)


def test_flow_on_a_database_that_is_lost_fails_with_the_sentence(run):
    async def main():
        with PostgresServer() as server:
            store = PostgresStore(server.url(), patience=0.2)
            flow = Flow("f", journal=store)
            first = flow.then(art("a"))
            service = Service(lambda request, count: server.stop())
            flow_result = None
            with pytest.raises(Exception, match="not answered") as caught:
                flow_result = await flow.execute(service)
            assert flow_result is None
            assert first is not None
            assert isinstance(caught.value.__cause__ or caught.value, JournalError)

    run(main)


def test_journal_in_a_database_is_read_and_collected(database, run):
    async def main():
        service = Service(lambda request, count: anyio.sleep_forever() if count > 29 else None)
        batch = Batch(poster, concurrency=1, journal=database, name="b")
        async with cancel_when(lambda: len(service.sent) == 30):
            await batch.collect([f"picture {number}" for number in range(10)], service)
        with Journal(database) as journal:
            summary = journal.summary()
            assert (summary.done_count, summary.open_count, summary.cost) == (29, 1, pytest.approx(29 * 0.0012))
            [left] = journal.entries(state="open")
            assert len(list(journal.entries(flow="b"))) == 30
            assert [(use.count, use.cost) for use in journal.models()] == [
                (9, pytest.approx(0.0012)),
                (10, pytest.approx(0.0012)),
                (10, pytest.approx(0.0012)),
            ]
            assert journal.places()[0][0] == str(Path.cwd())
        [collected] = await collect(database, Service())
        assert collected.entry.task_uuid == left.task_uuid
        with Journal(database) as journal:
            assert journal.summary().open_count == 0

    run(main)


def test_database_without_a_journal_says_so(database):
    with pytest.raises(JournalError, match="there is no journal in postgresql://tester@"), Journal(database):
        pass


PRICE = 0.0012
"""What each task of the service costs."""


def spent_there(database):
    with psycopg.connect(database) as connection:
        [[booked]] = connection.execute("SELECT sum(micro_usd) FROM runware_flow.spending").fetchall()
        [[paid]] = connection.execute("SELECT sum(micro_usd) FROM runware_flow.node").fetchall()
    assert booked == paid
    return int(paid) / 1_000_000


def test_budget_on_a_database_counts_what_earlier_runs_have_spent(database, run):
    async def main():
        batch = Batch(poster, concurrency=4, journal=database, budget=10 * PRICE, name="b")
        first, second = Service(), Service()
        with pytest.raises(FlowFailed, match="of the budget of") as caught:
            await batch.collect([f"picture {number}" for number in range(10)], first)
        assert isinstance(caught.value.__cause__, BudgetExceeded)
        assert spent_there(database) == pytest.approx(10 * PRICE)
        with pytest.raises(FlowFailed, match="of the budget of"):
            await batch.collect([f"picture {number}" for number in range(10)], second)
        assert (len(first.sent), len(second.sent)) == (10, 0)
        more = Batch(poster, concurrency=4, journal=database, budget=30 * PRICE, name="b")
        report = await more.collect([f"picture {number}" for number in range(10)], second)
        assert (report.ok_count, len(second.sent)) == (10, 20)

    run(main)


def test_budget_object_that_is_used_twice_counts_its_own_runs_once(database, run):
    async def main():
        budget, service = Budget(31 * PRICE), Service()
        for name in ("one", "other"):
            batch = Batch(poster, concurrency=2, journal=database, budget=budget, name="b")
            await batch.collect([f"{name} {number}" for number in range(5)], service)
        assert budget.spent == pytest.approx(30 * PRICE)
        assert budget.left == pytest.approx(PRICE)

    run(main)


def test_budget_on_a_database_is_shared_by_those_that_run_side_by_side(database, run):
    """All together spend what there is, and no more than what was in flight above it."""

    async def main():
        service = Service(lambda request, count: anyio.sleep(0.01))

        async def take_part():
            batch = Batch(poster, concurrency=3, journal=database, name="b", on_error="continue", budget=40 * PRICE)
            report = await batch.collect([f"picture {number}" for number in range(30)], service)
            assert report.failed_count
            assert all(isinstance(item.error, RunwareFlowError) for item in report.failures)

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(take_part)
        assert 40 <= len(service.sent) <= 40 + 3 * 3
        assert spent_there(database) == pytest.approx(len(service.sent) * PRICE)

    run(main)


def test_tables_of_the_first_version_are_brought_to_the_present_one_with_what_was_spent(database):
    store = opened(database)
    [entry] = store.apply([begin(0, "uuid-a")])
    store.apply([Settle(entry.number, 2.0, is_done=True, items=(b"{}",), cost=0.25)])
    store.close()
    with psycopg.connect(database) as connection:
        connection.execute("DROP TABLE runware_flow.spending")
        connection.execute("DROP INDEX runware_flow.node_without_cost")
        connection.execute("UPDATE runware_flow.format SET version = 1")
    opened(database).close()
    assert spent_there(database) == 0.25


def test_batches_side_by_side_do_each_item_once_and_a_failure_too(database, run):
    async def main():
        service = Service(fails("picture 3"))
        reports, beginnings = [], []
        all_there = anyio.Event()

        async def items():
            beginnings.append(None)
            if len(beginnings) == 3:  # one that comes after the failure is a later run, which tries again
                all_there.set()
            await all_there.wait()
            for number in range(20):
                yield f"picture {number}"

        async def take_part():
            batch = Batch(poster, concurrency=3, journal=database, name="b", on_error="continue")
            reports.append(await batch.collect(items, service))

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(take_part)
        assert [(report.ok_count, report.failed_count) for report in reports] == [(19, 1)] * 3
        assert len({request.task_id for request in service.sent}) == 19 * 3 + 1
        assert all("providerError it is" in str(report.failures[0].error) for report in reports)
        with psycopg.connect(database) as connection:
            assert connection.execute("SELECT count(*) FROM runware_flow.lease WHERE ended_at IS NULL").fetchone() == (
                0,
            )

    run(main)
