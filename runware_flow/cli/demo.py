"""The pipeline of the README for a handful of prompts, against the emulator: what `runware-flow demo` runs."""

from __future__ import annotations

import re
from pathlib import Path  # noqa: TC003  # msgspec reads the annotations of its structs

import anyio
import msgspec

from runware_flow import Client, Flow
from runware_flow.emulator import Emulator
from runware_flow.tasks import Caption, ImageInference, Upscale

__all__ = ("PROMPTS", "DemoItem", "DemoReport", "run_demo")

PROMPTS = (
    "A lighthouse at dusk, waves against the rocks",
    "A red kite over green hills",
    "A small robot reading a book in a library",
    "An old bicycle in front of a blue door",
    "A market in the rain, umbrellas from above",
    "Mountains reflected in a still lake",
)


class DemoItem(msgspec.Struct, frozen=True):
    """What came of one prompt."""

    prompt: str
    picture: Path
    caption: str


class DemoReport(msgspec.Struct, frozen=True):
    """What came of the demo."""

    items: tuple[DemoItem, ...]
    cost: float | None
    """USD, as the emulator bills it: nobody pays."""
    seconds: float
    summary: Path


async def run_demo(out: Path) -> DemoReport:
    """Generate, enlarge and describe a picture for each prompt; pictures and a summary are left in `out`.

    Pictures are saved once the run is through.
    """
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
    text = big.then(lambda image: Caption(model="runware:150@2", inputs={"image": image}), label="caption")

    async with Emulator(seed=7, latency=(0.4, 1.2)) as emulator, Client(**emulator.client_options) as client:
        started = anyio.current_time()
        result = await flow.execute(client)
        seconds = anyio.current_time() - started
        items: list[DemoItem] = []
        for number, prompt in enumerate(PROMPTS):
            name = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")
            picture = await client.save(result[big][number], out / f"{number + 1:02}-{name}")
            items.append(DemoItem(prompt, picture, result[text][number].text or ""))
    summary = out / "summary.md"
    await anyio.Path(summary).write_text(_summarise(items), encoding="utf-8")
    return DemoReport(tuple(items), result.cost, seconds, summary)


def _summarise(items: list[DemoItem]) -> str:
    parts = ["# What the demo made\n", "Made by the emulator: real files, drawn here, nothing was paid.\n"]
    for item in items:
        parts.append(f"## {item.prompt}\n\n![{item.prompt}]({item.picture.name})\n\n{item.caption}\n")
    return "\n".join(parts)
