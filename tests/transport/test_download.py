"""Files that results name: streamed, bounded, without the key, and nothing left open whatever ends the reading."""

from __future__ import annotations

import gc

import anyio
import anyio.abc
import httpx
import pytest

from runware_flow.emulator import Emulator
from runware_flow.errors import RunwareError
from runware_flow.transport import download as downloading
from runware_flow.transport.download import download

PICTURE = "/image/os/a00/ws/2/ii/none.jpg"


def collect_into(pieces):
    async def sink(piece):
        pieces.append(piece)

    return sink


async def a_picture(emulator, http_client):
    """Let the emulator make a picture that is larger than one piece, and give its address."""
    task = {
        "taskType": "imageInference",
        "taskUUID": "9b0e0f60-8c46-4c42-9ef4-1c3f6c1a8a11",
        "model": "runware:400@1",
        "positivePrompt": "a kite",
        "width": 2048,
        "height": 2048,
        "outputFormat": "PNG",
    }
    options = emulator.client_options
    reply = await http_client.post(
        options["http_base_url"], json=[task], headers={"Authorization": f"Bearer {options['api_key']}"}
    )
    return reply.json()["data"][0]["imageURL"]


def test_download_hands_over_the_whole_file(run):
    async def main():
        pieces = []
        async with Emulator(latency=0) as emulator, httpx.AsyncClient() as http_client:
            await download(http_client, await a_picture(emulator, http_client), collect_into(pieces))
        assert b"".join(pieces).startswith(b"\x89PNG")
        assert b"".join(pieces).endswith(b"IEND\xaeB`\x82")

    run(main)


def test_download_from_an_emulator_that_has_stopped_says_so(run):
    async def main():
        async with httpx.AsyncClient() as http_client:
            async with Emulator(latency=0) as emulator:
                url = await a_picture(emulator, http_client)
            with pytest.raises(RunwareError, match="if an emulator that has stopped made it, use another journal"):
                await download(http_client, url, collect_into([]))

    run(main)


def answering(answer):
    """Serve an answer, the same for each connection, which then stays open."""

    async def handle(stream):
        async with stream:
            await stream.receive()
            await stream.send(answer)
            with anyio.move_on_after(20):  # until the other end goes
                await stream.receive()

    return handle


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", "ReadTimeout"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "the file is empty"),
        (
            b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:99999/\r\nContent-Length: 0\r\n\r\n",
            "no valid host and port",
        ),
    ],
)
def test_download_from_a_server_that_misbehaves_is_a_connection_error(run, monkeypatch, answer, reason):
    async def main():
        monkeypatch.setattr(downloading, "_SILENT_SECONDS", 0.05)
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, answering(answer))
            async with httpx.AsyncClient(timeout=None) as http_client:
                with pytest.raises(RunwareError, match=reason) as caught:
                    await download(http_client, f"http://127.0.0.1:{port}/x", collect_into([]))
            assert caught.value.code == "connection"
            group.cancel_scope.cancel()

    run(main)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/x", "file:///etc/passwd", "data:,x", "", "//127.0.0.1/x"])
def test_download_fetches_by_http_only(run, url):
    async def main():
        async with httpx.AsyncClient() as http_client:
            with pytest.raises(RunwareError, match="http or https only"):
                await download(http_client, url, collect_into([]))

    run(main)


def test_download_of_a_file_that_is_gone_is_not_found(run):
    async def main():
        async with Emulator() as emulator, httpx.AsyncClient() as http_client:
            with pytest.raises(RunwareError, match="is gone") as caught:
                await download(http_client, emulator.base_url + PICTURE, collect_into([]))
        assert caught.value.code == "notFound"

    run(main)


def test_download_from_nowhere_is_a_connection_error(run):
    async def main():
        async with httpx.AsyncClient() as http_client:
            with pytest.raises(RunwareError, match="failed") as caught:
                await download(http_client, "http://127.0.0.1:9/x.jpg", collect_into([]))
        assert caught.value.code == "connection"

    run(main)


def test_download_over_the_limit_stops(run):
    async def main():
        pieces = []
        async with Emulator(latency=0) as emulator, httpx.AsyncClient() as http_client:
            url = await a_picture(emulator, http_client)
            with pytest.raises(RunwareError, match="larger than 1000 bytes"):
                await download(http_client, url, collect_into(pieces), max_bytes=1000)
        gc.collect()
        assert sum(map(len, pieces)) <= 1000

    run(main)


def test_download_sink_that_fails_leaves_as_itself_and_nothing_open(run):
    async def main():
        async def full(piece):
            raise OSError("no space left on device")

        async with Emulator(latency=0) as emulator, httpx.AsyncClient() as http_client:
            with pytest.raises(OSError, match="no space left"):
                await download(http_client, await a_picture(emulator, http_client), full)
        gc.collect()

    run(main)


def test_download_cancelled_in_the_sink_leaves_nothing_open(run):
    async def main():
        scope = anyio.CancelScope()

        async def stop(piece):
            scope.cancel()
            await anyio.lowlevel.checkpoint()

        async with Emulator(latency=0) as emulator, httpx.AsyncClient() as http_client:
            url = await a_picture(emulator, http_client)
            with scope:
                await download(http_client, url, stop)
        gc.collect()
        assert scope.cancelled_caught

    run(main)
