"""One suite for both carriers: how connections end, and that nothing is left of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest
from cancelling import assert_nothing_left, cancel_at_each_await
from peers import (
    RawPeer,
    WebSocketPeer,
    read_to_end,
    shake_hands,
)

from runware_flow.transport import MAX_FRAME_BYTES, TransportError, open_websocket

if TYPE_CHECKING:
    import socket
    import ssl

Run = Callable[..., Any]


# The end of a connection


@pytest.mark.parametrize(("path", "code"), [("close/1000", 1000), ("close/1001", 1001), ("close/4000", 4000)])
def test_server_that_closes_at_once_loses_the_connection(run: Run, peer: WebSocketPeer, path: str, code: int) -> None:
    async def main() -> None:
        async with open_websocket(peer.url(path)) as connection:
            with pytest.raises(TransportError, match=f"127.0.0.1:{peer.port}") as caught:
                await connection.receive()
            assert (caught.value.kind, caught.value.close_code) == ("lost", code)
            with pytest.raises(TransportError) as caught:
                await connection.send(b"anybody?")
            assert (caught.value.kind, caught.value.sent) == ("lost", False)

    run(main)


def test_close_amid_the_conversation_loses_the_connection_with_its_code(run: Run, peer: WebSocketPeer) -> None:
    async def main() -> None:
        async with open_websocket(peer.url("close-on-message/1013")) as connection:
            await connection.send(b"x")
            with pytest.raises(TransportError, match="1013") as caught:
                await connection.receive()
            assert (caught.value.kind, caught.value.close_code) == ("lost", 1013)

    run(main)


def test_reset_loses_the_connection(run: Run, peer: WebSocketPeer) -> None:
    async def main() -> None:
        async with open_websocket(peer.url("reset-on-message")) as connection:
            await connection.send(b"x")
            with pytest.raises(TransportError) as caught:
                await connection.receive()
            assert (caught.value.kind, caught.value.close_code) == ("lost", None)

    run(main)


def test_block_closes_with_a_closing_frame(run: Run, peer: WebSocketPeer) -> None:
    assert peer.traffic.wait_idle()  # connections of an earlier test may end late
    peer.close_codes.clear()

    async def main() -> None:
        async with open_websocket(peer.url("echo")):
            pass
        assert await anyio.to_thread.run_sync(peer.traffic.wait_idle)

    run(main)
    assert peer.close_codes == [1000]


def test_cancelled_block_sends_a_closing_frame_too(run: Run, peer: WebSocketPeer) -> None:
    assert peer.traffic.wait_idle()  # connections of an earlier test may end late
    peer.close_codes.clear()

    async def main() -> None:
        with anyio.CancelScope() as scope:
            async with open_websocket(peer.url("echo")) as connection:
                scope.cancel()
                await connection.receive()
        assert scope.cancelled_caught
        assert await anyio.to_thread.run_sync(peer.traffic.wait_idle)

    run(main)
    assert peer.close_codes == [1000]


def test_connection_used_after_its_block_is_closed(run: Run, peer: WebSocketPeer) -> None:
    async def main() -> None:
        async with open_websocket(peer.url("echo")) as connection:
            pass
        with pytest.raises(TransportError) as caught:
            await connection.send(b"x")
        assert (caught.value.kind, caught.value.sent) == ("closed", False)
        with pytest.raises(TransportError) as caught:
            await connection.receive()
        assert caught.value.kind == "closed"

    run(main)


def _silent(connection: socket.socket) -> None:
    shake_hands(connection)
    read_to_end(connection)


def test_close_ends_when_the_peer_never_answers(run: Run) -> None:
    async def main() -> None:
        async with open_websocket(f"ws://127.0.0.1:{peer.port}/") as connection:
            await connection.send(b"anybody?")
        assert await anyio.to_thread.run_sync(peer.traffic.wait_idle)

    with RawPeer(_silent) as peer:
        run(main)


def _says_goodbye_and_stays(connection: socket.socket) -> None:
    shake_hands(connection)
    connection.sendall(b"\x88\x02\x03\xe9")  # a close frame, code 1001
    read_to_end(connection)


def test_receive_ends_when_the_peer_closes_but_does_not_hang_up(run: Run) -> None:
    async def main() -> None:
        async with open_websocket(f"ws://127.0.0.1:{peer.port}/") as connection:
            with pytest.raises(TransportError) as caught:
                await connection.receive()
            assert (caught.value.kind, caught.value.close_code) == ("lost", 1001)

    with RawPeer(_says_goodbye_and_stays) as peer:
        run(main)


def test_too_large_message_ends_when_the_peer_does_not_hang_up(run: Run) -> None:
    def script(connection: socket.socket) -> None:
        shake_hands(connection)
        connection.sendall(b"\x81\x7e\x01\x00" + b"x" * 256)
        read_to_end(connection)

    async def main() -> None:
        async with open_websocket(f"ws://127.0.0.1:{peer.port}/", max_frame_bytes=255) as connection:
            with pytest.raises(TransportError) as caught:
                await connection.receive()
            assert caught.value.kind == "too-large"

    with RawPeer(script) as peer:
        run(main)


def test_send_cancelled_in_the_middle_loses_the_connection(run: Run) -> None:
    stop = threading.Event()

    def script(connection: socket.socket) -> None:
        shake_hands(connection)
        stop.wait(10)

    async def main() -> None:
        async with open_websocket(f"ws://127.0.0.1:{peer.port}/") as connection:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(connection.send, b"x" * MAX_FRAME_BYTES)
                await anyio.wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()
            with pytest.raises(TransportError) as caught:
                await connection.send(b"x")
            assert (caught.value.kind, caught.value.sent) == ("lost", False)

    with RawPeer(script) as peer:
        try:
            run(main)
        finally:
            stop.set()


def test_send_cancelled_before_the_first_byte_harms_nothing(run: Run, peer: WebSocketPeer) -> None:
    async def main() -> None:
        async with open_websocket(peer.url("echo")) as connection:
            with anyio.CancelScope() as scope:
                scope.cancel()
                await connection.send(b"never")
            await connection.send(b"instead")
            assert await connection.receive() == b"instead"

    run(main)


# Nothing is left behind


@pytest.mark.exhaustive
def test_cancel_at_each_await_leaves_nothing(run: Run, peer: WebSocketPeer) -> None:
    async def talk() -> None:
        async with open_websocket(peer.url("echo", "localhost")) as connection:
            await connection.send(b"one")
            await connection.receive()
            await connection.send(b"two" * 100_000)
            await connection.receive()

    async def main() -> None:
        tasks = len(anyio.get_running_tasks())
        awaits = await cancel_at_each_await(talk, lambda: assert_nothing_left(peer.traffic, tasks))
        assert awaits > 5

    run(main)


@pytest.mark.exhaustive
def test_cancel_at_each_await_leaves_nothing_of_tls(
    run: Run, tls_peer: WebSocketPeer, trusting: ssl.SSLContext
) -> None:
    async def talk() -> None:
        async with open_websocket(tls_peer.url("echo"), ssl_context=trusting) as connection:
            await connection.send(b"one")
            await connection.receive()

    async def main() -> None:
        tasks = len(anyio.get_running_tasks())
        awaits = await cancel_at_each_await(talk, lambda: assert_nothing_left(tls_peer.traffic, tasks))
        assert awaits > 3

    run(main)


def test_opening_and_closing_often_leaves_nothing(run: Run, peer: WebSocketPeer) -> None:
    async def main() -> None:
        tasks = len(anyio.get_running_tasks())
        for number in range(50):
            async with open_websocket(peer.url("echo" if number % 2 else "close/1000")):
                pass
        await assert_nothing_left(peer.traffic, tasks)

    run(main)


@pytest.mark.parametrize("path", ["close/1000", "reset-on-message", "send-bytes/5000000", "three-then-close/1001"])
def test_connection_that_the_server_ended_leaves_nothing(run: Run, peer: WebSocketPeer, path: str) -> None:
    async def main() -> None:
        tasks = len(anyio.get_running_tasks())
        async with open_websocket(peer.url(path), max_frame_bytes=2**20) as connection:
            with pytest.raises(TransportError):
                await connection.send(b"x")
                while True:
                    await connection.receive()
        await assert_nothing_left(peer.traffic, tasks)

    run(main)
