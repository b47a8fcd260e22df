"""The key is sent to the service only; no answer of a server chooses a file, a scheme or a size."""

from __future__ import annotations

import logging
import pickle
import ssl
import traceback
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import anyio
import httpx
import pytest

from runware_flow import Client, Flow, FlowFailed, RunwareError
from runware_flow.client.options import read_settings
from runware_flow.emulator import Emulator
from runware_flow.emulator.network.faults import Fault
from runware_flow.results import ImageResult
from runware_flow.secret import Secret
from runware_flow.tasks import ImageInference, TextInference

KEY = "rw-Sesame0123456789abcdefOpen"
CERTIFICATE = Path(__file__).parent / "transport" / "localhost.pem"
ECHO = f"the key {KEY} may not do this"


def picture(number=0, **more):
    return ImageInference(model="runware:400@1", positive_prompt=f"picture {number}", width=512, height=512, **more)


def words():
    return TextInference(model="google:gemma@4-31b", messages=[{"role": "user", "content": "Say it"}])


@pytest.fixture(params=["websocket", "rest"])
def transport(request):
    return request.param


class Search:
    """Everything that was said anywhere, to be searched for the key."""

    def __init__(self):
        self.said = []

    def __call__(self, *things):
        for thing in things:
            self.said += [repr(thing), str(thing)]
            if isinstance(thing, BaseException):
                self.said += traceback.format_exception(thing)
                self.said.append(repr(pickle.dumps(thing)))
                self.said.append(repr(vars(thing)))

    def assert_clean(self):
        assert self.said
        for line in self.said:
            assert KEY not in line, line
            assert KEY.encode().hex() not in line


@pytest.fixture
def search(caplog):
    """Holds what the test gave it, and everything that any logger of the process wrote."""
    caplog.set_level(logging.DEBUG)
    for name in ("websockets", "websockets.client", "httpx", "httpcore", "trio_websocket", "wsproto", "runware_flow"):
        caplog.set_level(logging.DEBUG, logger=name)
    found = Search()
    yield found
    found(caplog.text, [record.__dict__ for record in caplog.records])
    found.assert_clean()


async def failure(call, *args, **more):
    with pytest.raises(RunwareError) as caught:
        await call(*args, **more)
    return caught.value


def test_key_is_in_no_log_repr_or_exception(run, transport, search):
    async def main():
        faults = [
            Fault(kind="reject", prompt="picture 1", message=ECHO),
            Fault(kind="fail", prompt="picture 2", message=ECHO),
            Fault(kind="fail", prompt="picture 3", message=ECHO, shape="item"),
        ]
        async with Emulator(latency=0.01, api_key=KEY, faults=faults) as emulator:
            options = {**emulator.client_options, "transport": transport, "debug": True}
            async with Client(**options, log_sink=search) as client:
                search(client, client.statistics(), await client.run(picture()))
                for number in (1, 2, 3):
                    for delivery in ("sync", "async"):
                        error = await failure(client.run, picture(number), delivery=delivery, on_result=search)
                        assert "<api key> may not do this" in error.message
                        search(error)
                prepared = client.prepare(picture())
                search(prepared, prepared.wire)
            search(client)

    run(main)


def test_key_that_a_stream_repeats_is_redacted(run, search):
    async def main():
        for fault in (
            Fault(kind="reject", message=ECHO),
            Fault(kind="reject", code=KEY, message=ECHO),
            Fault(kind="fail", message=ECHO),
        ):
            async with Emulator(latency=0.01, api_key=KEY, faults=[fault, "split-stream"]) as emulator:
                async with Client(**emulator.client_options, debug=True, log_sink=search) as client:
                    with pytest.raises(RunwareError) as caught:
                        async with client.stream(words()) as stream:
                            search(stream)
                            await stream.result()
                    search(caught.value)

    run(main)


def test_rejected_key_is_in_no_error(run, transport, search):
    async def main():
        async with Emulator(faults=[Fault(kind="reject-key", message=ECHO)]) as emulator:
            options = {**emulator.client_options, "api_key": KEY, "transport": transport, "debug": True}
            async with Client(**options, log_sink=search) as client:
                error = await failure(client.run, picture())
                assert error.code == "auth"
                search(error)

    run(main)


def test_key_is_in_no_event_outcome_journal_or_report(run, transport, search, tmp_path):
    async def main():
        journal = tmp_path / "flow.sqlite"
        flow = Flow("secretive", journal=journal)
        many = flow.map(range(4), picture)
        async with Emulator(
            latency=0.01, api_key=KEY, faults=[Fault(kind="fail", prompt="2", message=ECHO)]
        ) as emulator:
            async with Client(**emulator.client_options, transport=transport) as client:
                search(flow, repr(many))
                with pytest.raises(FlowFailed) as caught:
                    async with flow.start(client) as started:
                        async for event in started.events():
                            search(event)
                        await started.wait()
                result = caught.value.result
                search(caught.value, caught.value.__cause__, result, result.outcomes(many), result.receipt())
        files = list(tmp_path.iterdir())
        assert files
        for file in files:
            search(file.read_bytes())

    run(main)


def test_key_is_in_no_repr_of_what_holds_it(search):
    settings = read_settings({"api_key": KEY}, {})
    secret = Secret(KEY)
    search(settings, secret, f"{secret}", f"{settings}", Client(KEY))
    search([settings.api_key], {"key": secret})
    with pytest.raises(TypeError) as caught:
        pickle.dumps(settings)
    search(caught.value)


@pytest.mark.parametrize("key", [f" {KEY} {KEY} ", f"{KEY}\u00e9"])
def test_key_that_cannot_be_one_is_not_repeated(search, key):
    with pytest.raises(RunwareError) as caught:
        Client(key)
    search(caught.value)


# TLS


@contextmanager
def web(handler, tls=None):
    """A small server on a port of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Quiet(BaseHTTPRequestHandler):
    """Answers with a picture, and keeps the headers that came."""

    seen: list

    def do_GET(self):
        type(self).seen.append((self.path, dict(self.headers)))
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/picture.png")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = b"\x89PNG\r\n\x1a\n" + bytes(64)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *args):
        """Nothing."""

    def handle(self):
        try:
            super().handle()
        except OSError:
            self.close_connection = True  # a client that does not trust us hangs up


@pytest.fixture
def listener():
    return type("Listener", (Quiet,), {"seen": []})


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_server_with_an_untrusted_certificate_is_refused(run, transport, listener, search):
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(CERTIFICATE)

    async def main(host):
        urls = {"ws_base_url": f"wss://{host}/v1", "http_base_url": f"https://{host}/v1"}
        async with Client(KEY, transport=transport, max_retries=0, **urls) as client:
            error = await failure(client.run, picture(), timeout=10)
            assert error.code == "connection"
            search(error)

    with web(listener, tls) as host:
        run(main, host)
    assert listener.seen == [], "the key went to a server whose certificate nobody vouches for"


# What results name


def image(**fields):
    return ImageResult(task_type="imageInference", task_uuid="t", **fields)


def test_files_of_results_are_fetched_without_the_key_also_after_a_redirect(run, listener, tmp_path):
    async def main(host):
        async with Client(KEY) as client:
            await client.read(image(image_url=f"http://{host}/picture.png"))
            await client.save(image(image_url=f"http://{host}/moved"), tmp_path / "moved")

    with web(listener) as host:
        run(main, host)
    assert [path for path, _ in listener.seen] == ["/picture.png", "/moved", "/picture.png"]
    assert not any(KEY in value for _, headers in listener.seen for value in headers.values())
    assert (tmp_path / "moved.png").exists()


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://127.0.0.1/x", "/etc/passwd", "//127.0.0.1/x", "javascript:1"]
)
def test_result_that_names_anything_but_http_is_not_opened(run, tmp_path, url):
    async def main():
        async with Client(KEY) as client:
            for call in (client.read, lambda result: client.save(result, tmp_path / "x")):
                error = await failure(call, image(image_url=url))
                assert error.code == "validation"

    run(main)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["../outside", "/tmp/outside", "..", ".", "a/b", "..\\outside", ".hidden", "x\0y", "x" * 400, ""]
)
def test_server_does_not_choose_where_a_result_is_saved(run, tmp_path, name):
    folder = tmp_path / "in" / "here"
    folder.mkdir(parents=True)

    async def main():
        async with Client(KEY) as client:
            uri = "data:image/png;base64,iVBORw0KGgoAAAAN"
            return await client.save(image(image_uuid=name, image_data_uri=uri), folder)

    saved = run(main)
    assert saved == folder / "result.png"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [saved]


def test_download_that_never_ends_is_bounded(run):
    from runware_flow.transport.download import download

    kept = []

    async def keep(piece):
        kept.append(len(piece))

    async def endless():
        while True:
            await anyio.lowlevel.checkpoint()
            yield bytes(1000)

    async def main():
        answer = httpx.MockTransport(lambda request: httpx.Response(200, content=endless()))
        async with httpx.AsyncClient(transport=answer) as http_client:
            error = await failure(download, http_client, "http://somewhere/x", keep, max_bytes=10_000)
            assert error.raw_code == "valueTooLarge"

    run(main)
    assert sum(kept) <= 10_000
