"""`runware-flow demo`: the pipeline of the README for a few prompts, against the emulator."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  # msgspec reads the annotations of its structs

import anyio
import anyio.to_thread
import msgspec

from runware_flow import Client, Flow
from runware_flow.cli.pictures import PicturesLine, keep_pictures
from runware_flow.emulator import Emulator
from runware_flow.tasks import Caption, ImageInference, Upscale

__all__ = ("PROMPTS", "DemoReport", "run_demo")

PROMPTS = (
    "A lighthouse at dusk, waves against the rocks",
    "A red kite over green hills",
    "A small robot reading a book in a library",
    "An old bicycle in front of a blue door",
    "A market in the rain, umbrellas from above",
    "Mountains reflected in a still lake",
)


class DemoReport(msgspec.Struct, frozen=True):
    """What came of the demo.

    Attributes:
        pictures: each picture and its caption, in the order of the prompts.
        cost: USD, as the emulator bills it; nothing is paid.
        page: the report of the run.
    """

    pictures: tuple[tuple[Path, str], ...]
    cost: float | None
    seconds: float
    page: Path


async def run_demo(out: Path) -> DemoReport:
    """Generate, enlarge, save and describe a picture for each prompt; pictures and a report are left in `out`."""
    await anyio.Path(out).mkdir(parents=True, exist_ok=True)
    flow = Flow("demo", concurrency=8, progress=True)
    art = flow.map(
        PROMPTS,
        lambda prompt: ImageInference(model="runware:400@1", positive_prompt=prompt, width=768, height=512),
        label="generate",
    )
    big = art.then(
        lambda image: Upscale(model="runware:504@1", inputs={"image": image}, upscale_factor=2), label="upscale"
    )
    saved = big.save(out / "{label}-{index:02}", label="picture")
    text = big.then(lambda image: Caption(model="runware:150@2", inputs={"image": image}), label="caption")

    async with Emulator(seed=7, latency=(0.4, 1.2)) as emulator, Client(**emulator.client_options) as client:
        started = anyio.current_time()
        result = await flow.execute(client)
        seconds = anyio.current_time() - started
        await keep_pictures(result, client, PicturesLine().report)  # while there is a service that has them
    page = await anyio.to_thread.run_sync(result.html, out / "report.html")
    captions = [caption.text or "" for caption in result[text]]
    return DemoReport(tuple(zip(result[saved], captions, strict=True)), result.cost, seconds, page)
