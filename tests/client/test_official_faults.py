"""Each fault of the official clients that is known, and what this client does in its place.

The faults are those of the protocol facts, sections 12.2 (TypeScript 1.2.1) and 12.3 (Python 1.8.0); the name of a test
says the fault. Where it is cheap to show, the official Python client has it here, in the same test.
"""

from __future__ import annotations

import asyncio
import gc
from contextlib import asynccontextmanager

import msgspec
import pytest
import runware
from official_sdk import call_official, point_at
from runware import RunOptions
from runware.client import _AsyncCollector, _is_terminal
from runware.stream import TextStream, _accumulate, parse_sse_line

from runware_flow import Client, Failed, Ok, RunwareError
from runware_flow.emulator import run_in_thread
from runware_flow.session.streaming import StreamMachine
from runware_flow.transport.websocket import open_websocket
from runware_flow.wire.items import decode_item

KITE = {"model": "runware:400@1", "positivePrompt": "a kite", "width": 512, "height": 512}
QUESTION = {"model": "google:gemma@4-31b", "messages": [{"role": "user", "content": "Tell me about “Türkiye”"}]}
UPLOAD = {"category": "checkpoint", "architecture": "sdxl", "format": "safetensors", "name": "mine"}


@pytest.fixture(scope="module")
def service():
    latency = {"videoInference": (0.0, 0.4), "*": 0.02}
    with run_in_thread(latency=latency) as emulator:
        yield emulator


@pytest.fixture
def emulator(service, monkeypatch):
    point_at(service, monkeypatch)
    yield service
    service.faults.clear()


@pytest.fixture
def ours(emulator, run):
    """`ours(use, **options)`: run `use(client)` with this client, on the backend under test."""

    def runner(use, **options):
        async def main():
            async with Client(**{**emulator.client_options, "retry_delay": 0.02, **options}) as client:
                return await use(client)

        result = run(main)
        gc.collect()  # an unclosed socket or task becomes a warning here, and a warning is an error
        return result

    return runner


def refusal(emulator, call, **settings):
    """The error that the official client raises."""
    with pytest.raises(runware.RunwareError) as caught:
        call_official(emulator, call, **settings)
    return caught.value


# Section 12.3, the official Python client


def test_fault_a_sync_request_that_was_sent_fails_when_the_connection_is_lost(emulator, ours):
    emulator.faults.add("kill:nth=2")
    theirs = refusal(emulator, lambda client: client.run({**KITE, "deliveryMethod": "sync"}))
    assert theirs.code == "connection"
    emulator.faults.add("kill:nth=2")
    before = len(emulator.log.asked)
    (image,) = ours(lambda client: client.run(KITE, delivery="sync"))
    assert image.url
    assert len(emulator.log.asked) == before + 1


def test_fault_any_error_during_a_later_handshake_counts_as_a_rejected_key(emulator, ours):
    def break_off():
        emulator.faults.clear()
        emulator.faults.add("kill:nth=2")
        emulator.faults.add("reject-key:nth=2,code=internalServerError")

    break_off()
    assert refusal(emulator, lambda client: client.run(KITE)).code == "auth"
    break_off()
    (image,) = ours(lambda client: client.run(KITE))
    assert image.url


def test_fault_what_comes_before_the_answer_to_the_key_is_lost(emulator, ours):
    emulator.faults.add("kill:nth=2")
    emulator.faults.add("slow-auth:nth=2,seconds=0.2")
    polls = emulator.log.polls
    (image,) = ours(lambda client: client.run(KITE, delivery="sync"))
    assert image.url
    assert emulator.log.polls == polls  # it was replayed before the handshake was over, and taken


def test_fault_a_lost_answer_to_a_poll_is_waited_for_longer_than_five_seconds(emulator, ours):
    emulator.faults.add("drop-poll:nth=1")
    (image,) = ours(lambda client: client.run(KITE, timeout=5))
    assert image.url


@pytest.mark.parametrize("transport", ["websocket", "rest"])
def test_fault_an_error_in_the_answer_to_a_poll_hides_the_results_beside_it(emulator, ours, transport):
    emulator.faults.add("fail:index=1,shape=errors")
    three = {**KITE, "numberResults": 3}
    seen = []
    theirs = refusal(
        emulator, lambda client: client.run(dict(three), RunOptions(on_result=seen.append)), transport=transport
    )
    assert (theirs.code, seen) == ("provider", [])

    async def use(client):
        outcomes = []
        with pytest.raises(RunwareError) as caught:
            await client.run(three, on_result=outcomes.append)
        return outcomes, caught.value

    outcomes, error = ours(use, transport=transport)
    assert sorted(type(one).__name__ for one in outcomes) == ["Failed", "Ok", "Ok"]
    assert (error.code, len(error.results)) == ("provider", 2)


@pytest.mark.parametrize(
    "item",
    [
        {"taskType": "imageInference", "taskUUID": "u", "status": "processing", "previewURL": "https://x/y.jpg"},
        {"taskType": "imageInference", "taskUUID": "u", "webhookURL": "https://x/hook"},
        {"taskType": "textInference", "taskUUID": "u", "status": "processing", "text": "Once up"},
    ],
)
def test_fault_whatever_holds_an_address_or_a_text_counts_as_finished(item):
    assert _is_terminal(item)
    read = decode_item(msgspec.json.encode(item))
    assert not read.is_result
    assert read.phase in ("pending", "accepted")


@pytest.mark.parametrize("transport", ["websocket", "rest"])
def test_fault_results_without_ids_of_their_own_collapse_into_one(emulator, ours, transport):
    versions = {"model": "runware:llama-3-1-8b@prompt-enhancer", "prompt": "a kite", "promptVersions": 3}
    versions["promptMaxLength"] = 64
    if transport == "rest":
        assert len(call_official(emulator, lambda client: client.run(dict(versions)), transport=transport)) == 1
        collector = _AsyncCollector(3, None)
        collector.ingest([{"taskUUID": "u", "status": "success", "text": text} for text in "abc"])
        assert not collector.done()  # and so it polls until its timeout

    async def use(client):
        return await client.run({**QUESTION, "numberResults": 3}), await client.run(versions)

    texts, enhanced = ours(use, transport=transport)
    assert (len(texts), len(enhanced)) == (3, 3)
    assert len({one.text for one in enhanced}) == 3


def test_fault_results_are_in_the_order_in_which_they_were_first_seen(emulator, ours):
    collector = _AsyncCollector(2, None)
    one, other = ({"taskUUID": "u", "videoUUID": name, "status": "success"} for name in ("one", "other"))
    collector.ingest([{"taskUUID": "u", "status": "processing"}, other])
    collector.ingest([one, other])
    assert collector.sorted_results() == [other, one]
    film = {"model": "google:3@3", "positivePrompt": "Waves", "width": 1280, "height": 720, "numberResults": 4}
    films = ours(lambda client: client.run({**film, "seed": 100}))
    assert [film.seed for film in films] == [100, 101, 102, 103]


def test_fault_the_results_beside_a_failed_one_are_lost(emulator, ours):
    emulator.faults.add("fail:index=1,shape=item")
    three = {**KITE, "numberResults": 3, "deliveryMethod": "sync"}
    theirs = refusal(emulator, lambda client: client.run(dict(three)))
    assert not hasattr(theirs, "results")

    async def use(client):
        with pytest.raises(RunwareError) as caught:
            await client.run(three)
        return caught.value.results

    assert [bool(image.url) for image in ours(use)] == [True, True]


def test_fault_an_empty_list_of_errors_fails_a_rest_call(emulator, ours):
    emulator.faults.add("empty-errors")
    assert refusal(emulator, lambda client: client.run({**KITE, "deliveryMethod": "sync"}), transport="rest")
    for delivery in ("sync", "async"):
        (image,) = ours(lambda client, how=delivery: client.run(KITE, delivery=how), transport="rest")
        assert image.url


def test_fault_an_upload_of_a_model_returns_at_its_first_stage(emulator, ours):
    parameters = {**UPLOAD, "downloadURL": "https://example.com/m.safetensors"}
    (first,) = call_official(emulator, lambda client: client.model_upload(dict(parameters)))
    assert first["status"] == "validated"
    uploaded = ours(lambda client: client.run({"taskType": "modelUpload", **parameters}))
    assert uploaded[0].raw["status"] == "ready"


NAMELESS = b'{"errors":[{"code":"internalServerError","message":"something is wrong with somebody"}]}'


def test_fault_an_error_that_names_no_task_fails_every_task(emulator, ours):
    async def call(client):
        task = asyncio.ensure_future(client.run({**KITE, "deliveryMethod": "sync"}))
        while not (client._ws_transport and client._ws_transport._task_callbacks):  # noqa: ASYNC110  # it has no event
            await asyncio.sleep(0.005)
        client._ws_transport._dispatch(msgspec.json.decode(NAMELESS))
        return await task

    assert refusal(emulator, call).code == "serverError"

    @asynccontextmanager
    async def connector(url, **options):
        async with open_websocket(url, **options) as connection:
            yield Interjecting(connection)

    images = ours(lambda client: client.run({**KITE, "numberResults": 2}, delivery="sync"), connector=connector)
    assert len(images) == 2


class Interjecting:
    """A connection on which an error that names no task comes after the answer to the key."""

    def __init__(self, connection):
        self._connection = connection
        self._count = 0
        self.send = connection.send

    async def receive(self):
        self._count += 1
        return NAMELESS if self._count == 2 else await self._connection.receive()


def test_fault_two_readers_of_a_stream_take_pieces_from_each_other(emulator, ours):
    async def call(client):
        stream = await client.stream(dict(QUESTION))
        one, other = stream.text_stream, stream.text_stream
        first, second = await anext(one), await anext(other)
        return first, second, (await stream.result()).text

    first, second, text = call_official(emulator, call)
    assert text.startswith(first + second)

    async def use(client):
        async with client.stream(QUESTION) as stream:
            one, other = stream.text, stream.text
            assert await anext(one) == await anext(other)
            rest = [[piece async for piece in reader] for reader in (one, other)]
            return rest, (await stream.result()).text

    rest, text = ours(use)
    assert rest[0] == rest[1]
    assert text.endswith("".join(rest[0]))


class Pieces:
    """What the official stream needs of an HTTP session: a reply whose body comes in pieces of two bytes."""

    ok = True

    def __init__(self, body):
        self._body = body
        self.content = self

    @asynccontextmanager
    async def post(self, url, **options):
        yield self

    async def iter_any(self):
        for start in range(0, len(self._body), 2):
            yield self._body[start : start + 2]


def test_fault_a_character_that_the_network_cuts_is_damaged(emulator, ours):
    async def call(client):
        body = 'data: {"delta":{"text":"“Türkiye”"}}\n\ndata: [DONE]\n\n'.encode()
        return await TextStream(config=client._config, session=Pieces(body), task={}).text()

    assert "\N{REPLACEMENT CHARACTER}" in call_official(emulator, call)
    emulator.faults.add("split-stream")

    async def use(client):
        async with client.stream(QUESTION) as stream:
            return await stream.full_text()

    assert "“Türkiye”" in ours(use)


def test_fault_the_first_finish_reason_is_kept_and_later_usage_is_not_its_own():
    events = [b'{"finishReason":"unknown"}', b'{"finishReason":"length","usage":{"totalTokens":3}}', b"[DONE]"]
    chunks = [parse_sse_line(f"data: {event.decode()}") for event in events[:2]]
    assert _accumulate(chunks).finish_reason == "unknown"
    machine = StreamMachine("u")
    for event in events:
        machine.feed(b"data: " + event + b"\n\n")
    assert (machine.end().finish_reason, machine.end().usage) == ("length", {"totalTokens": 3})


def test_fault_a_stream_that_breaks_off_looks_complete(emulator, ours):
    emulator.faults.add("truncate-stream")

    async def call(client):
        return await (await client.stream(dict(QUESTION))).result()

    assert call_official(emulator, call).finish_reason is None

    async def use(client):
        async with client.stream(QUESTION) as stream:
            with pytest.raises(RunwareError, match="broke off") as caught:
                await stream.result()
        return caught.value

    assert ours(use).code == "connection"


def test_fault_a_submit_whose_reply_was_lost_is_an_error_though_the_task_runs(emulator, ours):
    emulator.faults.add("cut:nth=1")
    theirs = refusal(emulator, lambda client: client.run(dict(KITE)), transport="rest", max_retries=3)
    assert theirs.code == "validation"  # conflictTaskUUID
    emulator.faults.add("cut:nth=1")
    before = len(emulator.log.asked)
    (image,) = ours(lambda client: client.run(KITE), transport="rest")
    assert image.url
    assert len(emulator.log.asked) == before + 1


def test_fault_what_a_callback_raises_is_swallowed(emulator, ours):
    def fail(item):
        raise ZeroDivisionError

    sync = {**KITE, "deliveryMethod": "sync"}
    assert call_official(emulator, lambda client: client.run(dict(sync), RunOptions(on_result=fail)))
    with pytest.raises(ZeroDivisionError):
        ours(lambda client: client.run(sync, on_result=fail))


# Section 12.2, the official TypeScript client


@pytest.mark.parametrize("shape", ["errors", "error", "legacy"])
def test_typescript_fault_a_rejected_key_is_waited_for_until_the_timeout(emulator, ours, shape):
    emulator.faults.add(f"reject-key:shape={shape}")

    async def use(client):
        with pytest.raises(RunwareError) as caught:
            await client.run(KITE)
        return caught.value

    error = ours(use, auth_timeout=25)  # a wait for it would be cut off as a hang
    assert (error.code, error.retryable) == ("auth", False)


def test_typescript_fault_a_key_rejected_on_reconnect_is_tried_for_ever(emulator, ours):
    emulator.faults.add("kill:nth=2")
    emulator.faults.add("reject-key:nth=2")

    async def use(client):
        with pytest.raises(RunwareError) as caught:
            await client.run(KITE)
        return caught.value

    assert ours(use).code == "auth"


def test_typescript_fault_a_request_lost_with_its_connection_is_not_sent_again(emulator, ours):
    emulator.faults.add("kill:nth=2")
    (image,) = ours(lambda client: client.run(KITE))
    assert image.url


@pytest.mark.parametrize("transport", ["websocket", "rest"])
def test_typescript_fault_on_result_is_not_called_for_sync_results(emulator, ours, transport):
    seen = []
    ours(
        lambda client: client.run({**KITE, "numberResults": 3}, delivery="sync", on_result=seen.append),
        transport=transport,
    )
    assert [type(one) for one in seen] == [Ok] * 3


@pytest.mark.parametrize("delivery", ["sync", "async"])
def test_typescript_fault_the_data_of_a_frame_with_errors_is_dropped(emulator, ours, delivery):
    emulator.faults.add("fail:index=1,shape=errors")
    seen = []

    async def use(client):
        with pytest.raises(RunwareError):
            await client.run({**KITE, "numberResults": 3}, delivery=delivery, on_result=seen.append)

    ours(use)
    assert sorted(type(one).__name__ for one in seen) == ["Failed", "Ok", "Ok"]


def test_typescript_fault_on_result_is_called_again_when_the_order_changes(emulator, ours):
    emulator.faults.add("shuffle:every=2")
    film = {"model": "google:3@3", "positivePrompt": "Waves", "width": 1280, "height": 720, "numberResults": 4}
    seen = []
    ours(lambda client: client.run(film, on_result=seen.append))
    assert len(seen) == 4
    assert len({one.value.video_uuid for one in seen}) == 4


def test_typescript_fault_a_refusal_with_status_200_is_returned_as_a_result(run):
    async def main(emulator):
        async with Client(**emulator.client_options, transport="rest") as client:
            for delivery in ("sync", "async"):
                with pytest.raises(RunwareError) as caught:
                    await client.run({**KITE, "width": 999}, delivery=delivery)
                assert (caught.value.code, caught.value.parameter) == ("validation", "width")
            assert not [one for one in await client.run(KITE) if isinstance(one, Failed)]

    with run_in_thread(latency=0.0, rejection_status="ok") as emulator:
        run(main, emulator)
