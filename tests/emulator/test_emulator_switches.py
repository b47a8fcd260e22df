"""The switches for what is not known of the service, and the faults of what is beside the inference endpoint."""

from __future__ import annotations

import json

import anyio
import pytest
from emulator_clients import open_rest, open_socket
from emulator_tasks import ask, image, make_id, make_service, submit, text

from runware_flow.emulator import Emulator

pytestmark = pytest.mark.usefixtures("watched")


def test_stream_tells_usage_in_an_event_of_its_own_where_the_switch_says_so(run) -> None:
    async def main() -> None:
        for switch, count in (("ending", 1), ("separate", 2)):
            async with Emulator(latency=0, stream_usage=switch) as emulator, open_rest(emulator) as rest:
                task = text("hi", deliveryMethod="stream", includeCost=True)
                body = (await rest.client.post(rest.url, json=[task])).text
                events = [json.loads(line[6:]) for line in body.splitlines() if line.startswith("data: {")]
                endings = [event for event in events if "delta" not in event]
                assert len(endings) == count
                assert "finishReason" in endings[0]
                assert {"usage", "cost"} <= set(endings[-1])

    run(main)


def test_tasks_before_the_key_are_refused_with_the_code_of_the_switch(run) -> None:
    async def main() -> None:
        async with (
            Emulator(unauthenticated_code="unauthorized") as emulator,
            open_socket(emulator, authenticated=False) as client,
        ):
            assert (await client.ask(image()))["errors"][0]["code"] == "unauthorized"

    run(main)


def test_usage_of_a_text_comes_always_where_the_switch_says_so() -> None:
    for switch, comes in (("asked", False), ("always", True)):
        service = make_service(usage=switch)
        task = text("hi", deliveryMethod="async")
        submit(service, task)
        assert ("usage" in ask(service, task, 1.0).data[0]) is comes


def test_reply_to_an_upload_is_a_bare_object_where_a_fault_says_so(run) -> None:
    async def main() -> None:
        async with Emulator(latency=0, faults=["bare-data"]) as emulator, open_rest(emulator) as rest:
            (picture,) = (await rest.post(image(outputType="dataURI"), image(outputType="dataURI")))["data"][:1]
            task = {"taskType": "imageUpload", "taskUUID": make_id(), "image": picture["imageDataURI"]}
            assert (await rest.post(task))["data"]["imageURL"]
            async with open_socket(emulator, authenticated=False) as client:
                assert (await client.authenticate(emulator))["data"]["connectionSessionUUID"]

    run(main)


def test_registry_is_slow_where_a_fault_says_so(run) -> None:
    async def main() -> None:
        async with Emulator(faults=["slow-registry:nth=1,seconds=60"]) as emulator, open_rest(emulator) as rest:
            url = f"{emulator.client_options['schemas_base_url']}/registry.json"
            with anyio.move_on_after(1) as patience:  # enough for the request to arrive, on a busy machine too
                await rest.get(url)
            assert patience.cancelled_caught
            answer = await rest.get(url)
            again = await rest.client.get(url, headers={"If-None-Match": answer.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")

    run(main)


def test_serverless_faults_are_problem_documents(run) -> None:
    async def main() -> None:
        faults = ["serverless:nth=1,status=429,retry_after=2,code=environment-paused", "late-task:nth=1"]
        async with Emulator(latency=0, faults=faults) as emulator, open_rest(emulator) as rest:
            app = f"{emulator.client_options['serverless_base_url']}/v1/apps/my-app"
            body = {"taskId": make_id(), "payload": {}}
            refused = await rest.client.post(f"{app}/invoke-async/run", json=body)
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "2")
            assert refused.headers["content-type"] == "application/problem+json"
            assert refused.json()["type"].endswith("#environment-paused")
            assert (await rest.client.post(f"{app}/invoke-async/run", json=body)).status_code == 202
            assert (await rest.get(f"{app}/tasks/{body['taskId']}")).status_code == 404
            assert (await rest.get(f"{app}/tasks/{body['taskId']}")).json()["status"] == "completed"

    run(main)
