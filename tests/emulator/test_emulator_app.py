"""The emulator over real sockets, on both event loops, with clients that know nothing of this library."""

from __future__ import annotations

import base64
import io

import pytest
from emulator_clients import open_rest, open_socket
from emulator_tasks import caption, image, make_id, poll, text
from PIL import Image
from waiting import cancel_when, wait_until

from runware_flow.emulator import Emulator

pytestmark = pytest.mark.usefixtures("watched")


def test_rest_sync_task_answers_with_a_picture_that_can_be_fetched(run) -> None:
    async def main() -> None:
        async with Emulator(latency=0.01) as emulator, open_rest(emulator) as rest:
            body = await rest.post(image(seed=4, outputFormat="PNG"))
            (item,) = body["data"]
            assert item["seed"] == 4
            response = await rest.get(item["imageURL"])
            assert response.headers["content-type"] == "image/png"
            assert Image.open(io.BytesIO(response.content)).size == (256, 128)
            assert (await rest.get(item["imageURL"].replace(".png", ".jpg"))).status_code == 404
            assert emulator.log.fetches == 1

    run(main)


def test_rest_async_task_is_acknowledged_and_found_by_polls(run) -> None:
    async def main() -> None:
        async with Emulator(latency=0.02) as emulator, open_rest(emulator) as rest:
            task = image(deliveryMethod="async", numberResults=2, includeCost=True)
            body = await rest.post(task)
            assert body == {"data": [{"taskType": "imageInference", "taskUUID": task["taskUUID"]}]}
            items = await rest.wait(task["taskUUID"])
            assert [item["status"] for item in items] == ["success", "success"]
            assert emulator.log.billed == pytest.approx(sum(item["cost"] for item in items))

    run(main)


@pytest.mark.parametrize("form", ["URL", "dataURI", "base64Data"])
def test_picture_in_any_form_is_captioned_and_upscaled(run, form) -> None:
    async def main() -> None:
        async with Emulator(latency=0) as emulator, open_rest(emulator) as rest:
            (item,) = (await rest.post(image("a red kite", outputType=form)))["data"]
            medium = item[{"URL": "imageURL", "dataURI": "imageDataURI", "base64Data": "imageBase64Data"}[form]]
            upscale = {"taskType": "upscale", "taskUUID": make_id(), "model": "runware:504@1", "upscaleFactor": 2}
            body = await rest.post(
                caption(medium), {**upscale, "inputs": {"image": medium}, "outputType": "base64Data"}
            )
            words, big = sorted(body["data"], key=lambda one: one["taskType"])
            assert "a red kite" in words["text"]
            assert Image.open(io.BytesIO(base64.b64decode(big["imageBase64Data"]))).size == (512, 256)

    run(main)


def test_picture_of_another_host_is_fetched_and_what_cannot_be_read_is_an_error(run) -> None:
    async def main() -> None:
        async with Emulator(latency=0) as other, Emulator(latency=0) as emulator:
            async with open_rest(other) as rest:
                (item,) = (await rest.post(image("from elsewhere")))["data"]
            async with open_rest(emulator) as rest:
                (words,) = (await rest.post(caption(item["imageURL"])))["data"]
                assert "from elsewhere" in words["text"]
                gone = item["imageURL"].replace(".jpg", ".png")
                body = await rest.post(caption(gone), status=500)
                assert [entry["code"] for entry in body["errors"]] == ["downloadFailed"]
                body = await rest.post(caption(f"{other.base_url}/__emulator__/log"), status=400)
                assert body["errors"][0]["parameter"] == "inputs.image"
                body = await rest.post(caption("http://127.0.0.1:1/x.jpg"), status=500)
                assert body["errors"][0]["code"] == "downloadFailed"

    run(main)


def test_derived_pictures_are_made_from_their_input(run) -> None:
    async def main() -> None:
        async with Emulator(latency=0) as emulator, open_rest(emulator) as rest:
            (item,) = (await rest.post(image()))["data"]
            for task_type, model, field in (
                ("removeBackground", "runware:109@1", "imageURL"),
                ("imageMasking", "runware:35@1", "maskImageURL"),
                ("controlNetPreprocess", "runware:controlnet-preprocess@canny", "guideImageURL"),
                ("vectorize", "recraft:1@1", "imageURL"),
            ):
                task = {"taskType": task_type, "taskUUID": make_id(), "model": model}
                (made,) = (await rest.post({**task, "inputs": {"image": item["imageUUID"]}}))["data"]
                response = await rest.get(made[field])
                assert response.status_code == 200
                if task_type != "vectorize":
                    assert Image.open(io.BytesIO(response.content)).size == (256, 128)

    run(main)


def test_rest_keys_are_taken_from_the_header_or_the_first_task(run) -> None:
    async def main() -> None:
        async with Emulator(latency=0) as emulator, open_rest(emulator, "wrong") as rest:
            body = await rest.post(image(), status=401)
            assert body["errors"][0]["code"] == "invalidApiKey"
            key = emulator.client_options["api_key"]
            body = await rest.post({"taskType": "authentication", "apiKey": key}, text("hi"))
            assert "hi" in body["data"][0]["text"]

    run(main)


def test_websocket_key_is_asked_for_first(run) -> None:
    async def main() -> None:
        async with Emulator(latency=0) as emulator, open_socket(emulator, authenticated=False) as client:
            body = await client.ask(image())
            assert body["errors"][0]["code"] == "missingAuthentication"
            body = await client.ask({"taskType": "authentication", "apiKey": "wrong"})
            (error,) = body["errors"]
            assert (error["code"], error["taskType"], "taskUUID" in error) == ("invalidApiKey", "authentication", False)
            body = await client.authenticate(emulator)
            assert body["data"][0]["connectionSessionUUID"]
            assert await client.ask({"taskType": "ping", "ping": True}) == {
                "data": [{"taskType": "ping", "pong": True}]
            }

    run(main)


def test_websocket_sync_results_are_pushed_as_they_are_ready(run) -> None:
    async def main() -> None:
        latency = {"imageInference": 0.05, "*": 0.0}
        async with Emulator(latency=latency) as emulator, open_socket(emulator) as client:
            slow, quick = image(numberResults=2), text("quick")
            await client.send(slow, quick)
            first, second = await client.receive(), await client.receive()
            assert [item["taskUUID"] for item in first["data"]] == [quick["taskUUID"]]
            assert [item["taskUUID"] for item in second["data"]] == [slow["taskUUID"]] * 2
            assert "status" not in second["data"][0]
            (body,) = (await client.ask(poll(slow)))["data"]
            assert body["taskType"] == "getResponse"

    run(main)


def test_websocket_undelivered_frames_wait_for_the_session(run) -> None:
    async def main() -> None:
        async with Emulator(latency=0.05) as emulator:
            async with open_socket(emulator, authenticated=False) as client:
                session_id = (await client.authenticate(emulator))["data"][0]["connectionSessionUUID"]
                task = image()
                await client.send(task, {"taskType": "ping"})
                await client.receive()
            await wait_until(lambda: not emulator.log.open_connections and emulator.log.tasks[0].ready_at != [None])
            async with open_socket(emulator, authenticated=False) as client:
                body = await client.authenticate(emulator, session_id)
                assert body["data"][0]["connectionSessionUUID"] == session_id
                replayed = await client.receive()
                assert replayed["data"][0]["taskUUID"] == task["taskUUID"]
            async with open_socket(emulator, authenticated=False) as client:
                body = await client.authenticate(emulator, make_id())
                assert body["data"][0]["connectionSessionUUID"] != session_id

    run(main)


def test_websocket_silence_closes_the_connection(run) -> None:
    from websockets.exceptions import ConnectionClosedOK

    async def main() -> None:
        async with Emulator(idle_timeout=0.5) as emulator, open_socket(emulator) as client:
            with pytest.raises(ConnectionClosedOK):
                await client.receive()

    run(main)


def test_rest_client_that_leaves_finds_its_sync_result_by_a_poll(run) -> None:
    async def main() -> None:
        async with Emulator(latency=0.15) as emulator, open_rest(emulator) as rest:
            task = image()
            async with cancel_when(lambda: emulator.log.tasks):
                await rest.post(task)
            (item,) = await rest.wait(task["taskUUID"])
            assert item["status"] == "success"

    run(main)


def test_schemas_are_served_with_their_etag(run) -> None:
    async def main() -> None:
        async with Emulator() as emulator, open_rest(emulator) as rest:
            base = emulator.client_options["schemas_base_url"]
            registry = await rest.get(f"{base}/registry.json")
            assert registry.json()["models"]["runware:101@1"]["taskType"] == "imageInference"
            again = await rest.client.get(f"{base}/registry.json", headers={"If-None-Match": registry.headers["etag"]})
            assert again.status_code == 304
            schema = (await rest.get(f"{base}/resolve/runware:101@1")).json()
            assert schema["requestSchema"]["properties"]["taskType"]["const"] == "imageInference"
            assert (await rest.get(f"{base}/resolve/nobody:1@1")).status_code == 404

    run(main)


def test_log_is_served_to_other_processes(run) -> None:
    async def main() -> None:
        async with Emulator(latency=0) as emulator, open_rest(emulator) as rest:
            task = image()
            await rest.post(task)
            log = (await rest.get(f"{emulator.base_url}/__emulator__/log")).json()
            assert log["tasks"][0]["task_uuid"] == task["taskUUID"]
            assert log["tasks"][0]["delivered_at"] != [None]
            assert log["billed"] == emulator.log.billed > 0

    run(main)


def test_uploads_are_stored_named_and_deleted(run) -> None:
    async def main() -> None:
        async with Emulator(latency=0) as emulator, open_rest(emulator) as rest:
            (item,) = (await rest.post(image("kept", outputType="dataURI")))["data"]
            storage = {"taskType": "mediaStorage", "taskUUID": make_id()}
            (stored,) = (await rest.post({**storage, "operation": "upload", "media": item["imageDataURI"]}))["data"]
            assert stored["operation"] == "upload"
            assert (await rest.get(stored["mediaURL"])).status_code == 200
            (words,) = (await rest.post(caption(stored["mediaUUID"])))["data"]
            assert "kept" in words["text"]
            delete = {**storage, "taskUUID": make_id(), "operation": "delete", "media": stored["mediaUUID"]}
            assert (await rest.post(delete))["data"][0]["operation"] == "delete"
            assert (await rest.post(caption(stored["mediaUUID"]), status=404))["errors"][0]["code"] == "mediaNotFound"
            film = {
                **storage,
                "taskUUID": make_id(),
                "operation": "upload",
                "media": base64.b64encode(b"glTF...").decode(),
            }
            (stored,) = (await rest.post(film))["data"]
            assert stored["mediaURL"].endswith(".glb")
            assert (await rest.get(stored["mediaURL"])).content == b"glTF..."

    run(main)
