"""Local media on their way in, and results on their way out."""

from __future__ import annotations

import base64
import io
import json
import os
import tracemalloc

import anyio
import httpx
import pytest
from PIL import Image

from runware_flow import Client, RunwareError, file_to_data_uri
from runware_flow.client.media import INLINE_LIMIT_BYTES, PIECE_BYTES, LocalMediaPlacer
from runware_flow.results import CaptionResult, ImageResult
from runware_flow.tasks import Caption, ImageInference, Upscale
from runware_flow.wire.codec import LocalMedia
from runware_flow.wire.media_type import extension_of


def picture(size=64, color="red", format_="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), color).save(buffer, format_)
    return buffer.getvalue()


def noise(size=512):
    buffer = io.BytesIO()
    Image.effect_noise((size, size), 90).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("head", "extension"),
    [
        (picture(format_="JPEG"), ".jpg"),
        (picture(), ".png"),
        (picture(format_="WEBP"), ".webp"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", ".wav"),
        (b"\x00\x00\x00\x18ftypmp42", ".mp4"),
        (b"glTF\x02", ".glb"),
        (b"  <svg xmlns=", ".svg"),
        (b"who knows", ".bin"),
    ],
)
def test_extension_comes_from_the_content(head, extension):
    assert extension_of(head[:64]) == extension


def test_file_to_data_uri_takes_paths_and_bytes(run, tmp_path):
    async def main():
        path = tmp_path / "kite.dat"
        path.write_bytes(picture())
        uri = await file_to_data_uri(path)
        assert uri == await file_to_data_uri(picture()) == await file_to_data_uri(io.BytesIO(picture()))
        assert uri.startswith("data:image/png;base64,")
        assert base64.b64decode(uri.partition(",")[2]) == picture()
        note = tmp_path / "note.txt"
        note.write_text("hello")
        assert (await file_to_data_uri(str(note))).startswith("data:text/plain;base64,")

    run(main)


def test_run_takes_bytes_and_paths_as_media(run, open_pair, tmp_path):
    async def main():
        path = tmp_path / "kite.png"
        path.write_bytes(picture(96))
        async with open_pair() as (_, client):
            (caption,) = await client.run(Caption(model="runware:150@2", inputs={"image": path}))
            (big,) = await client.run(Upscale(model="runware:504@1", inputs={"image": picture(96)}, upscale_factor=2))
            content = await client.read(big)
        assert "96 x 96" in caption.text
        assert Image.open(io.BytesIO(content)).size == (192, 192)

    run(main)


def test_run_large_local_medium_is_uploaded_once_for_many_tasks(run, open_pair, tmp_path):
    async def main():
        large = noise()
        assert len(large) > INLINE_LIMIT_BYTES - 80_000
        path = tmp_path / "noise.png"
        path.write_bytes(large + b"\0" * INLINE_LIMIT_BYTES)
        async with open_pair() as (emulator, client), anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(client.run, Caption(model="runware:150@2", inputs={"image": path}))
        uploads = [task for task in emulator.log.tasks if task.task_type == "mediaStorage"]
        captions = [task for task in emulator.log.tasks if task.task_type == "caption"]
        assert len(captions) == 5
        assert len({task.request["inputs"]["image"] for task in captions}) == 1
        assert not captions[0].request["inputs"]["image"].startswith("data:")
        assert len(uploads) <= 1

    run(main)


def test_run_empty_file_is_named_and_nothing_is_sent(run, open_pair, tmp_path):
    (tmp_path / "empty.png").touch()

    async def main():
        async with open_pair() as (emulator, client):
            with pytest.raises(RunwareError, match=r"^inputs\.image: .*empty\.png is empty$"):
                await client.run(Caption(model="runware:150@2", inputs={"image": tmp_path / "empty.png"}))
            assert not emulator.log.tasks

    run(main)


def test_run_missing_file_names_the_parameter_and_sends_nothing(run, open_pair, tmp_path):
    async def main():
        async with open_pair() as (emulator, client):
            with pytest.raises(RunwareError, match=r"inputs\.image: there is no file .*nowhere\.png") as caught:
                await client.run(Caption(model="runware:150@2", inputs={"image": tmp_path / "nowhere.png"}))
            assert caught.value.parameter == "inputs.image"
            assert not emulator.log.tasks

    run(main)


def test_placer_cancelled_upload_does_not_affect_other_tasks(run):
    async def main():
        started = anyio.Event()
        uploads = []

        async def upload(uri):
            uploads.append(uri)
            started.set()
            if len(uploads) == 1:
                await anyio.sleep_forever()
            return "the-uuid"

        placer = LocalMediaPlacer(upload)
        medium = LocalMedia(("image",), b"x" * (INLINE_LIMIT_BYTES + 1))
        wire = {}
        first = anyio.CancelScope()

        async def cancelled():
            with first:
                await placer.place({}, [medium])

        async with anyio.create_task_group() as group:
            group.start_soon(cancelled)
            await started.wait()
            group.start_soon(placer.place, wire, [medium])
            await anyio.wait_all_tasks_blocked()
            first.cancel()
        assert wire == {"image": "the-uuid"}
        await placer.place(wire, [medium])
        assert len(uploads) == 2

    run(main)


def test_save_writes_the_whole_file_with_the_contents_extension(run, open_pair, tmp_path):
    async def main():
        async with open_pair() as (_, client):
            (image,) = await client.run(
                ImageInference(model="runware:400@1", positive_prompt="a kite", width=512, height=256)
            )
            path = await client.save(image, tmp_path / "new" / "folder" / "kite")
            named = await client.save(image, tmp_path / "kite.jpeg")
            dotted = await client.save(image, tmp_path / "mr. smith")
            (tmp_path / "album").mkdir()
            inside = await client.save(image, tmp_path / "album")
        assert path == tmp_path / "new" / "folder" / "kite.jpg"
        assert Image.open(io.BytesIO(path.read_bytes())).size == (512, 256)
        assert named.name == "kite.jpeg"
        assert dotted.name == "mr. smith.jpg"
        assert inside == tmp_path / "album" / f"{image.image_uuid}.jpg"
        assert sorted(entry.name for entry in path.parent.iterdir()) == ["kite.jpg"]

    run(main)


@pytest.mark.parametrize("form", ["base64Data", "dataURI"])
def test_save_and_read_take_media_that_came_as_data(run, open_pair, tmp_path, form):
    async def main():
        async with open_pair() as (_, client):
            (image,) = await client.run(
                ImageInference(model="runware:400@1", positive_prompt="a kite", width=256, height=256, output_type=form)
            )
            assert image.uuid
            assert Image.open(io.BytesIO(await client.read(image))).size == (256, 256)
            assert (await client.save(image, tmp_path / "kite")).suffix == ".jpg"

    run(main)


def test_save_file_that_is_gone_is_a_clear_error_and_leaves_no_file(run, open_pair, tmp_path):
    async def main():
        async with open_pair() as (emulator, client):
            gone = ImageResult(image_url=f"{emulator.base_url}/image/os/a00/ws/2/ii/none.jpg")
            with pytest.raises(RunwareError, match="is gone") as caught:
                await client.save(gone, tmp_path / "kite")
            assert caught.value.code == "notFound"
            with pytest.raises(RunwareError, match="cannot be read here"):
                await client.read(ImageResult(image_url="file:///etc/passwd"))
        assert not list(tmp_path.iterdir())

    run(main)


def test_save_never_sends_the_key(run, transport):
    async def main():
        import httpx

        from runware_flow import Client

        seen = []

        def answer(request):
            seen.append(request.headers)
            return httpx.Response(200, content=picture())

        async with (
            httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http_client,
            Client("rw-secret-key", transport=transport, http_client=http_client) as client,
        ):
            assert await client.read(ImageResult(image_url="https://example.com/kite.png")) == picture()
        assert "authorization" not in seen[0]
        assert not any("rw-secret-key" in value for value in seen[0].values())

    run(main)


@pytest.mark.parametrize("reference", ["", "data:,", "data:image/png;base64,!!", "caf\u00e9"])
def test_save_of_a_reference_that_cannot_be_read_leaves_no_file(run, open_pair, tmp_path, reference):
    async def main():
        async with open_pair() as (_, client):
            with pytest.raises(RunwareError, match="in a form that cannot be read here"):
                await client.save(ImageResult(image_url=reference), tmp_path / "kite")
        assert list(tmp_path.iterdir()) == []

    run(main)


def test_save_of_a_result_without_a_medium_says_so(run, open_pair, tmp_path):
    async def main():
        async with open_pair() as (_, client):
            for wrong in (CaptionResult(text="a kite"), [ImageResult()]):
                with pytest.raises(TypeError, match="is a medium"):
                    await client.save(wrong, tmp_path / "kite")
        assert not list(tmp_path.iterdir())

    run(main)


def test_save_into_a_folder_lets_no_server_choose_another(run, open_pair, tmp_path):
    """A result's UUID comes from the service; as the name of a file it must stay in the folder that was given."""

    async def main():
        inside = tmp_path / "album"
        inside.mkdir()
        data = "data:image/png;base64," + base64.b64encode(picture()).decode()
        async with open_pair() as (_, client):
            for uuid in ("../escaped", "/tmp/escaped", "..", "", "a/b"):
                path = await client.save(ImageResult(image_uuid=uuid, image_data_uri=data), inside)
                assert path.parent == inside
        assert [entry.name for entry in tmp_path.iterdir()] == ["album"]

    run(main)


def test_wrong_types_in_place_of_a_task_or_a_medium_are_named(run, open_pair, tmp_path):
    async def main():
        async with open_pair() as (_, client):
            with pytest.raises(RunwareError, match=r"the task is .*object, not a task or a dict with wire names"):
                await client.run(object())
            with pytest.raises(TypeError, match="not a list: save each of its results by itself"):
                await client.save([], tmp_path / "kite")

    run(main)


def test_large_media_are_never_in_memory_as_a_whole(run, open_pair, tmp_path):
    """A file of 40 MB is read, encoded and sent in pieces; its frame alone would be 53 MB."""

    async def main():
        path = tmp_path / "large.png"
        with path.open("wb") as file:
            file.write(picture())
            for _ in range(40):
                file.write(os.urandom(2**20))
        asked = []

        async def answer(request):
            size, head = 0, b""
            async for piece in request.stream:
                size += len(piece)
                head = (head + piece)[:2_000]
            assert size == int(request.headers["content-length"])
            asked.append(size)
            if b"caption" in head:
                [task] = json.loads(head)
                item = {"taskType": "caption", "taskUUID": task["taskUUID"], "text": "a kite"}
                return httpx.Response(200, json={"data": [item]})
            item = {"taskType": "mediaStorage", "taskUUID": UUID, "operation": "upload", "mediaUUID": UUID}
            return httpx.Response(200, json={"data": [item]})

        http = httpx.AsyncClient(transport=Streaming(answer))
        async with http, Client("rw-key", http_client=http, transport="rest") as client:
            await client.media_storage(picture())  # what is imported on first use is
            tracemalloc.start()
            try:
                stored = await client.media_storage(path)
                await client.run(Caption(model="runware:150@2", inputs={"image": path}), delivery="sync")
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
        assert stored.media_uuid == UUID
        assert asked[1] > 53 * 2**20
        assert peak < 8 * 2**20

    run(main)


UUID = "9b0e0f60-8c46-4c42-9ef4-1c3f6c1a8a11"


class Streaming(httpx.AsyncBaseTransport):
    def __init__(self, answer):
        self.answer = answer

    async def handle_async_request(self, request):
        return await self.answer(request)


@pytest.mark.parametrize(
    "size", [INLINE_LIMIT_BYTES + 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 2 * PIECE_BYTES]
)
@pytest.mark.parametrize("form", [bytes, "path"])
def test_upload_in_pieces_is_what_a_data_uri_would_be(run, tmp_path, size, form):
    async def main():
        content = (picture() + os.urandom(size))[:size]
        path = tmp_path / "kite.png"
        path.write_bytes(content)
        bodies = []

        async def answer(request):
            bodies.append(b"".join([piece async for piece in request.stream]))
            if len(bodies) == 1:
                return httpx.Response(503)
            item = {"taskType": "mediaStorage", "taskUUID": UUID, "mediaUUID": UUID}
            return httpx.Response(200, json={"data": [item]})

        http = httpx.AsyncClient(transport=Streaming(answer))
        async with http, Client("rw-key", http_client=http, retry_delay=0.001) as client:
            await client.media_storage(content if form is bytes else path)
        tasks = [json.loads(body)[0] for body in bodies]
        assert {task["media"] for task in tasks} == {await file_to_data_uri(content)}
        assert len({task["taskUUID"] for task in tasks}) == 2

    run(main)


def test_file_that_shrinks_while_it_is_uploaded_is_one_clear_error(run, tmp_path, monkeypatch):
    async def main():
        path = tmp_path / "kite.png"
        path.write_bytes(picture() + os.urandom(INLINE_LIMIT_BYTES))

        async def answer(request):
            path.write_bytes(b"x")
            async for _ in request.stream:
                pass

        http = httpx.AsyncClient(transport=Streaming(answer))
        async with http, Client("rw-key", http_client=http, max_retries=0) as client:
            with pytest.raises(RunwareError, match="became shorter") as caught:
                await client.media_storage(path)
            path.write_bytes(picture() + os.urandom(INLINE_LIMIT_BYTES))
            with pytest.raises(RunwareError, match=r"inputs\.image: .*kite\.png became shorter"):
                await client.run(Caption(model="runware:150@2", inputs={"image": path}))
        assert caught.value.code == "validation"

    run(main)
