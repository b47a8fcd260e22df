"""The proxy of the environment: which one, for what, and what goes wrong with it."""

from __future__ import annotations

import anyio
import pytest

from runware_flow import Client, RunwareError
from runware_flow.emulator import Emulator
from runware_flow.tasks import ImageInference
from runware_flow.transport.address import parse_address
from runware_flow.transport.connection import TransportError
from runware_flow.transport.proxy import find_proxy, open_tunnel
from tests.docs.forward_proxy import run_proxy

TASK = ImageInference(model="runware:400@1", positive_prompt="a kite", width=512, height=512)
SECURE = parse_address("wss://ws-api.runware.ai/v1", ("wss",))
PLAIN = parse_address("ws://127.0.0.1:8000/v1", ("ws",))


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ws_proxy", "wss_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ("variables", "address", "expected"),
    [
        ({}, SECURE, None),
        ({"HTTPS_PROXY": "http://proxy.test:3128"}, SECURE, "proxy.test:3128"),
        ({"HTTPS_PROXY": "proxy.test:3128"}, SECURE, "proxy.test:3128"),
        ({"HTTPS_PROXY": "http://proxy.test:3128"}, PLAIN, None),
        ({"HTTP_PROXY": "http://proxy.test"}, PLAIN, "proxy.test:80"),
        ({"ALL_PROXY": "http://proxy.test:1"}, SECURE, "proxy.test:1"),
        ({"HTTPS_PROXY": "http://proxy.test:3128", "NO_PROXY": ".runware.ai"}, SECURE, None),
        ({"HTTPS_PROXY": "http://user:p%40ss@proxy.test:3128/"}, SECURE, "proxy.test:3128"),
    ],
)
def test_proxy_of_the_environment(monkeypatch, variables, address, expected):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = find_proxy(address)
    assert (None if found is None else str(found.address)) == expected
    assert "p@ss" not in repr(found)
    if "user" in str(variables):
        assert found.authorization == b"Proxy-Authorization: Basic dXNlcjpwQHNz\r\n"


def test_proxy_that_no_websocket_goes_through_is_one_clear_error(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "socks5://proxy.test:1080")
    with pytest.raises(TransportError, match="http:// proxy only") as caught:
        find_proxy(SECURE)
    assert caught.value.kind == "invalid"


@pytest.mark.parametrize(
    ("pieces", "sentence"),
    [
        ([b"HTTP/1.1 407 Proxy", b" Authentication Required\r\n\r\n"], "did not connect to .*: HTTP 407"),
        ([b"SSH-2.0\r\n\r\n"], "did not connect to .*: no HTTP"),
        ([b"HTTP/1.1 200 OK\r\n", b""], "was lost"),
        ([b"x" * 70_000, b"y"], "was lost"),
    ],
)
def test_tunnel_that_is_refused_says_why(run, monkeypatch, pieces, sentence):
    monkeypatch.setenv("HTTPS_PROXY", "http://user:hush@proxy.test:3128")

    async def main():
        sent = []
        waiting = iter(pieces)

        async def send(data):
            sent.append(data)

        async def receive():
            return next(waiting)

        with pytest.raises(TransportError, match=sentence) as caught:
            await open_tunnel(SECURE, find_proxy(SECURE), send, receive)
        assert not caught.value.sent
        assert "hush" not in str(caught.value)
        assert sent[0].startswith(b"CONNECT ws-api.runware.ai:443 HTTP/1.1\r\nHost: ws-api.runware.ai:443\r\n")

    run(main)


@pytest.mark.parametrize("transport", ["websocket", "rest"])
def test_client_goes_through_the_proxy_of_the_environment(run, monkeypatch, transport, tmp_path):
    async def main(proxy):
        async with Emulator(latency=0.0) as emulator:
            async with Client(**emulator.client_options, transport=transport) as client:
                await client.run(TASK)
            assert proxy.methods == []  # nothing is read from the environment unless it is asked for
            async with Client(**emulator.client_options, transport=transport, trust_env=True) as client:
                (image,) = await client.run(TASK)
                await client.save(image, tmp_path / "kite")
        assert "GET" in proxy.methods
        assert ("CONNECT" in proxy.methods) == (transport == "websocket")

    with run_proxy() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        run(main, proxy)


@pytest.mark.parametrize("transport", ["websocket", "rest"])
def test_client_whose_proxy_does_not_answer_gets_one_clear_error(run, monkeypatch, transport):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")

    async def main():
        options = {"ws_base_url": "ws://127.0.0.1:8000/v1", "http_base_url": "http://127.0.0.1:8000/v1"}
        async with Client("rw-key", transport=transport, trust_env=True, retry_delay=0.001, **options) as client:
            with anyio.fail_after(10), pytest.raises(RunwareError) as caught:
                await client.run(TASK)
        assert caught.value.code == "connection"

    run(main)
