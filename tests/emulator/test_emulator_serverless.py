"""Serverless apps: idempotent, strict about their envelope, problems as documents."""

from __future__ import annotations

import pytest
from emulator_clients import open_rest
from emulator_tasks import make_id

from runware_flow.emulator import Emulator
from runware_flow.emulator.problems import Problem
from runware_flow.emulator.service.serverless import Serverless
from runware_flow.emulator.settings import Settings


def invoke(apps: Serverless, body: object, *, app: str = "my-app", endpoint: str = "generate") -> float:
    return apps.invoke(app, endpoint, "production", body, 0.0, "then")


def test_serverless_task_is_pending_then_completed_or_failed() -> None:
    apps = Serverless(Settings(latency=1.0))
    good, bad = make_id(), make_id()
    assert invoke(apps, {"taskId": good, "payload": {"x": 1}}) == 1.0
    invoke(apps, {"taskId": bad, "payload": {"error": "no"}})
    pending = apps.get("my-app", good, "production", 0.5, "now")
    assert (pending["status"], pending["output"], pending["completedAt"]) == ("pending", None, None)
    done = apps.get("my-app", good, "production", 1.0, "now")
    assert (done["status"], done["output"]["payload"], done["createdAt"]) == ("completed", {"x": 1}, "then")
    failed = apps.get("my-app", bad, "production", 1.0, "now")
    assert (failed["status"], failed["error"], failed["output"]) == ("failed", "no", None)
    page = apps.list("my-app", 1, "", 1.0, "now")
    assert [task["id"] for task in page["data"]] == [good]
    assert apps.list("my-app", 1, page["nextCursor"], 1.0, "now")["nextCursor"] is None


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({"taskId": "x", "payload": {}}, {}),
        ({"taskId": make_id().upper(), "payload": {}}, {}),
        ({"taskId": make_id(), "payload": []}, {}),
        ({"taskId": make_id()}, {}),
        ({"taskId": make_id(), "payload": {}, "more": 1}, {}),
        (None, {}),
        ({"taskId": make_id(), "payload": {}}, {"app": "A"}),
        ({"taskId": make_id(), "payload": {}}, {"endpoint": "a//b"}),
    ],
)
def test_serverless_envelope_of_another_form_is_refused(body, names) -> None:
    with pytest.raises(Problem) as caught:
        invoke(Serverless(Settings()), body, **names)
    assert caught.value.status == 422


def test_serverless_errors_are_problem_documents(run) -> None:
    async def main() -> None:
        async with Emulator(latency=0) as emulator, open_rest(emulator) as rest:
            base = f"{emulator.client_options['serverless_base_url']}/v1/apps/my-app"
            body = {"taskId": make_id(), "payload": {}}
            accepted = await rest.client.post(f"{base}/invoke-async", json=body)
            assert accepted.status_code == 202
            finished = await rest.client.post(f"{base}/invoke-sync", json=body)
            assert (finished.status_code, finished.json()["status"]) == (200, "completed")
            missing = await rest.get(f"{base}/tasks/{make_id()}")
            assert missing.status_code == 404
            assert missing.headers["content-type"] == "application/problem+json"
            assert missing.json()["requestId"] == missing.headers["x-request-id"]
            assert [task["id"] for task in (await rest.get(f"{base}/tasks")).json()["data"]] == [body["taskId"]]
            for content in (b"{", b"[]"):
                assert (await rest.client.post(f"{base}/invoke-async", content=content)).status_code in (400, 422)
            rest.client.headers["Authorization"] = "Bearer wrong"
            assert (await rest.get(f"{base}/tasks")).status_code == 401

    run(main)
