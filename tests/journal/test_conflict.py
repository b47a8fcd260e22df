"""`conflictTaskUUID` for a task that is in a journal: the service has it, so it is collected and not bought again."""

from __future__ import annotations

import uuid

import pytest
from service import art

from runware_flow import Client, Flow, FlowFailed
from runware_flow.emulator import Emulator


@pytest.mark.parametrize("delivery", ["async", "sync"])
def test_first_send_of_a_journalled_task_that_the_service_knows_is_collected(run, tmp_path, delivery):
    async def main():
        task = art(task_uuid=str(uuid.uuid4()), delivery_method=delivery)
        async with Emulator(latency=0.05) as emulator, Client(**emulator.client_options) as client:
            [bought] = await client.run(task)
            flow = Flow(journal=tmp_path / "journal.sqlite")
            image = flow.then(task, retry=3)
            result = await flow.execute(client)
            assert result[image].image_uuid == bought.image_uuid
            assert len(emulator.log.tasks) == 1
            assert emulator.log.conflicts == 1

    run(main)


def test_without_a_journal_a_conflict_is_what_the_service_says(run):
    async def main():
        task = art(task_uuid=str(uuid.uuid4()))
        async with Emulator(latency=0.01) as emulator, Client(**emulator.client_options) as client:
            await client.run(task)
            flow = Flow()
            flow.then(task)
            with pytest.raises(FlowFailed) as failed:
                await flow.execute(client)
            assert failed.value.__cause__.raw_code == "conflictTaskUUID"

    run(main)
