"""What a journal knows a request by: edits of a flow buy what is new, and nothing again; journals of format 1 too."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import anyio
import pytest
from service import Service, art, caption, upscale

from runware_flow import Batch, Flow, RunwareError
from runware_flow.journal import Journal

FORMAT_1 = Path(__file__).parent / "data" / "journal_format_1.sql"
"""The journal that the code before format 2 made of `declare_first` and of the batch below."""


def paint(prompt):
    return art(prompt)


def bought(run, path, *flows):
    """Run one flow after the other on one journal; returns how many tasks each sent."""
    counts = []
    for declare in flows:
        service = Service()
        flow = Flow("posters", journal=path)
        declare(flow)
        run(flow.execute, service)
        counts.append(len(service.sent))
    return counts


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.sqlite"


def test_node_inserted_above_buys_that_one_alone(run, path):
    def first(flow):
        flow.then(art("a"))
        flow.then(art("b"))

    def edited(flow):
        flow.then(art("new"))
        first(flow)

    assert bought(run, path, first, edited, edited) == [2, 1, 0]


def test_nodes_swapped_buy_nothing(run, path):
    def first(flow):
        flow.then(art("a")).then(caption)
        flow.then(art("b")).then(caption)

    def swapped(flow):
        flow.then(art("b")).then(caption)
        flow.then(art("a")).then(caption)

    assert bought(run, path, first, swapped, first) == [4, 0, 0]


def test_map_above_label_and_function_instead_of_a_lambda_buy_nothing_again(run, path):
    def first(flow):
        flow.map(["a", "b"], lambda prompt: art(prompt)).then(caption)

    def with_map_above(flow):
        flow.map(["c"], lambda prompt: art(prompt))
        first(flow)

    def with_labels(flow):
        flow.map(["a", "b"], lambda prompt: art(prompt), label="posters").then(caption, label="words")

    def with_function(flow):
        flow.map(["a", "b"], paint).then(lambda image: caption(image))

    def inside_a_pipe(flow):
        flow.map(["a", "b"], paint).pipe(lambda picture: picture.then(caption))

    assert bought(run, path, first, with_map_above, with_labels, with_function, inside_a_pipe) == [4, 1, 0, 0, 0]


def test_equal_requests_are_bought_each_and_one_more_is_one_more(run, path):
    def equal(count):
        def declare(flow):
            for _ in range(count):
                flow.then(art("equal"))

        return declare

    assert bought(run, path, equal(3), equal(3), equal(5), equal(2), equal(5)) == [3, 0, 2, 0, 0]


def test_equal_request_inserted_above_changes_hands_once_and_then_stays(run, path):
    def first(flow):
        flow.then(art("equal")).then(caption)

    def inserted(flow):
        flow.then(art("equal"), label="above")
        first(flow)

    counts = bought(run, path, first, inserted, inserted, inserted)
    assert counts[0] == 2
    assert counts[1] in (1, 2)  # the caption of what changed hands asks for something else
    assert counts[2:] == [0, 0]


def test_flow_of_another_name_starts_afresh(run, path):
    def declare(flow):
        flow.then(art("a"))

    assert bought(run, path, declare) == [1]
    other = Flow("other", journal=path)
    declare(other)
    service = Service()
    run(other.execute, service)
    assert len(service.sent) == 1


def test_function_is_restored_where_it_stands_now_and_afresh_under_another_name(run, path):
    calls = []

    async def note(image):
        calls.append(image.image_url)
        return len(calls)

    def first(flow):
        flow.then(art("a")).then(note)

    def moved(flow):
        flow.then(art("b")).then(note)
        first(flow)

    def renamed(flow):
        flow.then(art("a")).then(note, label="renamed")

    assert bought(run, path, first, first, moved, renamed) == [1, 0, 1, 0]
    assert len(calls) == 3


def test_retry_belongs_to_the_slot_of_its_node_among_equal_requests(run, path):
    """The second of three equal requests fails once: run again, its retry is the second attempt of its own slot."""

    async def main():
        flow = Flow("equal", journal=path, on_error="continue", concurrency=1)
        for _ in range(3):
            flow.then(art("equal"))
        broken = RunwareError("broken", code="provider", raw_code="inferenceError")
        await flow.execute(Service(lambda request, count: broken if count == 2 else None))
        service = Service()
        await flow.execute(service)
        assert len(service.sent) == 1

    run(main)
    with Journal(path) as journal:
        told = [(entry.ordinal, entry.attempt, entry.state) for entry in journal.entries()]
    assert sorted(told) == [(0, 1, "done"), (1, 1, "failed"), (1, 2, "done"), (2, 1, "done")]


# Journals of format 1


async def note(text):
    return text.text


def declare_first(flow):
    pictures = flow.map(["a kite", "a boat"], art, label="posters")
    pictures.then(upscale, label="big").then(caption)
    flow.then(art("equal"))
    flow.then(art("equal"), label="other")
    flow.then(art("odd"), label="odd [label]")
    flow.then(art("slow"), hedge_after=0.02).then(caption).then(note)
    flow.then(art("fails"))
    flow.then(art("open"))


def declare_edited(flow):
    flow.then(art("new"))
    flow.then(art("open"), label="moved")
    flow.then(art("fails"))
    flow.then(art("slow"), label="was hedged").then(caption, label="words")
    flow.then(art("odd"), label="odd [label]")
    for label in ("first", "second"):
        flow.then(art("equal"), label=label)
    flow.map(["a boat", "a kite"], lambda prompt: art(prompt)).then(lambda image: upscale(image)).then(caption)


@pytest.fixture
def old(path):
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(FORMAT_1.read_text(encoding="utf-8"))
        connection.execute("PRAGMA journal_mode = WAL")
    return path


def sent(run, path, declare):
    async def main():
        service = Service()
        flow = Flow("first", journal=path)
        declare(flow)
        await flow.execute(service)
        prompts = [request.wire.get("positivePrompt") for request in service.sent]
        return list(zip(prompts, service.sent_before, strict=True))

    return sorted(run(main))


def test_journal_of_format_1_is_read_as_it_is(old):
    before = old.read_bytes()
    with Journal(old) as journal:
        assert len(list(journal.entries())) == 21
        assert journal.summary().done_count == 18
    assert old.read_bytes() == before


def test_journal_of_format_1_buys_what_has_failed_and_collects_what_is_open(run, old):
    assert sent(run, old, declare_first) == [("fails", "no"), ("open", "yes")]
    assert sent(run, old, declare_first) == []
    with Journal(old) as journal:
        hedged = [entry.state for entry in journal.entries() if entry.request.get("positivePrompt") == "slow"]
    assert hedged == ["abandoned", "done"]


def test_journal_of_format_1_and_an_edited_flow_buy_what_is_new(run, old):
    assert sent(run, old, declare_edited) == [("fails", "no"), ("new", "no"), ("open", "yes")]
    assert sent(run, old, declare_edited) == []


def test_journal_of_format_1_restores_a_batch(run, old):
    def item(flow, prompt):
        return flow.then(art(prompt), label="picture").then(lambda image: caption(image))

    async def main():
        service = Service()
        report = await Batch(item, journal=old).collect(["x", "x", "y", "z"], service)
        assert report.ok_count == 4
        assert len(service.sent) == 2

    run(main)


def test_journal_of_format_1_that_cannot_be_written_is_restored_from(run, old):
    def declare(flow):
        flow.map(["a kite", "a boat"], art).then(upscale).then(caption)
        flow.then(art("odd"), label="odd [label]")

    with closing(sqlite3.connect(old)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    before = old.read_bytes()
    import runware_flow.journal.sqlite as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "is_writable", lambda path: False)
        assert sent(run, old, declare) == []
    assert old.read_bytes() == before


def test_journal_of_format_1_is_salvaged_into_one_of_today(run, old, tmp_path):
    from runware_flow.journal import salvage

    content = bytearray(old.read_bytes())
    content[:100] = b"\xa5" * 100
    old.write_bytes(content)
    found = salvage(old, tmp_path / "new.sqlite")
    assert found.lost == 0
    assert sent(run, found.path, declare_edited) == [("fails", "no"), ("new", "no"), ("open", "yes")]


def test_hedge_in_flight_belongs_to_the_slot_of_its_node(run, path):
    async def main():
        flow = Flow("hedged", journal=path)
        flow.then(art("slow"), hedge_after=0.01)
        service = Service(lambda request, count: anyio.sleep_forever() if count == 1 else None)
        await flow.execute(service)
        again = Service()
        await flow.execute(again)
        assert (len(service.sent), len(again.sent)) == (2, 0)

    run(main)
    with Journal(path) as journal:
        assert [(e.ordinal, e.attempt, e.is_hedge) for e in journal.entries()] == [(0, 1, False), (0, 1, True)]
        assert [entry.state for entry in journal.entries()] == ["abandoned", "done"]
        assert journal.summary().open_count == 0
