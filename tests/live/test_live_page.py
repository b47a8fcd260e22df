"""The page that follows a run: who may read it, what it shows, and that it does not affect the run."""

from __future__ import annotations

import http.client
import json
import threading
import time
from urllib.parse import urlsplit

import anyio
import msgspec
import pytest
from postgres_server import PostgresServer
from service import Service, art, caption

from runware_flow import Batch, Client, Flow, RunwareError
from runware_flow.emulator import Emulator
from runware_flow.graph.events import NodeSettled, NodeStarted, RunFinished, RunStarted
from runware_flow.graph.outcomes import Ok
from runware_flow.journal.address import address_of
from runware_flow.live import LivePage
from runware_flow.live.journal_page import JournalPage
from runware_flow.view.live_feed import Feed
from runware_flow.view.live_story import LiveStory
from runware_flow.view.report import LivePart, Report

BACKENDS = ["asyncio", "trio"]


def ask(url, path="", *, method="GET", headers=None, body=None):
    """Ask the page's server, with whatever headers; returns the status and the text."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=10)
    try:
        connection.request(method, parts.path + path, body=body, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode("utf-8", "replace"), dict(answer.getheaders())
    finally:
        connection.close()


def wait_for(condition, seconds=10.0):
    """Wait for something that happens in the page's own thread."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def page():
    with LivePage() as page:
        yield page


def own(url):
    return {"Origin": "http://" + urlsplit(url).netloc}


def test_only_who_has_the_address_gets_an_answer(page):
    host = urlsplit(page.url).netloc
    assert ask(page.url)[0] == 200
    assert ask(f"http://{host}/")[0] == 404
    assert ask(f"http://{host}/{'x' * 24}/")[0] == 404
    assert ask(page.url, headers={"Host": "evil.example"})[0] == 421
    assert ask(page.url, headers={"Host": f"evil.example:{urlsplit(page.url).port}"})[0] == 421
    assert ask(page.url, headers={"Origin": "https://evil.example"})[0] == 403
    for path in ("stop", "mark"):
        assert ask(page.url, path, method="POST")[0] == 403, "without an Origin it is no page of ours"
        assert ask(page.url, path, method="POST", headers={"Origin": "null"})[0] == 403
    assert ask(page.url, "mark", method="POST", headers=own(page.url), body=b"{")[0] == 400
    assert ask(page.url, "picture/7.7")[0] == 404
    assert ask(page.url, "file/../../etc/passwd")[0] == 404
    assert page.url not in repr(page)


def test_it_listens_on_this_machine_alone_and_its_pages_may_fetch_from_nowhere_else(page):
    assert urlsplit(page.url).hostname == "127.0.0.1"
    headers = {name.lower(): value for name, value in ask(page.url)[2].items()}
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_page_that_is_opened_late_shows_everything_so_far(page, backend):
    flow = Flow("late")
    flow.map(["a kite", "a boat"], art, label="art").then(caption, label="text")

    async def main():
        await flow.execute(Service(), progress=page)

    anyio.run(main, backend=backend)
    text = ask(page.url)[1]
    assert text.count("<article ") == 2
    assert "a kite" in text
    assert "caption of imageInference(a boat)" in text
    assert "$0.0048" in text
    assert ">done<" in text


@pytest.mark.parametrize("backend", BACKENDS)
def test_stop_in_the_page_drains_the_run(page, backend):
    flow = Flow("stopped", concurrency=2, on_error="continue")
    flow.map(range(50), lambda n: art(f"picture {n}"), label="art")
    told = []

    def press():
        wait_for(lambda: 'class="card running"' in ask(page.url)[1])
        told.append(ask(page.url, "stop", method="POST", headers=own(page.url))[:2])

    async def slow(*_):
        await anyio.sleep(0.2)

    async def main():
        async with flow.start(Service(lambda *_: slow()), progress=page) as run:
            presser = threading.Thread(target=press)
            presser.start()
            result = await run.wait()
            await anyio.to_thread.run_sync(presser.join)
            return result

    result = anyio.run(main, backend=backend)
    assert told == [(200, "done")]
    assert result.end == "stopped"
    assert 0 < sum(row.state == "ok" for row in result.story()[1]) < 50
    assert ask(page.url, "stop", method="POST", headers=own(page.url))[:2] == (409, "the run is over")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_batch_can_be_followed_and_stopped_too(page, backend):
    def poster(flow, prompt):
        return flow.then(art(prompt), label="art").then(caption, label="text")

    async def main():
        batch = Batch(poster, progress=page, concurrency=2, name="posters")
        async with batch.run([f"poster {n}" for n in range(40)], Service()) as outcomes:
            async for item in outcomes:
                if item.index == 3:
                    await anyio.to_thread.run_sync(lambda: ask(page.url, "stop", method="POST", headers=own(page.url)))
        return outcomes.report

    report = anyio.run(main, backend=backend)
    assert 4 <= report.ok_count < 40
    text = ask(page.url)[1]
    assert text.count("<article ") == report.ok_count
    assert ">stopped<" in text


def test_a_reader_that_never_reads_holds_up_neither_the_run_nor_the_page(page):
    parts = urlsplit(page.url)
    deaf = http.client.HTTPConnection(parts.netloc, timeout=10)
    deaf.request("GET", parts.path + "events")
    flow = Flow("deaf")
    flow.map([f"picture {n} " + "x" * 1500 for n in range(400)], art, label="art")
    result = anyio.run(lambda: flow.execute(Service(), progress=page))
    assert result.end == "done"
    assert "400" in ask(page.url)[1]
    deaf.close()


def test_events_tell_what_has_changed_and_end_with_the_page():
    with LivePage() as page:
        flow = Flow("told")
        flow.then(art("a kite"), label="art")
        parts = urlsplit(page.url)
        connection = http.client.HTTPConnection(parts.netloc, timeout=10)
        connection.request("GET", parts.path + "events")
        answer = connection.getresponse()
        anyio.run(lambda: flow.execute(Service(), progress=page))
        wait_for(lambda: ">done<" in ask(page.url)[1])
    messages = answer.read().decode().split("\n\n")
    connection.close()
    changes = [json.loads(one.partition("data: ")[2]) for one in messages if "event: change" in one]
    assert changes[-1]["state"] == "done"
    assert [row[1]["q"] for change in changes for row in change["rows"]][-1] == "a kite"
    assert any("event: end" in one for one in messages)


def test_pictures_of_a_run_come_from_the_page_itself(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flow = Flow("pictures")
    flow.then(art("a kite"), label="art").save("out/{label}")
    flow.then(art("a boat"), label="only at the service")

    async def main():
        async with Emulator(latency=0.01) as emulator, Client(**emulator.client_options) as client:
            await flow.execute(client, progress=page)
            text = ask(page.url)[1]
            for address in ("picture/0.0", "picture/1.0"):
                assert f'src="{address}"' in text
                status, _, headers = await anyio.to_thread.run_sync(ask, page.url, address)
                assert (status, headers["content-type"]) == (200, "image/webp")

    anyio.run(main)
    status, _, headers = ask(page.url, "file/0.0")
    assert (status, headers["content-type"]) == (200, "image/jpeg")
    (tmp_path / "out" / "art.jpg").unlink()
    assert ask(page.url, "file/0.0")[0] == 404


@pytest.mark.parametrize("kind", ["file", pytest.param("database", marks=pytest.mark.cluster)])
def test_the_page_of_a_journal_follows_what_is_written(request, tmp_path, kind):
    journal = tmp_path / "run.sqlite" if kind == "file" else request.getfixturevalue("database")

    def poster(flow, prompt):
        return flow.then(art(prompt), label="art")

    def run(name, *prompts):
        batch = Batch(poster, journal=journal, name=name, key=str)
        anyio.run(lambda: batch.collect(prompts, Service()))

    run("posters", "one")
    page = JournalPage(address_of(journal))
    only = JournalPage(address_of(journal), flow="posters")
    page.start()
    only.start()
    try:
        assert ask(page.url)[1].count("<article ") == 1
        run("posters", "one", "two")
        run("banners", "one")
        assert ask(page.url)[1].count("<article ") == 3
        assert ask(only.url)[1].count("<article ") == 2
        assert ask(page.url, "stop", method="POST", headers=own(page.url))[0] == 409
        marks = msgspec.json.encode({"nodes": [["banners", "item[one]/art"]], "marked": True})
        assert ask(page.url, "mark", method="POST", headers=own(page.url), body=marks)[0] == 200
        assert ask(page.url)[1].count("will be bought anew</span>") == 1
        assert ask(only.url)[1].count("will be bought anew</span>") == 0
        back = msgspec.json.encode({"nodes": [["banners", "item[one]/art"]], "marked": False})
        assert ask(page.url, "mark", method="POST", headers=own(page.url), body=back)[0] == 200
        assert ask(page.url)[1].count("will be bought anew</span>") == 0
    finally:
        page.close()
        only.close()


@pytest.mark.cluster
def test_the_page_of_a_journal_outlives_a_restart_of_the_database():
    def poster(flow, prompt):
        return flow.then(art(prompt), label="art")

    def run(*prompts):
        batch = Batch(poster, journal=url, name="posters", key=str)
        anyio.run(lambda: batch.collect(prompts, Service()))

    with PostgresServer() as server:
        url = server.url()
        run("one")
        page = JournalPage(address_of(url))
        page.start()
        try:
            assert ask(page.url)[1].count("<article ") == 1
            server.stop()
            assert ask(page.url)[0] == 200, "the last state that is known"
            server.start()
            run("one", "two")
            assert ask(page.url)[1].count("<article ") == 2
        finally:
            page.close()


# The state behind the page, which needs no server


def report_of(story):
    shape = story.shape()
    return Report(
        name=story.name,
        state=story.state,
        made_at="",
        began_at="",
        seconds=story.seconds,
        shape=shape,
        rows=story.placed_rows(shape.by_path()),
        receipt=story.receipt(),
        live=LivePart(can_stop=True),
    )


def events_of_a_run():
    """A run with a failure, variants and what follows them, as its events tell it."""
    events = []
    flow = Flow("told", on_error="continue")
    flow.map(["a kite", "doomed", "a boat"], art, label="art").then(caption, label="text")
    four = flow.each(art("four", number_results=4), label="four")
    four.gather().pick(lambda found: found[1]).then(caption, label="of the chosen")

    def answer(request, count):
        is_doomed = request.wire.get("positivePrompt") == "doomed"
        return RunwareError("no", code="provider", raw_code="taskFailed") if is_doomed else None

    result = anyio.run(lambda: flow.execute(Service(answer), progress=events.append))
    return events, result


def test_events_tell_the_same_rows_as_the_run_itself():
    events, result = events_of_a_run()
    story = LiveStory()
    for event in events:
        story.take(event)
    told = {row.path: row for row in story.rows}
    for row in result.story()[1]:
        if row.task_uuid is None:
            continue
        other = told[row.path]
        for name in ("state", "prompt", "text", "cost", "task_type", "model", "restored", "attempts"):
            assert getattr(other, name) == getattr(row, name), (row.path, name)
        assert [kind for kind, _ in other.media] == [kind for kind, _ in row.media]
    assert sum(line.cost or 0 for line in story.receipt()) == pytest.approx(result.cost)
    assert story.state == "done"


def test_a_reader_at_any_pace_ends_with_the_newest_state():
    """Whatever versions a reader has seen, the last message brings it to where one is that has seen them all."""
    events, _ = events_of_a_run()
    for pace in (1, 2, 3, 7, len(events)):
        story, feed = LiveStory(), Feed()
        cards, rows, words, version = {}, {}, {}, 0
        for number, event in enumerate(events):
            story.take(event)
            feed.refresh(report_of(story))
            if number % pace and number != len(events) - 1:
                continue
            news = json.loads(json.dumps(feed.since(version)))
            version = news["version"]
            for name in news["gone"]:
                cards.pop(name, None)
            cards |= {item["i"]: html for item, html in news["cards"]}
            rows |= dict(news["rows"])
            words |= {news["from"] + place: word for place, word in enumerate(news["words"])}
        whole = json.loads(json.dumps(feed.since(0)))
        assert cards == {item["i"]: html for item, html in whole["cards"]}
        assert rows == dict(whole["rows"])
        assert [words[place] for place in range(len(words))] == whole["words"]


def test_a_page_keeps_no_more_than_it_can_show(monkeypatch):
    monkeypatch.setattr("runware_flow.view.live_story.MOST_ROWS", 10)
    story = LiveStory()
    story.take(RunStarted(0.0, "long", 8))
    for number in range(25):
        story.take(NodeStarted(0.1, f"item[{number}]/art", "art", 1))
        story.take(NodeSettled(0.2, f"item[{number}]/art", "art", Ok(number), kind="call"))
    story.take(RunFinished(0.3, "done", 25, 0, 0, 0, None))
    assert len(story.rows) == 10
    assert story.left_out == 15
