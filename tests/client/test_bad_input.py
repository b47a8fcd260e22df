"""Wrong input around a call: one clear error before anything is sent, or one that says where the results are."""

from __future__ import annotations

import io
import traceback
import uuid
from pathlib import Path

import anyio
import httpx
import pytest
from waiting import wait_until

from runware_flow import Client, ClientStateError, RunwareError, RunwareTimeoutError, file_to_data_uri
from runware_flow.client.media import INLINE_LIMIT_BYTES
from runware_flow.client.options import check_callback
from runware_flow.client.request import check_task_id, prepare, read_task_id
from runware_flow.tasks import ImageInference

KITE = {"model": "runware:400@1", "positivePrompt": "a kite", "width": 512, "height": 512}
TALE = {"model": "google:gemma@4-31b", "messages": [{"role": "user", "content": "a tale"}]}
SOME_ID = "9b0e0f60-8c46-4c42-9ef4-1c3f6c1a8a11"
UPLOAD = {
    "category": "checkpoint",
    "architecture": "sdxl",
    "format": "safetensors",
    "name": "mine",
    "version": "1",
    "downloadURL": "https://example.invalid/mine.safetensors",
}


def generator(outcome):
    yield outcome


async def async_generator(outcome):
    yield outcome


async def async_sink(entry):
    """Nothing would await it."""


@pytest.mark.parametrize("callback", ["print", 5, generator, async_generator])
def test_callback_that_cannot_run_is_refused(callback):
    with pytest.raises(RunwareError, match=r"^on_result= ") as caught:
        check_callback("on_result", callback)
    assert (caught.value.code, caught.value.parameter) == ("validation", "on_result")


@pytest.mark.parametrize("callback", [None, print, [].append, Path, lambda outcome: None])
def test_callback_that_can_run_is_taken(callback):
    check_callback("on_result", callback)


@pytest.mark.parametrize("name", ["on_result", "on_progress"])
def test_call_with_a_callback_that_cannot_run_buys_nothing(run, open_pair, name):
    async def main():
        async with open_pair() as (emulator, client):
            for call in (client.run(KITE, **{name: 5}), client.model_upload(UPLOAD, **{name: generator})):
                with pytest.raises(RunwareError, match=f"{name}= "):
                    await call
            assert not emulator.log.tasks

    run(main)


def test_callback_that_raises_says_where_the_results_are(run, open_pair):
    async def main():
        def fail(outcome):
            raise ZeroDivisionError

        async with open_pair() as (emulator, client):
            with pytest.raises(ZeroDivisionError) as caught:
                await client.run(KITE, on_result=fail)
            (task,) = emulator.log.tasks
            (note,) = caught.value.__notes__
            assert "on_result of this imageInference" in note
            assert task.task_uuid in note
            assert (await client.get_response(task.task_uuid)).results

    run(main)


def test_delivery_that_is_read_after_its_block_says_so(run, open_pair):
    async def main():
        async with open_pair(latency=30) as (emulator, client):
            async with client.submit(KITE) as delivery:
                await wait_until(lambda: emulator.log.tasks)
            with pytest.raises(RunwareError, match="was left before the task was done") as caught:
                await delivery.wait_results()
            assert (caught.value.code, caught.value.may_be_billed) == ("aborted", True)
            assert delivery.task_uuid in str(caught.value)
            with pytest.raises(RunwareError, match="was left"):
                await anext(delivery)

    run(main)


def test_delivery_keeps_after_its_block_what_has_come(run, open_pair):
    async def main():
        async with open_pair() as (_, client):
            async with client.submit(KITE) as delivery:
                await delivery.wait_results()
            assert len(await delivery.wait_results()) == len([image async for image in delivery]) == 1

    run(main)


def test_stream_that_takes_too_long_is_a_timeout(run, open_pair):
    async def main():
        async with open_pair(latency=30) as (_, client):
            async with client.stream(TALE, timeout=0.2) as stream:
                with pytest.raises(RunwareTimeoutError, match=r"within 0\.2 s, its timeout") as caught:
                    await stream.full_text()
            assert caught.value.code == "timeout"
            # On a busy machine the time may be over before the request has left.
            assert caught.value.may_be_billed == ("may finish and bill it" in str(caught.value))
            async with client.stream(TALE, timeout=1e-9) as stream:
                with pytest.raises(RunwareTimeoutError, match="not sent, and is not billed"):
                    await stream.full_text()

    run(main)


def test_upload_that_takes_too_long_is_a_timeout_and_no_fault_of_the_file(run, open_pair):
    """`TimeoutError` is an `OSError`, as is what reading a file raises."""

    async def main():
        content = b"\x89PNG\r\n\x1a\n" + bytes(INLINE_LIMIT_BYTES)
        async with open_pair(client_options={"poll_timeout": 0.3}, faults=["slow:seconds=30"]) as (_, client):
            for call in (
                client.media_storage(content),
                client.run({**KITE, "inputs": {"seedImage": content}}, timeout=20),
            ):
                with pytest.raises(RunwareTimeoutError, match=r"the upload of \d+ bytes was not done") as caught:
                    await call
                assert caught.value.code == "timeout"

    run(main)


@pytest.mark.parametrize("given", [None, 5, "", "abc", b"x", []])
def test_id_that_is_none_is_refused(given):
    with pytest.raises(RunwareError, match="taskUUID must be a UUID"):
        check_task_id(given)


def test_id_may_be_an_object_of_the_standard_library():
    assert check_task_id(uuid.UUID(SOME_ID)) == read_task_id(SOME_ID.upper()) == SOME_ID


def test_lookups_take_ids_as_tasks_do(run, open_pair):
    async def main():
        async with open_pair() as (_, client):
            (image,) = await client.run({**KITE, "taskUUID": uuid.UUID(SOME_ID)})
            assert image.task_uuid == SOME_ID
            assert (await client.get_response(uuid.UUID(SOME_ID))).task_uuid == SOME_ID
            assert (await client.get_task_details(uuid.UUID(SOME_ID))).request
            for lookup in (
                client.get_response,
                client.get_task_details,
                lambda given: client.get_task("my-own-app", given),
            ):
                with pytest.raises(RunwareError, match="taskUUID must be a UUID") as caught:
                    await lookup(None)
                assert caught.value.documentation

    run(main)


@pytest.mark.parametrize(
    ("method", "given"),
    [
        *[("get_model", wrong) for wrong in (None, 5, "", "..", "\ud800", "x" * 100_000, b"x")],
        ("get_model_examples", []),
        ("get_creator", 5),
    ],
)
def test_content_refuses_what_names_nothing(run, open_pair, method, given):
    async def main():
        async with open_pair() as (_, client):
            with pytest.raises(RunwareError, match="are named by an id, a slug or an AIR, not by") as caught:
                await getattr(client.content, method)(given)
            assert caught.value.code == "validation"

    run(main)


@pytest.mark.parametrize(
    "filters",
    [
        {"catgory": "image"},
        {"limit": -1},
        {"limit": "x"},
        {"offset": True},
        {"search": 5},
        {"search": "\ud800"},
        {"creator": ["google"]},
    ],
)
def test_content_refuses_filters_that_cannot_work(run, open_pair, filters):
    """A filter that the service does not know is ignored there: the whole list would come."""
    (name,) = filters

    async def main():
        async with open_pair() as (_, client):
            with pytest.raises(RunwareError, match=name) as caught:
                await client.content.list_models(**filters)
            assert (caught.value.code, caught.value.parameter) == ("validation", name)

    run(main)


def test_file_to_data_uri_takes_all_that_holds_bytes(run, tmp_path):
    async def main():
        expected = await file_to_data_uri(b"abc")
        path = tmp_path / "abc"
        path.write_bytes(b"abc")
        for source in (bytearray(b"abc"), memoryview(b"abc"), io.BytesIO(b"abc"), anyio.Path(path)):
            assert await file_to_data_uri(source) == expected

    run(main)


@pytest.mark.parametrize("source", [None, 5, io.StringIO("/etc/hostname"), "https://example.com/a.jpg"])
def test_file_to_data_uri_says_what_it_takes(run, source):
    """A text file was read, and its text taken for a path."""

    async def main():
        with pytest.raises(RunwareError, match="takes a path, bytes or a file") as caught:
            await file_to_data_uri(source)
        assert caught.value.code == "validation"

    run(main)


def test_empty_medium_is_refused(run, open_pair):
    async def main():
        async with open_pair() as (emulator, client):
            for call in (client.image_upload(""), client.media_storage("")):
                with pytest.raises(RunwareError, match="Missing value") as caught:
                    await call
                assert caught.value.code == "validation"
            assert not emulator.log.tasks

    run(main)


def test_model_upload_takes_a_dict_and_nothing_but_an_upload(run, open_pair):
    async def main():
        async with open_pair() as (emulator, client):
            assert (await client.model_upload(UPLOAD)).status == "ready"
            with pytest.raises(RunwareError, match=r"not imageInference: use client\.run"):
                await client.model_upload(ImageInference(model="runware:400@1", positive_prompt="a kite"))
            assert [task.task_type for task in emulator.log.tasks] == ["modelUpload"]

    run(main)


@pytest.mark.parametrize(
    "options",
    [
        {"log_sink": 5},
        {"log_sink": async_sink},
        {"connector": "proxy"},
        {"http_client": 5},
        {"http_client": httpx.Client},
        {"http_client": httpx.AsyncClient},
    ],
    ids=lambda options: "-".join(options),
)
def test_client_refuses_what_it_could_not_call(options):
    (name,) = options
    with pytest.raises(RunwareError, match=name) as caught:
        Client("rw-key", **options)
    assert (caught.value.code, caught.value.parameter) == ("validation", name)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("apiKey", "api_key"),
        ("transportType", "transport"),
        ("pollTimeout", "poll_timeout"),
        ("httpBaseURL", "http_base_url"),
    ],
)
def test_client_says_which_option_is_meant(given, meant):
    with pytest.raises(RunwareError, match=f"{given}.*is it {meant}"):
        Client(**{given: "x"})


@pytest.mark.parametrize(
    ("wrong", "page"),
    [
        ({"deliveryMethod": "later"}, "models/bfl-flux-2-dev#request-deliverymethod"),
        ({"taskUUID": "abc"}, "models/bfl-flux-2-dev#request-taskuuid"),
    ],
)
def test_error_of_a_task_that_was_not_sent_names_it_and_its_page(wrong, page):
    with pytest.raises(RunwareError) as caught:
        prepare({**KITE, "taskType": "imageInference", **wrong})
    assert caught.value.task_type == "imageInference"
    assert caught.value.documentation == f"https://runware.ai/docs/{page}"


def test_every_error_of_a_call_names_its_task_and_a_page(run, open_pair):
    async def main():
        async with open_pair(latency=30) as (_, client):
            for call in (
                client.run(KITE, timeout=0),
                client.run({**KITE, "inputs": {"seedImage": Path("/no/such.png")}}),
                client.run_one({**KITE, "numberResults": 2}),
                client.run(KITE, timeout=0.05),
            ):
                with pytest.raises(RunwareError) as caught:
                    await call
                assert caught.value.task_type == "imageInference"
                assert caught.value.documentation

    run(main)


def test_unknown_model_is_told_once(run, open_pair):
    """The second look at the registry raised it again, with the first as its context."""

    async def main():
        async with open_pair() as (_, client):
            with pytest.raises(RunwareError) as caught:
                await client.run({"model": "nope:1@1"})
            assert "".join(traceback.format_exception(caught.value)).count("nope:1@1 is not in the registry") == 1

    run(main)


def test_folder_that_a_separator_names_is_made_and_keeps_every_file(run, open_pair, tmp_path):
    """Both were written to `out.jpg`, and the second replaced the first."""

    async def main():
        async with open_pair() as (_, client):
            images = await client.run({**KITE, "numberResults": 2})
            paths = [await client.save(image, f"{tmp_path}/out/") for image in images]
        assert paths == [tmp_path / "out" / f"{image.image_uuid}.jpg" for image in images]
        assert all(path.is_file() for path in paths)

    run(main)


@pytest.mark.parametrize("method", ["is_available", "read"])
def test_what_has_no_medium_is_refused(run, open_pair, method):
    async def main():
        async with open_pair() as (_, client):
            with pytest.raises(TypeError, match="only a result that is a medium"):
                await getattr(client, method)(None)

    run(main)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"app_id": None}, "app_id"),
        ({"endpoint_path": 5}, "endpoint_path"),
        ({"environment": 5}, "environment"),
        ({"payload": [1]}, "payload"),
        ({"payload": None}, "payload"),
    ],
)
def test_app_is_addressed_by_texts_and_given_a_dict(run, open_pair, given, named):
    async def main():
        async with open_pair() as (_, client):
            with pytest.raises(RunwareError, match=named) as caught:
                await client.invoke(**{"app_id": "my-own-app", "payload": {}, **given})
            assert (caught.value.code, caught.value.parameter) == ("validation", named)

    run(main)


def test_disconnect_in_another_event_loop_says_so(run, open_pair):
    async def main():
        async with open_pair() as (_, client):
            await client.connect()
            for other in ("asyncio", "trio"):
                with pytest.raises(ClientStateError, match="in the event loop"):
                    await anyio.to_thread.run_sync(lambda name=other: anyio.run(client.disconnect, backend=name))

    run(main)


def test_errors_of_the_client_itself_link_to_a_page(run, monkeypatch):
    monkeypatch.delenv("RUNWARE_API_KEY", raising=False)
    gone = {"ws_base_url": "ws://127.0.0.1:1", "schemas_base_url": "http://127.0.0.1:1", "max_retries": 0}

    async def main():
        with pytest.raises(RunwareError) as keyless:
            Client()
        async with Client("rw-key", **gone) as client:
            with pytest.raises(RunwareError) as unreachable:
                await client.connect()
            with pytest.raises(RunwareError) as unknown:
                await client.refresh_registry()
        pages = [caught.value.documentation for caught in (keyless, unreachable, unknown)]
        assert pages == ["https://runware.ai/docs/platform/errors"] * 3

    run(main)
