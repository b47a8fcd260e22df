"""The report in a browser: opened, filtered, a node inspected; by mouse and keys, small and large, light and dark."""

from __future__ import annotations

import csv
import io
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from PIL import Image
from service import Service, art, caption, upscale

from runware_flow import Flow, Ok, RunwareError
from runware_flow.runner.report_files import keep_thumbnail

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
    """A run with a bit of everything; two of its pictures are at hand, and four variants of which one was chosen."""
    flow, pictures = posters(["a kite", f"evil {EVIL}", "doomed", "a trap", *(f"boat {n}" for n in range(20))])
    variants = flow.each(art("four", number_results=4), label="variants")
    variants.gather().pick(lambda all_of_them: all_of_them[2]).then(upscale, label="best")
    path = tmp_path_factory.mktemp("report") / "small.html"

    async def main():
        result = await flow.execute(Service(answer))
        for outcome in result.outcomes(pictures)[:2]:
            keep_thumbnail(outcome.value, picture("teal"))
        for value, color in zip(result[variants], ("red", "green", "blue", "gray"), strict=True):
            keep_thumbnail(value, picture(color))
        result.html(path)

    in_thread(main)
    return path


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Ten thousand items, a hundred of them with a thumbnail."""
    flow = Flow("large", concurrency=64, on_error="continue")
    pictures = flow.map([f"picture {n}" if n % 50 else f"doomed {n}" for n in range(10_000)], art, label="art")
    path = tmp_path_factory.mktemp("report") / "large.html"

    async def main():
        result = await flow.execute(Service(answer))
        for outcome in result.outcomes(pictures)[1:20_000:100]:
            if isinstance(outcome, Ok):
                keep_thumbnail(outcome.value, picture("teal"))
        result.html(path)

    in_thread(main)
    return path


def wait_for_count(page, text, place="#count"):
    from playwright.sync_api import expect

    expect(page.locator(place)).to_have_text(text)


def test_page_shows_the_run_and_what_users_wrote_as_text(visit, small):
    page = visit(small)
    assert EVIL in page.title()
    assert EVIL in page.locator("h1").inner_text()
    wait_for_count(page, "25 of 25")
    wait_for_count(page, "100 of 100 nodes", "#n-count")
    assert EVIL in page.locator("#failures").inner_text()
    assert "What to do:" in page.locator("#failures").inner_text()
    assert "Asked: “doomed”" in page.locator("#failures").inner_text()
    assert page.locator("a[href^=javascript]").count() == 0
    assert page.locator(".open img").count() == 6
    assert page.locator(".open img").first.evaluate("image => image.naturalWidth") == 360
    assert EVIL in page.locator("#cards").inner_text()


def test_a_card_has_the_stages_of_an_item_side_by_side_and_its_variants_with_the_chosen_one(visit, small):
    page = visit(small)
    kite = page.get_by_role("article", name="a kite")
    assert kite.locator(".cell .stage").all_text_contents() == ["art", "big", "text", "judge"]
    tops = kite.locator(".cell").evaluate_all("cells => cells.map(cell => cell.getBoundingClientRect().top)")
    assert len(set(tops)) == 1
    four = page.get_by_role("article", name="four")
    assert four.locator(".cell").first.locator(".shot").count() == 4
    assert four.locator(".shot .chosen").count() == 1
    assert four.locator(".shot").nth(2).text_content() == "✓ chosen"
    doomed = page.get_by_role("article", name="doomed")
    assert doomed.locator(".why").text_content() == f"no {EVIL}"


def test_filter_by_stage_state_and_text_and_by_the_counts(visit, small):
    page = visit(small)
    page.locator("#f-state").select_option(label="failed (1)")
    wait_for_count(page, "1 of 25")
    assert page.locator("#cards article").count() == 1
    page.locator("#f-state").select_option(label="any")
    page.locator("#f-stage").select_option(label="text")
    wait_for_count(page, "24 of 25")
    wait_for_count(page, "24 of 100 nodes", "#n-count")
    page.locator("#f-text").fill("boat 1")
    wait_for_count(page, "11 of 25")
    page.locator("#f-text").fill("")
    page.locator("svg a[data-box]").first.click()
    assert page.locator("#f-stage").input_value() == page.locator("svg a[data-box]").first.get_attribute("data-box")
    page.locator(".tile a[data-state=failed]").click()
    wait_for_count(page, "1 of 25")
    page.locator(".tile a[data-state=any]").click()
    wait_for_count(page, "25 of 25")
    page.locator("#stages a[data-state=skipped]").first.click()
    wait_for_count(page, "1 of 25")


def test_order_puts_failures_first_and_back(visit, small):
    page = visit(small)
    page.locator("#f-order").select_option(label="failures first")
    assert page.locator("#cards h3").first.text_content() == "doomed"
    page.locator("#f-order").select_option(label="as run")
    assert page.locator("#cards h3").first.text_content() == "a kite"


def test_pictures_are_enlarged_compared_and_zoomed_with_the_keyboard_alone(visit, small):
    page = visit(small)
    page.locator(".open").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    box = page.locator("#lightbox")
    assert box.is_visible()
    assert page.locator("#l-where").inner_text() == "2 of 6"
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert "(chosen)" in box.locator("figure:visible figcaption").inner_text()
    page.keyboard.press("c")
    assert box.locator("figure:visible").count() == 2
    page.keyboard.press("ArrowRight")
    shown = box.locator("figure:visible img").evaluate_all("images => images.map(image => image.src)")
    assert len(set(shown)) == 2
    before = box.locator("figure img").last.evaluate("image => image.clientWidth")
    for _ in range(6):
        page.keyboard.press("+")
    assert box.locator("figure img").last.evaluate("image => image.clientWidth") > 1.5 * before
    page.keyboard.press("0")
    assert box.locator("figure img").last.evaluate("image => image.style.width") == ""
    page.keyboard.press("c")
    assert box.locator("figure:visible").count() == 1
    page.keyboard.press("Escape")
    assert not box.is_visible()
    focused = "document.activeElement.closest('.shot').dataset.m"
    assert page.evaluate(focused) == page.locator(".shot:has(.open)").nth(5).get_attribute("data-m")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "f-text"


def test_items_can_be_downloaded_as_csv(visit, small, tmp_path):
    page = visit(small)
    page.locator("#f-text").fill("evil")
    wait_for_count(page, "1 of 25")
    with page.expect_download() as waiting:
        page.locator("#csv").click()
    waiting.value.save_as(tmp_path / "items.csv")
    [row] = csv.DictReader((tmp_path / "items.csv").read_text(encoding="utf-8-sig").splitlines())
    assert row["prompt"] == f"evil {EVIL}"
    assert row["state"] == "ok"
    assert row["cost"] == "0.003600"
    assert row["texts"].startswith("caption of")


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
    page.get_by_role("article", name="a kite").get_by_role("button", name="Details of big").click()
    assert dialog.get_by_role("heading").inner_text() == "art[0]/big"


def test_the_list_of_nodes_needs_no_mouse(visit, small):
    page = visit(small)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.locator(".item").first.focus()
    assert page.evaluate("document.activeElement.getAttribute('aria-rowindex')") == "1"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("PageDown")
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.getAttribute('aria-rowindex')") == "100"
    page.keyboard.press("Enter")
    assert page.get_by_role("dialog").is_visible()
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.getAttribute('aria-rowindex')") == "100"
    page.keyboard.press("Home")
    assert page.evaluate("document.activeElement.getAttribute('aria-rowindex')") == "1"


def test_everything_has_a_name_for_screen_readers(visit, small):
    page = visit(small)
    assert page.locator("html").get_attribute("lang") == "en"
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('button, input, select, a[href], [role=img], [role=grid], article, svg')]
        .filter(e => !(e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') || e.textContent.trim()
          || e.closest('label, dialog') || e.closest('[aria-hidden=true]') || e.querySelector('img[alt]')))
        .map(e => e.outerHTML.slice(0, 100))"""
    )
    assert unnamed == []
    assert page.locator("img:not([alt])").count() == 0
    levels = [int(name[1]) for name in page.evaluate("[...document.querySelectorAll('h1,h2,h3')].map(e => e.tagName)")]
    assert levels[0] == 1
    assert levels[1] == 2
    assert set(levels[2:]) == {2, 3}


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
        return ['p', 'dt', 'dd', 'td', 'th', 'a', 'button', '.dim', '.item .state', '#count', '.say', '.why', '.facts',
          '.chosen', '.state']
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


def test_ten_thousand_items_are_found_turned_and_enlarged(visit, large):
    assert large.stat().st_size < 20_000_000
    page = visit(large)
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    say = sys.stdout.write
    say(f"first paint of 10,000 items: {paint:.0f} ms; the file: {large.stat().st_size / 1e6:.1f} MB\n")
    assert paint < 5_000
    wait_for_count(page, "10,000 of 10,000")
    assert page.locator("#cards article").count() == 100, "only a page of them is there"
    assert page.locator(".item").count() < 60, "only what is in sight is there"
    page.locator("#list").evaluate("list => { list.scrollTop = list.scrollHeight }")
    page.locator(".item", has_text="art[9999]/art").click()
    assert page.get_by_role("dialog").get_by_role("heading").inner_text() == "art[9999]/art"
    page.keyboard.press("Escape")
    page.locator("#f-state").select_option(label="failed (200)")
    wait_for_count(page, "200 of 10,000")
    page.get_by_role("button", name="Next page").click()
    assert page.locator("#p-count").inner_text() == "page 2 of 2"
    page.locator("#f-state").select_option(label="any")
    page.locator(".open").last.click()
    assert page.locator("#l-where").inner_text() == "1 of 1 on this page"
    page.keyboard.press("ArrowRight")
    assert page.locator("#p-count").inner_text() == "page 2 of 100"
    page.keyboard.press("Escape")
    assert page.locator("body *").count() < 3_500


def test_without_scripts_the_cards_and_the_figures_are_there(visit, small):
    page = visit(small, scripts=False)
    assert page.locator("#cards article").count() == 25
    assert page.locator(".open img").first.is_visible()
    assert not page.locator("#filter").is_visible()
    assert page.locator("table caption", has_text="Stages").is_visible()
    assert page.locator("#failures").is_visible()


@pytest.mark.parametrize(("name", "options"), [("light", {}), ("dark", {"scheme": "dark"}), ("phone", {"width": 390})])
def test_screenshots_are_not_blank(visit, small, large, tmp_path, name, options):
    """`RUNWARE_FLOW_SHOTS=folder` keeps them, to be looked at."""
    folder = Path(os.environ.get("RUNWARE_FLOW_SHOTS", tmp_path))
    for path in (small, large):
        shot = folder / f"report-{path.stem}-{name}.png"
        visit(path, **options).screenshot(path=shot, full_page=True)
        with Image.open(shot) as image:
            assert len(image.convert("RGB").getcolors(1 << 24)) > 50
