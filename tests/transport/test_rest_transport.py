"""REST over real connections: replies of any status, and errors that tell whether the request may have arrived."""

from __future__ import annotations

import gc
import logging
import ssl
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from email.utils import formatdate
from typing import Any

import anyio
import anyio.to_thread
import httpx
import pytest
from cancelling import assert_nothing_left, cancel_at_each_await
from http_peer import HttpPeer
from peers import CERTIFICATE, black_hole, closed_port, server_tls

from runware_flow.transport import Reply, RestTransport, TransportError
from runware_flow.transport.rest import create_http, parse_retry_after
from runware_flow.transport.tls import default_context

Run = Callable[..., Any]
HEADERS = {"Authorization": "Bearer s3cret", "User-Agent": "flow/1"}


@pytest.fixture
def peer() -> Iterator[HttpPeer]:
    with HttpPeer() as peer:
        yield peer


@asynccontextmanager
async def open_http(**options: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with await create_http(**options) as http_client:
        yield http_client


async def post(url: str, body: bytes = b"[]", *, timeout: float | None = None, **options: Any) -> Reply:
    async with open_http() as http_client:
        return await RestTransport(http_client, url, headers=HEADERS, **options).post(body, timeout=timeout)


async def failure(url: str, **options: Any) -> TransportError:
    with pytest.raises(TransportError) as caught:
        await post(url, **options)
    gc.collect()
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__cause__ is None or not isinstance(caught.value.__cause__, httpx.RequestError)
    return caught.value


# Replies


def test_post_sends_the_body_and_the_headers_and_returns_the_reply(run: Run, peer: HttpPeer) -> None:
    body = '[{"prompt":"é"}]'.encode()

    async def main() -> None:
        assert await post(peer.url("echo"), body) == Reply(200, body, None, "application/json")

    run(main)
    assert peer.bodies == [body]
    sent = peer.headers[0]
    assert sent["authorization"] == "Bearer s3cret"
    assert sent["content-type"] == "application/json"
    assert sent["user-agent"] == "flow/1"


@pytest.mark.parametrize("status", [200, 202, 400, 401, 402, 404, 429, 500, 503, 504])
def test_reply_of_any_status_is_a_reply(run: Run, peer: HttpPeer, status: int) -> None:
    reply = run(post, peer.url(f"status/{status}"))
    assert (reply.status, reply.body) == (status, b'{"errors": []}')


def test_empty_reply_is_a_reply(run: Run, peer: HttpPeer) -> None:
    assert run(post, peer.url("empty/401")) == Reply(401, b"", None, "")


def test_reply_of_another_content_is_a_reply(run: Run, peer: HttpPeer) -> None:
    assert run(post, peer.url("html/502")) == Reply(502, b"<h1>Bad Gateway</h1>", None, "text/html")


def test_redirect_is_not_followed(run: Run, peer: HttpPeer) -> None:
    assert run(post, peer.url("redirect")).status == 307
    assert len(peer.bodies) == 1


def test_compressed_reply_is_decoded(run: Run, peer: HttpPeer) -> None:
    assert run(post, peer.url("gzip/100000")).body == b"x" * 100_000


def test_cookies_are_not_kept(run: Run, peer: HttpPeer) -> None:
    async def main() -> None:
        async with open_http() as http_client:
            transport = RestTransport(http_client, peer.url("cookie"), headers=HEADERS)
            await transport.post(b"[]")
            await transport.post(b"[]")

    run(main)
    assert all("cookie" not in headers for headers in peer.headers)


def test_connections_are_kept_alive(run: Run, peer: HttpPeer) -> None:
    async def main() -> None:
        async with open_http() as http_client:
            transport = RestTransport(http_client, peer.url("echo"), headers=HEADERS)
            for _ in range(5):
                await transport.post(b"[]")

    run(main)
    assert peer.traffic.total == 1


def test_idle_connection_gives_way_to_another_host(run: Run, peer: HttpPeer) -> None:
    async def main() -> None:
        async with open_http(max_connections=1) as http_client:
            here = RestTransport(http_client, peer.url("echo"), headers=HEADERS)
            there = RestTransport(http_client, peer.url("echo").replace("127.0.0.1", "localhost"), headers=HEADERS)
            for transport in (here, there, there, here):
                assert (await transport.post(b"[]")).status == 200

    run(main)
    assert peer.traffic.total == 3


def test_client_of_the_user_adds_to_each_request_what_it_has_then(run: Run, peer: HttpPeer) -> None:
    async def main() -> None:
        async with httpx.AsyncClient() as mine:
            transport = RestTransport(mine, peer.url("echo"), headers=HEADERS)
            for number in range(2):
                mine.headers["X-Turn"] = str(number)
                await transport.post(b"[%d]" % number)

    run(main)
    assert [headers["x-turn"] for headers in peer.headers] == ["0", "1"]
    assert peer.bodies == [b"[0]", b"[1]"]


def test_many_posts_run_at_once(run: Run, peer: HttpPeer) -> None:
    def release() -> None:
        for _ in range(20):
            assert peer.arrived.acquire(timeout=10)
        peer.released.set()

    async def one(transport: RestTransport) -> None:
        with pytest.raises(TransportError):
            await transport.post(b"[]")

    async def main() -> None:
        async with open_http() as http_client, anyio.create_task_group() as tasks:
            transport = RestTransport(http_client, peer.url("wait"), headers=HEADERS)
            for _ in range(20):
                tasks.start_soon(one, transport)
            await anyio.to_thread.run_sync(release)

    run(main)


def test_retry_after_in_seconds_is_read(run: Run, peer: HttpPeer) -> None:
    assert run(post, peer.url("retry/7")).retry_after == 7.0


def test_retry_after_as_a_date_is_read(run: Run, peer: HttpPeer) -> None:
    reply = run(post, peer.url(f"retry/{formatdate(time.time() + 3600, usegmt=True).replace(' ', '%20')}"))
    assert 3000 < reply.retry_after <= 3600


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        ("1.5", 1.5),
        ("Thu, 01 Jan 1970 00:02:00 GMT", 20.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("-1", None),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_or_nothing(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, now=100.0) == seconds


# Failures


def test_closed_port_is_refused_and_not_sent(run: Run) -> None:
    with closed_port() as port:
        error = run(failure, f"http://127.0.0.1:{port}/")
    assert (error.kind, error.sent) == ("refused", False)
    assert str(error) == f"Could not connect to 127.0.0.1:{port}: connection refused."


def test_unknown_host_is_refused_and_not_sent(run: Run) -> None:
    error = run(failure, "http://no-such-host.invalid/v1")
    assert (error.kind, error.sent) == ("refused", False)
    assert "no-such-host.invalid:80: there is no such host" in str(error)


def test_unanswered_connect_times_out_and_is_not_sent(run: Run) -> None:
    async def main() -> TransportError:
        return await failure(f"http://127.0.0.1:{port}/", connect_timeout=0.05, timeout=20)

    with black_hole() as port:
        error = run(main)
    assert (error.kind, error.sent) == ("timeout", False)


def test_timeout_while_connecting_is_not_sent(run: Run) -> None:
    async def main() -> TransportError:
        return await failure(f"http://127.0.0.1:{port}/", timeout=0.05)

    with black_hole() as port:
        error = run(main)
    assert (error.kind, error.sent) == ("timeout", False)


@pytest.mark.parametrize("path", ["wait", "slow-body"])
def test_timeout_while_waiting_may_have_been_sent(run: Run, peer: HttpPeer, path: str) -> None:
    async def main() -> TransportError:
        return await failure(peer.url(path), timeout=0.5)

    error = run(main)
    assert (error.kind, error.sent) == ("timeout", True)
    assert str(error) == f"127.0.0.1:{peer.port} did not reply within 0.5 s."


def test_timeout_in_the_queue_for_a_connection_is_not_sent(run: Run, peer: HttpPeer) -> None:
    async def main() -> None:
        async with open_http(max_connections=1) as http_client, anyio.create_task_group() as tasks:
            transport = RestTransport(http_client, peer.url("wait"), headers=HEADERS)
            tasks.start_soon(transport.post, b"[]")
            assert await anyio.to_thread.run_sync(peer.arrived.acquire)
            with pytest.raises(TransportError) as caught:
                await transport.post(b"[]", timeout=0.05)
            assert (caught.value.kind, caught.value.sent) == ("timeout", False)
            tasks.cancel_scope.cancel()

    run(main)
    assert len(peer.bodies) == 1


@pytest.mark.parametrize("path", ["reset", "hang-up", "cut"])
def test_connection_that_breaks_after_the_request_is_lost_and_may_have_been_sent(
    run: Run, peer: HttpPeer, path: str
) -> None:
    error = run(failure, peer.url(path))
    assert (error.kind, error.sent) == ("lost", True)
    assert f"127.0.0.1:{peer.port}" in str(error)


@pytest.mark.parametrize("path", ["garbage", "bad-gzip"])
def test_reply_that_is_no_http_is_an_error(run: Run, peer: HttpPeer, path: str) -> None:
    error = run(failure, peer.url(path))
    assert error.kind in ("lost", "invalid")
    assert error.sent is True


@pytest.mark.parametrize("path", ["large/200001", "chunked/400000", "gzip/50000000"])
def test_reply_above_the_limit_is_too_large_and_harms_no_other(run: Run, peer: HttpPeer, path: str) -> None:
    async def main() -> None:
        async with open_http() as http_client:
            for _ in range(2):
                with pytest.raises(TransportError) as caught:
                    await RestTransport(http_client, peer.url(path), headers={}, max_reply_bytes=200_000).post(b"[]")
                assert (caught.value.kind, caught.value.sent) == ("too-large", True)
            assert (await RestTransport(http_client, peer.url("echo"), headers={}).post(b"[]")).status == 200

    run(main)
    gc.collect()


@pytest.mark.parametrize("path", ["large/200000", "chunked/200000", "gzip/200000"])
def test_reply_at_the_limit_passes(run: Run, peer: HttpPeer, path: str) -> None:
    async def main() -> None:
        assert len((await post(peer.url(path), max_reply_bytes=200_000)).body) == 200_000

    run(main)


def test_untrusted_certificate_is_a_tls_failure_and_not_sent(run: Run) -> None:
    with HttpPeer(server_tls()) as peer:
        error = run(failure, peer.url("echo"))
    assert (error.kind, error.sent) == ("tls", False)
    assert str(error) == f"No secure connection to 127.0.0.1:{peer.port}: self-signed certificate."


def test_given_context_is_used_for_tls(run: Run) -> None:
    async def main() -> None:
        async with open_http(ssl_context=ssl.create_default_context(cafile=str(CERTIFICATE))) as http_client:
            assert (await RestTransport(http_client, peer.url("echo"), headers={}).post(b"[]")).status == 200

    with HttpPeer(server_tls()) as peer:
        run(main)


def test_certificates_are_read_once_and_again_where_the_environment_names_others(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    usual = run(default_context)
    assert run(default_context) is usual
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    assert run(default_context) is not usual


def test_certificate_file_of_the_environment_is_trusted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    with HttpPeer(server_tls()) as peer:
        assert run(post, peer.url("echo")).status == 200


@pytest.mark.parametrize("name", ["http_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"])
def test_proxies_of_the_environment_are_not_used(
    run: Run, peer: HttpPeer, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with closed_port() as port:
        monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
        assert run(post, peer.url("echo")).status == 200


# The key


@pytest.mark.parametrize("value", ["Bearer s3cret\n", "Bearer s3cret\r\nX: y", "Bearer s3crét", " s3cret"])
def test_unusable_header_is_invalid_and_its_value_not_repeated(value: str) -> None:
    with pytest.raises(TransportError, match="Authorization") as caught:
        RestTransport(httpx.AsyncClient(), "http://127.0.0.1/", headers={"Authorization": value})
    assert caught.value.kind == "invalid"
    assert "s3cr" not in "".join(traceback.format_exception(caught.value))


def test_key_is_in_no_repr() -> None:
    transport = RestTransport(httpx.AsyncClient(), "https://127.0.0.1/v1?token=s3cret", headers=HEADERS)
    assert repr(transport) == "RestTransport(https://127.0.0.1:443)"


def test_key_reaches_no_log(run: Run, peer: HttpPeer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        run(post, peer.url("echo"))
    assert "s3cret" not in caplog.text


# A client of the user's


def test_failure_of_another_transport_tells_whether_the_request_was_read(run: Run) -> None:
    class Failing(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if request.url.path == "/late":
                assert await request.aread() == b"[]"
            raise httpx.ReadError("gone", request=request)

    async def main() -> None:
        async with httpx.AsyncClient(transport=Failing()) as http_client:
            for path, sent in (("early", False), ("late", True)):
                with pytest.raises(TransportError) as caught:
                    await RestTransport(http_client, f"http://service.test/{path}", headers=HEADERS).post(b"[]")
                assert (caught.value.kind, caught.value.sent) == ("lost", sent)

    run(main)


def test_reply_of_a_transport_in_memory_is_a_reply(run: Run) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=request.content)

    async def main() -> None:
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http_client:
            reply = await RestTransport(http_client, "http://service.test/", headers=HEADERS).post(b"[1]")
            assert (reply.status, reply.body) == (200, b"[1]")

    run(main)


# Nothing is left behind


@pytest.mark.exhaustive
@pytest.mark.parametrize("path", ["echo", "large/300000"])
def test_cancel_at_each_await_leaves_nothing(run: Run, peer: HttpPeer, path: str) -> None:
    async def talk() -> None:
        await post(peer.url(path))

    async def main() -> None:
        tasks = len(anyio.get_running_tasks())
        assert await cancel_at_each_await(talk, lambda: assert_nothing_left(peer.traffic, tasks)) > 3

    run(main)
