"""A failure that was answered apart from its own scope stays failed: a finished flow, run again, buys nothing."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import anyio
import pytest
from service import Service, art

from runware_flow import Failed, Flow, FlowFailed, Retry, RunwareError
from runware_flow.journal import Journal
from runware_flow.journal.redo import void_answers

BROKEN = RunwareError("broken", code="provider", raw_code="inferenceError")


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.cluster)])
def journal(request, tmp_path):
    """A journal in a file, and one in a database."""
    return tmp_path / "run.sqlite" if request.param == "sqlite" else request.getfixturevalue("database")


def both(item, outer):
    return art(f"both {item.image_url} {outer.image_url}")


def with_fallback(flow, outer, items=("a", "b"), instead="instead"):
    """What follows `outer` in each item is answered by a fallback."""
    many = flow.map(items, art)
    return many.pipe(lambda item: flow.join(item, outer).then(both).fallback(art(instead)))


def fallback_in_items(flow):
    with_fallback(flow, flow.then(art("outer"), retry=Retry(2, backoff=0), label="outer"))


def race_in_items(flow):
    outer = flow.then(art("outer"))
    flow.map(["a", "b"], art).pipe(
        lambda item: flow.race(flow.join(item, outer).then(both), item.then(lambda image: art(image.image_url)))
    )


def race_around(flow):
    with_fallback(flow, flow.race(flow.then(art("outer one")), flow.then(art("outer two"))))


def fallback_around(flow):
    with_fallback(flow, flow.then(art("outer one")).fallback(art("outer two")))


def keyword_around(flow):
    with_fallback(flow, flow.then(lambda: art("outer one"), fallback=lambda: art("outer two")))


def items_of_another_map(flow):
    outer = flow.map(["c", "outer"], art).gather().then(lambda images: art(f"of {len(images)}"))
    with_fallback(flow, outer)


def outcomes_and_a_fallback(flow):
    outcomes = flow.map(["a", "outer"], art).settled()
    outcomes.then(lambda found: art(f"of {len(found)}")).fallback(art("instead"))


def items_of_items(flow):
    outer = flow.then(art("outer"))

    def inside(item):
        inner = item.pick(lambda image: [image.image_url]).map(art)
        return inner.pipe(lambda one: flow.join(one, outer).then(both).fallback(art("instead"))).gather()

    flow.map(["a", "b"], art).pipe(inside)


def no_items(flow):
    with_fallback(flow, flow.then(art("outer")), items=())


SHAPES = (
    fallback_in_items,
    race_in_items,
    race_around,
    fallback_around,
    keyword_around,
    items_of_another_map,
    outcomes_and_a_fallback,
    items_of_items,
    no_items,
)


def service(*broken):
    """A service at which requests with one of these words fail."""

    def answer(request, count):
        prompt = request.wire["positivePrompt"]
        return BROKEN if any(prompt.startswith(word) for word in broken) else None

    return Service(answer)


def execute(run, journal, declare, *broken, **options):
    """Run a flow once; returns what it has sent, and how it ended."""
    there = service(*broken)

    async def main():
        flow = Flow("answered", journal=journal, **options)
        declare(flow)
        try:
            return await flow.execute(there)
        except FlowFailed as error:
            return error

    end = run(main)
    return sorted(request.wire["positivePrompt"] for request in there.sent), end


@pytest.mark.parametrize("declare", SHAPES, ids=lambda declare: declare.__name__)
def test_failure_that_was_answered_elsewhere_stays_failed(run, journal, declare):
    sent, _ = execute(run, journal, declare, "outer")
    assert any(prompt.startswith("outer") for prompt in sent)
    for broken in (("outer",), ()):  # whether it would fail again or not
        sent, end = execute(run, journal, declare, *broken)
        assert (sent, isinstance(end, FlowFailed)) == ([], False)


def test_failed_node_has_the_error_of_the_run_in_which_it_was_sent(run, journal):
    execute(run, journal, fallback_in_items, "outer")
    nodes = []

    def declare(flow):
        nodes.append(flow.then(art("outer"), retry=Retry(2, backoff=0), label="moved"))
        with_fallback(flow, nodes[0], items=["a", "b", "new"])

    sent, end = execute(run, journal, declare)
    assert sent == ["instead", "new"]
    outcome = end.outcome(nodes[0])
    assert isinstance(outcome, Failed)
    assert (outcome.error.raw_code, outcome.error.message) == ("inferenceError", "broken")


def test_function_that_failed_and_was_answered_in_items_is_not_called_again(run, journal):
    calls = []

    def declare(flow):
        async def outer():
            calls.append(1)
            raise ValueError("no")

        with_fallback(flow, flow.then(outer))

    assert execute(run, journal, declare)[0] == ["a", "b", "instead", "instead"]
    assert execute(run, journal, declare)[0] == []
    assert len(calls) == 1


def test_request_that_was_too_slow_and_was_answered_in_items_is_given_up(run, tmp_path):
    path = tmp_path / "run.sqlite"

    async def main():
        def declare():
            flow = Flow("answered", journal=path)
            with_fallback(flow, flow.then(art("slow"), timeout=0.01))
            return flow

        def answer(request, _):
            return anyio.sleep(5) if request.wire["positivePrompt"] == "slow" else None

        await declare().execute(Service(answer))
        again = Service()
        await declare().execute(again)
        assert again.sent == []
        with Journal(path) as journal:
            assert {entry.request["positivePrompt"]: entry.state for entry in journal.entries()}["slow"] == "abandoned"

    run(main)


def test_failure_is_tried_again_once_what_answered_it_has_failed(run, journal):
    def edited(flow):
        with_fallback(flow, flow.then(art("outer"), label="outer"), items=["a"], instead="other")

    def declare(flow):
        with_fallback(flow, flow.then(art("outer"), label="outer"), items=["a"])

    execute(run, journal, declare, "outer")
    sent, end = execute(run, journal, edited, "outer", "other")
    assert (sent, isinstance(end, FlowFailed)) == (["other"], True)
    sent, _ = execute(run, journal, edited)
    assert sent == ["both imageInference(a) imageInference(outer)", "outer"]
    assert execute(run, journal, edited)[0] == []


def chain_in_items(flow, instead):
    outer = flow.then(art("outer"))
    many = flow.map(["a", "b"], art)
    return many.pipe(
        lambda item: flow.join(item, outer).then(both).then(lambda image: art(image.image_url)).fallback(art(instead))
    )


def function_in_items(flow, instead):
    outer = flow.then(art("outer"))
    return flow.map(["a", "b"], art).join(outer).pick(lambda _, image: image).fallback(art(instead))


@pytest.mark.parametrize("shape", [chain_in_items, function_in_items])
def test_fallback_that_was_changed_and_not_reached_is_not_taken_once_the_node_succeeds(run, journal, shape):
    many = []

    def declare(instead):
        return lambda flow: many.append(shape(flow, instead))

    execute(run, journal, declare("instead"), "outer")
    sent, end = execute(run, journal, declare("other"), "outer", "other", concurrency=1)
    assert (sent, isinstance(end, FlowFailed)) == (["other"], True)  # that of the second item was not reached
    sent, end = execute(run, journal, declare("other"))
    assert "other" not in sent
    assert all("(outer)" in image.image_url for image in end[many[-1]])
    assert execute(run, journal, declare("other"))[0] == []


def test_fallback_that_was_changed_is_taken_as_long_as_what_it_answers_is_on_record_as_failed(run, journal):
    def declare(instead):
        return lambda flow: flow.join(flow.then(art("one")), flow.then(art("two"))).then(both).fallback(art(instead))

    execute(run, journal, declare("instead"), "one", concurrency=1)
    assert execute(run, journal, declare("other"))[0] == ["other"]


def fallback_of_the_node(flow):
    flow.then(art("outer")).then(lambda image: art("after")).fallback(art("instead"))


def keyword_of_the_node(flow):
    flow.then(lambda: art("outer"), fallback=lambda: art("instead"))


def fallback_of_first(flow):
    flow.map(["outer a", "outer b"], art).first(1).fallback(art("instead"))


def redo_failures(journal):
    """Ask for all nodes that failed, as `runware-flow redo` does."""
    with Journal(journal) as reader:
        return void_answers(journal, [(entry.flow, entry.path) for entry in reader.entries(state="failed")])


@pytest.mark.parametrize(
    "declare",
    [*SHAPES, fallback_of_the_node, keyword_of_the_node, fallback_of_first],
    ids=lambda declare: declare.__name__,
)
def test_redo_of_an_answered_failure_tries_the_node_again_and_buys_no_answer_again(run, journal, declare):
    sent, _ = execute(run, journal, declare, "outer")
    outer = sorted(prompt for prompt in sent if prompt.startswith("outer"))
    assert outer
    assert execute(run, journal, declare)[0] == []
    assert redo_failures(journal) > 0
    sent, end = execute(run, journal, declare, "outer")  # they fail again
    assert (sent, isinstance(end, FlowFailed)) == (outer, False)
    assert execute(run, journal, declare)[0] == []
    assert redo_failures(journal) > 0
    sent, _ = execute(run, journal, declare)  # they succeed
    assert set(sent) & set(outer)
    assert "instead" not in sent
    assert execute(run, journal, declare)[0] == []


def test_redo_of_an_answered_failure_leaves_other_items_and_races_alone(run, journal):
    def declare(flow):
        many = flow.map(["a", "b"], art)
        many.pipe(lambda item: item.then(lambda image: art(f"outer {image.image_url}")).fallback(art("instead")))
        flow.race(flow.then(art("outer")), flow.then(art("quick")))

    execute(run, journal, declare, "outer")
    with Journal(journal) as reader:
        failed = {one.request["positivePrompt"]: (one.flow, one.path) for one in reader.entries(state="failed")}
    assert void_answers(journal, [failed["outer"]]) == 0
    assert void_answers(journal, [failed["outer imageInference(a)"]]) == 1
    assert execute(run, journal, declare)[0] == ["outer imageInference(a)"]


def test_failure_that_nothing_answers_is_tried_again(run, journal):
    def declare(flow):
        outer = flow.then(art("outer"))
        with_fallback(flow, outer, items=["a"])
        outer.then(lambda image: art("after"))

    execute(run, journal, declare, "outer", on_error="continue")
    sent, _ = execute(run, journal, declare, on_error="continue")
    assert "outer" in sent


def test_failure_is_tried_again_if_the_run_ended_before_it_was_answered(run, tmp_path):
    path = tmp_path / "run.sqlite"

    async def main():
        def declare():
            flow = Flow("answered", journal=path)
            with_fallback(flow, flow.then(art("outer")), items=["a", "b"])
            return flow

        def answer(request, _):
            prompt = request.wire["positivePrompt"]
            if prompt == "instead":
                scope.cancel()
            return BROKEN if prompt == "outer" else None

        with anyio.CancelScope() as scope:
            await declare().execute(Service(answer))
        again = service("outer")
        await declare().execute(again)
        assert "outer" in [request.wire["positivePrompt"] for request in again.sent]
        last = Service()
        await declare().execute(last)
        assert last.sent == []

    run(main)


def test_finished_program_notes_no_answered_failure_twice(run, tmp_path):
    def declare(flow):
        items = flow.map(["a", "b"], art)
        piped = items.pipe(
            lambda one: (
                one.pick(lambda image: ["k"])
                .map(lambda _: art("broken"))
                .settled()
                .then(lambda outcomes: art("after"))
                .fallback(art("instead"))
            )
        )
        piped.first(1)

    counts, path = [], tmp_path / "run.sqlite"
    for _ in range(3):
        execute(run, path, declare, "broken")
        with closing(sqlite3.connect(path)) as connection:
            counts += connection.execute("SELECT count(*) FROM choice WHERE kind = 'answered'").fetchone()
    assert counts[0] == counts[1] == counts[2] > 0
