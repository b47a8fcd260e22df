"""The page of a run: 300 x 4 saved pictures after a kill and a resume, and what a live page costs; in a real Chromium.

`posters`: a program makes a draft of 300 prompts and four variants of each, and saves the variants. It is killed when
half of them are saved, run again, and reported on from its journal alone. `live`: 500 items of 50 ms, with and without
a live page that a browser has open; medians of five, in turn. `make browser` installs Chromium and playwright.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
from playwright.sync_api import sync_playwright

from benchmarks.service import emulator_process
from runware_flow import Client, Flow
from runware_flow.live import LivePage
from runware_flow.tasks import ImageInference

PROMPTS, VARIANTS, ITEMS, TURNS = 300, 4, 500, 5
PROGRAM = """
from runware_flow import Flow
from runware_flow.tasks import ImageInference

def draft(prompt):
    return ImageInference(model="runware:400@1", positive_prompt=prompt, width=256, height=256)

def variants(image):
    return ImageInference(model="runware:400@1", positive_prompt="variant", width=256, height=256, number_results=4,
                          inputs={"referenceImages": [image]})

flow = Flow("posters", concurrency=32, journal="run.sqlite", on_error="continue")
prompts = [f"poster {number}" for number in range(300)]
flow.map(prompts, draft, label="draft", key=str).each(variants, label="variant").save("out/{key}-{index}-{uuid}")
"""


def saved(folder: Path) -> int:
    """How many pictures are saved."""
    return sum(not path.name.startswith(".") for path in (folder / "out").glob("*"))


def posters(browser: Any, folder: Path, environment: dict[str, str]) -> None:
    """Kill, resume, report, look."""
    (folder / "posters.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "runware_flow"]
    run = [*command, "run", "posters.py", "--progress", "off"]
    first = subprocess.Popen(run, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    while saved(folder) < PROMPTS * VARIANTS // 2 and first.poll() is None:
        time.sleep(0.05)
    first.kill()
    first.wait()
    print(f"killed with {saved(folder)} of {PROMPTS * VARIANTS} pictures saved")
    subprocess.run(run, cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=True)
    began = time.perf_counter()
    subprocess.run([*command, "report", "run.sqlite"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    report = folder / "run.html"
    took = time.perf_counter() - began
    linked = set(re.findall(r'class=open href=\\?"(out/[^"\\]+)', report.read_text()))
    print(f"after the resume {saved(folder)} are saved and {len(linked)} are in the report, made in {took:.1f} s")
    opened = []
    for _ in range(TURNS):
        page = browser.new_page()
        began = time.perf_counter()
        page.goto(report.as_uri())
        opened.append(time.perf_counter() - began)
        page.close()
    print(f"the page opens in {statistics.median(opened):.2f} s, median of {TURNS}")


def live(browser: Any, options: dict[str, Any]) -> None:
    """Compare a run with a live page with one without."""

    async def run(progress: Any) -> float:
        flow = Flow("live", concurrency=16)
        flow.map(
            range(ITEMS),
            lambda number: ImageInference(model="runware:400@1", positive_prompt=f"p {number}", width=256, height=256),
        )
        async with Client(**options) as client:
            await client.connect()
            began = time.perf_counter()
            await flow.execute(client, progress=progress)
            return time.perf_counter() - began

    without, beside = [], []
    with ThreadPoolExecutor(1) as pool, LivePage() as page:
        pool.submit(anyio.run, run, None).result()
        for _ in range(TURNS):
            without.append(pool.submit(anyio.run, run, None).result())
            tab = browser.new_page()
            tab.goto(page.url)
            tab.wait_for_timeout(500)
            running = pool.submit(anyio.run, run, page)
            while not running.done():
                tab.wait_for_timeout(50)
            beside.append(running.result())
            tab.wait_for_timeout(1500)
            tab.close()
    ratio = statistics.median(beside) / statistics.median(without)
    print(f"{ITEMS} items of 50 ms with a live page open take {ratio:.2f} of the time without")


def main() -> None:
    """Run both."""
    with (
        tempfile.TemporaryDirectory() as folder,
        emulator_process(latency="0.05") as options,
        sync_playwright() as playwright,
    ):
        environment = dict(os.environ) | {f"RUNWARE_{name.upper()}": value for name, value in options.items()}
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        posters(browser, Path(folder), environment)
        live(browser, options)
        browser.close()


if __name__ == "__main__":
    main()
