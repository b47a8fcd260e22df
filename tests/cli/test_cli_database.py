"""Commands on a journal in PostgreSQL: what is read and shown, several flows in one database, and what goes wrong."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import urllib.request

import anyio
import psycopg
import pytest
from postgres_server import PostgresServer
from service import Service, art, caption

from runware_flow import Batch, Flow, JournalError
from runware_flow.cli.journal import read_journal
from runware_flow.cli.program import UsageError
from runware_flow.emulator import run_in_thread
from runware_flow.emulator.commands import environment as environment_of
from runware_flow.journal import Journal, collect
from runware_flow.journal.address import DatabaseAddress, address_of

COMMAND = [sys.executable, "-m", "runware_flow"]


def call(folder, *arguments, **environment):
    done = subprocess.run(
        [*COMMAND, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env={**os.environ, **environment},
    )
    return done.returncode, done.stdout, done.stderr


def poster(flow, prompt):
    return flow.then(art(prompt), label="art").then(caption, label="text")


def run_batch(journal, name, prompts, service=None):
    batch = Batch(poster, journal=journal, name=name, key=str, on_error="continue")
    return anyio.run(batch.collect, prompts, service or Service())


@pytest.fixture
def two_batches(request, tmp_path, kind):
    """A journal that two batches have used, one key of theirs being the same, and a flow."""
    url = str(tmp_path / "j.sqlite") if kind == "file" else request.getfixturevalue("database")
    run_batch(url, "posters", ["kite", "boat"])
    run_batch(url, "banners", ["kite"])
    flow = Flow("single", journal=url)
    flow.then(art("a lighthouse"), label="art")
    anyio.run(flow.execute, Service())
    return url


both = pytest.mark.parametrize("kind", ["file", pytest.param("database", marks=pytest.mark.cluster)])


@both
def test_flows_of_a_journal_are_listed_and_chosen_by_an_option(two_batches, tmp_path):
    code, out, _ = call(tmp_path, "journal", "flows", two_batches)
    assert code == 0
    assert out.splitlines() == [
        "posters  4 done, 0 failed, 0 open, $0.0048",
        "banners  2 done, 0 failed, 0 open, $0.0024",
        "single  1 done, 0 failed, 0 open, $0.0012",
    ]
    _, out, _ = call(tmp_path, "journal", "ls", two_batches)
    assert [line.split()[:3] for line in out.splitlines()] == [
        ["posters", "kite", "ok"],
        ["posters", "boat", "ok"],
        ["banners", "kite", "ok"],
        ["single", "art", "ok"],
    ]
    _, out, _ = call(tmp_path, "journal", "ls", two_batches, "--flow", "banners")
    assert [line.split()[:2] for line in out.splitlines()] == [["kite", "ok"]]
    _, out, _ = call(tmp_path, "export", two_batches)
    assert [(row["flow"], row["key"]) for row in csv.DictReader(io.StringIO(out))] == [
        ("posters", "kite"),
        ("posters", "boat"),
        ("banners", "kite"),
        ("single", "art"),
    ]
    assert call(tmp_path, "report", two_batches, "-o", "r.html", "--flow", "posters")[1] == "r.html\n"
    page = (tmp_path / "r.html").read_text()
    assert page.count("<article ") == 2
    assert call(tmp_path, "report", two_batches, "-o", "r.html")[1] == "r.html\n"
    assert (tmp_path / "r.html").read_text().count("<article ") == 4, "items of two batches are never one"


@both
def test_item_that_several_flows_have_is_shown_of_the_one_that_is_named(two_batches, tmp_path):
    code, _, error = call(tmp_path, "journal", "show", two_batches, "kite")
    assert code == 2
    assert error == ("runware-flow: several flows have an item 'kite': name one of 'posters', 'banners' with --flow\n")
    code, out, _ = call(tmp_path, "journal", "show", two_batches, "kite", "--flow", "banners")
    assert code == 0
    assert out.count("taskUUID") == 2


@both
@pytest.mark.parametrize("command", [("report",), ("export",), ("journal", "ls"), ("journal", "show", "kite")])
def test_flow_that_is_not_there_is_one_sentence_with_those_that_are(two_batches, tmp_path, command):
    name, *more = command[1:] if command[0] == "journal" else command
    command = [*(["journal"] if command[0] == "journal" else []), name, two_batches, *more, "--flow", "nothing"]
    code, out, error = call(tmp_path, *command)
    assert (code, out) == (1, "")
    assert error == (
        f"runware-flow: the journal {two_batches} has nothing of a flow or batch named 'nothing'; it has 'posters',"
        " 'banners', 'single'\n"
    )


READING = [
    ("report",),
    ("export",),
    ("journal", "ls"),
    ("journal", "flows"),
    ("collect",),
    ("view",),
]


@pytest.mark.cluster
@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_database_without_a_journal_is_one_sentence_and_stays_without(database, tmp_path, command):
    code, out, error = call(tmp_path, *command, database)
    assert (code, out) == (1, "")
    assert error == f"runware-flow: there is no journal in {database}\n"
    with psycopg.connect(database) as connection:
        found = connection.execute("SELECT count(*) FROM pg_namespace WHERE nspname = 'runware_flow'").fetchone()
    assert found == (0,)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.cluster
@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_database_that_is_away_is_one_sentence_without_the_password(tmp_path, command):
    code, out, error = call(tmp_path, *command, "postgresql://me:S3cret@127.0.0.1:1/posters")
    assert (code, out) == (1, "")
    assert error.startswith("runware-flow: the journal postgresql://me@127.0.0.1:1/posters cannot be used: ")
    assert len(error.splitlines()) == 1
    assert "S3cret" not in error


@pytest.mark.cluster
def test_user_who_may_only_read_can_read(database, server, tmp_path):
    run_batch(database, "posters", ["kite"])
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS reader")
        connection.execute("CREATE ROLE reader LOGIN")
        connection.execute("GRANT USAGE ON SCHEMA runware_flow TO reader")
        connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA runware_flow TO reader")
    code, out, error = call(tmp_path, "journal", "ls", database.replace("tester@", "reader@"))
    assert (code, error) == (0, "")
    assert out.startswith("kite  ok")


@pytest.mark.cluster
def test_reading_takes_no_lease_and_leaves_no_connection(database, tmp_path):
    run_batch(database, "posters", ["kite"])
    assert call(tmp_path, "report", database)[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == [f"{DatabaseAddress(database).name}.html"]
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM runware_flow.lease").fetchone() == (0,)


def test_command_without_psycopg_names_the_extra(tmp_path):
    (tmp_path / "psycopg.py").write_text("raise ImportError(name='psycopg')\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    code, out, error = call(tmp_path, "journal", "ls", "postgresql://me:S3cret@h/x", PYTHONPATH=path)
    assert (code, out) == (1, "")
    assert error == (
        "runware-flow: a journal in PostgreSQL needs psycopg, which is not installed: pip install"
        " 'runware-flow[postgres]'\n"
    )


@pytest.mark.parametrize(
    ("named", "sentence"),
    [
        (
            "mysql://me:S3cret@h/x",
            "a journal is a file or a postgresql:// URL, and this one is named by a mysql:// URL",
        ),
        (
            "postgresql+psycopg://me:S3cret@h/x",
            "a journal is a file or a postgresql:// URL, and this one is named by a postgresql+psycopg:// URL",
        ),
        ("postgresql://h/x?password=S3cret", "has its password as a parameter"),
        ("postgresql://h/x?%70assword=S3cret", "has its password as a parameter"),
        ("postgresql://me:x/S3cret@h/x", "a slash in a password is %2F"),
    ],
)
def test_url_that_cannot_be_a_journal_is_one_line_that_shows_no_password(tmp_path, monkeypatch, named, sentence):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as refused:
        read_journal(named)
    with pytest.raises(JournalError) as caught, Journal(named):
        pass
    assert sentence in str(refused.value)
    for error in (refused.value, caught.value):
        assert len(str(error).splitlines()) == 1
        assert "S3cret" not in str(error)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [("report",), ("journal", "salvage"), ("run", "x.py", "--journal")])
def test_url_that_cannot_be_a_journal_is_wrong_usage_of_each_command(tmp_path, command):
    code, out, error = call(tmp_path, *command, "mysql://me:S3cret@h/x")
    assert (code, out) == (2, "")
    assert "this one is named by a mysql:// URL" in error
    assert len(error.splitlines()) == 1
    assert "S3cret" not in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "shown", "name"),
    [
        (
            "postgresql://me:S3#cr?et@h:5/posters?sslmode=require",
            "postgresql://me@h:5/posters?sslmode=require",
            "posters",
        ),
        ("postgresql://me:S3@cret@h/x", "postgresql://me@h/x", "x"),
        ("postgresql://h", "postgresql://h", "journal"),
        ("postgresql:///x?host=/tmp/s@cket", "postgresql:///x?host=/tmp/s@cket", "x"),
        ("postgresql://[::1]:5432/", "postgresql://[::1]:5432/", "journal"),
    ],
)
def test_address_is_read_as_libpq_does(url, shown, name):
    address = address_of(url)
    assert (str(address), address.name) == (shown, name)


@pytest.mark.cluster
def test_password_comes_from_where_libpq_takes_it_and_is_never_printed(tmp_path):
    (tmp_path / "empty.py").write_text("from runware_flow import Flow\nflow = Flow('posters')\n")
    with PostgresServer(password="S3c:r@t") as server:
        url = server.url()
        passfile = tmp_path / "pgpass"
        passfile.write_text("*:*:*:tester:S3c\\:r@t\n")
        passfile.chmod(0o600)
        with_password = url.replace("tester@", "tester:S3c:r%40t@")
        nowhere = {"PGPASSFILE": str(tmp_path / "none")}
        told = ""
        for named, environment in (
            (url, {**nowhere, "PGPASSWORD": "S3c:r@t"}),
            (url, {"PGPASSFILE": str(passfile)}),
            (with_password, nowhere),
        ):
            code, out, error = call(tmp_path, "run", "empty.py", "--journal", named, "--json", **environment)
            assert (code, json.loads(out)["journal"]) == (0, url), error
            assert call(tmp_path, "journal", "flows", named, **environment) == (0, "", "")
            told += out + error
        for named, environment in ((url, nowhere), (url.replace("tester@", "tester:S3c:wrong@"), nowhere)):
            for command in (("journal", "flows", named), ("run", "empty.py", "--journal", named)):
                code, out, error = call(tmp_path, *command, **environment)
                assert (code, len(error.splitlines())) == (1, 1)
                assert "password" in error
                told += out + error
        assert "S3c" not in told


@both
def test_collect_asks_for_what_the_named_flow_has_left_open(request, tmp_path, kind):
    journal = str(tmp_path / "j.sqlite") if kind == "file" else request.getfixturevalue("database")

    async def main():
        for name in ("posters", "banners"):
            batch = Batch(poster, journal=journal, name=name, key=str)
            sent = anyio.Event()

            async def never(request, count, sent=sent):
                sent.set()
                await anyio.sleep_forever()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(batch.collect, ["kite"], Service(never))
                await sent.wait()
                tasks.cancel_scope.cancel()
        found = await collect(journal, Service(), flow="banners")
        assert [one.entry.flow for one in found] == ["banners"]

    anyio.run(main)
    _, out, _ = call(tmp_path, "journal", "flows", journal)
    assert out == "posters  0 done, 0 failed, 1 open, $0.0000\nbanners  1 done, 0 failed, 0 open, $0.0012\n"
    code, out, error = call(tmp_path, "collect", journal, "--flow", "banners")
    assert (code, out) == (0, "0 of 0 collected; banners has 1 finished requests, for $0.0012\n"), error
    assert call(tmp_path, "collect", journal, "--flow", "x")[0] == 1


@pytest.mark.cluster
def test_two_runs_at_once_share_a_batch(database, tmp_path):
    (tmp_path / "posters.py").write_text(
        "from runware_flow import Batch\n"
        "from runware_flow.tasks import ImageInference\n"
        "def poster(flow, prompt):\n"
        "    return flow.then(ImageInference(\n"
        "        model='runware:400@1', positive_prompt=prompt, width=512, height=512), label='art')\n"
        "batch = Batch(poster, name='posters', concurrency=2)\n"
    )
    (tmp_path / "items.txt").write_text("".join(f"kite {number}\n" for number in range(12)))
    run = ("run", "posters.py", "--items", "items.txt", "--journal", database, "--json", "--progress", "off")
    with run_in_thread(latency=0.3) as emulator:
        environment = {**os.environ, **environment_of(emulator)}
        processes = [
            subprocess.Popen(
                [*COMMAND, *run],
                cwd=tmp_path,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]
        told = [process.communicate(timeout=50) for process in processes]
        assert [process.returncode for process in processes] == [0, 0], told
        assert [len(out.splitlines()) for out, _ in told] == [12, 12], "each process gives all outcomes"
        assert len(emulator.log.tasks) == 12
    assert call(tmp_path, "journal", "flows", database)[1].startswith("posters  12 done, 0 failed, 0 open, ")


@pytest.mark.cluster
def test_view_in_one_process_follows_runs_and_marks_of_others(database, tmp_path):
    run_batch(database, "posters", ["kite"])
    with subprocess.Popen(
        [*COMMAND, "view", database], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()

            def page():
                with urllib.request.urlopen(url, timeout=20) as answer:
                    return answer.read().decode()

            assert page().count("<article ") == 1
            run_batch(database, "posters", ["kite", "boat"])
            assert page().count("<article ") == 2
            code, out, _ = call(tmp_path, "redo", database, "kite")
            assert code == 0
            assert out == (
                f"the next run with {database} buys 2 tasks anew; these cost $0.0024 the last time. --back takes the"
                " marks back\n"
            )
            assert page().count("will be bought anew</span>") == 1
            assert call(tmp_path, "redo", database, "kite", "--back")[1] == "2 marks are taken back\n"
            assert page().count("will be bought anew</span>") == 0
            assert call(tmp_path, "redo", database, "kite", "--flow", "x")[0] == 1
        finally:
            process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=30)
        assert process.returncode == 0
        assert error == "runware-flow: Ctrl-C ends the page\n"


@pytest.mark.cluster
def test_run_collect_and_plan_take_a_database(database, tmp_path):
    (tmp_path / "posters.py").write_text(
        "from runware_flow import Flow\n"
        "from runware_flow.tasks import ImageInference\n"
        "flow = Flow('posters')\n"
        "flow.map(['kite', 'boat'], lambda prompt: ImageInference(\n"
        "    model='runware:400@1', positive_prompt=prompt, width=512, height=512), label='art')\n"
    )
    run = ("emulate", "--", *COMMAND, "run", "posters.py", "--journal", database, "--json", "--progress", "off")
    for restored in (False, True):
        code, out, error = call(tmp_path, *run, "--report", "r.html")
        assert code == 0, error
        told = json.loads(out)
        assert told["journal"] == database
        assert [node["restored"] for node in told["nodes"]] == [restored] * 2
    code, out, _ = call(tmp_path, "plan", "posters.py", "--journal", database)
    assert code == 0
    assert "unknown" not in out
    code, out, _ = call(tmp_path, "emulate", "--", *COMMAND, "collect", database)
    assert (code, out) == (0, f"0 of 0 collected; the journal has 2 finished requests, for ${told['cost']:.4f}\n")
