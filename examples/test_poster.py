"""Tests of your own pipeline, with the pytest plugin: no key, no network, no mock.

Try it: `pytest examples/test_poster.py`
"""

from typing import Any

import anyio
import pytest

from runware_flow import Client, Flow, FlowFailed, Node
from runware_flow.emulator import Emulator
from runware_flow.results import CaptionResult
from runware_flow.tasks import Caption, ImageInference


def poster(flow: Flow, prompt: str) -> Node[CaptionResult]:
    """Stand for the code under test."""
    art = flow.then(ImageInference(model="runware:400@1", positive_prompt=prompt, width=512, height=512), retry=2)
    return art.then(lambda image: Caption(model="runware:150@2", inputs={"image": image}), label="caption")


async def describe(prompt: str, options: dict[str, Any]) -> str | None:
    flow = Flow("poster")
    caption = poster(flow, prompt)
    async with Client(**options) as client:
        return (await flow.execute(client))[caption].text


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_poster_is_described(backend: str, runware_client_options: dict[str, Any]) -> None:
    text = anyio.run(describe, "a kite", runware_client_options, backend=backend)
    assert text is not None
    assert '"a kite"' in text


@pytest.mark.runware_emulator(faults=["fail:nth=1,code=providerUnavailable"])
def test_poster_that_fails_once_is_tried_again(
    runware_emulator: Emulator, runware_client_options: dict[str, Any]
) -> None:
    anyio.run(describe, "a kite", runware_client_options)
    assert [task.task_type for task in runware_emulator.log.tasks] == ["imageInference", "imageInference", "caption"]


@pytest.mark.runware_emulator(faults=["fail:task_type=caption"])
def test_poster_without_caption_names_the_step(runware_client_options: dict[str, Any]) -> None:
    with pytest.raises(FlowFailed) as failure:
        anyio.run(describe, "a kite", runware_client_options)
    assert failure.value.node is not None
    assert failure.value.node.label == "caption"
