"""`/v1/chat/completions` with the real OpenAI client, `/v1/models`, what is not there, and `?dryRun=1`."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai
import pydantic
import pytest
from emulator_clients import open_rest
from emulator_tasks import image, make_id, make_service, poll, submit
from hypothesis import given
from hypothesis import strategies as st
from websockets.sync.client import connect

from runware_flow.emulator import Emulator, run_in_thread
from runware_flow.emulator.problems import Problem
from runware_flow.emulator.service import chat

MODEL = "google:gemma@4-31b"
HELLO: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Tell me of “Türkiye”"}]


@asynccontextmanager
async def open_openai(**settings: Any):
    """An emulator and OpenAI's client for it."""
    with run_in_thread(latency=0.02, **settings) as emulator:
        options = emulator.client_options
        async with openai.AsyncOpenAI(
            api_key=options["api_key"], base_url=options["http_base_url"], max_retries=0, timeout=10
        ) as client:
            yield emulator, client


def test_openai_client_gets_a_completion_from_the_same_models() -> None:
    async def main() -> None:
        async with open_openai(answers={"capital": "Paris"}) as (emulator, client):
            said = await client.chat.completions.create(model=MODEL, messages=HELLO, temperature=0.2, seed=4, n=2)
            assert [choice.index for choice in said.choices] == [0, 1]
            assert said.choices[0].finish_reason == "stop"
            assert "“Türkiye”" in str(said.choices[0].message.content)
            assert said.model == MODEL
            assert said.usage is not None
            assert said.usage.total_tokens == said.usage.prompt_tokens + said.usage.completion_tokens > 0
            question: list[Any] = [{"role": "user", "content": [{"type": "text", "text": "The capital of France?"}]}]
            answer = await client.chat.completions.create(model=MODEL, messages=question)
            assert answer.choices[0].message.content == "Paris"
            first, second = emulator.log.asked
            assert (first.task_type, first.model, first.channel) == ("textInference", MODEL, "rest")
            assert first.request["settings"] == {"systemPrompt": "Be brief.", "temperature": 0.2}
            assert second.cost > 0
            short = await client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=3)
            assert short.choices[0].finish_reason == "length"

    asyncio.run(main())


def test_openai_client_streams_word_by_word() -> None:
    async def main() -> None:
        async with open_openai(faults=["split-stream:nth=1"]) as (emulator, client):
            for with_usage in (False, True):
                options: Any = {"stream_options": {"include_usage": True}} if with_usage else {}
                stream = await client.chat.completions.create(model=MODEL, messages=HELLO, stream=True, **options)
                chunks = [chunk async for chunk in stream]
                words = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
                assert "“Türkiye”" in "".join(word or "" for word in words)
                assert len(words) > 10
                assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
                assert (chunks[-1].usage is not None) is with_usage
            assert emulator.log.billed > 0

    asyncio.run(main())


def test_openai_client_parses_structured_answers() -> None:
    class City(pydantic.BaseModel):
        name: str
        people: int

    async def main() -> None:
        async with open_openai() as (_, client):
            said = await client.chat.completions.parse(model=MODEL, messages=HELLO, response_format=City)
            assert isinstance(said.choices[0].message.parsed, City)
            plain = await client.chat.completions.create(
                model=MODEL, messages=HELLO, response_format={"type": "json_object"}
            )
            assert isinstance(json.loads(str(plain.choices[0].message.content)), dict)

    asyncio.run(main())


def test_openai_client_gets_the_error() -> None:
    async def main() -> None:
        async with open_openai() as (
            emulator,
            client,
        ):
            create = client.chat.completions.create
            with pytest.raises(openai.NotFoundError, match="does not exist"):
                await create(model="nobody:1@1", messages=HELLO)
            with pytest.raises(openai.BadRequestError, match="textInference") as caught:
                await create(model="runware:400@1", messages=HELLO)
            assert (caught.value.code, caught.value.param) == ("unsupportedTaskType", "taskType")
            with pytest.raises(openai.BadRequestError, match="messages"):
                await create(model=MODEL, messages=[])
            with pytest.raises(openai.AuthenticationError, match="Invalid API key"):
                await client.with_options(api_key="wrong").chat.completions.create(model=MODEL, messages=HELLO)
            doomed: list[Any] = [{"role": "user", "content": "doomed"}]
            emulator.faults.add("fail:code=inferenceError,task_type=textInference")
            with pytest.raises(openai.InternalServerError, match="failed"):
                await create(model=MODEL, messages=doomed)
            stream = await create(model=MODEL, messages=doomed, stream=True)
            with pytest.raises(openai.APIError, match="failed"):
                async for _ in stream:
                    pass
            for path in ("/responses", "/messages", "/decisions"):
                with pytest.raises(openai.NotFoundError, match="The emulator has no /v1"):
                    await client.post(path, cast_to=object, body={})

    asyncio.run(main())


def test_models_are_a_bare_list_of_the_language_models() -> None:
    with run_in_thread(models={"acme:1@1": "textInference"}) as emulator:
        listed = httpx.get(emulator.client_options["http_base_url"] + "/models", trust_env=False).json()
    assert {MODEL, "acme:1@1"} <= {model["id"] for model in listed}
    assert all({"context_length", "max_output_tokens", "pricing"} <= model.keys() for model in listed)
    assert "runware:400@1" not in {model["id"] for model in listed}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"stop": "END"}, {"settings": {"stopSequences": ["END"]}}),
        ({"stop": ["a", "b"]}, {"settings": {"stopSequences": ["a", "b"]}}),
        ({"max_completion_tokens": 5, "max_tokens": 9}, {"settings": {"maxTokens": 5}}),
        ({"top_p": 0}, {"settings": {"topP": 0}}),
        ({"n": 3, "seed": 0}, {"numberResults": 3, "seed": 0}),
        ({"stream": True}, {"deliveryMethod": "stream"}),
        ({"tools": [], "user": "me"}, {}),
    ],
    ids=str,
)
def test_a_request_becomes_a_text_task(body, expected) -> None:
    task = chat.read_request({"model": MODEL, "messages": [{"role": "tool", "content": "4"}], **body}, "1")
    plain = {"taskType": "textInference", "taskUUID": "1", "model": MODEL, "deliveryMethod": "sync"}
    assert task == {**plain, "messages": [{"role": "user", "content": "4"}], **expected}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
NAMES = ["messages", "n", "seed", "stop", "temperature", "top_p", "max_tokens", "response_format", "stream", "tools"]


@given(JSON | st.dictionaries(st.sampled_from(["model", *NAMES]), JSON), st.booleans())
def test_whatever_is_sent_is_answered_or_refused(body, is_repaired) -> None:
    if is_repaired and isinstance(body, dict):
        body = {**body, "model": MODEL, "messages": HELLO}
    service = make_service(latency=0.0)
    try:
        task = chat.read_request(body, make_id())
    except Problem:
        return
    reply = service.receive([task], 0.0)
    service.advance(1.0)
    for job in reply.waiting:
        assert chat.completion(job, 0)["choices"]
        assert list(chat.ChatEvents(0, with_usage=True).deltas(job, iter([])))
    assert reply.waiting or reply.frame.errors[0]["message"]


def test_a_dry_run_checks_and_does_nothing(run) -> None:
    async def main() -> None:
        async with Emulator(latency=0) as emulator, open_rest(emulator) as rest:
            good, bad = image(), image(width=5)
            answer = await rest.client.post(rest.url + "?dryRun=1", json=[good, bad])
            body = answer.json()
            assert body["data"] == [{"taskType": "imageInference", "taskUUID": good["taskUUID"]}]
            assert [entry["parameter"] for entry in body["errors"]] == ["width"]
            stream = image(deliveryMethod="stream", taskType="textInference", model=MODEL)
            assert (await rest.client.post(rest.url + "?dryRun=1", json=[stream])).status_code == 400
            assert not emulator.log.tasks
            assert emulator.log.billed == 0
            # the taskUUID is still free
            assert (await rest.post(good))["data"][0]["imageURL"]

    run(main)


def test_a_dry_run_is_asked_for_in_the_address_of_the_socket() -> None:
    with run_in_thread() as emulator:
        address = emulator.client_options["ws_base_url"] + "?dryRun=1&sdk=js&version=1.3.2"
        with connect(address, proxy=None) as peer:
            key = emulator.client_options["api_key"]
            task = image()
            peer.send(json.dumps([{"taskType": "authentication", "apiKey": key}, task]))
            frames = [json.loads(peer.recv(5)) for _ in range(2)]
            assert frames[1] == {"data": [{"taskType": "imageInference", "taskUUID": task["taskUUID"]}]}
        assert not emulator.log.tasks


def test_a_dry_run_asks_but_does_not_store_or_delete() -> None:
    service = make_service()
    medium = submit(service, image(deliveryMethod="async"))
    service.advance(2.0)
    stored = service.jobs[medium.data[0]["taskUUID"]].slots[0].item["imageUUID"]
    delete = {"taskType": "mediaStorage", "taskUUID": make_id(), "operation": "delete", "media": stored}
    search = {"taskType": "modelSearch", "taskUUID": make_id(), "search": "portrait"}
    frame = service.receive([delete, search, poll(medium.data[0])], 3.0, dry_run=True).frame
    assert frame.data[0] == {"taskType": "mediaStorage", "taskUUID": delete["taskUUID"]}
    assert frame.data[1]["totalResults"] > 0
    assert frame.data[2]["status"] == "success"
    assert service.media_store.by_id(stored, 3.0) is not None
