"""The official Python client (runware-sdk 1.8.0) against the emulator: the proof that it speaks the real protocol.

The client polls for the first time after one second, so the asynchronous calls of a test run side by side.
"""

from __future__ import annotations

import asyncio
import io
import uuid
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
import runware
import runware.client
import runware.content
import runware.validate
from emulator_tasks import README
from PIL import Image
from runware import InvokeOptions, RunOptions, Runware, RunwareError, StreamOptions

from runware_flow.emulator import Emulator, run_in_thread

if TYPE_CHECKING:
    from collections.abc import Iterator

PROMPT = "A lighthouse at dusk"


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with run_in_thread(latency=0.05) as running:
        yield running


@pytest.fixture(autouse=True)
def hosts(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's schema and content hosts are constants of three modules."""
    options = emulator.client_options
    monkeypatch.setattr(runware.client, "SCHEMAS_BASE_URL", options["schemas_base_url"])
    monkeypatch.setattr(runware.validate, "SCHEMAS_BASE_URL", options["schemas_base_url"])
    monkeypatch.setattr(runware.content, "CONTENT_BASE_URL", options["content_base_url"])


@pytest.fixture(params=["websocket", "rest"])
def transport(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def open_client(emulator: Emulator, transport: str):
    @asynccontextmanager
    async def opener(**overrides: Any):
        options = emulator.client_options
        settings = {
            "api_key": options["api_key"],
            "transport": transport,
            "ws_base_url": options["ws_base_url"],
            "http_base_url": options["http_base_url"],
            "timeout": 10_000,
            "max_retries": 0,
            **overrides,
        }
        async with Runware(**settings) as client:
            yield client

    return opener


def image(**parameters: Any) -> dict[str, Any]:
    return {"model": "runware:400@1", "positivePrompt": PROMPT, "width": 512, "height": 256, **parameters}


@pytest.mark.parametrize("delivery", ["sync", "async"])
def test_official_client_runs_image_upscale_and_caption(open_client, emulator, delivery) -> None:
    async def main() -> None:
        async with open_client() as client:
            (picture,) = await client.run(image(deliveryMethod=delivery, seed=5, includeCost=True))
            assert picture["seed"] == 5
            assert picture["cost"] > 0
            source = {"inputs": {"image": picture["imageURL"]}, "deliveryMethod": delivery}
            big, caption = await asyncio.gather(
                client.run({"model": "runware:504@1", "upscaleFactor": 2, **source}),
                client.run({"model": "runware:150@2", **source}),
            )
            assert PROMPT in caption[0]["text"]
            data = await fetch(big[0]["imageURL"])
            assert Image.open(io.BytesIO(data)).size == (1024, 512)

    asyncio.run(main())


@pytest.mark.parametrize("delivery", ["sync", "async"])
def test_official_client_text_and_several_results_arrive(open_client, delivery) -> None:
    async def main() -> None:
        async with open_client() as client:
            seen: list[str] = []
            question = {
                "model": "google:gemma@4-31b",
                "messages": [{"role": "user", "content": "Explain quantum computing"}],
                "includeUsage": True,
                "deliveryMethod": delivery,
            }
            three = image(numberResults=3, deliveryMethod=delivery)
            options = RunOptions(on_result=lambda item: seen.append(item["imageUUID"]))
            text, pictures = await asyncio.gather(client.run(question), client.run(three, options))
            assert "Explain quantum computing" in text[0]["text"]
            assert text[0]["usage"]["totalTokens"] > 3
            assert len({picture["imageUUID"] for picture in pictures}) == 3
            assert len({picture["seed"] for picture in pictures}) == 3
            assert sorted(seen) == sorted(picture["imageUUID"] for picture in pictures)

    asyncio.run(main())


def test_official_client_slugs_and_community_models_pass(open_client) -> None:
    async def main() -> None:
        async with open_client() as client:
            slug, community = await asyncio.gather(
                client.run({"model": "bfl-flux-2-dev", "positivePrompt": PROMPT, "deliveryMethod": "sync"}),
                client.run(
                    {
                        "model": "civitai:133005@782002",
                        "taskType": "imageInference",
                        "positivePrompt": "A professional headshot portrait",
                        "negativePrompt": "blurry, distorted",
                        "width": 1024,
                        "height": 1024,
                        "steps": 30,
                        "scheduler": "DPMSolverMultistep",
                        "deliveryMethod": "sync",
                    }
                ),
            )
            assert slug[0]["imageURL"]
            assert community[0]["imageURL"]

    asyncio.run(main())


def test_official_client_readme_runs_as_it_stands(open_client) -> None:
    async def main() -> None:
        async with open_client() as client:
            results = await asyncio.gather(*(client.run(dict(task)) for task in README))
            for task, items in zip(README, results, strict=True):
                assert len(items) == task.get("numberResults", 1)
            assert results[1][0]["videoURL"].endswith(".mp4")
            assert results[3][0]["audioURL"]
            named = [value for items in results for item in items for key, value in item.items() if key[-3:] == "URL"]
            assert len(named) == 12
            for data in await asyncio.gather(*map(fetch, named)):
                assert data

    asyncio.run(main())


def test_official_client_utilities_answer(open_client, emulator) -> None:
    async def main() -> None:
        async with open_client() as client:
            (account,) = await client.account_management({"operation": "getDetails"})
            assert account["balance"]["currency"] == "USD"
            (found,) = await client.model_search({"search": "flux", "limit": 3})
            assert len(found["results"]) == 3
            (picture,) = await client.run(image(deliveryMethod="sync", outputType="dataURI"))
            (stored,) = await client.media_storage({"operation": "upload", "media": picture["imageDataURI"]})
            (caption,) = await client.run(
                {"model": "runware:150@2", "inputs": {"image": stored["mediaUUID"]}, "deliveryMethod": "sync"}
            )
            assert PROMPT in caption["text"]
            (uploaded,) = await client.image_upload({"image": picture["imageDataURI"]})
            assert uploaded["imageURL"].startswith("http")
            (details,) = await client.get_task_details({"taskUUID": caption["taskUUID"]})
            assert details["response"]["data"][0]["text"] == caption["text"]

    asyncio.run(main())


def test_official_client_uploads_models_and_reads_what_it_ran(open_client, emulator) -> None:
    async def main() -> None:
        async with open_client() as client:
            found = await client.model_search({"search": "portrait", "category": "checkpoint", "architecture": "sdxl"})
            assert found[0]["results"][0]["architecture"] == "sdxl"
            upload = {"category": "checkpoint", "architecture": "sdxl", "format": "safetensors", "name": "mine"}
            stages = await client.model_upload({**upload, "downloadURL": "https://example.com/m.safetensors"})
            assert stages[0]["status"] in ("validated", "ready")
            media = {"operation": "upload", "media": "https://example.com/photo.jpg"}
            (stored,) = await client.media_storage(media)
            (gone,) = await client.media_storage({"operation": "delete", "media": stored["mediaUUID"]})
            assert gone["operation"] == "delete"
            (usage,) = await client.account_management({"operation": "getUsageActivity", "groupBy": ["model"]})
            assert usage["usage"]["model"]["data"]
            (polled,) = await client.get_response({"taskUUID": str(uuid.uuid4())})
            assert (polled["taskType"], polled["status"]) == ("getResponse", "processing")
            await client.refresh_registry()

    asyncio.run(main())


def test_official_client_cancels_runs_and_streams_and_the_task_goes_on(open_client, emulator) -> None:
    async def main() -> None:
        emulator.faults.add("slow:prompt=patience,seconds=1")
        async with open_client() as client:
            before = len(emulator.log.tasks)
            cancel = asyncio.Event()
            asyncio.get_running_loop().call_later(0.2, cancel.set)
            with pytest.raises(RunwareError) as caught:
                await client.run(image(positivePrompt="patience"), RunOptions(cancel_event=cancel))
            assert caught.value.code == "aborted"
            question = {"model": "google:gemma@4-31b", "messages": [{"role": "user", "content": "patience"}]}
            stop = asyncio.Event()
            stream = await client.stream(question, StreamOptions(cancel_event=stop))
            words = []
            with suppress(RunwareError):
                async for word in stream.text_stream:
                    words.append(word)
                    stop.set()
            assert 0 < len(words) < 10
            assert len(emulator.log.tasks) == before + 2

    asyncio.run(main())


@pytest.mark.parametrize("transport", ["rest"])
def test_official_client_callbacks_see_results_before_the_error_and_progress(open_client, emulator) -> None:
    async def main() -> None:
        emulator.faults.add("fail:prompt=half-doomed,index=1,shape=item")
        emulator.faults.add("slow:task_type=training,seconds=2")
        seen: list[str] = []
        shares: list[int] = []
        async with open_client() as client:
            options = RunOptions(on_result=lambda item: seen.append(item["status"]))
            training = {"model": "runware:flux-1-dev@style-lora-training", "importModel": {"name": "mine"}}
            training["inputs"] = {"images": ["https://example.com/a.jpg"]}
            watch = RunOptions(on_progress=lambda item: shares.append(item["progress"]))
            failed, trained = await asyncio.gather(
                client.run(image(positivePrompt="half-doomed", numberResults=3), options),
                client.run(training, watch),
                return_exceptions=True,
            )
        assert isinstance(failed, RunwareError)
        assert sorted(seen) == ["error", "success", "success"]
        assert trained[0]["air"]
        assert shares == sorted(shares)
        assert all(0 < share < 100 for share in shares)

    asyncio.run(main())


@pytest.mark.parametrize("transport", ["rest"])
def test_official_client_reads_the_content_service(open_client) -> None:
    async def main() -> None:
        async with open_client() as client:
            content = client.content
            models = await content.list_models({"category": "image", "capability": "io:text-to-image"})
            assert len(models) > 100
            page = await content.list_models(
                {"search": "flux", "paginate": True, "limit": 2, "offset": 1, "sort": "name"}
            )
            assert (len(page["items"]), page["offset"]) == (2, 1)
            assert page["items"] == sorted(page["items"], key=lambda model: model["name"])
            model = await content.get_model("runware:400@1")
            assert model is not None
            assert model == await content.get_model(model["model"])
            assert await fetch(model["coverImage"])
            assert (await content.get_model_pricing("runware:400@1"))["pricingExamples"]
            assert (await content.get_model_examples("runware:400@1"))[0]["request"]["model"] == "runware:400@1"
            assert await content.get_model_guides("runware:400@1")
            assert await content.get_model("nobody:1@1") is None
            assert await content.get_model_examples("nobody:1@1") == []
            capabilities = {one["id"] for one in await content.list_capabilities()}
            assert all(one in capabilities for model in models for one in model["capabilities"])
            (first, *_) = await content.list_collections({"category": "video"})
            assert (await content.get_collection(first["id"]))["models"][0]["category"] == "video"
            assert {one["id"] for one in await content.list_creators()} >= {"google", "openai"}
            assert (await content.get_creator("google"))["models"]
            assert await content.get_creator("nobody") is None
            # what its README looks for
            query = {"capability": "io:text-to-image", "category": "image", "creator": "black-forest-labs"}
            assert await content.list_models({**query, "search": "flux"})
            assert await content.get_model("alibaba-z-image-turbo")
            assert await content.get_model_examples("flux-1-dev")
            assert (await content.get_model_pricing("flux-1-dev"))["pricingExamples"]

    asyncio.run(main())


@pytest.mark.parametrize("transport", ["rest"])
def test_official_client_invokes_serverless_apps(open_client, emulator) -> None:
    async def main() -> None:
        async with open_client(serverless_base_url=emulator.client_options["serverless_base_url"]) as client:
            sync = InvokeOptions(delivery_method="sync")
            task = await client.invoke("my-app", "generate", {"prompt": "a cat"}, options=sync)
            assert task["status"] == "completed"
            assert task["output"]["payload"] == {"prompt": "a cat"}
            again = await client.invoke("my-app", "generate", {"prompt": "a dog"}, task_id=task["id"], options=sync)
            assert again["output"] == task["output"]
            assert (await client.get_task("my-app", task["id"]))["status"] == "completed"
            failed = await client.invoke("my-app", "generate", {"error": "no"}, options=sync)
            assert (failed["status"], failed["error"]) == ("failed", "no")
            with pytest.raises(RunwareError) as caught:
                await client.get_task("my-app", task["id"], environment="staging")
            assert caught.value.status_code == 404

    asyncio.run(main())


def test_official_client_streams_text(open_client) -> None:
    async def main() -> None:
        async with open_client() as client:
            question = {
                "model": "google:gemma@4-31b",
                "messages": [{"role": "user", "content": "Tell me about “Türkiye”"}],
                "includeCost": True,
            }
            stream = await client.stream(question)
            words = [word async for word in stream.text_stream]
            result = await stream.result()
            assert "".join(words) == result.text
            assert "“Türkiye”" in result.text
            assert len(words) > 10
            assert result.finish_reason == "stop"
            assert result.usage["totalTokens"] > 3
            assert result.cost > 0

    asyncio.run(main())


def test_official_client_error_has_its_parameter_and_code(open_client) -> None:
    async def main() -> None:
        async with open_client() as client:
            for delivery in ("sync", "async"):
                with pytest.raises(RunwareError) as caught:
                    await client.run(image(width=999, deliveryMethod=delivery))
                assert caught.value.code == "validation"
                assert caught.value.parameter == "width"
                assert caught.value.task_uuid

    asyncio.run(main())


@pytest.mark.parametrize("transport", ["rest"])
def test_official_client_validates_with_the_emulators_schemas(open_client, emulator) -> None:
    async def main() -> None:
        runware.validate.clear_validator_cache()
        async with open_client(validate=True) as client:
            before = len(emulator.log.rejected)
            wrong = [{"width": 999}, {"steps": 500}, {"positivePrompt": "x"}, {"outputFormat": "TIFF"}]
            wrong += [{"lora": [{"model": "civitai:1@2", "weight": 9}]}]
            for changes in wrong:
                with pytest.raises(RunwareError) as caught:
                    await client.run(image(**changes))
                assert caught.value.code == "validation"
                assert caught.value.parameter.split(".")[0] == next(iter(changes))
            assert len(emulator.log.rejected) == before
            (picture,) = await client.run(image(deliveryMethod="sync", seed=3))
            assert picture["imageURL"]
            source = {"inputs": {"image": picture["imageURL"]}, "deliveryMethod": "sync"}
            await client.run({"model": "runware:504@1", "upscaleFactor": 2, **source})
            await client.run({"model": "runware:150@2", **source})

    asyncio.run(main())


def test_official_client_failing_task_is_an_error(open_client, emulator) -> None:
    async def main() -> None:
        emulator.faults.add("fail:prompt=doomed,code=contentPolicyViolation")
        async with open_client() as client:
            tasks = [image(positivePrompt="doomed", deliveryMethod=delivery) for delivery in ("sync", "async")]
            for error in await asyncio.gather(*map(client.run, tasks), return_exceptions=True):
                assert isinstance(error, RunwareError)
                assert error.code == "safety"

    asyncio.run(main())


@pytest.mark.parametrize("shape", ["item", "errors"])
@pytest.mark.parametrize("delivery", ["sync", "async"])
def test_official_client_understands_failures_of_either_shape(open_client, emulator, shape, delivery) -> None:
    async def main() -> None:
        emulator.faults.add(f"fail:prompt=ill-fated {shape},index=0,code=contentPolicyViolation,shape={shape}")
        async with open_client() as client:
            with pytest.raises(RunwareError) as caught:
                await client.run(image(positivePrompt=f"ill-fated {shape}", deliveryMethod=delivery, numberResults=2))
            assert caught.value.code == "safety"

    asyncio.run(main())


def test_official_client_bad_key_is_rejected(open_client, transport) -> None:
    async def main() -> None:
        with pytest.raises(RunwareError) as caught:
            async with open_client(api_key="wrong") as client:
                await client.run(image())
        assert caught.value.code == "auth"

    asyncio.run(main())


async def fetch(url: str) -> bytes:
    import httpx

    async with httpx.AsyncClient(trust_env=False) as client:
        response = await client.get(url)
        assert response.status_code == 200
        return response.content
