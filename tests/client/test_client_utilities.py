"""The utilities of the service as methods, against the emulator."""

from __future__ import annotations

import anyio
import pytest

from runware_flow import Client, ClientStateError, RunwareError
from runware_flow.client.media import INLINE_LIMIT_BYTES
from runware_flow.results import ImageResult
from runware_flow.tasks import ImageInference, ModelUpload

KITE = ImageInference(model="runware:400@1", positive_prompt="a kite", width=512, height=512)
UPLOAD = {
    "category": "checkpoint",
    "architecture": "sdxl",
    "format": "safetensors",
    "name": "mine",
    "version": "1",
    "download_url": "https://example.invalid/mine.safetensors",
}
UNKNOWN = "9b0e0f60-8c46-4c42-9ef4-1c3f6c1a8a11"


def picture(size):
    """A PNG of at least so many bytes: noise after its end is allowed, and kept."""
    from io import BytesIO

    from PIL import Image

    buffer = BytesIO()
    Image.new("RGB", (64, 48), "red").save(buffer, "PNG")
    return buffer.getvalue() + bytes(max(0, size - buffer.tell()))


def test_model_search_gives_a_page(run, open_pair):
    async def main():
        async with open_pair() as (_, client):
            found = await client.model_search("flux", limit=2, offset=1)
            assert found.total_results > 2
            assert [set(one) >= {"air", "name"} for one in found.results] == [True, True]
            assert {one["category"] for one in (await client.model_search(category="lora")).results} == {"lora"}

    run(main)


def test_model_upload_returns_when_ready_and_tells_every_stage(run, open_pair, transport):
    """The official Python client returns at the first stage, `validated`."""
    stages = []

    async def main():
        async with open_pair(faults=["merge:seconds=0.2"]) as (_, client):
            uploaded = await client.model_upload(**UPLOAD, on_progress=lambda progress: stages.append(progress.status))
            assert uploaded.status == "ready"
            assert uploaded.air
            assert (await client.model_upload(ModelUpload(**UPLOAD))).status == "ready"

    run(main)
    expected = ["validated", "downloaded", "optimized", "stored"]
    assert stages == expected if transport == "websocket" else stages == expected[len(expected) - len(stages) :]


@pytest.mark.parametrize("stage", ["validated", "optimized", "ready"])
def test_model_upload_waits_for_the_stage_that_is_asked_for(run, open_pair, transport, stage):
    async def main():
        stages = ["validated", "downloaded", "optimized", "stored", "ready"]
        async with open_pair(latency=0.5) as (_, client):
            told, results = [], []
            callbacks = {"on_progress": lambda progress: told.append(progress.status), "on_result": results.append}
            uploaded = await client.model_upload(**UPLOAD, wait_for=stage, **callbacks)
            assert stages.index(uploaded.status) >= stages.index(stage)
            if transport == "websocket":
                assert uploaded.status == stage
            if uploaded.status == "ready":
                assert [one.value for one in results] == [uploaded]
            else:
                assert uploaded.status in told
                assert results == []
            # it goes on by itself
            state = await client.get_response(uploaded.task_uuid)
            assert state.status in ("processing", "success", "unknown")
            with pytest.raises(RunwareError, match="wait_for= is one of"):
                await client.model_upload(**UPLOAD, wait_for="done")

    run(main)


def test_validate_checks_utilities_against_the_packages_own_schemas(run, open_pair):
    async def main():
        async with open_pair() as (emulator, client):
            for call in (
                client.model_search(limit="many", validate=True),
                client.account_management("getEverything", validate=True),
                client.model_upload(**{**UPLOAD, "category": "picture"}, validate=True),
            ):
                with pytest.raises(RunwareError) as caught:
                    await call
                assert caught.value.code == "validation"
                assert caught.value.validation_errors
            assert not emulator.log.rejected
            assert (await client.model_search("flux", limit=3, validate=True)).results
            assert (await client.account_management(validate=True)).balance

    run(main)


@pytest.mark.parametrize("parameters", [{"name": "mine"}, {**UPLOAD, "colour": "red"}])
def test_model_upload_with_wrong_fields_is_refused_before_anything_is_sent(run, open_pair, parameters):
    async def main():
        async with open_pair() as (emulator, client):
            with pytest.raises(RunwareError, match=r"model_upload: .*(argument|colour)") as caught:
                await client.model_upload(**parameters)
            assert caught.value.code == "validation"
            assert not emulator.log.asked

    run(main)


@pytest.mark.parametrize("size", [0, INLINE_LIMIT_BYTES + 1])
def test_uploads_take_bytes_and_paths_and_upload_them_once(run, open_pair, tmp_path, size):
    (tmp_path / "red.png").write_bytes(picture(size))

    async def main():
        async with open_pair() as (emulator, client):
            stored = await client.media_storage(picture(size))
            image = await client.image_upload(tmp_path / "red.png")
            assert stored.media_uuid
            assert image.image_uuid
            assert len(emulator.log.asked) == 2
            deleted = await client.media_storage(stored.media_uuid, operation="delete")
            assert (deleted.operation, deleted.media_uuid) == ("delete", stored.media_uuid)

    run(main)


def test_image_upload_of_a_missing_file_names_it(run, open_pair, tmp_path):
    async def main():
        async with open_pair() as (_, client):
            with pytest.raises(RunwareError, match=r"image: there is no file .*nowhere\.png"):
                await client.image_upload(tmp_path / "nowhere.png")

    run(main)


def test_account_management_gives_balance_and_usage(run, open_pair):
    async def main():
        async with open_pair() as (_, client):
            account = await client.account_management()
            assert account.balance["currency"] == "USD"
            usage = await client.account_management("getUsageActivity", start_date="2026-11-01", end_date="2026-11-20")
            assert usage.operation == "getUsageActivity"
            assert usage.usage

    run(main)


def test_get_response_reports_a_task_that_the_client_waits_for(run, open_pair):
    async def main():
        async with open_pair(faults=["never:prompt=kite"]) as (_, client):
            async with client.submit(KITE) as delivery:
                while (state := await client.get_response(delivery.task_uuid)).status == "unknown":
                    await anyio.lowlevel.checkpoint()
                assert (state.status, state.is_done, state.task_type) == ("processing", False, "imageInference")
                assert state.results == ()

    run(main)


def test_get_response_gives_typed_results_and_failures(run, open_pair):
    several = ImageInference(model="runware:400@1", positive_prompt="a doomed kite", number_results=3)

    async def main():
        async with open_pair(faults=["fail:prompt=doomed,index=1"]) as (_, client):
            task_uuid = client.prepare(several).task_id
            with pytest.raises(RunwareError):
                await client.run(ImageInference(**{**fields(several), "task_uuid": task_uuid}))
            state = await client.get_response(task_uuid)
            assert (state.status, state.is_done) == ("error", True)
            assert [type(result) for result in state.results] == [ImageResult, ImageResult]
            assert [error.code for error in state.errors] == ["provider"]

    run(main)


def fields(task):
    return {name: getattr(task, name) for name in task.__struct_fields__}


@pytest.mark.parametrize("unknown", ["processing", "empty", "notFound"])
def test_get_response_of_an_unknown_task_says_so(run, open_pair, unknown):
    """The service's three ways to say it look like a task that runs to the official clients."""

    async def main():
        async with open_pair(unknown_task=unknown) as (_, client):
            assert (await client.get_response(UNKNOWN)).status == "unknown"

    run(main)


def test_get_response_with_a_rejected_key_is_an_error(run, open_pair):
    async def main():
        async with open_pair({"api_key": "rw-wrong"}) as (_, client):
            with pytest.raises(RunwareError) as caught:
                await client.get_response(UNKNOWN)
            assert caught.value.code == "auth"

    run(main)


def test_get_task_details_opens_the_archive(run, open_pair):
    async def main():
        async with open_pair() as (_, client):
            image = (await client.run(KITE, delivery="sync"))[0]
            details = await client.get_task_details(image.task_uuid)
            assert details.request[0]["positivePrompt"] == "a kite"
            assert details.response["data"][0]["imageUUID"] == image.image_uuid
            with pytest.raises(RunwareError) as caught:
                await client.get_task_details(UNKNOWN)
            assert caught.value.code == "notFound"
            assert caught.value.documentation

    run(main)


def test_get_response_of_no_uuid_is_refused(run, open_pair):
    async def main():
        async with open_pair() as (_, client):
            with pytest.raises(RunwareError, match="taskUUID must be a UUID"):
                await client.get_response("abc-123")

    run(main)


def test_utilities_of_a_client_that_is_closed_say_so(run):
    async def main():
        client = Client(api_key="rw-key")
        await client.aclose()
        calls = (client.get_response(UNKNOWN), client.content.list_models(), client.refresh_registry())
        for call in (*calls, client.invoke("my-app", {}), client.model_search("x")):
            with pytest.raises(ClientStateError):
                await call

    run(main)
