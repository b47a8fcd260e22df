"""`client.stream` against the emulator: readers, the result, and every way in which a stream fails."""

from __future__ import annotations

import gc

import anyio
import pytest

from runware_flow import RunwareError
from runware_flow.tasks import ImageInference, TextInference

MODEL = "google:gemma@4-31b"


def ask(content="Tell me of a lighthouse", **more):
    return TextInference(model=MODEL, messages=[{"role": "user", "content": content}], **more)


def test_stream_gives_words_then_the_result(run, open_pair):
    async def main():
        async with open_pair() as (emulator, client):
            async with client.stream(ask(include_cost=True)) as stream:
                words = [word async for word in stream.text]
                result = await stream.result()
        assert len(words) > 1
        assert "".join(words) == result.text
        assert result.finish_reason == "stop"
        assert result.usage["totalTokens"] > 0
        assert result.cost > 0
        assert result.task_uuid == emulator.log.asked[0].task_uuid
        assert emulator.log.asked[0].request["deliveryMethod"] == "stream"

    run(main)


def test_stream_readers_do_not_steal_from_each_other(run, open_pair):
    """The official client has one queue for all readers: each gets a part."""

    async def main():
        collected = {}

        async def read(name, reader):
            collected[name] = "".join([word async for word in reader])

        async with open_pair() as (_, client), client.stream(ask()) as stream:
            async with anyio.create_task_group() as group:
                group.start_soon(read, "a", stream.text)
                group.start_soon(read, "b", stream.text)
            await read("late", stream.text)
            await read("reasoning", stream.reasoning)
            text = await stream.full_text()
        assert collected["a"] == collected["b"] == collected["late"] == text
        assert collected["reasoning"] == (await stream.result()).reasoning

    run(main)


def test_stream_that_is_not_read_gives_its_result(run, open_pair):
    async def main():
        async with open_pair() as (_, client), client.stream(ask()) as stream:
            assert (await stream.result()).text

    run(main)


def test_stream_takes_wire_dicts_and_keeps_the_task_uuid(run, open_pair):
    async def main():
        task = {
            "model": MODEL,
            "taskUUID": "9b0e0f60-8c46-4c42-9ef4-1c3f6c1a8a11",
            "messages": [{"role": "user", "content": "Hi"}],
        }
        async with open_pair() as (_, client), client.stream(task) as stream:
            assert (await stream.result()).task_uuid == task["taskUUID"]

    run(main)


def test_stream_cut_inside_characters_is_whole(run, open_pair):
    async def main():
        async with open_pair(faults=["split-stream"]) as (_, client):
            async with client.stream(ask("Grüße an den Drachen 🪁")) as stream:
                text = await stream.full_text()
        assert "🪁" in text
        assert "\ufffd" not in text

    run(main)


def test_stream_that_breaks_off_raises_after_what_came(run, open_pair):
    async def main():
        words = []
        async with open_pair(faults=["truncate-stream"]) as (_, client):
            async with client.stream(ask()) as stream:
                with pytest.raises(RunwareError) as caught:
                    async for word in stream.text:
                        words.append(word)
                with pytest.raises(RunwareError):
                    await stream.result()
        assert words
        assert (caught.value.code, caught.value.may_be_billed) == ("connection", True)

    run(main)


def test_stream_refused_is_the_services_error(run, open_pair):
    async def main():
        async with open_pair() as (_, client):
            async with client.stream({"model": MODEL, "messages": []}) as stream:
                with pytest.raises(RunwareError) as caught:
                    await stream.result()
        assert (caught.value.code, caught.value.may_be_billed) == ("validation", False)
        assert caught.value.documentation

    run(main)


def test_stream_with_a_rejected_key_is_an_auth_error(run, open_pair):
    async def main():
        async with open_pair({"api_key": "rw-wrong"}) as (_, client):
            async with client.stream(ask()) as stream:
                with pytest.raises(RunwareError) as caught:
                    await stream.full_text()
        assert caught.value.code == "auth"
        assert "rw-wrong" not in str(caught.value)

    run(main)


def test_stream_refuses_what_cannot_stream_before_anything_is_sent(run, open_pair):
    async def main():
        async with open_pair() as (emulator, client):
            with pytest.raises(RunwareError, match=r"numberResults > 1") as several:
                async with client.stream(ask(number_results=2)):
                    pass
            with pytest.raises(RunwareError, match=r"only textInference streams"):
                async with client.stream(ImageInference(model="runware:400@1", positive_prompt="a kite")):  # type: ignore
                    pass
            with pytest.raises(RunwareError, match=r"use client\.stream"):
                await client.run(ask(delivery_method="stream"))
        assert several.value.raw_code == "notImplemented"
        assert not emulator.log.asked

    run(main)


def test_stream_left_early_closes_the_connection_and_the_client_works_on(run, open_pair):
    async def main():
        async with open_pair(latency=0.5) as (_, client):
            async with client.stream(ask()) as stream:
                async for _ in stream.text:
                    break
            with anyio.move_on_after(0.05):
                async with client.stream(ask()) as stream:
                    await stream.full_text()
            assert (await client.run(ask(), delivery="sync"))[0].text

    run(main)


def test_stream_body_exception_leaves_as_itself(run, open_pair):
    async def main():
        async with open_pair() as (_, client):
            with pytest.raises(ZeroDivisionError):
                async with client.stream(ask()):
                    raise ZeroDivisionError

    run(main)


@pytest.mark.exhaustive
def test_stream_cancelled_at_every_turn_leaves_nothing_behind(run, open_pair):
    async def attempt(client, turns):
        done = False

        async def work():
            nonlocal done
            async with client.stream(ask("Hi")) as stream:
                await stream.full_text()
            done = True

        async with anyio.create_task_group() as group:
            group.start_soon(work)
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        return done

    async def main():
        async with open_pair(latency=0.0) as (_, client):
            turns = 0
            while not await attempt(client, turns):
                turns += 1 + turns // 12
            assert (await client.run(ask(), delivery="sync"))[0].text

    run(main)


@pytest.mark.filterwarnings("ignore:Async generator .*chat:ResourceWarning")  # trio says so of any that is dropped
@pytest.mark.parametrize("ends", ["dropped", "closed", "closed in another task"])
def test_stream_in_an_async_generator_left_early_does_not_affect_its_consumer(run, open_pair, ends):
    """The consumer goes on, the connection is closed, and nothing more is sent."""

    async def main():
        async with open_pair(latency=5.0) as (emulator, client):

            async def chat():
                async with client.stream(ask()) as stream:
                    async for word in stream.text:
                        yield word

            async def consume():
                words = chat()
                assert await anext(words)
                if ends == "dropped":
                    del words
                    gc.collect()
                elif ends == "closed":
                    await words.aclose()
                else:
                    async with anyio.create_task_group() as group:
                        group.start_soon(words.aclose)
                await anyio.sleep(0.05)  # nothing cancels this task
                return "went on"

            assert await consume() == "went on"
            assert client.statistics() is not None
            async with client.stream(ask()) as stream:
                assert await anext(stream.text)
        assert emulator.log.posts == 2

    run(main)


def test_stream_of_a_client_that_is_closed_ends_with_an_error(run, open_pair):
    async def main():
        async with open_pair(latency=5.0) as (_, client):
            async with client.stream(ask()) as stream:
                assert await anext(stream.text)
                await client.aclose()
                with pytest.raises(RunwareError) as caught:
                    await stream.result()
        assert caught.value.code == "aborted"
        assert caught.value.may_be_billed, "the service had begun"

    run(main)
