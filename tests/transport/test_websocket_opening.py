"""One suite for both carriers: what opening a connection sends, and how it fails."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest
from opening import failure_to_open
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
)

from runware_flow.transport import TransportError, open_websocket

if TYPE_CHECKING:
    import socket
    import ssl

Run = Callable[..., Any]


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
def test_server_of_another_kind_is_reported_at_once(
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
