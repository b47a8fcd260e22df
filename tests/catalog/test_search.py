"""Models are found by what they do, who makes them and what they take; what a user would expect comes first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runware_flow.catalog import load_registry, schemas
from runware_flow.catalog.search import list_models, search_models
from runware_flow.errors import RunwareError
from runware_flow.wire.content import ContentModel

SCHEMAS = schemas()["modelParams"]
CARDS = list_models(load_registry(), SCHEMAS)


def search(text: str = "", **filters: object) -> list[str]:
    return [one.slug or one.air for one in search_models(CARDS, text, **filters, schemas=SCHEMAS)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "first"),
    [
        ("remove background", "ideogram-remove-background"),
        ("background removal", "ideogram-remove-background"),
        ("remove the background from a video", "bria-video-background-removal"),
        ("upscale video", "bfl-flux-video-upscale"),
        ("sound effects", "mirelo-sfx-1-5"),
        ("virtual try on", "bfl-flux-virtual-try-on"),
        ("erase an object", "object-eraser"),
        ("depth", "controlnet-preprocess-depth"),
        ("runware:400@1", "bfl-flux-2-dev"),
        ("400@1", "bfl-flux-2-dev"),
        ("bfl-flux-2-dev", "bfl-flux-2-dev"),
        ("nano banana", "google-nano-banana-pro"),
        ("music", "minimax-music-2-6"),
    ],
)
def test_first_is_what_was_meant(words: str, first: str) -> None:
    assert search(words)[0] == first


@pytest.mark.parametrize(
    ("words", "task_types"),
    [
        ("text to speech", {"audioInference"}),
        ("TTS", {"audioInference"}),
        ("describe an image", {"caption"}),
        ("enlarge", {"upscale"}),
        ("image to video", {"videoInference"}),
        ("text to image", {"imageInference"}),
        ("svg", {"vectorize"}),
        ("chat", {"textInference"}),
        ("image to 3d", {"3dInference"}),
        ("train a lora", {"training"}),
    ],
)
def test_words_for_what_a_model_does_find_its_task_type_alone(words: str, task_types: set[str]) -> None:
    found = search_models(CARDS, words, schemas=SCHEMAS)
    assert {one.task_type for one in found} == task_types


def test_direction_of_a_conversion_counts() -> None:
    assert search("speech to text") == []
    assert not set(search("image to text")) & set(search("text to image"))


def test_filters_narrow_the_list() -> None:
    assert len(search(task="caption")) == len(search(task="Caption")) == 7
    assert search(task="remove-background-video") == ["bria-video-background-removal"]
    assert len(search(task="ThreeDInference")) == len(search(task="3dInference")) == 7
    assert set(search(creator="black forest labs")) == set(search(creator="bfl"))
    assert "bfl-flux-2-dev" in search(creator="bfl")  # its AIR is of another source
    assert search(capability="text-to-speech") == search(capability="io:text-to-speech") == search("text to speech")
    assert all(one.modality == "video" for one in search_models(CARDS, modality="video", schemas=SCHEMAS))


def test_models_that_take_json_output_are_found() -> None:
    found = search(takes=["outputFormat=JSON"])
    assert found == search(takes=["output_format=json"]) == search(takes=["jsonSchema"])
    assert 0 < len(found) < len(search(task="textInference"))
    for slug in found:
        assert "JSON" in SCHEMAS[load_registry().airs[slug]]["properties"]["outputFormat"]["enum"]


@pytest.mark.parametrize(
    ("filters", "sentence"),
    [
        ({"task": "captoin"}, "there is no task type 'captoin' (did you mean caption?)"),
        ({"modality": "music"}, "there is no modality 'music' (known: image, video, audio, text, 3d)"),
        ({"creator": "goggle"}, "no model is by 'goggle' (did you mean google?)"),
        ({"takes": ["outputFormt"]}, "no model takes a parameter 'outputFormt' (did you mean outputFormat?)"),
        ({"capability": "text-to-speach"}, "no model has the capability 'text-to-speach' (did you mean"),
    ],
)
def test_unknown_value_of_a_filter_is_an_error_with_a_hint(filters: dict[str, object], sentence: str) -> None:
    with pytest.raises(RunwareError) as caught:
        search(**filters)
    assert sentence in str(caught.value)


def test_content_service_adds_price_and_order_and_models_of_its_own() -> None:
    told = [
        ContentModel(air="runware:400@1", weight=9.0, pricing_overview="from $1"),
        ContentModel(air="new:1@1", model="new-one", category="video", headline="Films of dancing goats"),
    ]
    cards = list_models(load_registry(), SCHEMAS, told)
    first = search_models(cards, schemas=SCHEMAS)[0]
    assert (first.air, first.price) == ("runware:400@1", "from $1")
    assert [one.air for one in search_models(cards, "dancing goat", modality="video", schemas=SCHEMAS)] == ["new:1@1"]


@given(st.text(max_size=40))
def test_any_text_is_answered(text: str) -> None:
    found = search(text)
    assert len(set(found)) == len(found)
    assert found == search(f" {text.upper().lower()} ") or text.lower() != text.upper().lower()


@pytest.mark.parametrize("card", CARDS[::20], ids=lambda one: one.slug)
def test_every_model_is_found_by_its_names(card: object) -> None:
    assert search(card.air)[0] == search(card.slug)[0] == card.slug  # type: ignore[attr-defined]
