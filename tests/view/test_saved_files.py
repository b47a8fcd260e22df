"""What a page shows of files that a run has saved or a cache keeps, from the journal alone; and what it does not."""

from __future__ import annotations

import io
import json
import re
import shutil
import sqlite3
from pathlib import Path

import anyio
import pytest
from PIL import Image

from runware_flow import Batch, Client, Flow
from runware_flow.cache.store import Cache
from runware_flow.emulator import Emulator
from runware_flow.journal.reader import Journal
from runware_flow.runner.journal_report import journal_report
from runware_flow.runner.report import write_report
from runware_flow.tasks import AudioInference, ImageInference, Upscale, VideoInference


def art(prompt, **more):
    return ImageInference(model="runware:400@1", positive_prompt=prompt, width=256, height=256, **more)


def page_of(journal, page, **options):
    return write_report(journal_report(journal, page, **options), page).read_text()


def images(text):
    return re.findall(r'<img src="([^"]+)"', text)


def run(flow, **options):
    async def main():
        async with Emulator(latency=0.01, seed=7) as emulator, Client(**emulator.client_options) as client:
            return await flow.execute(client, **options)

    return anyio.run(main)


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """A journal of two pictures that were saved, of variants of which each was, and of one that was not."""
    monkeypatch.chdir(tmp_path)
    flow = Flow("saved", journal=tmp_path / "run.sqlite")
    flow.map(["a kite", "a boat"], art, label="art", key=str).save("out/{key}")
    variants = flow.each(art("four", number_results=4), label="four")
    variants.save("out/four-{index}")
    variants.gather().pick(lambda found: found[1]).then(
        lambda image: Upscale(model="runware:504@1", inputs={"image": image}, upscale_factor=2), label="big"
    )
    run(flow)
    return tmp_path / "run.sqlite"


def test_every_file_that_nodes_saved_is_shown_from_the_journal_alone(saved):
    text = page_of(saved, saved.parent / "page.html")
    assert [source[:15] for source in images(text)] == ["data:image/webp"] * 6
    links = set(re.findall(r'class=open href="([^"]+)"', text))
    assert links == {"out/a%20kite.jpg", "out/a%20boat.jpg", *(f"out/four-{n}.jpg" for n in range(4))}
    assert text.count("✓ chosen") == 1
    assert "1 media are not here" in text


def test_more_thumbnails_than_a_page_holds_are_files_beside_it_and_made_once(saved):
    page = saved.parent / "deep" / "page.html"
    text = page_of(saved, page, pictures=5)
    names = images(text)
    assert len(names) == 6
    made = {name: (page.parent / name).stat().st_mtime_ns for name in names}
    assert page_of(saved, page, pictures=5).count("<img src=") == 6
    assert made == {name: (page.parent / name).stat().st_mtime_ns for name in names}
    assert 'href="../out/four-0.jpg"' in text
    assert "page.files" in text


def test_a_file_that_moved_is_reported_as_moved(saved):
    (saved.parent / "out" / "a kite.jpg").rename(saved.parent / "elsewhere.jpg")
    text = page_of(saved, saved.parent / "page.html")
    assert len(images(text)) == 5
    assert "a kite.jpg has moved: it is not in out any more" in text


def test_a_journal_that_moved_together_with_its_files_finds_them(saved, tmp_path_factory, monkeypatch):
    away = tmp_path_factory.mktemp("away")
    for path in sorted(saved.parent.iterdir()):
        shutil.move(path, away / path.name)
    monkeypatch.chdir("/")
    assert len(images(page_of(away / "run.sqlite", away / "page.html"))) == 6


def test_files_outside_the_folder_of_a_journal_are_shown_only_if_the_user_names_their_folder(tmp_path, monkeypatch):
    home, outside = tmp_path / "home", tmp_path / "private"
    home.mkdir()
    monkeypatch.chdir(home)
    flow = Flow("saved", journal=home / "run.sqlite")
    flow.then(art("a kite"), label="art").save(outside / "kite")
    result = run(flow)
    assert len(images(result.html(tmp_path / "own.html").read_text())) == 1, "a run names its own files"
    text = page_of(home / "run.sqlite", home / "page.html")
    assert images(text) == []
    assert "kite.jpg lies outside the journal&#x27;s folder" in text
    assert "--files" in text
    assert len(images(page_of(home / "run.sqlite", home / "page.html", files=[outside]))) == 1


@pytest.mark.parametrize("name", ["../private.png", "link.png", "/private.png", "out/secret.txt", "out/script.svg"])
def test_a_journal_from_elsewhere_embeds_nothing_but_media_below_its_folder(saved, name):
    folder = saved.parent
    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, "PNG")
    private = folder.parent / "private.png"
    private.write_bytes(content.getvalue())
    (folder / "link.png").symlink_to(private)
    (folder / "out" / "secret.txt").write_bytes(content.getvalue())
    (folder / "out" / "script.svg").write_text("<svg onload=alert(1)>")
    path = str(private) if name.startswith("/") else name
    with sqlite3.connect(saved) as connection:
        connection.execute(
            "UPDATE node SET items = ? WHERE task_uuid IS NULL", (json.dumps([{"path": path}]).encode(),)
        )
    text = page_of(saved, folder / "page.html")
    assert images(text) == []
    assert "class=open" not in text
    assert Path(name).name in text


def test_films_and_sounds_have_players_that_fetch_no_more_than_they_must(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flow = Flow("media", journal=tmp_path / "run.sqlite", on_error="continue")
    flow.then(VideoInference(model="bfl:flux@3-video", positive_prompt="A boat", duration=5), label="film").save("film")
    flow.then(AudioInference(model="elevenlabs:1@1", positive_prompt="Waves"), label="sound").save("sound")
    result = run(flow)
    for text in (page_of(tmp_path / "run.sqlite", tmp_path / "page.html"), result.html("own.html").read_text()):
        assert re.search(r'<video controls preload=metadata src="film\.\w+"', text)
        assert re.search(r'<audio controls preload=metadata src="sound\.\w+"', text)
        assert "media-src file: " in text


def test_what_was_spoken_stands_below_its_sound(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flow = Flow("story", journal=tmp_path / "run.sqlite")
    scenes = flow.map([("a lighthouse", "The lamp is lit.")])
    scenes.then(lambda scene: art(scene[0]), label="picture").save("picture-{index}")
    voices = scenes.then(lambda scene: AudioInference(model="inworld:tts@2", speech={"text": scene[1]}), label="voice")
    voices.save("voice-{index}")
    result = run(flow)
    assert [row["input"] for row in result.to_rows()] == ["a lighthouse"]
    for text in (page_of(tmp_path / "run.sqlite", tmp_path / "page.html"), result.html("own.html").read_text()):
        assert "<p class=say>The lamp is lit.</p>" in text


def test_what_a_cache_keeps_is_shown_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flow = Flow("cached", journal="run.sqlite", cache=Cache("cache", keep_media=True))
    flow.map(["a kite", "a boat"], lambda prompt: art(prompt, seed=1))
    result = run(flow)
    assert len(images(result.html("own.html").read_text())) == 2
    text = page_of(tmp_path / "run.sqlite", tmp_path / "page.html")
    assert len(images(text)) == 2
    with Journal("run.sqlite") as journal:
        assert journal.places() == [(str(tmp_path), str(tmp_path / "cache"))]


def test_a_batch_has_a_page_of_all_its_items(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def poster(flow, prompt):
        return flow.then(art(prompt), label="art").save("out/{key}")

    async def main():
        async with Emulator(latency=0.01, seed=7) as emulator, Client(**emulator.client_options) as client:
            batch = Batch(poster, journal="batch.sqlite", key=str)
            report = await batch.collect([f"poster {n}" for n in range(12)], client)
            return report.html("page.html")

    text = anyio.run(main).read_text()
    assert len(images(text)) == 12
    assert text.count("<article ") == 12
