"""The example of a model is a program that runs as it is."""

from __future__ import annotations

import wave
from collections import defaultdict
from typing import TYPE_CHECKING

import anyio
import pytest
from PIL import Image

from runware_flow import Client
from runware_flow.catalog import limits, load_registry, schemas
from runware_flow.catalog.example import example_program
from runware_flow.catalog.search import ModelCard, list_models
from runware_flow.emulator import run_in_thread
from runware_flow.emulator.commands import environment
from runware_flow.tasks import VideoInference

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMAS = schemas()["modelParams"]
MODELS_A_TYPE = 4


def _example(card: ModelCard) -> str | None:
    assert card.task_type is not None
    makes_video = card.modality == "video"
    return example_program(
        card.air, card.task_type, SCHEMAS[card.air], limits()[card.task_type], makes_video=makes_video
    )


def _several_of_each_type() -> list[ModelCard]:
    by_type: defaultdict[str, list[ModelCard]] = defaultdict(list)
    for card in list_models(load_registry(), SCHEMAS):
        if _example(card) is not None:
            by_type[f"{card.task_type} {card.modality}"].append(card)
    return [one for cards in by_type.values() for one in cards[:: -(-len(cards) // MODELS_A_TYPE)]]


CARDS = _several_of_each_type()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """An emulator, in a folder with a photo, a film and a voice."""
    place = tmp_path_factory.mktemp("inputs")
    Image.new("RGB", (320, 240), "red").save(place / "photo.jpg")
    with wave.open(str(place / "voice.wav"), "wb") as voice:
        voice.setnchannels(1)
        voice.setsampwidth(2)
        voice.setframerate(8000)
        voice.writeframes(bytes(16_000))

    async def make_film() -> None:
        async with Client(**emulator.client_options) as client:
            film = await client.run_one(VideoInference(model="klingai:6@0", positive_prompt="a film", duration=5))
            await client.save(film, place / "film")

    with run_in_thread(latency=0.0) as emulator, pytest.MonkeyPatch.context() as patch:
        anyio.run(make_film)
        patch.chdir(place)
        yield environment(emulator)


@pytest.mark.parametrize("card", CARDS, ids=lambda one: one.slug)
def test_example_runs_as_it_is(
    card: ModelCard, folder: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in folder.items():
        monkeypatch.setenv(name, value)
    program = _example(card)
    assert program is not None
    exec(compile(program, f"example of {card.slug}", "exec"), {})
    assert capsys.readouterr().out.strip() not in ("", "None")


def test_every_generating_task_type_but_two_has_an_example() -> None:
    shown = {one.task_type for one in CARDS}
    assert {entry.task_type for entry in load_registry().models.values()} - shown == {"training", "tools"}
