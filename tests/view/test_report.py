"""The report's page and its data without a browser, thumbnails, and what a journal tells."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import io
import json
import re

import anyio
import anyio.lowlevel
import pytest
from PIL import Image
from service import Service, art, caption, upscale

from runware_flow import Client, Flow, FlowFailed, RunwareError
from runware_flow.emulator import Emulator
from runware_flow.journal import Journal
from runware_flow.runner.report import date_text
from runware_flow.runner.report_files import keep_thumbnail, thumbnail
from runware_flow.view.advice import advice_for
from runware_flow.view.journal_story import summarise_journal
from runware_flow.view.progress import duration

EVIL = "</script><script>alert(1)</script><!-- <img src=x onerror=alert(2)> ]]> \ud800 \u2028"


class Parser(html.parser.HTMLParser):
    """Which elements there are, and what is in the scripts."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.elements, self.scripts, self.policy, self.within = [], [], None, None

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.elements.append((tag, given))
        self.within = tag
        if tag == "meta" and given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"]

    def handle_data(self, data):
        if self.within in ("script", "style"):
            self.scripts.append((self.within, data))
        self.within = None


def parsed(path):
    parser = Parser()
    parser.feed(path.read_text(encoding="utf-8"))
    return parser


def data_of(path):
    [text] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.DOTALL)
    return json.loads(text)


def picture(size=(640, 480), mode="RGB", kind="PNG"):
    content = io.BytesIO()
    Image.new(mode, size).save(content, kind)
    return content.getvalue()


def evil_flow():
    flow = Flow(EVIL, on_error="continue")
    node = flow.then(art(EVIL), label=EVIL)
    node.then(caption, label="text")
    flow.map([EVIL, "b"], art, label=f"many {EVIL}", key=str)
    return flow


def evil(request, count):
    if request.task_type == "caption":
        return RunwareError(EVIL, code="provider", raw_code=EVIL, documentation="javascript:alert(1)")
    return [Service().result(request, imageURL="javascript:alert(1)", cost=float("nan"))]


def test_nothing_that_users_or_servers_write_becomes_markup(tmp_path):
    path = tmp_path / "evil.html"
    anyio.run(evil_flow().execute, Service(evil)).html(path)
    parser = parsed(path)
    assert [tag for tag, _ in parser.elements].count("script") == 3
    assert not [given for tag, given in parser.elements if tag == "img" and given != {"alt": ""}]
    assert not [tag for tag, _ in parser.elements if tag in ("iframe", "object", "embed", "base")]
    assert [given["href"] for tag, given in parser.elements if tag == "link"] == ["data:,"]
    for _, attributes in parser.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        assert "javascript:" not in (attributes.get("href") or "")
    assert "javascript:" not in json.dumps(data_of(path)["rows"])


def test_the_policy_allows_just_the_page_s_own_script_and_style(tmp_path):
    path = tmp_path / "page.html"
    anyio.run(evil_flow().execute, Service()).html(path)
    parser = parsed(path)
    assert parser.policy.startswith("default-src 'none'; ")
    assert "unsafe" not in parser.policy
    for kind, text in [parser.scripts[0], parser.scripts[-1]]:
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in parser.policy


def test_rows_say_what_the_run_knows(tmp_path):
    flow = Flow("posters")
    pictures = flow.map(["a kite", "a boat"], art, label="art")
    pictures.then(caption, label="text").gather(label="all")
    path = tmp_path / "deep" / "page.html"

    async def main():
        result = await flow.execute(Service())
        keep_thumbnail(result[pictures][0], picture())
        assert result.html(path) == path

    anyio.run(main)
    data = data_of(path)
    first, text, *_ = data["rows"]
    assert (first["p"], first["q"], data["words"][first["m"]]) == ("art[0]/art", "a kite", "runware:400@1")
    assert first["i"] == [["image", "", ""]]
    assert text["a"].startswith("caption of")
    assert text["d"] == [0]
    assert text["r"] == first["e"]
    assert [stage[1] for stage in data["stages"]] == ["art", "text", "all"]
    page = path.read_text()
    assert page.count('src="data:image/webp;base64,') == 1
    assert "1 media are not here" in page
    assert ">done<" in page
    assert sorted(tmp_path.glob("deep/.*")) == []


def test_a_report_can_be_written_while_it_runs_after_a_failure_and_after_a_cancel(tmp_path):
    async def main():
        flow = Flow("early")
        flow.then(art("stuck")).then(caption)
        with anyio.CancelScope() as scope:
            async with flow.start(Service(lambda *_: anyio.sleep_forever())) as run:
                await anyio.wait_all_tasks_blocked()
                run.result.html(tmp_path / "running.html")
                scope.cancel()
        run.result.html(tmp_path / "cancelled.html")
        with pytest.raises(FlowFailed) as caught:
            await flow.execute(Service(lambda *_: RunwareError("no", code="provider", raw_code="taskFailed")))
        caught.value.result.html(tmp_path / "failed.html")

    anyio.run(main)
    for name, state in (("running", "running"), ("cancelled", "abandoned"), ("failed", "failed")):
        data = data_of(tmp_path / f"{name}.html")
        assert data["states"][data["rows"][0]["s"]] == state
        assert f">{name}<" in (tmp_path / f"{name}.html").read_text()


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    result = anyio.run(evil_flow().execute, Service())
    with pytest.raises(OSError, match="is a folder"):
        result.html(tmp_path)
    assert sorted(tmp_path.parent.glob(f".{tmp_path.name}.*")) == []


def test_pictures_that_were_saved_are_embedded_those_deleted_since_are_not(tmp_path):
    async def main():
        async with Emulator(latency=0.01) as emulator, Client(**emulator.client_options) as client:
            flow = Flow("saved")
            nodes = [flow.then(art(f"picture {number}"), label=f"n{number}") for number in range(3)]
            result = await flow.execute(client)
            await client.save(result[nodes[0]], tmp_path / "kept")
            (await client.save(result[nodes[1]], tmp_path / "gone")).unlink()
            result.html(tmp_path / "page.html")

    anyio.run(main)
    files = [row["i"][0][2] for row in data_of(tmp_path / "page.html")["rows"]]
    assert files == ["kept.jpg", "", ""]
    page = (tmp_path / "page.html").read_text()
    assert page.count("<img src=") == 1
    assert "gone.jpg has moved" in page


def test_thumbnails_are_bounded_and_never_raise():
    small = thumbnail(picture((4000, 1000)))
    with Image.open(io.BytesIO(base64.b64decode(small.partition(",")[2]))) as image:
        assert image.size == (360, 90)
    for mode in ("RGBA", "P", "L", "1", "CMYK"):
        assert thumbnail(picture(mode=mode, kind="TIFF")).startswith("data:image/webp")
    for broken in (b"", b"<svg onload=alert(1)>", picture()[:200], picture((9000, 9000), mode="1")):
        assert thumbnail(broken) is None


def test_what_pillow_opens_with_other_programs_or_fails_on_in_its_own_way_is_no_thumbnail():
    document = io.BytesIO()
    Image.new("RGB", (40, 30)).save(document, "EPS")
    assert thumbnail(document.getvalue()) is None
    content = picture(kind="AVIF")
    assert thumbnail(content) is not None
    for place in range(len(content)):
        thumbnail(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])


@pytest.mark.parametrize("timestamp", [1e300, -1e300, float("inf"), float("nan"), 1e12])
def test_a_time_that_is_no_date_is_shown_as_none(timestamp):
    assert date_text(timestamp) == ""
    assert duration(timestamp)


def test_more_pictures_than_asked_for_become_files_beside_the_page(tmp_path):
    flow = Flow("many")
    many = flow.map(range(5), lambda n: art(str(n)))

    async def main():
        result = await flow.execute(Service())
        for value in result[many]:
            keep_thumbnail(value, picture((8, 8)))
        result.html(tmp_path / "page.html", pictures=2)

    anyio.run(main)
    page = (tmp_path / "page.html").read_text()
    assert "data:image/webp" not in page
    named = re.findall(r'<img src="(page.files/[0-9a-f]+.webp)"', page)
    assert len(named) == 5
    assert all((tmp_path / name).is_file() for name in named)
    assert " img-src data: file: 'self'; media-src file: 'self'; " in parsed(tmp_path / "page.html").policy


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (RunwareError("x", code="quota"), "credit"),
        (RunwareError("x", code="timeout"), "collect"),
        (ValueError("x"), "your own code"),
    ],
)
def test_advice_is_about_the_error(error, word):
    assert word in advice_for(error)


# Journals


def journalled(path, *, prompts=("a kite", "a boat", "doomed")):
    flow = Flow("posters", journal=path, on_error="continue")
    big = flow.map(prompts, art, label="art", key=str).then(upscale, label="big")

    async def count(value):
        await anyio.lowlevel.checkpoint()
        return len(value.text)

    big.then(caption, label="text").then(count, label="count")

    def answer(request, count):
        failed = RunwareError("no", code="provider", raw_code="taskFailed")
        return failed if request.wire.get("positivePrompt") == "doomed" else None

    anyio.run(flow.execute, Service(answer))


def test_a_journal_tells_of_stages_arrows_and_what_each_waited_for(tmp_path):
    path = tmp_path / "run.sqlite"
    journalled(path)
    with Journal(path) as journal:
        story = summarise_journal(journal.entries())
    labels = {box.id: box.label for box in story.shape.boxes}
    assert story.names == ["posters"]
    assert {(box.label, box.kind, labels.get(box.inside)) for box in story.shape.boxes} == {
        ("art", "fan", None),
        ("art", "task", "art"),
        ("big", "task", "art"),
        ("text", "task", "art"),
        ("count", "function", "art"),
    }
    assert {(labels[a], box.label) for box in story.shape.boxes for a in box.after} == {("art", "big"), ("big", "text")}
    rows = {row.path: row for row in story.rows}
    assert rows["art[doomed]/art"].state == "failed"
    assert rows["art[a kite]/big"].ready == rows["art[a kite]/art"].settled
    assert rows["art[a kite]/art"].prompt == "a kite"
    assert sum(line.cost or 0 for line in story.receipt) == pytest.approx(6 * 0.0012)
    assert story.seconds < 5


def test_pauses_between_the_runs_of_one_journal_are_left_out(tmp_path):
    path = tmp_path / "run.sqlite"
    journalled(path)
    with Journal(path) as journal:
        entries = list(journal.entries())
    import msgspec

    later = [
        msgspec.structs.replace(
            entry, path=f"again/{entry.path}", asked_at=entry.asked_at + 1e6, settled_at=entry.settled_at + 1e6
        )
        for entry in entries
    ]
    story = summarise_journal([*entries, *later])
    assert 60 < story.seconds < 70
    assert story.cut_seconds == pytest.approx(1e6, rel=0.01)
    assert all(row.settled is None or 0 <= row.settled < 70 for row in story.rows)


def test_a_journal_without_entries_is_a_story_too():
    assert summarise_journal([]).rows == []


def test_what_a_node_has_saved_is_embedded_also_when_the_journal_restored_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    async def main():
        async with Emulator(latency=0.01) as emulator, Client(**emulator.client_options) as client:
            flow = Flow("saved", journal=tmp_path / "run.sqlite")
            flow.then(art("a kite"), label="art").save("out/{label}")
            for name in ("first", "again"):
                result = await flow.execute(client)
                result.html(tmp_path / f"{name}.html")

    anyio.run(main)
    for name in ("first", "again"):
        assert data_of(tmp_path / f"{name}.html")["rows"][0]["i"][0][2] == "out/art.jpg"
        assert '<img src="data:image/webp' in (tmp_path / f"{name}.html").read_text()
