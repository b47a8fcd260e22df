"""Webhooks and uploads: what the service sends by itself, and which calls it repeats."""

from __future__ import annotations

import io
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from emulator_clients import open_rest, open_socket
from emulator_tasks import caption, image, make_service, submit, text
from PIL import Image
from waiting import wait_until

from runware_flow.emulator import Emulator
from runware_flow.emulator.service.webhooks import retry_delay, webhook_body

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("watched")


class Receiver:
    """A server that records its requests and answers with the given statuses, then with 204."""

    def __init__(self, statuses: list[int]) -> None:
        self.statuses = statuses
        self.got: list[tuple[str, str, str, bytes]] = []
        self.url = ""

    def bodies(self) -> list[Any]:
        return [json.loads(body) for _, _, _, body in self.got]


@contextmanager
def receiving(*statuses: int) -> Iterator[Receiver]:
    receiver = Receiver(list(statuses))

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.got.append((self.command, self.path, self.headers["Content-Type"], body))
            self.send_response(receiver.statuses.pop(0) if receiver.statuses else 204)
            self.end_headers()

        do_POST = do_PUT = handle_any  # noqa: N815 - names of the standard library

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()


def test_webhook_gets_each_result_once_as_a_flat_item(run) -> None:
    async def main() -> None:
        with receiving() as receiver:
            async with Emulator(latency=0.01) as emulator, open_rest(emulator) as rest:
                task = image(numberResults=3, includeCost=True, webhookURL=f"{receiver.url}/hook?token=7")
                body = await rest.post(task)
                assert body == {"data": [{"taskType": "imageInference", "taskUUID": task["taskUUID"]}]}
                await wait_until(lambda: emulator.log.tasks[0].is_delivered)
                assert {path for _, path, _, _ in receiver.got} == {"/hook?token=7"}
                items = receiver.bodies()
                assert {item["taskUUID"] for item in items} == {task["taskUUID"]}
                assert len({item["imageUUID"] for item in items}) == 3
                assert all(item["cost"] > 0 and "status" not in item for item in items)
                polled = await rest.wait(task["taskUUID"])
                assert {item["imageUUID"] for item in polled} == {item["imageUUID"] for item in items}

    run(main)


def test_webhook_of_a_websocket_task_is_called_and_nothing_is_pushed(run) -> None:
    async def main() -> None:
        with receiving() as receiver:
            async with Emulator(latency=0.01) as emulator, open_socket(emulator) as client:
                body = await client.ask(caption("https://example.com/kite.jpg", webhookURL=receiver.url))
                assert set(body["data"][0]) == {"taskType", "taskUUID"}
                await wait_until(lambda: bool(receiver.got))
                assert "kite" in receiver.bodies()[0]["text"]
                assert (await client.ask({"taskType": "ping"}))["data"][0]["pong"]

    run(main)


def test_webhook_that_fails_is_called_again_until_it_answers(run) -> None:
    async def main() -> None:
        with receiving(500, 302, 404) as receiver:
            async with Emulator(latency=0, call_delay=0.001) as emulator, open_rest(emulator) as rest:
                await rest.post(image(webhookURL=receiver.url))
                await wait_until(lambda: emulator.log.tasks[0].is_delivered)
                (call,) = emulator.log.calls
                assert (call.method, call.statuses) == ("POST", [500, 302, 404, 204])
                assert call.at == sorted(call.at)
                assert len({body["imageUUID"] for body in receiver.bodies()}) == 1

    run(main)


def test_webhook_that_never_answers_is_given_up(run) -> None:
    async def main() -> None:
        settings = {"call_delay": 0.001, "call_attempts": 3, "call_timeout": 2.0}
        async with Emulator(latency=0, **settings) as emulator, open_rest(emulator) as rest:
            await rest.post(image(webhookURL="http://127.0.0.1:1/nobody"))
            await wait_until(lambda: bool(emulator.log.calls) and len(emulator.log.calls[0].statuses) == 3)
            assert emulator.log.calls[0].statuses == [None] * 3
            assert not emulator.log.tasks[0].is_delivered

    run(main)


def test_failed_task_is_sent_to_its_webhook() -> None:
    service = make_service("fail:code=inferenceError", latency=0)
    submit(service, image(webhookURL="http://x/"))
    ((job, slot),) = service.advance(0.0).callbacks
    body = webhook_body(service.settings, job, slot)
    assert (body["status"], body["code"]) == ("error", "inferenceError")
    wrapped = make_service("fail:nth=1", latency=0, webhook_shape="wrapped")
    submit(wrapped, image(webhookURL="http://x/"), image(webhookURL="http://x/"))
    bodies = [webhook_body(wrapped.settings, *one) for one in wrapped.advance(0.0).callbacks]
    assert [list(one) for one in bodies] == [["errors"], ["data"]]


def test_webhook_faults_drop_and_repeat_a_call(run) -> None:
    async def main() -> None:
        with receiving() as receiver:
            faults = ["drop-webhook:nth=1", "duplicate-webhook:nth=1"]
            async with Emulator(latency=0, faults=faults) as emulator, open_rest(emulator) as rest:
                lost, twice = image(webhookURL=receiver.url), image(webhookURL=receiver.url)
                await rest.post(lost)
                assert (await rest.wait(lost["taskUUID"]))[0]["status"] == "success"
                await rest.post(twice)
                await wait_until(lambda: len(receiver.got) == 2)
                assert {body["taskUUID"] for body in receiver.bodies()} == {twice["taskUUID"]}

    run(main)


def test_upload_endpoint_gets_the_bytes_of_each_result_and_then_the_webhook_is_called(run) -> None:
    async def main() -> None:
        with receiving() as receiver:
            async with Emulator(latency=0, call_delay=0.001) as emulator, open_rest(emulator) as rest:
                where = {"uploadEndpoint": f"{receiver.url}/put", "webhookURL": f"{receiver.url}/hook"}
                (item,) = (await rest.post(image(outputFormat="PNG", uploadEndpoint=f"{receiver.url}/sync")))["data"]
                await rest.post(image(**where))
                await wait_until(lambda: len(receiver.got) == 3)
                by_path = {path: (method, kind, body) for method, path, kind, body in receiver.got}
                method, kind, body = by_path["/sync"]
                assert (method, kind) == ("PUT", "image/png")
                assert Image.open(io.BytesIO(body)).size == (256, 128)
                assert (await rest.get(item["imageURL"])).content == body
                order = [path for _, path, _, _ in receiver.got if path != "/sync"]
                assert order == ["/put", "/hook"]

    run(main)


def test_upload_endpoint_of_a_text_has_nothing_to_put(run) -> None:
    async def main() -> None:
        with receiving() as receiver:
            async with Emulator(latency=0) as emulator, open_rest(emulator) as rest:
                await rest.post(text("hi", webhookURL=receiver.url))
                await wait_until(lambda: bool(receiver.got))
                assert receiver.got[0][0] == "POST"
                assert "hi" in receiver.bodies()[0]["text"]

    run(main)


def test_emulator_stops_while_it_waits_to_call_again(run) -> None:
    async def main() -> None:
        with anyio.fail_after(20):  # it does not wait the minute until the next call
            async with Emulator(latency=0, call_delay=60) as emulator, open_rest(emulator) as rest:
                await rest.post(image(webhookURL="http://127.0.0.1:1/"))
                await wait_until(lambda: bool(emulator.log.calls) and emulator.log.calls[0].statuses == [None])
        assert len(emulator.log.calls[0].statuses) == 1

    run(main)


def test_retries_wait_a_quarter_second_then_twice_as_long_and_eight_seconds_at_most() -> None:
    delays = [retry_delay(attempt, 0.25, "task") for attempt in range(1, 12)]
    for attempt, delay in enumerate(delays):
        plain = min(8.0, 0.25 * 2**attempt)
        assert 0.75 * plain <= delay <= 1.25 * plain
    assert len({round(delay / min(8.0, 0.25 * 2**at), 6) for at, delay in enumerate(delays)}) == len(delays)
