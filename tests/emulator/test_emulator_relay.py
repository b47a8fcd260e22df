"""Faults of bytes: what a client sees when the network itself goes wrong."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import anyio
import httpx
import pytest
from emulator_clients import open_rest, open_socket
from emulator_tasks import image, poll
from hypothesis import given
from hypothesis import strategies as st
from waiting import wait_until
from websockets.exceptions import ConnectionClosedError

from runware_flow import Client
from runware_flow.emulator import Emulator
from runware_flow.emulator.network.faults import FaultBook
from runware_flow.emulator.network.segments import Segments
from runware_flow.tasks import ImageInference

pytestmark = pytest.mark.usefixtures("watched")

HANDSHAKE = b"HTTP/1.1 101 \r\nupgrade: websocket\r\n\r\n"


def frame(payload: bytes, opcode: int = 1) -> bytes:
    size = len(payload)
    length = bytes([size]) if size < 126 else b"\x7e" + size.to_bytes(2) if size < 65536 else b"\x7f" + size.to_bytes(8)
    return bytes([0x80 | opcode]) + length + payload


@given(
    sizes=st.lists(st.sampled_from([0, 1, 125, 126, 300, 65_536]), max_size=5),
    cuts=st.lists(st.sampled_from([1, 3, 60, 4096, 65_536]), min_size=1, max_size=20),
)
def test_segments_find_each_frame_however_the_bytes_are_cut(sizes, cuts) -> None:
    frames = [frame(b"x" * size) for size in sizes]
    stream = HANDSHAKE + b"".join(one + frame(b"hi", opcode=10) for one in frames)
    segments, begun, out, turn = Segments(), [], b"", 0
    while stream:
        size = cuts[turn % len(cuts)]
        turn += 1
        for piece, length in segments.split(stream[:size]):
            out += piece
            begun += [length] if length else []
        stream = stream[size:]
    assert begun == [len(one) for one in frames]
    assert out == HANDSHAKE + b"".join(one + frame(b"hi", opcode=10) for one in frames)


def test_segments_of_http_are_answers() -> None:
    segments = Segments()
    segments.begin_answer()
    assert [length for _, length in segments.split(b"HTTP/1.1 200 \r\n")] == [15]
    assert [length for _, length in segments.split(b"body")] == [0]
    segments.begin_answer()
    assert [length for _, length in segments.split(b"HTTP/1.1 404 \r\n")] == [15]


@pytest.mark.parametrize("kind", ["kill-mid-frame", "reset"])
def test_websocket_ends_inside_a_frame_and_the_result_can_be_polled(run, kind) -> None:
    async def main() -> None:
        async with Emulator(latency=0, faults=[f"{kind}:nth=2"]) as emulator:
            task = image(deliveryMethod="async")
            async with open_socket(emulator) as client:
                await client.send(task)
                with pytest.raises(ConnectionClosedError) as caught:
                    await client.receive()
                assert caught.value.rcvd is None
            async with open_socket(emulator) as client:
                assert (await client.ask(poll(task)))["data"][0]["status"] == "success"
            await wait_until(lambda: emulator.log.open_connections == 0)

    run(main)


@pytest.mark.parametrize("kind", ["kill-mid-frame", "reset", "reset:after=20"])
def test_rest_answer_breaks_off_after_the_task_was_carried_out(run, kind) -> None:
    async def main() -> None:
        fault = f"{kind}{',' if ':' in kind else ':'}nth=1"
        async with Emulator(latency=0, faults=[fault]) as emulator, open_rest(emulator) as rest:
            with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
                await rest.post(image())
            assert len(emulator.log.tasks) == 1
            await rest.post(image())

    run(main)


def test_half_open_connection_says_nothing_and_stays(run) -> None:
    async def main() -> None:
        async with Emulator(latency=0, faults=["half-open:nth=2"]) as emulator, open_socket(emulator) as client:
            await client.send(image())
            await wait_until(lambda: emulator.log.asked != [] and emulator.log.asked[0].is_delivered)
            with pytest.raises(TimeoutError):
                await client.receive(timeout=0.1)
            await client.send(image())
            with pytest.raises(TimeoutError):
                await client.receive(timeout=0.1)
            assert len(emulator.log.asked) == 1

    run(main)


def test_messages_in_pieces_and_late_arrive_whole(run) -> None:
    async def main() -> None:
        faults = ["fragment:size=90", "delay:nth=3,seconds=0.05", "throttle:every=4,rate=100000"]
        async with Emulator(latency=0, faults=faults) as emulator, open_socket(emulator) as client:
            for _ in range(4):
                assert (await client.ask(image(outputType="base64Data")))["data"][0]["imageBase64Data"]
            async with open_rest(emulator) as rest:
                (item,) = (await rest.post(image()))["data"]
                assert (await rest.get(item["imageURL"])).status_code == 200

    run(main)


def test_service_that_reads_slowly_holds_the_sender(run) -> None:
    async def main() -> None:
        async with Emulator(latency=0, faults=["slow-reader:rate=20000"]) as emulator:
            port = int(emulator.base_url.rsplit(":", 1)[1])
            with socket.socket() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
                client.connect(("127.0.0.1", port))
                client.settimeout(0)
                await anyio.sleep(0.02)
                sent = client.send(
                    b"POST /v1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n\r\n" + b" " * 8_000_000
                )
                with pytest.raises(BlockingIOError):
                    while True:
                        sent += client.send(b" " * 8_000_000)
                assert sent < 8_000_000

    run(main)


def test_refused_connection_is_reset_and_the_next_one_served(run) -> None:
    async def main() -> None:
        async with Emulator(latency=0, faults=["refuse-connection:nth=1"]) as emulator, open_rest(emulator) as rest:
            with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError, httpx.ConnectError, httpx.WriteError)):
                await rest.post(image())
            await rest.post(image())

    run(main)


def test_byte_faults_added_while_it_runs_meet_connections_opened_later(run) -> None:
    async def main() -> None:
        async with Emulator(latency=0) as emulator, open_socket(emulator) as before:
            emulator.faults.add("kill-mid-frame:nth=1")
            assert (await before.ask(image()))["data"]
            with pytest.raises(ConnectionClosedError):
                async with open_socket(emulator):
                    pass
            emulator.faults.clear()
            async with open_socket(emulator) as after:
                assert (await after.ask(image()))["data"]

    run(main)


@pytest.mark.parametrize("transport", ["websocket", "rest"])
def test_own_client_gets_every_result_through_a_bad_network(run, transport) -> None:
    async def main() -> None:
        faults = ["kill-mid-frame:nth=4", "reset:nth=7", "fragment:chance=0.3", "delay:chance=0.2,seconds=0.01"]
        async with Emulator(latency=0.01, faults=faults) as emulator:
            async with Client(**emulator.client_options, transport=transport, retry_delay=0.01) as client:
                for number in range(6):
                    task = ImageInference(
                        model="runware:400@1", positive_prompt=f"kite {number}", width=256, height=256
                    )
                    (item,) = await client.run(task, timeout=20)
                    assert item.image_url
            assert len(emulator.log.asked) == 6

    run(main)


def test_fault_by_chance_is_the_same_for_the_same_seed() -> None:
    def strikes(seed: int) -> list[bool]:
        book = FaultBook(["kill:chance=0.3"], seed)
        return [book.trigger("kill") is not None for _ in range(200)]

    assert strikes(1) == strikes(1) != strikes(2)
    assert 30 < sum(strikes(1)) < 90
    assert not any(FaultBook(["kill:chance=0"]).trigger("kill") for _ in range(50))


def test_emulator_stops_with_half_open_connections(run) -> None:
    async def main() -> None:
        with ExitStack() as clients:
            async with Emulator(latency=60, faults=["half-open:nth=1", "fragment"]) as emulator:
                port = int(emulator.base_url.rsplit(":", 1)[1])
                for _ in range(5):
                    client = clients.enter_context(socket.create_connection(("127.0.0.1", port)))
                    client.sendall(b"POST /v1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n[]")
                await wait_until(lambda: emulator.log.posts == 5)
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0

    run(main)
