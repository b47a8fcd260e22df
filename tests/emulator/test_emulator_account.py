"""Utilities that know what was used: the account, its usage over time, uploads of media and of models."""

from __future__ import annotations

import base64
import io
from datetime import UTC, datetime
from typing import Any

import pytest
from emulator_clients import open_rest, open_socket
from emulator_tasks import ask, codes, image, make_id, make_service, open_session, poll, submit
from PIL import Image

from runware_flow.emulator import Emulator

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC).timestamp()
DAY = 86_400.0


def used_service():
    """A service with two images on one day, one on the next, and a refusal and a failure on that."""
    service = make_service("fail:nth=3", epoch=NOON)
    for now, count in ((0.0, 2), (DAY, 1)):
        submit(service, *(image(deliveryMethod="async") for _ in range(count)), now=now)
        service.advance(now + 1)
    submit(service, image(width=1), now=DAY)
    return service


def account(service, operation: str = "getUsageActivity", **parameters: Any):
    task = {"taskType": "accountManagement", "taskUUID": make_id(), "operation": operation, **parameters}
    frame = submit(service, task, now=DAY + 2)
    return frame.data[0] if frame.data else frame.errors[0]


def test_account_balance_falls_with_what_is_billed() -> None:
    service = make_service(balance=1.0)
    before = account(service, "getDetails")["balance"]["amount"]
    task = image(deliveryMethod="async", includeCost=True)
    submit(service, task)
    (item,) = ask(service, task, 1.0).data
    details = account(service, "getDetails")
    assert details["balance"]["amount"] == pytest.approx(before - item["cost"])
    assert details["usage"]["total"] == {"credits": pytest.approx(item["cost"]), "requests": 1}
    assert service.settings.api_key not in str(details)


def test_account_usage_has_a_row_for_each_day() -> None:
    usage = account(used_service(), startDate="2026-03-09", endDate="2026-03-11")["usage"]["timeseries"]
    rows = [(row["date"], row["count"], row["clientErrors"], row["serverErrors"]) for row in usage["data"]]
    assert rows == [("2026-03-09", 0, 0, 0), ("2026-03-10", 2, 0, 0), ("2026-03-11", 2, 1, 1)]
    assert usage["data"][1]["avgInferenceTime"] == 1.0
    meta = usage["meta"]
    assert (meta["totalRequests"], meta["totalResults"], meta["totalErrors"]) == (4, 2, 2)
    assert meta["totalSpend"] == pytest.approx(sum(row["spend"] for row in usage["data"]))
    assert meta["errorRate"] == 0.5
    assert meta["p99"] == 1.0


def test_account_usage_by_model_and_key_and_of_some_models() -> None:
    usage = account(used_service(), groupBy=["model", "apiKey"])["usage"]
    assert set(usage) == {"model", "apiKey"}
    (row,) = usage["model"]["data"]
    assert (row["model"], row["count"]) == ("runware:101@1", 4)
    assert row["modelName"]
    assert usage["apiKey"]["data"][0]["count"] == 4
    none = account(used_service(), models=["openai:gpt-image@2"])["usage"]["timeseries"]
    assert none["meta"]["totalRequests"] == 0
    assert len(none["data"]) == 30


def test_account_days_follow_the_time_zone() -> None:
    usage = account(used_service(), timezone="Pacific/Auckland", startDate="2026-03-11", endDate="2026-03-12")["usage"]
    assert [row["count"] for row in usage["timeseries"]["data"]] == [2, 2]


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ({"startDate": "2026-03-10", "endDate": "2026-03-09"}, "endDate"),
        ({"startDate": "2026-01-01", "endDate": "2026-03-09"}, "endDate"),
        ({"startDate": "soon"}, "startDate"),
        ({"endDate": []}, "endDate"),
        ({"groupBy": ["colour"]}, "groupBy"),
        ({"groupBy": [[]]}, "groupBy"),
        ({"timezone": "Nowhere/Land"}, "timezone"),
        ({"timezone": "../../etc/passwd"}, "timezone"),
        ({"timezone": {}, "models": 5, "apiKeys": "x"}, None),
        ({"operation": "getRich"}, "operation"),
    ],
)
def test_account_usage_with_wrong_parameters_is_an_error(parameters, name) -> None:
    answer = account(used_service(), **parameters)
    assert answer.get("parameter") == name


def test_model_upload_tells_its_five_stages_one_after_the_other(run) -> None:
    async def main() -> None:
        upload = {"taskType": "modelUpload", "taskUUID": make_id(), "category": "lora", "architecture": "sdxl"}
        upload |= {"name": "mine", "version": "1", "downloadURL": "https://example.com/m.safetensors"}
        upload |= {"format": "safetensors", "air": "user:1@1"}
        async with Emulator(latency=0.1) as emulator, open_socket(emulator) as client:
            await client.send(upload)
            frames = [await client.receive() for _ in range(5)]
            items = [item for frame in frames for item in frame["data"]]
            assert [item["status"] for item in items] == ["validated", "downloaded", "optimized", "stored", "ready"]
            assert {(item["air"], item["taskUUID"]) for item in items} == {("user:1@1", upload["taskUUID"])}
            assert all(item["message"] for item in items)

    run(main)


def test_model_upload_that_fails_says_so_and_goes_no_further() -> None:
    service = make_service("fail:index=2,message=No such file.")
    task = {"taskType": "modelUpload", "taskUUID": make_id(), "category": "lora", "deliveryMethod": "async"}
    submit(service, task)
    items = ask(service, task, 1.0).data
    assert [item["status"] for item in items] == ["validated", "downloaded", "failed"]
    assert items[-1]["message"] == "No such file."


def test_model_upload_stages_that_come_together_leave_in_a_frame_each() -> None:
    service = make_service()
    session = open_session(service)
    submit(service, {"taskType": "modelUpload", "taskUUID": make_id(), "category": "lora"}, session=session)
    service.advance(1.0)
    assert [len(frame.data) for frame in session.outbox] == [1] * 5


def test_model_upload_can_be_polled() -> None:
    service = make_service()
    task = {"taskType": "modelUpload", "taskUUID": make_id(), "category": "lora", "deliveryMethod": "async"}
    submit(service, task)
    assert [item["status"] for item in ask(service, task, 0.5).data] == ["validated", "downloaded", *["processing"] * 3]
    assert ask(service, task, 1.0).data[-1]["status"] == "ready"


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
def test_uploaded_image_is_stored_with_no_side_beyond_the_cap(run, format_) -> None:
    async def main() -> None:
        async with Emulator(latency=0, upload_side=200) as emulator, open_rest(emulator) as rest:
            for size, stored in (((400, 100), (200, 50)), ((150, 200), (150, 200))):
                out = io.BytesIO()
                Image.new("RGB", size, (200, 30, 30)).save(out, format_)
                media = base64.b64encode(out.getvalue()).decode()
                task = {"taskType": "mediaStorage", "taskUUID": make_id(), "operation": "upload", "media": media}
                (item,) = (await rest.post(task))["data"]
                picture = Image.open(io.BytesIO((await rest.get(item["mediaURL"])).content))
                assert (picture.size, picture.format) == (stored, format_)

    run(main)


def test_upload_is_deleted_once(run) -> None:
    async def main() -> None:
        async with Emulator(latency=0) as emulator, open_rest(emulator) as rest:
            (item,) = (await rest.post(image()))["data"]
            task = {"taskType": "mediaStorage", "operation": "delete", "media": item["imageUUID"]}
            (gone,) = (await rest.post({**task, "taskUUID": make_id()}))["data"]
            assert gone["mediaUUID"] == item["imageUUID"]
            body = await rest.post({**task, "taskUUID": make_id()}, status=404)
            assert body["errors"][0]["code"] == "mediaNotFound"
            assert (await rest.get(item["imageURL"])).status_code == 404

    run(main)


def test_finished_task_is_forgotten_after_the_retention() -> None:
    service = make_service(retention=10.0)
    task = image(deliveryMethod="async")
    submit(service, task)
    service.advance(1.0)
    assert ask(service, task, 11.0).data[0]["status"] == "success"
    assert codes(ask(service, task, 11.5)) == ["taskExpired"]
    assert codes(submit(service, task, now=12.0)) == ["conflictTaskUUID"]
    details = {"taskType": "getTaskDetails", "taskUUID": task["taskUUID"]}
    assert submit(service, details, now=12.0).data[0]["response"]["data"]


def test_forgotten_id_may_be_taken_again_where_the_switch_says_so() -> None:
    service = make_service(retention=10.0, conflict_after_retention=False)
    task = image(deliveryMethod="async")
    submit(service, task)
    service.advance(1.0)
    assert codes(submit(service, task, now=5.0)) == ["conflictTaskUUID"]
    assert submit(service, task, now=20.0).data


def test_statuses_of_refused_and_mixed_requests_follow_the_switches() -> None:
    good, bad = image(deliveryMethod="async"), image(width=1)
    assert submit(make_service(mixed_status="worst"), good, bad).status == 400
    assert submit(make_service(), good, bad).status == 200
    assert submit(make_service(), bad).status == 400
    assert submit(make_service(rejection_status="ok"), bad).status == 200


def test_overdue_sync_task_is_silent_where_the_switch_says_so() -> None:
    service = make_service(sync_budget=0.5, overdue="silent")
    session = open_session(service)
    task = image()
    submit(service, task, session=session)
    service.advance(2.0)
    assert not session.outbox
    assert submit(service, poll(task), now=2.0).data[0]["status"] == "success"


def test_everything_is_free_where_the_factor_is_zero() -> None:
    service = make_service(price_factor=0)
    task = image(deliveryMethod="async", includeCost=True)
    submit(service, task)
    assert ask(service, task, 1.0).data[0]["cost"] == 0
    assert service.log.billed == 0


def test_progress_is_reported_by_the_configured_task_types() -> None:
    service = make_service(progress=("imageInference",))
    task = image(deliveryMethod="async")
    submit(service, task)
    assert ask(service, task, 0.25).data[0]["progress"] == 25


def find(service, **parameters: Any):
    task = {"taskType": "modelSearch", "taskUUID": make_id(), **parameters}
    return submit(service, task, now=5.0).data[0]


def test_model_search_finds_by_words_category_architecture_and_source() -> None:
    service = make_service()
    found = find(service, search="portrait", category="checkpoint", architecture="sdxl", limit=10)
    assert [(one["architecture"], one["category"], one["source"]) for one in found["results"]] == [
        ("sdxl", "checkpoint", "community")
    ]
    official = find(service, source="official", limit=100)
    assert official["totalResults"] == len(service.models.registry["models"])
    assert len(official["results"]) == 100
    assert {one["category"] for one in find(service, category="lora")["results"]} == {"lora"}
    assert find(service, search="no such model")["results"] == []
    assert 0 < find(service, capabilities=["op:masking"])["totalResults"] < 20


@pytest.mark.parametrize(
    "searched",
    [
        {"search": "realistic", "tags": "photorealistic", "category": "checkpoint", "type": "base"}
        | {"architecture": "sdxl", "visibility": "all", "offset": 0, "limit": 20},
        {"search": "realistic"},
        {"search": "juggernaut XL"},
        {"search": "Juggernaut", "source": "community"},
        {"capabilities": ["io:text-to-image"]},
        {"capabilities": ["io:text-to-image", "io:image-to-image"], "source": "official"},
        {"capabilities": ["IO:image-to-video"]},
        {"architecture": "flux1d"},
        {"category": "LoRA"},
        {"category": "lora", "architecture": "SDXL", "tags": ["anime"]},
        {"search": "portrait", "architecture": "sdxl"},
        {"source": "featured"},
    ],
    ids=str,
)
def test_model_search_finds_what_examples_of_the_documentation_look_for(searched) -> None:
    service = make_service()
    found = find(service, **searched)
    assert found["totalResults"] > 0
    for model in found["results"]:
        assert {"air", "name", "version", "category", "capabilities", "heroImage", "tags"} <= model.keys()


def test_a_model_that_the_search_finds_can_be_used() -> None:
    service = make_service()
    for model in find(service, search="juggernaut", limit=100)["results"]:
        assert submit(service, image(model=model["air"])).errors == []


def test_model_search_pages_do_not_overlap_and_sorts_go_both_ways() -> None:
    service = make_service()
    endpoints = [find(service, sort="name", limit=30, offset=offset)["results"] for offset in (0, 30)]
    names = [one["name"] for page in endpoints for one in page]
    assert names == sorted(names)
    assert len({one["air"] for page in endpoints for one in page}) == 60
    assert find(service, sort="-name", limit=1)["results"][0]["name"] > names[-1]
    assert "popularity" not in find(service, sort="-popularity")["results"][0]


def test_model_search_finds_what_was_uploaded_as_private() -> None:
    service = make_service()
    upload = {"taskType": "modelUpload", "taskUUID": make_id(), "category": "lora", "name": "mine", "air": "user:1@1"}
    submit(service, upload)
    assert find(service, visibility="private")["results"] == []
    service.advance(1.0)
    assert [one["air"] for one in find(service, visibility="owned", search="mine")["results"]] == ["user:1@1"]
