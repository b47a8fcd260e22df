"""Replies have the shapes that the service's documentation and recordings show, and the switches between them."""

from __future__ import annotations

import anyio
import httpx
import pytest
from emulator_clients import open_rest, open_socket
from emulator_tasks import ask, image, make_id, make_service, submit

from runware_flow import Client, RunwareError
from runware_flow.emulator import Emulator
from runware_flow.emulator.http.schemas import request_schema, response_schema
from runware_flow.emulator.service.models import OLDER_MODELS, load_models
from runware_flow.tasks import ImageInference

pytestmark = pytest.mark.usefixtures("watched")


def made_from(task_type: str, **parameters):
    picture = "https://example.com/photo.jpg"
    return {"taskType": task_type, "taskUUID": make_id(), "inputs": {"image": picture}, **parameters}


def finish(service, task):
    """Submit a task whose input is stored there, and return its result."""
    medium = submit(service, image(deliveryMethod="async"))
    service.advance(1.0)
    medium = service.jobs[medium.data[0]["taskUUID"]].slots[0].item["imageUUID"]
    task = {**task, "inputs": {"image": medium}, "deliveryMethod": "async"}
    assert submit(service, task, now=1.0).errors == []
    return medium, ask(service, task, 3.0).data[0]


MADE_FROM_AN_IMAGE = {
    "upscale": {"upscaleFactor": 2},
    "removeBackground": {"model": "runware:109@1"},
    "controlNetPreprocess": {"model": "runware:controlnet-preprocess@canny"},
}


@pytest.mark.parametrize("task_type", MADE_FROM_AN_IMAGE)
def test_a_result_names_the_image_it_was_made_from(task_type) -> None:
    task = made_from(task_type, **MADE_FROM_AN_IMAGE[task_type])
    medium, item = finish(make_service(), task)
    assert item["inputImageUUID"] == medium
    assert "inputImageUUID" not in finish(make_service(input_uuid=False), task)[1]


@pytest.mark.parametrize(
    ("task_type", "older"),
    [
        ("upscale", "imageUpscale"),
        ("caption", "imageCaption"),
        ("removeBackground", "imageBackgroundRemoval"),
        ("controlNetPreprocess", "imageControlNetPreProcess"),
    ],
)
def test_a_result_carries_the_older_name_where_the_switch_says_so(task_type, older) -> None:
    task = made_from(task_type, **MADE_FROM_AN_IMAGE.get(task_type, {"model": "runware:150@2"}))
    assert finish(make_service(), task)[1]["taskType"] == task_type
    assert finish(make_service(result_names="legacy"), task)[1]["taskType"] == older
    assert finish(make_service(), {**task, "taskType": older})[1]["taskType"] == older


def test_our_client_reads_results_of_either_name(run) -> None:
    async def main() -> None:
        for names in ("asked", "legacy"):
            async with Emulator(latency=0, result_names=names) as emulator, Client(**emulator.client_options) as client:
                source = {"inputs": {"image": "https://example.com/photo.jpg"}}
                for delivery in ("sync", "async"):
                    (big,) = await client.run(
                        {"taskType": "upscale", "upscaleFactor": 2, "deliveryMethod": delivery, **source}
                    )
                    assert big.url
                    (said,) = await client.run({"model": "runware:150@2", "deliveryMethod": delivery, **source})
                    assert said.text

    run(main)


@pytest.mark.parametrize("shape", ["item", "errors"])
@pytest.mark.parametrize("transport", ["websocket", "rest"])
def test_our_client_understands_failures_of_either_shape(run, shape, transport) -> None:
    async def main() -> None:
        fault = "fail:index=1,code=contentPolicyViolation"
        async with Emulator(latency=0, failure_shape=shape, faults=[fault]) as emulator:
            async with Client(transport=transport, **emulator.client_options) as client:
                for delivery in ("sync", "async"):
                    task = ImageInference(
                        model="runware:400@1", positive_prompt="a kite", number_results=3, delivery_method=delivery
                    )
                    with pytest.raises(RunwareError) as caught:
                        await client.run(task)
                    assert (caught.value.code, caught.value.raw_code) == ("safety", "contentPolicyViolation")
                    assert len(caught.value.results) == 2

    run(main)


def test_a_failure_stands_in_data_unless_the_switch_says_otherwise() -> None:
    for shape in ("item", "errors"):
        settings = {} if shape == "item" else {"failure_shape": shape}
        service = make_service("fail:code=inferenceError", **settings)
        task = image(deliveryMethod="async")
        submit(service, task)
        frame = ask(service, task, 1.0)
        (said,) = frame.data if shape == "item" else frame.errors
        assert said["status"] == "error"
        assert said["taskUUID"] == task["taskUUID"]
        assert (said["error"] if shape == "item" else said)["code"] == "inferenceError"
        assert not (frame.errors if shape == "item" else frame.data)


def test_rejected_key_is_reported_as_documented(run) -> None:
    async def main() -> None:
        async with Emulator() as emulator, open_socket(emulator, authenticated=False) as peer:
            (entry,) = (await peer.ask({"taskType": "authentication", "apiKey": "wrong"}))["errors"]
            shown = {name: entry[name] for name in ("code", "parameter", "type", "taskType")}
            expected = {"code": "invalidApiKey", "parameter": "apiKey", "type": "string", "taskType": "authentication"}
            assert shown == expected
            assert entry["message"]

    run(main)


def test_the_account_shows_masked_keys_and_the_source_of_its_models() -> None:
    service = make_service(api_key="abcdefghijklmnopqrstuvwxyz012345")
    task = {"taskType": "accountManagement", "taskUUID": make_id(), "operation": "getDetails"}
    (details,) = submit(service, task).data
    assert details["apiKeys"][0]["apiKey"] == "abcdefghijklmnop" + 16 * "*"
    upload = {"taskType": "modelUpload", "taskUUID": make_id(), "category": "lora", "architecture": "sdxl"}
    submit(service, upload)
    service.advance(9.0)
    frame = ask(service, upload, 9.0)
    assert {item["air"].partition(":")[0] for item in frame.data} == {details["AIRSource"]}
    usage = {**task, "taskUUID": make_id(), "operation": "getUsageActivity", "groupBy": ["apiKey"]}
    (used,) = submit(service, usage, now=9.0).data
    assert used["usage"]["apiKey"]["data"][0]["apiKey"] == details["apiKeys"][0]["apiKey"]


@pytest.mark.parametrize("key", ["k", "short", "a" * 16, "b" * 100])
def test_no_key_is_shown_whole(key) -> None:
    task = {"taskType": "accountManagement", "taskUUID": make_id(), "operation": "getDetails"}
    (details,) = submit(make_service(api_key=key), task).data
    shown = details["apiKeys"][0]["apiKey"]
    assert len(shown) == len(key)
    assert shown.count("*") >= len(key) / 2


def test_each_stage_of_an_upload_has_a_message_and_the_model_is_known_when_ready() -> None:
    service = make_service()
    upload = {"taskType": "modelUpload", "taskUUID": make_id(), "category": "checkpoint", "air": "acme:1@1"}
    submit(service, upload)
    assert submit(service, image(model="acme:1@1")).errors[0]["code"] == "modelNotFound"
    items = ask(service, upload, 9.0).data
    assert [item["status"] for item in items] == ["validated", "downloaded", "optimized", "stored", "ready"]
    assert len({item["message"] for item in items}) == 5
    assert submit(service, image(model="acme:1@1")).errors == []


@pytest.mark.parametrize("air", ["nonexistent:999@999", "runware:999@999", "google:none@1", "acme:1@1"])
def test_a_model_of_no_known_source_is_an_error(air) -> None:
    (entry,) = submit(make_service(), image(model=air)).errors
    assert (entry["code"], entry["parameter"]) == ("modelNotFound", "model")
    assert request_schema(load_models(), air) is None


@pytest.mark.parametrize("air", ["civitai:133005@782002", "rundiffusion:130@100", "exactly:my-style@1", *OLDER_MODELS])
def test_fine_tunes_and_older_models_resolve(air) -> None:
    schema = request_schema(load_models(), air)
    assert schema is not None
    task_type = schema["properties"]["taskType"]["const"]
    assert task_type == OLDER_MODELS.get(air, "imageInference")
    assert response_schema(load_models(), task_type) is not None


def test_what_was_added_or_uploaded_resolves_with_its_architecture(run) -> None:
    async def main() -> None:
        models = {"acme:2@1": "videoInference"}
        async with Emulator(latency=0, models=models) as emulator, open_rest(emulator) as rest:
            upload = {"taskType": "modelUpload", "taskUUID": make_id(), "category": "lora", "architecture": "sd-1-5"}
            await rest.post({**upload, "air": "acme:1@1"})
            address = emulator.client_options["schemas_base_url"] + "/resolve/"
            schemas = {}
            for air in ("acme:1@1", "acme:2@1", "civitai:1@2"):
                answer = await rest.get(address + air)
                assert answer.status_code == 200, air
                assert answer.json()["documentation"] == "https://runware.ai/docs/models"
                schemas[air] = answer.json()["requestSchema"]
            assert schemas["acme:2@1"]["properties"]["taskType"] == {"const": "videoInference"}
            assert "width" in schemas["acme:1@1"]["required"]
            assert (await rest.get(address + "acme:3@1")).status_code == 404

    run(main)


def test_a_slash_after_v1_makes_no_difference(run) -> None:
    async def main() -> None:
        async with Emulator(latency=0) as emulator:
            options = emulator.client_options
            async with Client(
                **{**options, "http_base_url": options["http_base_url"] + "/"}, transport="rest"
            ) as client:
                assert await client.run(ImageInference(model="runware:400@1", positive_prompt="a kite"))
            async with Client(**{**options, "ws_base_url": options["ws_base_url"] + "/"}) as client:
                assert await client.run(ImageInference(model="runware:400@1", positive_prompt="a kite"))
            async with httpx.AsyncClient(trust_env=False) as plain:
                answer = await plain.post(options["http_base_url"] + "/", json=[image()])
                assert answer.status_code == 401

    run(main)


def test_a_page_asks_before_it_posts_and_hears_what_it_may_do(run) -> None:
    async def main() -> None:
        page = "http://localhost:3000"
        async with Emulator(allow_origin=page) as emulator, httpx.AsyncClient(trust_env=False) as plain:
            headers = {"Origin": page, "Access-Control-Request-Method": "POST"}
            headers["Access-Control-Request-Headers"] = "authorization, content-type"
            for path in ("/v1", "/v1/", "/v1/chat/completions", "/schemas/registry.json", "/content/models"):
                answer = await plain.options(emulator.base_url + path, headers=headers)
                assert answer.status_code == 204
                assert answer.headers["access-control-allow-origin"] == page
                assert "POST" in answer.headers["access-control-allow-methods"]
            with anyio.fail_after(5):
                answer = await plain.options(emulator.base_url + "/v1", headers={**headers, "Origin": page + "1"})
            assert answer.status_code == 403

    run(main)
