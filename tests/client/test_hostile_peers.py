"""What a misbehaving peer, HTTP client or environment can do to a call: make it fail, in time, with one clear error."""

from __future__ import annotations

import gzip
import traceback

import anyio
import anyio.abc
import httpx
import pytest

from runware_flow import Client, RunwareError, RunwareTimeoutError
from runware_flow.client.media import INLINE_LIMIT_BYTES
from runware_flow.emulator import Emulator
from runware_flow.graph.outcomes import Failed
from runware_flow.results import ImageResult
from runware_flow.tasks import Caption, ImageInference, TextInference

KEY = "rw-secret-0123456789"
TASK = ImageInference(model="runware:400@1", positive_prompt="a kite", width=512, height=512)
TEXT = TextInference(model="google:gemma@4-31b", messages=[{"role": "user", "content": "hello"}])
TASK_ID = "9b0e0f60-8c46-4c42-9ef4-1c3f6c1a8a11"


class Boom(Exception):
    """An exception of the user's."""


def mock_client(answer, **options):
    """A client whose HTTP is answered in memory."""
    http = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    return http, Client(KEY, transport="rest", http_client=http, retry_delay=0.001, **options)


def image_at(url):
    return ImageResult(task_type="imageInference", task_uuid=TASK_ID, image_url=url)


# Every call has a bound.


CALLS = {
    "list_models": lambda client: client.content.list_models(),
    "get_task": lambda client: client.get_task("my-app", TASK_ID),
    "get_response": lambda client: client.get_response(TASK_ID),
    "get_task_details": lambda client: client.get_task_details(TASK_ID),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_beyond_the_bound_of_a_call_ends_it_at_once(run, name, status):
    async def main():
        asked = []

        def answer(request):
            asked.append(request)
            return httpx.Response(status, headers={"Retry-After": "1e300"})

        http, client = mock_client(answer)
        async with http, client:
            with anyio.fail_after(5), pytest.raises(RunwareError) as caught:
                await CALLS[name](client)
                # A state is an answer as well.
                raise RunwareError("answered", code="rateLimit")
        assert caught.value.code in {"rateLimit", "serverError", "notFound"}
        assert len(asked) == 1

    run(main)


async def trickle(stream):
    """A file that never ends: a byte, and another, and another."""
    with anyio.move_on_after(20):
        await stream.receive()
        await stream.send(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 100000\r\n\r\n")
        while True:
            await stream.send(b"x")
            await anyio.sleep(0.01)


@pytest.mark.parametrize("method", ["save", "read"])
def test_file_that_comes_byte_by_byte_is_given_up_at_the_timeout(run, tmp_path, method):
    async def handle(stream):
        try:
            async with stream:
                await trickle(stream)
        except (anyio.BrokenResourceError, anyio.EndOfStream):
            pass

    async def main():
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, handle)
            image = image_at(f"http://127.0.0.1:{port}/x.png")
            (tmp_path / "x.png").write_bytes(b"an earlier picture")
            async with Client(KEY) as client:
                with pytest.raises(RunwareTimeoutError, match=r"took longer than 0\.3 s"):
                    if method == "save":
                        await client.save(image, tmp_path / "x.png", timeout=0.3)
                    else:
                        await client.read(image, timeout=0.3)
            group.cancel_scope.cancel()
        assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"an earlier picture"]

    run(main)


@pytest.mark.exhaustive
@pytest.mark.parametrize("call", ["run", "submit", "stream"])
def test_timeout_covers_the_upload_of_local_media(run, open_pair, call):
    medium = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 2000

    async def main():
        task = ImageInference(model="runware:400@1", positive_prompt="a kite", inputs={"seedImage": medium})
        if call == "stream":
            task = TextInference(model=TEXT.model, messages=TEXT.messages, inputs={"images": [medium]})
        async with open_pair(faults=["slow-reader:rate=100000"]) as (emulator, client):
            with anyio.fail_after(4), pytest.raises(RunwareTimeoutError, match="uploaded; it was not sent"):
                if call == "run":
                    await client.run(task, timeout=0.5)
                else:
                    async with getattr(client, call)(task, timeout=0.5):
                        pass
            assert not any(asked.task_type in {"imageInference", "textInference"} for asked in emulator.log.asked)

    run(main)


# An exception of an injected HTTP client belongs to its call.


class Faulty(httpx.AsyncBaseTransport):
    """Fails where it is told to, in its own way."""

    def __init__(self, fails):
        self.fails = fails
        self.inner = httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request):
        body = await request.aread()
        if self.fails(body):
            raise Boom("in the user's own transport")
        copy = httpx.Request(request.method, request.url, headers=request.headers, content=body)
        return await self.inner.handle_async_request(copy)

    async def aclose(self):
        await self.inner.aclose()


@pytest.mark.parametrize("delivery", ["sync", "async"])
def test_exception_of_an_injected_http_client_belongs_to_its_call(run, delivery):
    async def main():
        async with Emulator(latency=0.2) as emulator:
            http = httpx.AsyncClient(transport=Faulty(lambda body: b"a stormy kite" in body))
            options = {**emulator.client_options, "transport": "rest", "http_client": http}
            async with http, Client(**options) as client:
                ended = []

                async def call(prompt):
                    task = ImageInference(model="runware:400@1", positive_prompt=prompt, width=512, height=512)
                    try:
                        ended.append((await client.run(task, delivery=delivery))[0].url is not None)
                    except Exception as error:  # noqa: BLE001  # to be looked at
                        ended.append(error)

                async with anyio.create_task_group() as group:
                    group.start_soon(call, "a kite")
                    await anyio.sleep(0.05)  # two POSTs
                    group.start_soon(call, "a stormy kite")
                await call("another kite")
                assert sorted(type(one).__name__ for one in ended) == ["Boom", "bool", "bool"]

    run(main)


def test_exception_of_an_injected_http_client_in_a_poll_does_not_end_the_call(run):
    async def main():
        polls = []

        def fails(body):
            if b"getResponse" in body:
                polls.append(body)
            return b"getResponse" in body and len(polls) == 1

        async with Emulator(latency=0.1) as emulator:
            http = httpx.AsyncClient(transport=Faulty(fails))
            options = {**emulator.client_options, "transport": "rest", "http_client": http}
            async with http, Client(**options, retry_delay=0.01) as client:
                assert (await client.run(TASK))[0].url
            assert len(polls) > 1

    run(main)


@pytest.mark.parametrize("name", [*CALLS, "stream", "save", "refresh_registry"])
def test_exception_of_an_injected_http_client_leaves_every_call_as_itself(run, name, tmp_path):
    async def main():
        def answer(request):
            raise Boom

        http, client = mock_client(answer)
        async with http, client:
            for _ in range(2):  # and the client goes on
                with pytest.raises(Boom):
                    if name == "stream":
                        async with client.stream(TEXT) as stream:
                            await stream.result()
                    elif name == "save":
                        await client.save(image_at("https://im.runware.ai/x.png"), tmp_path / "x.png")
                    elif name == "refresh_registry":
                        await client.refresh_registry()
                    else:
                        await CALLS[name](client)

    run(main)


@pytest.mark.parametrize("where", ["open", "send", "receive"])
def test_connector_that_fails_in_its_own_way_fails_the_call_and_says_how(run, where):
    class Connection:
        async def send(self, frame):
            if where == "send":
                raise Boom("no way")
            await anyio.sleep_forever()

        async def receive(self):
            if where == "receive":
                raise Boom("no way")
            await anyio.sleep_forever()

    class Connecting:
        async def __aenter__(self):
            if where == "open":
                raise Boom("no way")
            return Connection()

        async def __aexit__(self, *_):
            pass

    async def main():
        async with Client(KEY, connector=lambda *_, **__: Connecting(), retry_delay=0.01) as client:
            with pytest.raises(RunwareError, match="connector failed: Boom: no way") as caught:
                await client.run(TASK)
            assert caught.value.code == "connection"

    run(main)


# A refused submit raises, and that is all.


@pytest.mark.parametrize("delivery", ["sync", "async"])
def test_refused_submit_raises_and_calls_no_callback(run, open_pair, delivery):
    async def main():
        told = []
        async with open_pair() as (_, client):
            task = {"model": "runware:400@1", "positivePrompt": "a kite", "width": -1, "height": 64, "numberResults": 2}
            with pytest.raises(RunwareError) as caught:
                await client.run(task, on_result=told.append, delivery=delivery)
        assert caught.value.code == "validation"
        assert told == []

    run(main)


@pytest.mark.parametrize("delivery", ["sync", "async"])
def test_failure_of_a_result_is_still_an_outcome(run, open_pair, delivery):
    async def main():
        told = []
        async with open_pair(faults=["fail"]) as (_, client):
            with pytest.raises(RunwareError):
                await client.run(TASK, on_result=told.append, delivery=delivery)
        assert len(told) == 1
        assert isinstance(told[0], Failed)

    run(main)


# What is wrong with the surroundings is one clear error.


@pytest.mark.parametrize("transport", ["rest", "websocket"])
def test_certificates_that_cannot_be_read_are_one_clear_error(run, monkeypatch, tmp_path, transport):
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))

    async def main():
        urls = {"http_base_url": "https://127.0.0.1:9/v1", "ws_base_url": "wss://127.0.0.1:9/v1"}
        async with Client(KEY, transport=transport, retry_delay=0.001, **urls) as client:
            calls = [client.run(TASK), client.get_response(TASK_ID)]
            calls.append(client.save(image_at("https://127.0.0.1:9/x.png"), tmp_path / "x.png"))
            for call in calls:
                with pytest.raises(RunwareError, match=r"SSL_CERT_FILE=.*none.pem.*cannot be read") as caught:
                    await call
                assert caught.value.code == "connection"

    run(main)


@pytest.mark.parametrize("change", [lambda url: url + "/", lambda url: url[:4].upper() + url[4:]])
def test_addresses_may_end_in_a_slash_and_shout_their_scheme(run, transport, change):
    async def main():
        async with Emulator(latency=0.0) as emulator:
            options = {
                name: change(value) if name.endswith("_url") else value
                for name, value in emulator.client_options.items()
            }
            async with Client(**options, transport=transport) as client:
                assert (await client.run(TASK))[0].url
                assert await client.content.list_creators() is not None

    run(main)


def test_redirect_of_a_post_is_one_clear_error(run):
    async def main():
        http, client = mock_client(lambda _: httpx.Response(307, headers={"Location": "https://elsewhere.test/"}))
        async with http, client:
            with pytest.raises(RunwareError) as caught:
                await client.run(TASK, delivery="sync")
            assert "307" in str(caught.value)

    run(main)


@pytest.mark.parametrize("prefix", ["möwe/1.0", "a\nb", " a", 7])
def test_user_agent_prefix_that_http_does_not_allow_is_refused_at_once(prefix):
    with pytest.raises(RunwareError, match="user_agent_prefix") as caught:
        Client(KEY, user_agent_prefix=prefix)
    assert caught.value.code == "validation"


def test_tilde_in_paths_is_the_home_folder(run, open_pair, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))

    async def main():
        async with open_pair() as (_, client):
            (image,) = await client.run(TASK)
            saved = await client.save(image, "~/pictures/kite")
            assert saved.parent == tmp_path / "pictures"
            assert await client.image_upload(anyio.Path(f"~/pictures/{saved.name}")._path)
            large = saved.with_name("large.png")
            large.write_bytes(saved.read_bytes() + bytes(INLINE_LIMIT_BYTES))
            assert await client.run(Caption(model="runware:150@2", inputs={"image": "~/pictures/large.png"}))
            assert await client.save(image, "~no-such-user-here/kite.jpg") is not None

    monkeypatch.chdir(tmp_path)
    run(main)


# Compressed bodies.


def bomb(times):
    body = bytes(50 * 2**20)
    for _ in range(times):
        body = gzip.compress(body)
    return body


class Raw(httpx.AsyncBaseTransport):
    """Answers with bytes as they are, which httpx has not decoded yet."""

    def __init__(self, encoding, body):
        self.headers = {"Content-Encoding": encoding, "Content-Type": "application/json"}
        self.body = body

    async def handle_async_request(self, request):
        return httpx.Response(200, headers=self.headers, stream=Stream(self.body))


class Stream(httpx.AsyncByteStream):
    def __init__(self, body):
        self.body = body

    async def __aiter__(self):
        yield self.body


@pytest.mark.parametrize(("encoding", "times"), [("gzip, gzip", 2), ("gzip,gzip,gzip", 3), ("br", 1)])
def test_reply_encoded_more_than_once_is_not_unpacked(run, encoding, times, tmp_path):
    async def main():
        http = httpx.AsyncClient(transport=Raw(encoding, bomb(times)))
        async with http, Client(KEY, transport="rest", http_client=http, max_retries=0) as client:
            for call in (
                client.content.list_models(),
                client.run(TASK, delivery="sync", timeout=5),
                client.save(image_at("https://im.runware.ai/x.png"), tmp_path / "x.png"),
            ):
                with pytest.raises(RunwareError):
                    await call
        assert not list(tmp_path.iterdir())

    run(main)


def test_stream_of_events_that_is_compressed_is_read(run):
    async def main():
        body = b'data: {"taskUUID":"%s","delta":{"text":"hello"}}\n\ndata: [DONE]\n\n' % TASK_ID.encode()
        transport = Raw("gzip", gzip.compress(body))
        transport.headers["Content-Type"] = "text/event-stream"
        http = httpx.AsyncClient(transport=transport)
        async with http, Client(KEY, transport="rest", http_client=http) as client:
            async with client.stream(TEXT) as stream:
                assert await stream.full_text() == "hello"

    run(main)


# Where files are fetched from.


def test_headers_of_an_injected_http_client_stay_away_from_hosts_of_results(run, tmp_path):
    async def main():
        asked = []

        def answer(request):
            asked.append(request)
            return httpx.Response(200, content=b"\x89PNG\r\n\x1a\n")

        http = httpx.AsyncClient(
            transport=httpx.MockTransport(answer),
            headers={"X-Internal-Token": "secret"},
            cookies={"session": "secret"},
            params={"token": "secret"},
            auth=("user", "secret"),
        )
        async with http, Client(KEY, transport="rest", http_client=http) as client:
            await client.read(image_at("https://im.runware.ai/x.png"))
            await client.is_available(image_at("https://im.runware.ai/x.png"))
        assert [request.method for request in asked] == ["GET", "HEAD"]
        for request in asked:
            assert "secret" not in f"{request.url}{list(request.headers.raw)}"
            assert "authorization" not in request.headers

    run(main)


@pytest.mark.parametrize(
    ("start", "target", "reason"),
    [
        ("https://203.0.114.7/a.png", "https://127.0.0.1/b.png", "to this machine"),
        ("https://203.0.114.7/a.png", "https://[::1]/b.png", "to this machine"),
        ("https://203.0.114.7/a.png", "https://localhost/b.png", "to this machine"),
        ("https://203.0.114.7/a.png", "https://10.0.0.8/b.png", "private network"),
        ("https://203.0.114.7/a.png", "https://169.254.169.254/latest/meta-data", "private network"),
        ("https://203.0.114.7/a.png", "http://203.0.114.7/b.png", "from https to http"),
        ("https://203.0.114.7/a.png", "file:///etc/passwd", "http or https only"),
        ("https://203.0.114.7/a.png", "https://203.0.114.7/a.png", "redirected more than 5 times"),
    ],
)
def test_redirect_to_where_no_file_is_fetched_from_is_refused(run, start, target, reason):
    async def main():
        asked = []

        def answer(request):
            asked.append(str(request.url))
            return httpx.Response(302, headers={"Location": target})

        http, client = mock_client(answer)
        async with http, client:
            with pytest.raises(RunwareError, match=reason):
                await client.read(image_at(start))
            assert set(asked) == {start}

    run(main)


@pytest.mark.parametrize(
    ("start", "target"),
    [
        ("http://127.0.0.1:8000/a.png", "http://127.0.0.1:8000/b.png"),
        ("https://203.0.114.7/a.png", "https://198.51.101.9/b.png"),
        ("http://203.0.114.7/a.png", "/b.png"),
    ],
)
def test_redirect_from_one_server_of_files_to_another_is_followed(run, start, target):
    async def main():
        def answer(request):
            if request.url.path == "/a.png":
                return httpx.Response(302, headers={"Location": target})
            return httpx.Response(200, content=b"content")

        http, client = mock_client(answer)
        async with http, client:
            assert await client.read(image_at(start)) == b"content"

    run(main)


# The key is in no frame.


async def shown_of_error(call, client):
    """Everything that a traceback with locals shows, of an error of a call and of what it came from."""
    try:
        with anyio.fail_after(10):
            await call(client)
    except Exception as error:  # noqa: BLE001  # to be looked at
        shown = traceback.TracebackException.from_exception(error, capture_locals=True)
        return "".join([*shown.format(), repr(error)])
    return ""


@pytest.mark.parametrize("transport", ["rest", "websocket"])
@pytest.mark.parametrize("how", ["refused", "unreachable", "broken", "unreadable"])
def test_key_is_in_no_frame_of_any_error(run, tmp_path, transport, how):
    async def main():
        def answer(request):
            if how == "broken":
                raise Boom
            if how == "refused":
                return httpx.Response(401, json={"errors": [{"code": "invalidApiKey", "message": f"not {KEY}"}]})
            return httpx.Response(200, content=b"<html>")

        options = {"retry_delay": 0.001, "max_retries": 1, "auth_timeout": 2}
        if how == "unreachable":
            names = ("http", "schemas", "content", "serverless")
            options.update({f"{name}_base_url": "http://127.0.0.1:9" for name in names}, ws_base_url="ws://127.0.0.1:9")
            http = None
        else:
            http = httpx.AsyncClient(transport=httpx.MockTransport(answer))
            options["ws_base_url"] = "ws://127.0.0.1:9"
        shown = {}
        async with Client(KEY, transport=transport, http_client=http, **options) as client:
            for name, call in public_calls(tmp_path).items():
                shown[name] = await shown_of_error(call, client)
        if http is not None:
            await http.aclose()
        assert sum(map(bool, shown.values())) > 10
        assert [name for name, text in shown.items() if KEY in text] == []

    run(main)


def public_calls(folder):
    async def stream(client):
        async with client.stream(TEXT) as text:
            await text.result()

    async def submit(client):
        async with client.submit(TASK) as delivery:
            await delivery.wait_results()

    async def body(client):
        async with client.submit(TASK):
            raise Boom

    return {
        **CALLS,
        "run": lambda client: client.run(TASK, timeout=3),
        "sync": lambda client: client.run(TASK, timeout=3, delivery="sync"),
        "validate": lambda client: client.run(TASK, timeout=3, validate=True),
        "submit": submit,
        "body": body,
        "stream": stream,
        "connect": lambda client: client.connect(),
        "model_search": lambda client: client.model_search("x", timeout=3),
        "media_storage": lambda client: client.media_storage(b"x" * 1000, timeout=3),
        "image_upload": lambda client: client.image_upload(b"x" * 400_000, timeout=3),
        "invoke": lambda client: client.invoke("my-app", {}, timeout=3),
        "refresh_registry": lambda client: client.refresh_registry(),
        "save": lambda client: client.save(image_at("http://127.0.0.1:9/x.png"), folder / "x.png"),
        "read": lambda client: client.read(image_at("http://127.0.0.1:9/x.png")),
        "account_management": lambda client: client.account_management(timeout=3),
    }
