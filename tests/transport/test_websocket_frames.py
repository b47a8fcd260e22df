"""One suite for both carriers, against real servers: how frames are carried, and how large they may be."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest

from runware_flow.transport import MAX_FRAME_BYTES, TransportError, open_websocket

if TYPE_CHECKING:
    from peers import (
        WebSocketPeer,
    )

Run = Callable[..., Any]


# Carrying frames


@pytest.mark.parametrize("frame", [b"", b"[]", '["\u00e9\u4e16\U0001f600"]'.encode(), b"x" * 70_000])
def test_echo_returns_the_same_bytes(run: Run, peer: WebSocketPeer, frame: bytes) -> None:
    async def main() -> None:
        async with open_websocket(peer.url("echo")) as connection:
            await connection.send(frame)
            assert await connection.receive() == frame

    run(main)


def test_largest_frame_passes_both_ways(run: Run, peer: WebSocketPeer) -> None:
    frame = b"x" * MAX_FRAME_BYTES

    async def main() -> None:
        async with open_websocket(peer.url("echo")) as connection:
            await connection.send(frame)
            assert await connection.receive() == frame

    run(main)


def test_text_and_binary_messages_are_received_in_order_before_the_close(run: Run, peer: WebSocketPeer) -> None:
    async def main() -> None:
        async with open_websocket(peer.url("three-then-close/1000")) as connection:
            assert [await connection.receive() for _ in range(3)] == [b"one", b"two", b"three"]
            for _ in range(2):
                with pytest.raises(TransportError) as caught:
                    await connection.receive()
                assert (caught.value.kind, caught.value.close_code) == ("lost", 1000)

    run(main)


def test_fragmented_message_arrives_whole(run: Run, peer: WebSocketPeer) -> None:
    async def main() -> None:
        async with open_websocket(peer.url("fragments/40")) as connection:
            assert await connection.receive() == "".join(f"{number:03} é " for number in range(40)).encode()

    run(main)


def test_concurrent_senders_never_mix_frames(run: Run, peer: WebSocketPeer) -> None:
    frames = {bytes([65 + number]) * (number * 20_000 + 1) for number in range(10)}

    async def main() -> None:
        async with open_websocket(peer.url("echo")) as connection, anyio.create_task_group() as senders:
            for frame in frames:
                senders.start_soon(connection.send, frame)
            assert {await connection.receive() for _ in frames} == frames

    run(main)


def test_second_receiver_is_refused(run: Run, peer: WebSocketPeer) -> None:
    async def main() -> None:
        async with open_websocket(peer.url("echo")) as connection, anyio.create_task_group() as tasks:
            tasks.start_soon(connection.receive)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(anyio.BusyResourceError):
                await connection.receive()
            await connection.send(b"release")

    run(main)


def test_cancelled_receive_loses_no_message(run: Run, peer: WebSocketPeer) -> None:
    async def main() -> None:
        async with open_websocket(peer.url("echo")) as connection:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(connection.receive)
                await anyio.wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()
            await connection.send(b"still here")
            with anyio.CancelScope() as scope:
                scope.cancel()
                await connection.receive()
            assert await connection.receive() == b"still here"

    run(main)


# Limits


@pytest.mark.parametrize("path", ["send-bytes/1048577", "send-bytes/5000000", "send-wide/1048578"])
def test_message_above_the_limit_is_too_large(run: Run, peer: WebSocketPeer, path: str) -> None:
    async def main() -> None:
        async with open_websocket(peer.url(path), max_frame_bytes=2**20) as connection:
            with pytest.raises(TransportError, match=f"127.0.0.1:{peer.port}") as caught:
                await connection.receive()
            assert caught.value.kind == "too-large"
            with pytest.raises(TransportError):
                await connection.receive()
        assert await anyio.to_thread.run_sync(peer.traffic.wait_idle)

    run(main)


def test_message_at_the_limit_passes(run: Run, peer: WebSocketPeer) -> None:
    async def main() -> None:
        async with open_websocket(peer.url("send-bytes/1048576"), max_frame_bytes=2**20) as connection:
            assert len(await connection.receive()) == 2**20

    run(main)


def test_frame_above_the_limit_is_not_sent_and_harms_nothing(run: Run, peer: WebSocketPeer) -> None:
    async def main() -> None:
        async with open_websocket(peer.url("echo"), max_frame_bytes=10) as connection:
            with pytest.raises(TransportError, match="11 bytes") as caught:
                await connection.send(b"x" * 11)
            assert (caught.value.kind, caught.value.sent) == ("too-large", False)
            await connection.send(b"x" * 10)
            assert await connection.receive() == b"x" * 10

    run(main)


def test_close_because_our_frame_was_too_large_is_too_large(run: Run, peer: WebSocketPeer) -> None:
    async def main() -> None:
        async with open_websocket(peer.url("close-on-message/1009")) as connection:
            await connection.send(b"x")
            with pytest.raises(TransportError) as caught:
                await connection.receive()
            assert (caught.value.kind, caught.value.close_code) == ("too-large", 1009)

    run(main)


def test_frame_that_is_not_text_is_invalid_and_not_quoted(run: Run, peer: WebSocketPeer) -> None:
    async def main() -> None:
        async with open_websocket(peer.url("echo")) as connection:
            with pytest.raises(TransportError) as caught:
                await connection.send(b"secret\xff")
            assert caught.value.kind == "invalid"
            assert caught.value.sent is False
            assert "secret" not in repr(caught.value) + repr(caught.value.__cause__)

    run(main)
