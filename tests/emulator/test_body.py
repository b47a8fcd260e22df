"""What is unpacked, and within which bound: request bodies, fetched inputs, answers of webhooks."""

from __future__ import annotations

import gzip
import json
import re
import threading
import tracemalloc
import zlib
from contextlib import contextmanager, suppress
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import anyio
import httpx
import pytest
from emulator_clients import open_rest
from emulator_tasks import image
from hypothesis import given
from hypothesis import strategies as st
from waiting import wait_until

from runware_flow.emulator import Emulator, run_in_thread
from runware_flow.emulator.http.body import BodyFirst, BodyReader
from runware_flow.emulator.problems import Problem

pytestmark = pytest.mark.usefixtures("watched")
LIMIT = 2**20


@cache
def bomb(layers: int) -> bytes:
    """Return 96 MiB of nothing, packed once (94 KB) or twice (under 1 KB)."""
    packer, parts = zlib.compressobj(9, zlib.DEFLATED, 31), []
    for _ in range(96):
        parts.append(packer.compress(bytes(2**20)))
    packed = b"".join([*parts, packer.flush()])
    return packed if layers == 1 else gzip.compress(packed)


DATA = st.one_of(st.binary(max_size=5000), st.integers(0, 3 * 2**20).map(bytes))


@given(DATA, st.sampled_from(["", "identity", "gzip", "deflate", "GZIP"]), st.integers(1, 700))
def test_a_body_comes_out_as_it_was_sent(data, encoding, size) -> None:
    packed = {"gzip": gzip.compress, "deflate": zlib.compress}.get(encoding.lower(), bytes)(data)
    reader = BodyReader(encoding, 3 * 2**20)
    size = max(size, len(packed) // 64)
    for at in range(0, len(packed), size):
        reader.feed(packed[at : at + size])
    assert reader.finish() == data


@given(st.binary(min_size=1, max_size=300), st.sampled_from(["gzip", "deflate"]))
def test_bytes_that_are_not_packed_are_a_problem_not_a_crash(data, encoding) -> None:
    reader = BodyReader(encoding, 5000)
    with suppress(Problem):
        reader.feed(data)
        reader.finish()


def test_a_bomb_is_given_up_at_the_limit() -> None:
    packed = bomb(1)
    tracemalloc.start()
    try:
        with pytest.raises(Problem) as refused:
            BodyReader("gzip", LIMIT).feed(packed)
        assert refused.value.status == 413
        assert tracemalloc.get_traced_memory()[1] < 8 * LIMIT
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("encoding", ["gzip, gzip", "br", "zstd", "gzip,deflate"])
def test_other_encodings_and_two_at_once_are_refused(encoding) -> None:
    with pytest.raises(Problem) as refused:
        BodyReader(encoding, LIMIT)
    assert refused.value.status == 415


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("gzip", gzip.compress(json.dumps([image()]).encode()), 200),
        ("deflate", zlib.compress(json.dumps([image()]).encode()), 200),
        ("gzip", bomb(1), 413),
        ("gzip, gzip", bomb(2), 415),
        ("gzip", b"[]", 400),
    ],
)
def test_rest_requests_may_be_packed_within_the_bound(encoding, body, status) -> None:
    with run_in_thread(latency=0, max_frame_bytes=LIMIT) as emulator:
        headers = {"Authorization": f"Bearer {emulator.client_options['api_key']}", "Content-Encoding": encoding}
        answer = httpx.post(emulator.client_options["http_base_url"], content=body, headers=headers, trust_env=False)
        assert answer.status_code == status
        assert answer.json()


def test_apps_read_no_endless_body() -> None:
    with run_in_thread(max_frame_bytes=1000) as emulator:
        headers = {"Authorization": f"Bearer {emulator.client_options['api_key']}"}
        url = f"{emulator.client_options['serverless_base_url']}/v1/apps/some-app/invoke-async"
        answer = httpx.post(url, content=b"[" * 5000, headers=headers, trust_env=False)
        assert answer.status_code == 413


@contextmanager
def serve(body: bytes, encoding: str, status: int = 200):
    """Serve one packed body at every address, as it is."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "/next")
            self.send_header("Content-Encoding", encoding)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, *_args) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/a.png"
        finally:
            server.shutdown()


@pytest.mark.parametrize(("encoding", "layers", "status"), [("gzip", 1, 200), ("gzip, gzip", 2, 200), ("gzip", 2, 302)])
def test_fetched_inputs_are_unpacked_within_the_bound(run, encoding, layers, status) -> None:
    async def main() -> None:
        with serve(bomb(layers), encoding, status) as url:
            async with Emulator(latency=0) as emulator, open_rest(emulator) as rest:
                task = image(model="runware:150@2", taskType="caption", inputs={"image": url})
                task = {name: task[name] for name in ("taskType", "taskUUID", "model", "inputs")}
                answer = await rest.client.post(rest.url, json=[task])
                assert answer.json()["errors"][0]["code"] in (
                    "valueTooLarge",
                    "unsupportedContentEncoding",
                    "downloadFailed",
                )

    run(main)


def test_answers_of_webhooks_are_not_unpacked(run) -> None:
    async def main() -> None:
        with serve(bomb(2), "gzip, gzip") as url:
            async with Emulator(latency=0) as emulator, open_rest(emulator) as rest:
                await rest.post(image(webhookURL=url))
                await wait_until(lambda: any(call.statuses for call in emulator.log.calls))
                assert emulator.log.calls[0].statuses == [200]

    run(main)


@pytest.mark.parametrize(
    ("method", "path", "header", "status"),
    [
        ("POST", "/v1/messages", "X-Any: 1", 404),
        ("PUT", "/v1", "X-Any: 1", 405),
        ("POST", "/nothing", "X-Any: 1", 404),
        ("POST", "/__emulator__/log", "X-Any: 1", 405),
        ("POST", "/v1", "Origin: http://elsewhere.example", 403),
        ("POST", "/serverless/v1/apps/app/invoke-sync", "Authorization: Bearer wrong", 401),
    ],
)
def test_a_request_is_answered_after_its_body_so_that_its_connection_serves_the_next(
    run, method, path, header, status
) -> None:
    async def main() -> None:
        async with Emulator(latency=0) as emulator:
            host, port = emulator.base_url.removeprefix("http://").split(":")
            async with await anyio.connect_tcp(host, int(port)) as connection:
                for _ in range(2):
                    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{header}\r\nContent-Length: 2\r\n\r\n"
                    await connection.send(head.encode())
                    with anyio.move_on_after(0.05):
                        raise AssertionError(f"answered before the body: {await connection.receive()!r}")
                    await connection.send(b"{}")
                    answer = await connection.receive()
                    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
                    length = int(re.search(rb"content-length: (\d+)", answer, re.IGNORECASE)[1])
                    while len(answer) < answer.index(b"\r\n\r\n") + 4 + length:
                        answer += await connection.receive()

    run(main)


def test_the_rest_of_a_refused_body_is_read_within_a_limit(run) -> None:
    async def main() -> None:
        said: list[str] = []

        async def receive() -> dict[str, object]:
            said.append("received")
            return {"type": "http.request", "body": bytes(1000), "more_body": True}

        async def send(message) -> None:
            said.append(message["type"])

        exchange = BodyFirst(receive, send, 3500)
        await exchange.deliver({"type": "http.response.start", "status": 403, "headers": []})
        await exchange.deliver({"type": "http.response.body", "body": b""})
        assert said == [*["received"] * 4, "http.response.start", "http.response.body"]

    run(main)
