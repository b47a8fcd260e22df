"""The report in a browser: opened, filtered, a node inspected; by mouse and keys, small and large, light and dark."""

from __future__ import annotations

import io
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import pytest
from PIL import Image

from runware_flow import Flow, RunwareError
from runware_flow.runner.report import keep_thumbnail

sys.path.insert(0, str(Path(__file__).parents[1] / "run"))
import anyio.lowlevel
from service import Service, art, caption, upscale

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


def picture(color):
    content = io.BytesIO()
    Image.new("RGB", (640, 480), color).save(content, "PNG")
    return content.getvalue()


def in_thread(main):
    """Run an async function; this thread has playwright's event loop."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(anyio.run, main).result()


def posters(prompts, *, concurrency=8):
    flow = Flow(f"posters {EVIL}", concurrency=concurrency, on_error="continue")
    pictures = flow.map(prompts, art, label="art")
    big = pictures.then(upscale, label="big")
    text = big.then(caption, label="text")

    async def judge(answer):
        await anyio.lowlevel.checkpoint()
        return f"judged {answer.text[:12]}"

    text.then(judge, label="judge")
    return flow, pictures


def answer(request, count):
    prompt = str(request.wire.get("positivePrompt"))
    if "doomed" in prompt:
        return RunwareError(f"no {EVIL}", code="provider", raw_code="taskFailed", documentation="javascript:alert(3)")
    if "trap" in prompt:
        return [Service().result(request, imageURL="javascript:alert(4)")]
    return None


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A run with a bit of everything."""
    flow, pictures = posters(["a kite", f"evil {EVIL}", "doomed", "a trap", *(f"boat {n}" for n in range(20))])
    path = tmp_path_factory.mktemp("report") / "small.html"

    async def main():
        result = await flow.execute(Service(answer))
        for outcome in result.outcomes(pictures)[:2]:
            keep_thumbnail(outcome.value, picture("teal"))
        result.html(path)

    in_thread(main)
    return path


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Ten thousand nodes."""
    flow, _ = posters([f"picture {n}" if n % 50 else f"doomed {n}" for n in range(2_500)], concurrency=64)
    path = tmp_path_factory.mktemp("report") / "large.html"

    async def main():
        (await flow.execute(Service(answer))).html(path)

    in_thread(main)
    return path


def count_of(page):
    return page.locator("#count").inner_text()


def wait_for_count(page, text):
    from playwright.sync_api import expect

    expect(page.locator("#count")).to_have_text(text)


def test_page_shows_the_run_and_what_users_wrote_as_text(visit, small):
    page = visit(small)
    assert EVIL in page.title()
    assert EVIL in page.locator("h1").inner_text()
    assert count_of(page) == "96 of 96 nodes"
    assert EVIL in page.locator("#failures").inner_text()
    assert "What to do:" in page.locator("#failures").inner_text()
    assert page.locator("a[href^=javascript]").count() == 0
    assert page.locator("figure img").count() == 2
    assert page.locator("figure img").first.evaluate("image => image.naturalWidth") == 360
    assert EVIL in page.locator("#gallery").inner_text()


def test_filter_by_stage_state_and_text(visit, small):
    page = visit(small)
    page.locator("#f-state").select_option(label="failed (1)")
    assert count_of(page) == "1 of 96 nodes"
    page.locator("#f-state").select_option(label="any")
    page.locator("#f-stage").select_option(label="text")
    assert count_of(page) == "24 of 96 nodes"
    page.locator("#f-text").fill("boat 1")
    wait_for_count(page, "11 of 96 nodes")
    page.locator("#f-text").fill("")
    page.locator("svg a[data-box]").first.click()
    wait_for_count(page, "24 of 96 nodes")
    assert page.locator("#f-stage").input_value() == page.locator("svg a[data-box]").first.get_attribute("data-box")


def test_a_node_is_inspected_by_mouse(visit, small):
    page = visit(small)
    page.locator(".item", has_text="art[0]/text").click()
    dialog = page.get_by_role("dialog")
    assert dialog.get_by_role("heading").inner_text() == "art[0]/text"
    told = dialog.inner_text()
    assert "caption of" in told
    assert "runware:150@2" in told
    assert "Task id" in told
    dialog.get_by_role("button", name="Next").click()
    assert dialog.get_by_role("heading").inner_text() == "art[0]/judge"
    dialog.get_by_role("button", name="Close").click()
    assert not dialog.is_visible()


def test_the_keyboard_is_enough(visit, small):
    page = visit(small)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.locator("#f-order").focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('aria-rowindex')") == "1"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("PageDown")
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.getAttribute('aria-rowindex')") == "96"
    page.keyboard.press("Enter")
    assert page.get_by_role("dialog").is_visible()
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.getAttribute('aria-rowindex')") == "96"
    page.keyboard.press("Home")
    assert page.evaluate("document.activeElement.getAttribute('aria-rowindex')") == "1"


def test_everything_has_a_name_for_screen_readers(visit, small):
    page = visit(small)
    assert page.locator("html").get_attribute("lang") == "en"
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('button, input, select, a, [role=img], [role=grid], dialog, svg')]
        .filter(e => !(e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') || e.textContent.trim()
          || e.closest('label') || e.closest('[aria-hidden=true]') || e.querySelector('img[alt]')))
        .map(e => e.outerHTML.slice(0, 100))"""
    )
    assert unnamed == []
    assert page.locator("img:not([alt])").count() == 0
    levels = [int(name[1]) for name in page.evaluate("[...document.querySelectorAll('h1,h2,h3')].map(e => e.tagName)")]
    assert levels[0] == 1
    assert set(levels[1:]) == {2}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_the_light_and_in_the_dark(visit, small, scheme):
    page = visit(small, scheme=scheme)
    ratios = page.evaluate(
        """() => {
        const light = (rgb) => { const [r, g, b] = rgb.match(/[\\d.]+/g).map(Number).map(v => v / 255)
          .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
          return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
        const back = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
          if (!/, 0\\)|transparent/.test(c)) return c; } return 'rgb(255, 255, 255)'; };
        return ['p', 'dt', 'dd', 'td', 'th', 'a', 'button', '.dim', '.item .state', '#count', 'figcaption .text']
          .flatMap(s => [...document.querySelectorAll(s)].slice(0, 5)).filter(e => e.closest('svg') === null).map(e => {
          const a = light(getComputedStyle(e).color), b = light(back(e));
          return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.outerHTML.slice(0, 80)]; }); }"""
    )
    assert len(ratios) > 20
    assert [pair for pair in ratios if pair[0] < 4.5] == []


def test_a_phone_needs_no_sideways_scrolling(visit, small):
    page = visit(small, width=360, height=740)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.locator(".item").first.click()
    box = page.get_by_role("dialog").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 360


def test_ten_thousand_nodes_are_listed_filtered_and_inspected(visit, large):
    assert large.stat().st_size < 6_000_000
    page = visit(large)
    assert count_of(page) == "10,000 of 10,000 nodes"
    assert page.locator(".item").count() < 60, "only what is in sight is there"
    page.locator("#list").evaluate("list => { list.scrollTop = list.scrollHeight }")
    page.locator(".item", has_text="art[2499]/judge").click()
    assert page.get_by_role("dialog").get_by_role("heading").inner_text() == "art[2499]/judge"
    page.keyboard.press("Escape")
    page.locator("#f-state").select_option(label="failed (50)")
    assert count_of(page) == "50 of 10,000 nodes"
    page.locator("#f-state").select_option(label="any")
    assert page.locator("figure").count() == 48
    page.get_by_role("button", name="Show more").click()
    assert page.locator("figure").count() == 96
    assert page.locator("body *").count() < 3_000


def test_without_scripts_the_figures_are_still_there(visit, small):
    page = visit(small, scripts=False)
    assert page.locator("table caption", has_text="Stages").is_visible()
    assert page.locator("#failures").is_visible()
    assert "JavaScript" in page.locator("noscript").inner_text()


@pytest.mark.parametrize(("name", "options"), [("light", {}), ("dark", {"scheme": "dark"}), ("phone", {"width": 390})])
def test_screenshots_are_not_blank(visit, small, large, tmp_path, name, options):
    """`RUNWARE_FLOW_SHOTS=folder` keeps them, to be looked at."""
    folder = Path(os.environ.get("RUNWARE_FLOW_SHOTS", tmp_path))
    for path in (small, large):
        shot = folder / f"report-{path.stem}-{name}.png"
        visit(path, **options).screenshot(path=shot, full_page=True)
        with Image.open(shot) as image:
            assert len(image.convert("RGB").getcolors(1 << 24)) > 50
