"""One suite for both carriers, against real servers: what a `Connection` promises."""

from __future__ import annotations

import gc
import json
import logging
import pickle
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from cancelling import assert_nothing_left, cancel_at_each_await
from peers import (
    CERTIFICATE,
    RawPeer,
    WebSocketPeer,
    black_hole,
    closed_port,
    read_request,
    read_to_end,
    reset,
    server_tls,
    shake_hands,
)

from runware_flow.transport import MAX_FRAME_BYTES, TransportError, open_websocket

if TYPE_CHECKING:
    import socket

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def peer() -> Iterator[WebSocketPeer]:
    with WebSocketPeer() as peer:
        yield peer


@pytest.fixture(scope="module")
def tls_peer() -> Iterator[WebSocketPeer]:
    with WebSocketPeer(server_tls()) as peer:
        yield peer


@pytest.fixture
def trusting() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(CERTIFICATE))


async def failure_to_open(url: str, **options: Any) -> TransportError:
    with pytest.raises(TransportError) as caught:
        async with open_websocket(url, **options):
            pytest.fail("the connection was opened")
    assert caught.value.sent is False
    gc.collect()
    return caught.value


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


def test_block_closes_with_a_farewell(run: Run, peer: WebSocketPeer) -> None:
    peer.close_codes.clear()

    async def main() -> None:
        async with open_websocket(peer.url("echo")):
            pass
        assert await anyio.to_thread.run_sync(peer.traffic.wait_idle)

    run(main)
    assert peer.close_codes == [1000]


def test_farewell_is_said_by_a_cancelled_block_too(run: Run, peer: WebSocketPeer) -> None:
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


# Failures to open


@pytest.mark.parametrize("status", [200, 302, 401, 403, 429, 503])
def test_handshake_answered_with_a_status_is_refused(run: Run, peer: WebSocketPeer, status: int) -> None:
    async def main() -> None:
        error = await failure_to_open(peer.url(f"status/{status}"))
        assert (error.kind, error.status) == ("refused", status)
        assert str(error) == f"127.0.0.1:{peer.port} answered HTTP {status} instead of opening a WebSocket."

    run(main)


def _old_server(connection: socket.socket) -> None:
    read_request(connection)
    connection.sendall(b"HTTP/1.0 503 Service Unavailable\r\n\r\nsorry")


def _redirects(connection: socket.socket) -> None:
    read_request(connection)
    connection.sendall(b"HTTP/1.1 301 Moved\r\nLocation: ws://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")
    read_to_end(connection)


def _speaks_smtp(connection: socket.socket) -> None:
    connection.sendall(b"220 mail.example ESMTP ready\r\n")
    read_to_end(connection)


def _wrong_key(connection: socket.socket) -> None:
    read_request(connection)
    answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    connection.sendall(answer + b"Sec-WebSocket-Accept: bm8=\r\n\r\n")
    read_to_end(connection)


def _hangs_up(connection: socket.socket) -> None:
    read_request(connection)


def _resets(connection: socket.socket) -> None:
    read_request(connection)
    reset(connection)


@pytest.mark.parametrize(
    ("script", "kind", "status"),
    [
        (_old_server, "refused", 503),
        (_redirects, "refused", 301),
        (_speaks_smtp, "invalid", None),
        (_wrong_key, "invalid", None),
        (_hangs_up, "refused", None),
        (_resets, "refused", None),
    ],
)
def test_server_of_another_kind_is_told_at_once(
    run: Run, script: Callable[[socket.socket], None], kind: str, status: int | None
) -> None:
    async def main() -> None:
        error = await failure_to_open(f"ws://127.0.0.1:{peer.port}/")
        assert (error.kind, error.status) == (kind, status)
        assert f"127.0.0.1:{peer.port}" in str(error)

    with RawPeer(script) as peer:
        run(main)
        assert peer.traffic.wait_idle()


def test_slow_handshake_times_out(run: Run, peer: WebSocketPeer) -> None:
    async def main() -> None:
        error = await failure_to_open(peer.url("slow"), connect_timeout=0.05)
        assert error.kind == "timeout"
        assert str(error) == f"127.0.0.1:{peer.port} did not answer within 0.05 s."
        assert await anyio.to_thread.run_sync(peer.traffic.wait_idle)

    run(main)


def test_unanswered_connect_times_out(run: Run) -> None:
    with black_hole() as port:
        assert run(failure_to_open_quickly, f"ws://127.0.0.1:{port}/").kind == "timeout"


async def failure_to_open_quickly(url: str) -> TransportError:
    return await failure_to_open(url, connect_timeout=0.05)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_closed_port_is_refused(run: Run, host: str) -> None:
    with closed_port() as port:
        error = run(failure_to_open, f"ws://{host}:{port}/")
    assert error.kind == "refused"
    assert str(error) == f"Could not connect to {host}:{port}: connection refused."


def test_unknown_host_is_refused(run: Run) -> None:
    error = run(failure_to_open, "ws://no-such-host.invalid/v1")
    assert error.kind == "refused"
    assert "no-such-host.invalid:80: there is no such host" in str(error)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:80",
        "http://127.0.0.1/",
        "ws:///v1",
        "ws://127.0.0.1:99999/",
        "ws://127.0.0.1:0/",
        "ws://[::1/",
        "ws://user:secret@127.0.0.1/",
        "ws://127.0.0.1/secret path",
        "ws://127.0.0.1/secret\r\nX: y",
        "ws://exämple.com/",
    ],
)
def test_unusable_url_is_invalid_and_not_repeated(run: Run, url: str) -> None:
    error = run(failure_to_open, url)
    assert error.kind == "invalid"
    assert "secret" not in str(error)


@pytest.mark.parametrize("headers", [{"X-Key": "secret\n"}, {"X-Key": "secret\r\nY: z"}, {"X-Key": "sécret"}])
def test_unusable_header_is_invalid_and_its_value_not_repeated(run: Run, headers: dict[str, str]) -> None:
    with closed_port() as port:

        async def main() -> TransportError:
            return await failure_to_open(f"ws://127.0.0.1:{port}/", headers=headers)

        error = run(main)
    assert error.kind == "invalid"
    assert "X-Key" in str(error)
    assert "cret" not in str(error)


# TLS


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_given_context_is_used_for_tls(run: Run, tls_peer: WebSocketPeer, trusting: ssl.SSLContext, host: str) -> None:
    async def main() -> None:
        async with open_websocket(tls_peer.url("echo", host), ssl_context=trusting) as connection:
            await connection.send(b"x" * 100_000)
            assert len(await connection.receive()) == 100_000
        assert await anyio.to_thread.run_sync(tls_peer.traffic.wait_idle)

    run(main)


def test_certificate_file_of_the_environment_is_trusted(
    run: Run, tls_peer: WebSocketPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))

    async def main() -> None:
        async with open_websocket(tls_peer.url("echo")) as connection:
            await connection.send(b"x")
            assert await connection.receive() == b"x"

    run(main)


def test_untrusted_certificate_is_a_tls_failure(run: Run, tls_peer: WebSocketPeer) -> None:
    error = run(failure_to_open, tls_peer.url("echo"))
    assert error.kind == "tls"
    assert str(error) == f"No secure connection to 127.0.0.1:{tls_peer.port}: self-signed certificate."


def test_certificate_of_another_name_is_a_tls_failure(run: Run, trusting: ssl.SSLContext) -> None:
    with WebSocketPeer(server_tls(), host="127.0.0.2") as peer:

        async def main() -> TransportError:
            return await failure_to_open(peer.url("echo"), ssl_context=trusting)

        error = run(main)
    assert error.kind == "tls"
    assert "127.0.0.2" in str(error)


def test_server_without_tls_is_a_tls_failure(run: Run, peer: WebSocketPeer) -> None:
    error = run(failure_to_open, peer.url("echo").replace("ws://", "wss://"))
    assert error.kind == "tls"


# Alike on both


def test_handshake_carries_the_given_headers_and_offers_nothing_else(run: Run, peer: WebSocketPeer) -> None:
    async def main() -> None:
        async with open_websocket(peer.url("headers"), headers={"User-Agent": "flow/1", "X-Mine": "a b"}) as connection:
            headers = json.loads(await connection.receive())
        names = sorted(name for name, _ in headers)
        assert names == [
            "connection",
            "host",
            "sec-websocket-key",
            "sec-websocket-version",
            "upgrade",
            "user-agent",
            "x-mine",
        ]
        sent = dict(headers)
        assert (sent["user-agent"], sent["x-mine"], sent["host"]) == ("flow/1", "a b", f"127.0.0.1:{peer.port}")

    run(main)


@pytest.mark.parametrize("name", ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"])
def test_proxies_of_the_environment_are_not_used(
    run: Run, peer: WebSocketPeer, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    async def main() -> None:
        async with open_websocket(peer.url("echo")) as connection:
            await connection.send(b"x")
            assert await connection.receive() == b"x"

    with closed_port() as port:
        monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        run(main)


def test_frames_and_headers_reach_no_log(run: Run, peer: WebSocketPeer, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with open_websocket(peer.url("echo"), headers={"Authorization": "Bearer s3cret"}) as connection:
            await connection.send(b"s3cret")
            await connection.receive()

    with ExitStack() as stack:
        for name in (None, "websockets", "websockets.client", "runware_flow", "trio-websocket"):
            stack.enter_context(caplog.at_level(logging.DEBUG, logger=name))
        # The server in this process would log what it got: it is not what is tested.
        logging.getLogger("websockets.server").setLevel(logging.INFO)
        run(main)
    assert "s3cret" not in caplog.text


def test_body_exception_leaves_as_itself(run: Run, peer: WebSocketPeer) -> None:
    raised = LookupError("mine")

    async def main() -> None:
        async with open_websocket(peer.url("echo")):
            raise raised

    with pytest.raises(LookupError) as caught:
        run(main)
    assert caught.value is raised
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_error_survives_pickling() -> None:
    error = TransportError("gone", kind="lost", sent=True, status=401, close_code=1001)
    copy = pickle.loads(pickle.dumps(error))
    assert repr(copy) == repr(error)
    assert (copy.kind, copy.sent, copy.status, copy.close_code, copy.message) == ("lost", True, 401, 1001, "gone")


# Nothing is left behind


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
