"""A second chance for single items: what is marked is bought anew, that and what depends on it, and nothing else."""

from __future__ import annotations

import anyio
import psycopg
import pytest
from service import Service, art, caption, fails, upscale

from runware_flow import Batch, Flow, JournalError
from runware_flow.cli.program import UsageError
from runware_flow.cli.redo import redo_command
from runware_flow.graph.choice_records import ChoiceRecord, Contestant
from runware_flow.graph.redo import PaidRecord, has_answered, select
from runware_flow.graph.resume import Claims, History, RequestRecord, advise
from runware_flow.journal.reader import Journal
from runware_flow.journal.redo import find_nodes, mark_nodes
from runware_flow.journal.sqlite import SqliteStore
from runware_flow.view.journal_story import summarise_journal

BACKENDS = ["asyncio", "trio"]


@pytest.fixture(params=["file", pytest.param("database", marks=pytest.mark.cluster)])
def journal(request, tmp_path):
    return tmp_path / "run.sqlite" if request.param == "file" else request.getfixturevalue("database")


class Fresh(Service):
    """A service whose pictures have another address each time, as the real one's have."""

    def result(self, request, slot=0, **more):
        url = f"https://pictures.example/{request.task_id}-{slot}.jpg"
        return super().result(request, slot, **({} if request.task_type == "caption" else {"imageURL": url}), **more)


def poster(flow, prompt):
    return flow.then(art(prompt), label="art").then(upscale, label="big").then(caption, label="text")


def collect(journal, count, backend):
    service = Fresh()
    batch = Batch(poster, journal=journal, name="posters", key=str, concurrency=16)
    report = anyio.run(lambda: batch.collect([f"poster {n}" for n in range(count)], service), backend=backend)
    assert report.ok_count == count
    return service.sent, report


def test_a_marked_record_answers_nothing_and_another_attempt_is_bought():
    marked = RequestRecord(1, 1, "redo", "a", path="art")
    assert advise([marked]).action == "buy"
    assert advise([marked]).attempt == 2
    again = RequestRecord(2, 2, "done", "b", path="art")
    assert advise([marked, again]).record == again
    assert History([marked], Claims()).choose("art").attempt == 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_redo_of_three_of_300_items_buys_exactly_those_and_what_depends_on_them(journal, backend):
    sent, _ = collect(journal, 300, backend)
    assert len(sent) == 900
    keys = ["poster 7", "poster 77", "poster 277"]
    found = find_nodes(journal, keys)
    assert (len(found.nodes), found.tasks, found.cost) == (9, 9, pytest.approx(9 * 0.0012))
    assert mark_nodes(journal, found.nodes, is_marked=True) == 9
    sent, _ = collect(journal, 300, backend)
    assert sorted(one.wire["positivePrompt"] for one in sent if one.task_type == "imageInference") == sorted(keys)
    assert len(sent) == 9
    with Journal(journal) as reader:
        assert reader.summary().cost == pytest.approx(909 * 0.0012), "what was bought stays on the receipt"
        story = summarise_journal(reader.entries())
    assert len(story.rows) == 900
    assert story.marks == frozenset()
    assert sum(line.count for line in story.receipt) == 909
    sent, _ = collect(journal, 300, backend)
    assert sent == [], "a mark holds for one run"


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_node_and_what_follows_it(journal, backend):
    collect(journal, 4, backend)
    found = find_nodes(journal, ["poster 2"], node="big")
    mark_nodes(journal, found.nodes, is_marked=True)
    sent, _ = collect(journal, 4, backend)
    assert [one.task_type for one in sent] == ["upscale", "caption"]


def test_a_mark_can_be_taken_back(journal, capsys):
    collect(journal, 4, "asyncio")
    redo_command(journal, ["poster 1", "poster 2"], node=None, is_marked=True)
    assert "buys 6 tasks anew; these cost $0.0072 the last time" in capsys.readouterr().out
    with Journal(journal) as reader:
        assert len(summarise_journal(reader.entries()).marks) == 6
    redo_command(journal, ["poster 1"], node=None, is_marked=False)
    assert "3 marks are taken back" in capsys.readouterr().out
    sent, _ = collect(journal, 4, "asyncio")
    assert len(sent) == 3
    redo_command(journal, ["poster 2"], node=None, is_marked=False)
    assert "0 marks are taken back" in capsys.readouterr().out, "it has done its work"
    assert collect(journal, 4, "asyncio")[0] == []


def test_a_flow_s_own_nodes_are_marked_by_their_names(journal):
    flow = Flow("single", journal=journal)
    picture = flow.then(art("a kite"), label="art")
    picture.then(caption, label="text")
    anyio.run(flow.execute, Fresh())
    mark_nodes(journal, find_nodes(journal, ["art"]).nodes, is_marked=True)
    service = Fresh()
    anyio.run(flow.execute, service)
    assert [one.task_type for one in service.sent] == ["imageInference", "caption"]


def test_a_key_that_fits_nothing_or_several_marks_nothing(journal):
    collect(journal, 4, "asyncio")
    with pytest.raises(UsageError, match="no finished item of key 'kite'"):
        redo_command(journal, ["poster 1", "kite"], node=None, is_marked=True)
    with pytest.raises(UsageError, match="several items begin with 'poster'"):
        redo_command(journal, ["poster"], node=None, is_marked=True)
    assert collect(journal, 4, "asyncio")[0] == []


def test_redo_of_what_failed_says_that_the_next_run_tries_it_anyway(tmp_path, capsys):
    journal, service = tmp_path / "run.sqlite", Fresh(fails("poster 1"))
    batch = Batch(poster, journal=journal, name="posters", key=str, on_error="continue")
    anyio.run(lambda: batch.collect(["poster 1"], service))
    redo_command(journal, ["poster 1"], node=None, is_marked=True)
    told = capsys.readouterr().out
    assert f"poster 1]/art failed: the next run with {journal} tries again. A race or a first" in told


def test_redo_of_a_failure_that_a_fallback_has_answered_tries_it_again(journal, capsys):
    def run(*broken):
        service = Fresh(fails(*broken))
        flow = Flow("single", journal=journal)
        flow.then(art("a kite"), label="art").fallback(art("a boat"))
        anyio.run(flow.execute, service)
        return [one.wire["positivePrompt"] for one in service.sent]

    assert run("a kite") == ["a kite", "a boat"]
    assert run() == []
    redo_command(journal, ["art"], node=None, is_marked=False)
    assert run() == []
    redo_command(journal, ["art"], node=None, is_marked=True)
    assert "tries again, and decides anew what had answered for that (1 choices)" in capsys.readouterr().out
    assert run() == ["a kite"]


def test_a_journal_that_a_run_has_is_not_marked(tmp_path):
    journal = tmp_path / "run.sqlite"
    collect(journal, 1, "asyncio")
    store = SqliteStore(journal)
    store.open()
    try:
        with pytest.raises(JournalError, match="in use by another run"):
            mark_nodes(journal, [("posters", "x")], is_marked=True)
    finally:
        store.close()


def test_a_key_of_two_batches_marks_the_one_that_is_named(journal):
    services = {}
    for name in ("posters", "banners"):
        batch = Batch(poster, journal=journal, name=name, key=str)
        anyio.run(batch.collect, ["kite", "boat"], Fresh())
    with pytest.raises(UsageError, match="several flows have an item 'kite': name one of 'posters', 'banners'"):
        redo_command(journal, ["kite"], node=None, is_marked=True)
    with pytest.raises(JournalError, match="nothing of a flow or batch named 'x'; it has 'posters', 'banners'"):
        redo_command(journal, ["kite"], node=None, is_marked=True, flow="x")
    redo_command(journal, ["kite"], node=None, is_marked=True, flow="banners")
    with Journal(journal) as reader:
        assert {flow for flow, _ in summarise_journal(reader.entries()).marks} == {"banners"}
    for name in ("posters", "banners"):
        services[name] = Fresh()
        batch = Batch(poster, journal=journal, name=name, key=str)
        anyio.run(batch.collect, ["kite", "boat"], services[name])
    assert [len(service.sent) for service in services.values()] == [0, 3]


def test_marking_where_there_is_no_journal_makes_none(tmp_path):
    with pytest.raises(JournalError, match="there is no journal"):
        mark_nodes(tmp_path / "none.sqlite", [("f", "x")], is_marked=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.cluster
def test_marking_in_a_database_without_a_journal_makes_none(database):
    with pytest.raises(JournalError, match="there is no journal"):
        mark_nodes(database, [("f", "x")], is_marked=True)
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT to_regnamespace('runware_flow')").fetchone() == (None,)


@pytest.mark.cluster
def test_database_is_marked_while_runs_use_it_and_the_next_of_them_buys_anew_once(database):
    """Two runs have the journal open; the item of the mark is restored by the one and bought anew by the next two."""
    collect(database, 4, "asyncio")

    async def main():
        service = Fresh()
        batch = Batch(poster, journal=database, name="posters", key=str, concurrency=4)
        prompts = [f"poster {n}" for n in range(4)]

        def pulled():
            yield from prompts[:2]
            mark_nodes(database, find_nodes(database, ["poster 3"]).nodes, is_marked=True)
            yield from prompts[2:]

        await batch.collect(pulled, service)
        assert {one.wire["positivePrompt"] for one in service.sent if one.task_type == "imageInference"} == {"poster 3"}
        marked = find_nodes(database, ["poster 1", "poster 2"]).nodes
        mark_nodes(database, marked, is_marked=True)
        services = [Fresh(), Fresh()]
        async with anyio.create_task_group() as tasks:
            for one in services:
                tasks.start_soon(batch.collect, prompts, one)
        assert sum(len(one.sent) for one in services) == 6

    anyio.run(main)


@pytest.mark.parametrize(
    ("kind", "contestants", "winners", "where", "answers"),
    [
        ("answered", ["node"], [0], "[a]", True),
        ("answered", ["other", "node"], [0], "[a]", False),
        ("fallback", ["node", "other"], [1], "[a]", True),
        ("fallback", ["other", "node"], [1], "[a]", False),
        ("node_fallback", [None, "other", "node"], [1], "[a]", True),
        ("node_fallback", [None, "other", "node"], [1], "[a][b]", True),
        ("node_fallback", [None, "other", "node"], [1], "", True),
        ("node_fallback", [None, "other", "node"], [1], "[ab]", False),
        ("node_fallback", [None, "other", "node"], [], "[a]", False),
        ("race", ["node", "other"], [1], "[a]", False),
        ("first", ["node", "other"], [1], "", False),
    ],
)
def test_choices_that_answered_for_a_node_are_those_of_fallbacks_around_it_or_inside(
    kind, contestants, winners, where, answers
):
    named = tuple(Contestant(None, name) for name in contestants)
    choice = ChoiceRecord(1, kind, "path", named, tuple(winners))
    assert has_answered(choice, where, "[a]", "node") is answers


def test_selection_counts_the_last_record_of_a_path():
    records = [
        PaidRecord("a[k]/art", is_task=True, cost=0.1),
        PaidRecord("a[k]/art", is_task=True, cost=0.2),
        PaidRecord("a[k]/save", is_task=False),
        PaidRecord("x", is_task=True),
    ]
    records += [PaidRecord("a[f]/art", is_task=True, is_failed=True)]
    found = select(records, ["k", "x", "y", "f"])
    assert (found.nodes, found.missing, found.tasks) == ([("", "a[k]/art"), ("", "a[k]/save"), ("", "x")], ["y"], 2)
    assert found.failed == ["f"], "the next run tries it again by itself"
    assert found.failures == [("", "a[f]/art")]
    assert (found.cost, found.unknown_count) == (0.2, 1)
