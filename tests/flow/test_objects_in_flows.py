"""Pictures in memory through a flow: sent, and known to a journal by their pixels."""

from __future__ import annotations

import numpy as np
from PIL import Image

from runware_flow import Client, Flow
from runware_flow.emulator import Emulator
from runware_flow.tasks import Caption


def test_flow_with_pictures_in_memory_buys_them_once(run, tmp_path):
    async def main():
        def flow():
            made = Flow("pictures", journal=tmp_path / "pictures.sqlite")
            pictures = [np.full((64, 96, 3), (255, 0, 0), np.uint8), Image.new("RGB", (96, 64), "blue")]
            texts = made.map(pictures, lambda one: Caption(model="runware:150@2", inputs={"image": one}))
            return made, texts

        async with Emulator(latency=0.01) as emulator, Client(**emulator.client_options) as client:
            for _ in range(2):
                made, texts = flow()
                result = await made.execute(client)
                told = [one.text for one in result[texts]]
                assert [("red" in text, "blue" in text) for text in told] == [(True, False), (False, True)]
            assert len(emulator.log.tasks) == 2

    run(main)
