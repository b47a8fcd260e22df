"""What a task asks for, in the words that pages, tables and `journal ls` show."""

from __future__ import annotations

import pytest

from runware_flow.tasks import AudioInference, Caption, ImageInference, PromptEnhance, TextInference
from runware_flow.view.request import summarise_request
from runware_flow.wire.codec import to_wire

PARTS = [{"type": "text", "text": "Which is best?"}, {"type": "image_url", "image_url": {"url": "https://e.com/a.jpg"}}]


@pytest.mark.parametrize(
    ("task", "asked"),
    [
        (ImageInference(model="m", positive_prompt="a kite"), "a kite"),
        (TextInference(model="m", messages=[{"role": "user", "content": "Hello"}]), "Hello"),
        (TextInference(model="m", messages=[{"role": "user", "content": PARTS}]), "Which is best?"),
        (AudioInference(model="m", speech={"text": "The lamp is lit."}), "The lamp is lit."),
        (AudioInference(model="m", positive_prompt="Waves", speech={"text": ""}), "Waves"),
        (PromptEnhance(prompt="a kite"), "a kite"),
        (Caption(model="m", inputs={}, prompt="Describe it."), ""),
        (TextInference(model="m", messages=[]), ""),
    ],
)
def test_the_text_that_a_task_is_about_is_what_it_asks(task, asked):
    assert summarise_request(task).prompt == asked
    assert summarise_request(to_wire(task)[0]).prompt == asked
