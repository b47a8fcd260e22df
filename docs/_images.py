"""Makes the pictures in docs/images out of a real run on the emulator, in the browser of `make browser`."""

from __future__ import annotations

import functools
import io
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
from PIL import Image
from playwright.sync_api import sync_playwright
from rich.console import Console

from runware_flow import Client, Flow, Ok
from runware_flow.emulator import Emulator
from runware_flow.runner import progress
from runware_flow.runner.report_files import keep_thumbnail
from runware_flow.tasks import Caption, ImageInference, Upscale
from runware_flow.view.bars import bars

IMAGES = Path(__file__).parent / "images"
LARGEST_BYTES = 150_000
WORDS = (
    "lighthouse",
    "red kite",
    "old bicycle",
    "market in the rain",
    "small robot",
    "still lake",
    "paper boat",
    "owl",
)
PROMPTS = [f"A {word} {when}" for word in WORDS for when in ("at dusk", "in the morning", "in winter", "from above")]


class Recorder:
    """A screen that remembers the bars at each draw."""

    seconds = 0.25
    shown: list[str]

    def __init__(self) -> None:
        self.shown = []

    def draw(self, board: Any) -> None:
        console = Console(record=True, width=108, file=io.StringIO(), force_terminal=True, color_system="truecolor")
        console.print(bars(board))
        self.shown.append(console.export_svg(title="runware-flow run posters.py"))

    def close(self) -> None:
        pass


async def run(report: Path, recorder: Recorder) -> None:
    """Run a flow with a failure in it, and keep what it shows."""
    progress._choose = lambda _: recorder
    async with Emulator(seed=7, latency=(0.4, 1.6)) as emulator, Client(**emulator.client_options) as client:
        emulator.faults.add("fail:prompt=owl in winter")
        flow = Flow("posters", concurrency=10, on_error="continue", budget=1.0)
        art = flow.map(
            PROMPTS,
            lambda prompt: ImageInference(model="runware:400@1", positive_prompt=prompt, width=768, height=512),
            label="generate",
            tolerate=0.1,
        )
        big = art.then(
            lambda image: Upscale(model="runware:504@1", inputs={"image": image}, upscale_factor=2), label="upscale"
        )
        text = big.then(lambda image: Caption(model="runware:150@2", inputs={"image": image}), label="caption")
        text.settled(label="all")
        result = await flow.execute(client, progress="rich")
        for many in (art, big):
            for outcome in result.outcomes(many):
                if isinstance(outcome, Ok):
                    keep_thumbnail(outcome.value, await client.read(outcome.value))
        await anyio.to_thread.run_sync(functools.partial(result.html, report))


def save(name: str, png: bytes) -> None:
    """Write a picture with as many colours as its size allows."""
    with Image.open(io.BytesIO(png)) as image:
        for colors in (256, 128, 64, 32):
            small = io.BytesIO()
            image.convert("RGB").quantize(colors).save(small, "PNG", optimize=True)
            if small.tell() < LARGEST_BYTES:
                break
    (IMAGES / name).write_bytes(small.getvalue())
    print(f"docs/images/{name}: {small.tell() // 1000} kB")


def main() -> None:
    """Make all of them."""
    IMAGES.mkdir(exist_ok=True)
    recorder = Recorder()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        report = Path(folder) / "report.html"
        with ThreadPoolExecutor(1) as pool:  # this thread has the event loop of playwright
            pool.submit(anyio.run, run, report, recorder).result()
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1000, "height": 400})
        page.set_content(recorder.shown[len(recorder.shown) // 2])
        save("progress.png", page.locator("svg").screenshot())
        for name, width, scheme, place in (
            ("report.png", 1000, "light", None),
            ("report-time-line.png", 1000, "light", "timeline"),
            ("report-dark.png", 1000, "dark", "gallery"),
            ("report-phone.png", 380, "light", "gallery"),
        ):
            page = browser.new_page(viewport={"width": width, "height": 760}, color_scheme=scheme)
            page.goto(report.as_uri())
            if place is not None:
                page.evaluate(f"document.getElementById('{place}').scrollIntoView()")
            page.wait_for_timeout(300)
            save(name, page.screenshot())
        browser.close()


if __name__ == "__main__":
    main()
