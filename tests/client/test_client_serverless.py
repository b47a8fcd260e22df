"""`client.invoke` and `client.get_task` against the emulator."""

from __future__ import annotations

import uuid
from contextlib import asynccontextmanager
from functools import partial

import anyio
import pytest

from runware_flow import Client, RunwareError, RunwareTimeoutError
from runware_flow.emulator import Emulator
from runware_flow.wire import serverless


@pytest.fixture(params=[True, False], ids=["sync", "async"])
def sync(request):
    return request.param


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    """Polls come at once: how long they wait is a matter of the rules, which have tests of their own."""
    monkeypatch.setattr(serverless, "POLL_SECONDS", 0.01)


@pytest.fixture
def open_client():
    @asynccontextmanager
    async def opener(client_options=None, **emulator_options):
        emulator_options.setdefault("latency", 0.02)
        async with Emulator(**emulator_options) as emulator:
            options = {**emulator.client_options, "retry_delay": 0.01, **(client_options or {})}
            async with Client(**options) as client:
                yield emulator, client

    return opener


def test_invoke_returns_the_output(run, open_client, sync):
    async def main():
        async with open_client() as (_, client):
            task = await client.invoke("my-app", {"prompt": "hi"}, endpoint_path="v1/run", environment="dev", sync=sync)
            assert (task.status, task.is_done, task.app_id) == ("completed", True, "my-app")
            assert task.output == {"app": "my-app", "endpoint": "v1/run", "payload": {"prompt": "hi"}}
            again = await client.get_task("my-app", task.id, environment="dev", timeout=5)
            assert again.output == task.output
            assert again.raw["createdAt"] == task.created_at

    run(main)


def test_invoke_with_the_same_id_gives_the_first_task(run, open_client, sync):
    async def main():
        task_id = str(uuid.uuid4())
        async with open_client() as (_, client):
            first = await client.invoke("my-app", {"n": 1}, sync=sync, task_id=task_id.upper())
            second = await client.invoke("my-app", {"n": 2}, sync=sync, task_id=task_id)
            assert first.id == second.id == task_id
            assert second.output["payload"] == {"n": 1}

    run(main)


def test_invoke_that_fails_raises_with_the_task(run, open_client, sync):
    async def main():
        async with open_client() as (_, client):
            with pytest.raises(RunwareError, match="out of paper") as caught:
                await client.invoke("my-app", {"error": "out of paper"}, sync=sync)
            error = caught.value
            assert (error.code, error.raw_code, error.retryable) == ("provider", "taskFailed", False)
            assert error.results[0].status == "failed"
            assert (await client.get_task("my-app", error.task_uuid)).error == "out of paper"

    run(main)


@pytest.mark.parametrize("fault", ["serverless:times=2", "serverless:times=3,status=429,retry_after=0.01"])
def test_invoke_is_repeated_while_the_service_is_busy(run, open_client, fault, sync):
    async def main():
        async with open_client(faults=[fault]) as (_, client):
            assert (await client.invoke("my-app", {"n": 1}, sync=sync)).output["payload"] == {"n": 1}

    run(main)


def test_invoke_gives_up_after_max_retries(run, open_client):
    async def main():
        async with open_client({"max_retries": 1}, faults=["serverless"]) as (_, client):
            with pytest.raises(RunwareError) as caught:
                await client.invoke("my-app", {})
            assert (caught.value.code, caught.value.status_code) == ("serverError", 503)
            assert caught.value.task_uuid

    run(main)


def test_invoke_whose_task_is_late_or_whose_poll_fails_is_collected(run, open_client):
    async def main():
        async with open_client(faults=["late-task:times=3", "serverless:nth=2"]) as (_, client):
            assert (await client.invoke("my-app", {"n": 1})).status == "completed"

    run(main)


def test_invoke_that_does_not_wait_gives_the_accepted_task(run, open_client, sync):
    async def main():
        async with open_client(latency=0.2) as (_, client):
            accepted = await client.invoke("my-app", {"n": 1}, sync=sync, wait=False)
            assert (accepted.status, accepted.is_done) == ("pending", False)
            task = await client.invoke("my-app", {}, task_id=accepted.id, poll_interval=0.01)
            assert task.output["payload"] == {"n": 1}
            with pytest.raises(RunwareError, match="poll_interval= is in seconds"):
                await client.invoke("my-app", {}, poll_interval=0)

    run(main)


def test_environment_of_the_client_holds_for_calls_that_name_none(run, open_client):
    async def main():
        async with open_client(client_options={"serverless_environment": "staging"}) as (_, client):
            task = await client.invoke("my-app", {"n": 1}, sync=True)
            assert (await client.get_task("my-app", task.id, environment="staging")).output == task.output
            with pytest.raises(RunwareError) as caught:
                await client.get_task("my-app", task.id, environment="production")
            assert caught.value.code == "notFound"

    run(main)


def test_invoke_beyond_its_timeout_can_be_asked_for_later(run, open_client):
    async def main():
        async with open_client(latency=60.0) as (_, client):
            await client.invoke("my-app", {"n": 0}, wait=False)  # connects, however busy the machine is
            with pytest.raises(RunwareTimeoutError, match="get_task") as caught:
                await client.invoke("my-app", {"n": 1}, timeout=1.0)
            assert isinstance(caught.value, TimeoutError)
            task = await client.get_task("my-app", caught.value.task_uuid)
            assert task.id == caught.value.task_uuid

    run(main)


async def is_known(client, task_id):
    try:
        return await client.get_task("my-app", task_id)
    except RunwareError:
        return None


def test_invoke_cancelled_leaves_the_task_and_the_client_as_they_are(run, open_client):
    async def main():
        task_id = str(uuid.uuid4())
        async with open_client(latency=0.5) as (_, client):
            async with anyio.create_task_group() as callers:
                callers.start_soon(partial(client.invoke, "my-app", {"n": 1}, task_id=task_id))
                while not await is_known(client, task_id):  # noqa: ASYNC110 - the service is asked
                    await anyio.sleep(0.005)
                callers.cancel_scope.cancel()
            assert (await client.invoke("my-app", {"n": 2}, task_id=task_id)).output["payload"] == {"n": 1}

    run(main)


def test_invoke_takes_paths_and_bytes_in_its_payload(run, open_client, tmp_path):
    (tmp_path / "note.txt").write_text("hello", encoding="utf-8")

    async def main():
        async with open_client() as (_, client):
            task = await client.invoke("my-app", {"file": tmp_path / "note.txt", "images": [b"GIF89a"]}, sync=True)
            payload = task.output["payload"]
            assert payload["file"] == "data:text/plain;base64,aGVsbG8="
            assert payload["images"][0].startswith("data:image/gif;base64,")

    run(main)


def test_invoke_refuses_what_cannot_be_sent(run, open_client):
    async def main():
        async with open_client() as (_, client):
            for arguments, more in (
                (("My App", {}), {}),
                (("my-app", {"x": float("nan")}), {}),
                (("my-app", {}), {"task_id": "1"}),
                (("my-app", {}), {"timeout": -1}),
            ):
                with pytest.raises(RunwareError) as caught:
                    await client.invoke(*arguments, **more)
                assert caught.value.code == "validation"

    run(main)


def test_get_task_that_does_not_exist_and_a_wrong_key_are_errors(run, open_client):
    async def main():
        async with open_client() as (emulator, client):
            with pytest.raises(RunwareError) as missing:
                await client.get_task("my-app", str(uuid.uuid4()))
            assert (missing.value.code, missing.value.raw_code) == ("notFound", "taskNotFound")
            async with Client(**{**emulator.client_options, "api_key": "rw-wrong"}) as stranger:
                with pytest.raises(RunwareError) as rejected:
                    await stranger.invoke("my-app", {})
            assert rejected.value.code == "auth"
            assert "rw-wrong" not in str(rejected.value)
            for error in (missing.value, rejected.value):
                assert error.documentation == "https://runware.ai/docs/platform/errors"

    run(main)


def test_key_that_a_server_repeats_is_not_shown(run):
    import httpx

    def answer(request):
        said = {"title": "No", "detail": f"bad header {request.headers['authorization']}"}
        return httpx.Response(403, json=said, headers={"Content-Type": "application/problem+json"})

    async def main():
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http_client:
            async with Client(api_key="rw-secret", transport="rest", http_client=http_client) as client:
                with pytest.raises(RunwareError) as caught:
                    await client.invoke("my-app", {})
        assert "bad header" in str(caught.value)
        assert "rw-secret" not in str(caught.value)

    run(main)
