"""The examples of the official TypeScript README run here as they are type-checked, on both transports."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from runware_flow import Client
from runware_flow.emulator import run_in_thread

SOURCE = Path(__file__).parents[1] / "typing" / "seed.py"  # a folder that must not hide the module of that name


def load():
    spec = importlib.util.spec_from_file_location("seed_examples", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SEED = load()


@pytest.fixture(scope="module")
def emulator():
    with run_in_thread(latency=0.02) as running:
        yield running


@pytest.mark.parametrize("example", SEED.EXAMPLES, ids=lambda example: example.__name__)
@pytest.mark.parametrize("transport", ["websocket", "rest"])
def test_example_of_the_readme_runs(run, emulator, transport, example):
    async def main():
        options = {"transport": transport, "debug": True, "log_sink": SEED.log_sink}
        async with Client(**emulator.client_options, **options) as client:
            await example(client)

    run(main)


def test_example_of_the_file_helpers_runs(run, emulator, tmp_path):
    from PIL import Image

    photo = tmp_path / "photo.jpg"
    Image.new("RGB", (64, 48), "red").save(photo)

    async def main():
        async with Client(**emulator.client_options) as client:
            await SEED.file_helpers(client, photo)

    run(main)
