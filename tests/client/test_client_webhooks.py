"""The webhook receiver: an ASGI application on a real server, called by the emulator; and its answers, one by one."""

from __future__ import annotations

import importlib
import json
import logging
import socket
from contextlib import asynccontextmanager

import anyio
import pytest
from waiting import wait_until

from runware_flow import Client, ClientStateError, RunwareError, WebhookReceiver
from runware_flow.client import webhooks
from runware_flow.emulator import Emulator
from runware_flow.tasks import ImageInference, TextInference

ADDRESS = "https://me.example/hook?who=me"
IMAGE = {"taskType": "imageInference", "taskUUID": "11111111-2222-4333-8444-555555555555", "imageUUID": "i"}
IMAGE["imageURL"] = "https://x/i.jpg"


def kite(**parameters):
    return ImageInference(model="runware:400@1", positive_prompt="a kite", width=512, height=512, **parameters)


@asynccontextmanager
async def serving(backend, listener, app):
    """Serve an ASGI application with hypercorn, as users would."""
    hypercorn = importlib.import_module(f"hypercorn.{backend}")
    config = importlib.import_module("hypercorn.config").Config()
    config.bind = [f"fd://{listener.detach()}"]  # it closes the socket
    config.loglevel = "ERROR"
    config.graceful_timeout = 0.1
    stop = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: hypercorn.serve(app, config, shutdown_trigger=stop.wait))
        try:
            yield
        finally:
            stop.set()


@pytest.fixture
def open_receiver(backend, transport):
    """`async with open_receiver(**emulator_options) as (emulator, client, receiver)`: the emulator can call it."""

    @asynccontextmanager
    async def opener(on_notice=None, **emulator_options):
        logging.getLogger("hypercorn.error").setLevel(logging.ERROR)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = f"http://127.0.0.1:{listener.getsockname()[1]}/hook"
            async with Emulator(**{"latency": 0.02, "call_delay": 0.02, **emulator_options}) as emulator:
                async with Client(**emulator.client_options, transport=transport) as client:
                    receiver = WebhookReceiver(client, address, on_notice=on_notice)
                    async with serving(backend, listener, receiver):
                        yield emulator, client, receiver

    return opener


@pytest.mark.parametrize("shape", ["flat", "wrapped"])
def test_call_settles_the_task_that_waits_for_it(run, open_receiver, shape):
    async def main():
        polls = ["drop-poll"]  # no poll is ever answered: what comes, comes by the webhook
        async with open_receiver(faults=polls, webhook_shape=shape) as (emulator, client, receiver):
            images = await client.run(kite(number_results=3, webhook_url=receiver.url))
            texts = await client.run(
                TextInference(
                    model="google:gemma@4-31b",
                    messages=[{"role": "user", "content": "Hi"}],
                    number_results=2,
                    webhook_url=receiver.url,
                )
            )
            assert len({image.image_uuid for image in images}) == 3
            assert len(texts) == 2
            assert len(emulator.log.asked) == 2
            assert {status for call in emulator.log.calls for status in call.statuses} == {204}

    run(main)


def test_call_of_a_failure_fails_its_task_with_the_rest(run, open_receiver):
    async def main():
        faults = ["drop-poll", "fail:index=1"]
        async with open_receiver(faults=faults) as (_, client, receiver):
            with pytest.raises(RunwareError) as caught:
                await client.run(kite(number_results=3, webhook_url=receiver.url))
            assert (caught.value.code, len(caught.value.results)) == ("provider", 2)

    run(main)


def test_repeated_calls_and_polls_give_each_result_once(run, open_receiver):
    async def main():
        seen, notices = [], []
        faults = ["duplicate-webhook"]
        async with open_receiver(faults=faults, latency=(0.0, 0.3), on_notice=notices.append) as (
            emulator,
            client,
            receiver,
        ):
            await client.run(kite(number_results=4, webhook_url=receiver.url), on_result=seen.append)
            with anyio.fail_after(5):
                await wait_until(lambda: sum(len(call.statuses) for call in emulator.log.calls) >= 8)
        assert len({outcome.value.image_uuid for outcome in seen}) == len(seen) == 4
        assert len({notice.identity for notice in notices}) == len(notices) <= 4

    run(main)


def test_call_that_never_comes_loses_nothing(run, open_receiver):
    async def main():
        async with open_receiver(faults=["drop-webhook"]) as (_, client, receiver):
            assert (await client.run(kite(webhook_url=receiver.url)))[0].url

    run(main)


def test_call_for_a_task_that_no_call_waits_for_reaches_on_notice(run, open_receiver):
    async def main():
        notices = []
        told = anyio.Event()

        async def on_notice(notice):
            notices.append(notice)
            if len(notices) == 1:
                raise OSError("the database is away")
            told.set()

        async with open_receiver(latency=0.1, on_notice=on_notice) as (emulator, client, receiver):
            async with client.submit(kite(webhook_url=receiver.url)) as delivery:
                await wait_until(lambda: emulator.log.asked)
            await told.wait()
            assert [notice.task_uuid for notice in notices] == [delivery.task_uuid] * 2
            assert notices[1].result.url
            with anyio.fail_after(5):
                await wait_until(lambda: len(emulator.log.calls[0].statuses) >= 2)
            assert emulator.log.calls[0].statuses == [500, 204]

    run(main)


async def call(receiver, url, body=b"{}", method="POST"):
    """Call an ASGI application as a server would; the status of its answer."""
    sent = []

    async def receive():
        return {"type": "http.request", "body": body}

    async def send(message):
        sent.append(message)

    query = url.partition("?")[2].encode()
    await receiver({"type": "http", "method": method, "path": "/", "query_string": query, "headers": []}, receive, send)
    return sent[0]["status"]


def image():
    return json.dumps(IMAGE).encode()


def test_receiver_answers_each_kind_of_call_with_its_status(run, monkeypatch):
    monkeypatch.setattr(webhooks, "MAX_FRAME_BYTES", 1000)

    async def main():
        async with Client("rw-key") as client:
            receiver = WebhookReceiver(client, ADDRESS, token="s3cret")
            assert receiver.url == f"{ADDRESS}&token=s3cret"
            assert "s3cret" not in repr(receiver)
            assert await call(receiver, receiver.url, method="GET") == 405
            for wrong in (ADDRESS, f"{ADDRESS}&token=wr%C3%B6ng", f"{ADDRESS}&token=%ff%00"):
                assert await call(receiver, wrong, image()) == 403
            assert await call(receiver, receiver.url, b"words") == 400
            assert await call(receiver, receiver.url, b"x" * 1001) == 413
            assert await call(receiver, receiver.url, image()) == 204
            assert await call(receiver, receiver.url, b"{}") == 204

    run(main)


def test_receiver_tokens_are_its_own_and_long(run):
    async def main():
        async with Client("rw-key") as client:
            one, other = (WebhookReceiver(client, ADDRESS) for _ in range(2))
        assert one.url != other.url
        assert len(one.url.partition("token=")[2]) > 40

    run(main)


def test_on_notice_that_takes_too_long_is_called_again(run, monkeypatch):
    monkeypatch.setattr(webhooks, "_ANSWER_SECONDS", 0.05)
    called = []

    async def on_notice(notice):
        called.append(notice)
        if len(called) == 1:
            await anyio.sleep_forever()

    async def main():
        async with Client("rw-key") as client:
            receiver = WebhookReceiver(client, ADDRESS, on_notice=on_notice)
            assert [await call(receiver, receiver.url, image()) for _ in range(3)] == [500, 204, 204]
        assert len(called) == 2

    run(main)


def test_receiver_of_a_client_that_is_closed_says_so(run):
    async def main():
        async with Client("rw-key") as client:
            receiver = WebhookReceiver(client, ADDRESS)
        with pytest.raises(ClientStateError, match="closed"):
            await call(receiver, receiver.url, image())

    run(main)


def test_receiver_that_cannot_work_is_refused(run):
    async def main():
        async with Client("rw-key") as client:
            with pytest.raises(RunwareError, match="starts with https"):
                WebhookReceiver(client, "me.example/hook")
            with pytest.raises(RunwareError, match="open to all"):
                WebhookReceiver(client, ADDRESS, token="")

    run(main)


def test_receive_webhook_returns_results_that_no_call_waits_for(run):
    async def main():
        async with Client("rw-key") as client:
            (notice,) = client.receive_webhook(image())
            assert notice.result.url == IMAGE["imageURL"]
            assert client.receive_webhook(b"{}") == []
        with pytest.raises(ClientStateError):
            client.receive_webhook(b"{}")

    run(main)


def test_caller_that_leaves_amid_its_body_is_let_go(run):
    async def main():
        messages = iter([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])
        sent = []

        async def receive():
            return next(messages)

        async def send(message):
            sent.append(message)

        async with Client("rw-key") as client:
            receiver = WebhookReceiver(client, ADDRESS, token="t")
            scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"token=t", "headers": []}
            await receiver(scope, receive, send)
        assert sent == []

    run(main)
