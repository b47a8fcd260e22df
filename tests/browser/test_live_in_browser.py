"""The page of a run in a browser, while the run goes on: it is followed, looked at, left and stopped."""

from __future__ import annotations

import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import pytest
from service import Service, art, caption, upscale

from runware_flow import Batch, Client, Flow
from runware_flow.emulator import Emulator
from runware_flow.live import LivePage
from runware_flow.live.journal_page import JournalPage

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture
def live():
    with LivePage() as page, ThreadPoolExecutor(1) as pool:
        yield page, pool


def run(page, gate, *, count=8, concurrency=2):
    """A run of posters on the emulator that goes on when `gate` lets it."""
    flow = Flow(f"posters {EVIL}", concurrency=concurrency, on_error="continue")
    pictures = flow.map([f"picture {n} {EVIL if n == 1 else ''}" for n in range(count)], art, label="art")

    async def held(image):
        await anyio.to_thread.run_sync(gate.acquire)
        return image

    pictures.then(held, label="held").then(upscale, label="big").then(caption, label="text")

    async def main():
        async with Emulator(latency=0.01, seed=7) as emulator, Client(**emulator.client_options) as client:
            emulator.faults.add("fail:prompt=picture 3")
            result = await flow.execute(client, progress=page)
            await anyio.sleep(1.0)  # its pictures can be had for a moment
            return result

    return anyio.run(main)


@pytest.fixture
def gate():
    """Lets a held node go on each time that it is released; all of them at the end of a test."""
    gate = threading.Semaphore(0)
    yield gate
    gate.release(1_000)


def test_cards_pictures_and_counts_appear_while_the_run_goes_on(live, gate, visit):
    from playwright.sync_api import expect

    page, pool = live
    ended = pool.submit(run, page, gate)
    tab = visit(page.url)
    expect(tab.locator("#link")).to_have_text("live")
    expect(tab.locator("#cards .card.running").first).to_be_visible()
    expect(tab.locator("#cards .open img").first).to_be_visible()
    expect(tab.locator("#cards .open img").first).to_have_js_property("naturalWidth", 360)
    for _ in range(8):
        gate.release()
    expect(tab.locator(".tile", has_text="state")).to_contain_text("done", timeout=20_000)
    expect(tab.locator(".tile a[data-state=ok]")).to_have_text("7")
    assert ended.result().end == "done"
    tab.locator(".tile a[data-state=failed]").click()
    expect(tab.locator("#count")).to_have_text("1 of 8")
    assert EVIL in tab.locator("h1").inner_text()
    folder = os.environ.get("RUNWARE_FLOW_SHOTS")
    if folder:
        tab.screenshot(path=Path(folder) / "live.png")


def test_an_opened_picture_stays_open_while_the_page_is_updated(live, gate, visit):
    from playwright.sync_api import expect

    page, pool = live
    ended = pool.submit(run, page, gate)
    tab = visit(page.url)
    tab.locator(".open").first.click(timeout=15_000)
    expect(tab.locator("#lightbox")).to_be_visible()
    for _ in range(8):
        gate.release()
    expect(tab.locator(".tile", has_text="state")).to_contain_text("done", timeout=20_000)
    assert tab.locator("#lightbox").is_visible()
    tab.keyboard.press("ArrowRight")
    assert re.match(r"2 of \d+", tab.locator("#l-where").inner_text())
    tab.keyboard.press("Escape")
    tab.locator("#f-text").fill("picture 5")
    expect(tab.locator("#count")).to_have_text("1 of 8")
    ended.result()


def test_stop_asks_first_and_then_drains(live, gate, visit):
    from playwright.sync_api import expect

    page, pool = live
    ended = pool.submit(run, page, gate, count=40)
    tab = visit(page.url)
    expect(tab.locator("#cards .card.running").first).to_be_visible(timeout=15_000)
    tab.locator("#stop").click()
    assert "may be billed" in tab.locator("#ask").inner_text()
    tab.locator("#a-no").click()
    assert not tab.locator("#ask").is_visible()
    tab.locator("#stop").click()
    tab.keyboard.press("Tab")
    tab.locator("#a-yes").click()
    for _ in range(40):
        gate.release()
    expect(tab.locator(".tile", has_text="state")).to_contain_text("stopped", timeout=20_000)
    expect(tab.locator("#stop")).to_be_hidden()
    result = ended.result()
    assert result.end == "stopped"
    assert len(result.story()[1]) < 4 * 40


def test_closing_the_page_changes_nothing_and_opening_it_again_shows_all(live, gate, visit):
    from playwright.sync_api import expect

    page, pool = live
    ended = pool.submit(run, page, gate)
    first = visit(page.url)
    expect(first.locator("#cards .card").first).to_be_visible()
    first.close()
    for _ in range(8):
        gate.release()
    assert ended.result().end == "done"
    again = visit(page.url)
    expect(again.locator("#count")).to_have_text("8 of 8")
    assert again.locator(".tile", has_text="state").inner_text().endswith("done")


def poster(flow, prompt):
    return flow.then(art(prompt), label="art").then(upscale, label="big").then(caption, label="text")


def test_items_are_marked_to_be_bought_anew_and_the_mark_is_taken_back(visit, tmp_path):
    from playwright.sync_api import expect

    journal = tmp_path / "posters.sqlite"
    batch = Batch(poster, journal=journal, name="posters", key=str)
    prompts = [f"poster {number}" for number in range(5)]

    def collect(service):
        with ThreadPoolExecutor(1) as pool:  # this thread has the event loop of playwright
            pool.submit(anyio.run, batch.collect, prompts, service).result()

    collect(Service())
    page = JournalPage(journal)
    page.start()
    try:
        tab = visit(page.url)
        card = tab.locator(".card", has_text="poster 3")
        card.locator("[data-redo]").click()
        assert "3 tasks, $0.0036 the last time" in tab.locator("#ask").inner_text()
        tab.locator("#a-no").click()
        expect(card.locator("[data-redo]")).to_have_text("Buy anew…")
        card.locator("[data-redo]").click()
        tab.locator("#a-yes").click()
        expect(card.locator(".marked")).to_be_visible(timeout=15_000)
        other = tab.locator(".card", has_text="poster 1")
        other.locator("[data-redo]").click()
        tab.locator("#ask").get_by_text("big and what follows").click()
        tab.locator("#a-yes").click()
        expect(other.locator(".marked")).to_be_visible(timeout=15_000)
        other.locator("[data-redo]").click()
        expect(other.locator(".marked")).to_have_count(0, timeout=15_000)
        again = Service()
        collect(again)
        assert [request.task_type for request in again.sent] == ["imageInference", "upscale", "caption"]
        expect(card.locator(".marked")).to_have_count(0, timeout=15_000)
    finally:
        page.close()
