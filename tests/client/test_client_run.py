"""`Client.run` and `Client.submit` against the emulator: every transport, delivery and backend, over real sockets."""

from __future__ import annotations

import io

import anyio
import pytest
from PIL import Image

from runware_flow import Failed, Ok, RunwareError, RunwareTimeoutError
from runware_flow.results import CaptionResult, ImageResult, PromptEnhanceResult, TextResult, UpscaleResult
from runware_flow.tasks import Caption, ImageInference, ModelSearch, PromptEnhance, TextInference, Upscale


def art(prompt="A lighthouse at dusk", **more):
    return ImageInference(model="runware:400@1", positive_prompt=prompt, width=512, height=512, **more)


def test_run_chain_of_three_tasks_gives_typed_results(run, open_pair, delivery):
    async def main():
        async with open_pair() as (_, client):
            (image,) = await client.run(art(seed=11), delivery=delivery)
            (big,) = await client.run(
                Upscale(model="runware:504@1", inputs={"image": image}, upscale_factor=2), delivery=delivery
            )
            (caption,) = await client.run(Caption(model="runware:150@2", inputs={"image": big}), delivery=delivery)
        assert type(image) is ImageResult
        assert image.seed == 11
        assert type(big) is UpscaleResult
        assert big.url.startswith("http://127.0.0.1")
        assert type(caption) is CaptionResult
        assert "A lighthouse at dusk" in caption.text
        assert "1024 x 1024" in caption.text

    run(main)


def test_run_wire_dict_resolves_its_task_type_from_air_or_slug(run, open_pair):
    async def main():
        async with open_pair() as (emulator, client):
            by_air = await client.run({"model": "runware:400@1", "positivePrompt": "a kite"})
            by_slug = await client.run({"model": "bfl-flux-2-dev", "positivePrompt": "a kite"})
        assert type(by_air[0]) is type(by_slug[0]) is ImageResult
        assert [task.model for task in emulator.log.tasks] == ["runware:400@1", "runware:400@1"]
        assert by_air[0].raw["imageURL"] == by_air[0].url

    run(main)


def test_run_one_gives_the_result_itself(run, open_pair, delivery):
    async def main():
        async with open_pair() as (_, client):
            image = await client.run_one(art(seed=11), delivery=delivery)
            by_dict = await client.run_one({"model": "runware:400@1", "positivePrompt": "a kite"}, delivery=delivery)
        assert type(image) is type(by_dict) is ImageResult
        assert image.seed == 11

    run(main)


@pytest.mark.parametrize(
    ("task", "parameter"),
    [
        (art(number_results=2), "numberResults"),
        ({"model": "runware:400@1", "positivePrompt": "a kite", "numberResults": 3}, "numberResults"),
        (PromptEnhance(prompt="a kite", prompt_max_length=64, prompt_versions=2), "promptVersions"),
    ],
)
def test_run_one_refuses_a_task_of_several_results_before_it_is_sent(run, open_pair, task, parameter):
    async def main():
        async with open_pair() as (emulator, client):
            with pytest.raises(RunwareError, match=r"client\.run\(\)") as caught:
                await client.run_one(task)
        assert (caught.value.code, caught.value.parameter) == ("validation", parameter)
        assert not emulator.log.tasks

    run(main)


def test_run_several_results_come_in_the_servers_order(run, open_pair, delivery):
    async def main():
        async with open_pair(latency=(0.0, 0.2)) as (_, client):
            images = await client.run(art(number_results=5, seed=100), delivery=delivery)
        assert sorted(image.seed for image in images) == [100, 101, 102, 103, 104]
        assert len({image.image_uuid for image in images}) == 5

    run(main)


def test_run_results_without_ids_of_their_own_are_counted_by_slot(run, open_pair, delivery):
    async def main():
        async with open_pair() as (_, client):
            texts = await client.run(
                TextInference(
                    model="google:gemma@4-31b", messages=[{"role": "user", "content": "Hi"}], number_results=3
                ),
                delivery=delivery,
            )
            versions = await client.run(
                PromptEnhance(
                    model="runware:llama-3-1-8b@prompt-enhancer",
                    prompt="a kite",
                    prompt_max_length=64,
                    prompt_versions=4,
                ),
                delivery=delivery,
            )
        assert [type(text) for text in texts] == [TextResult] * 3
        assert [type(version) for version in versions] == [PromptEnhanceResult] * 4

    run(main)


def test_run_include_cost_is_on_each_result(run, open_pair, delivery):
    async def main():
        async with open_pair() as (emulator, client):
            images = await client.run(art(number_results=2, include_cost=True), delivery=delivery)
            free = await client.run(art(), delivery=delivery)
        assert all(image.cost > 0 for image in images)
        assert sum(image.cost for image in images) == pytest.approx(emulator.log.tasks[0].cost)
        assert free[0].cost is None

    run(main)


def test_run_utility_needs_no_delivery(run, open_pair):
    async def main():
        async with open_pair() as (_, client):
            (found,) = await client.run(ModelSearch(search="flux", limit=3))
        assert found.total_results > 0

    run(main)


def test_run_callbacks_see_each_result_sync_and_async(run, open_pair, delivery):
    async def main():
        seen = []

        async def on_result(outcome):
            await anyio.lowlevel.checkpoint()
            seen.append(outcome)

        async with open_pair() as (_, client):
            images = await client.run(art(number_results=3), delivery=delivery, on_result=on_result)
            await client.run(art(), delivery=delivery, on_result=lambda outcome: seen.append(outcome))
        assert len(seen) == 4
        assert all(isinstance(outcome, Ok) for outcome in seen)
        assert {outcome.value.image_uuid for outcome in seen[:3]} == {image.image_uuid for image in images}

    run(main)


def test_run_callback_that_raises_ends_the_call_with_that_exception(run, open_pair):
    async def main():
        def on_result(outcome):
            raise ZeroDivisionError("the callback's own")

        async with open_pair() as (_, client):
            with pytest.raises(ZeroDivisionError, match="the callback's own"):
                await client.run(art(), on_result=on_result)
            assert (await client.run(art()))[0].url

    run(main)


@pytest.mark.parametrize("shape", ["errors", "item"])
def test_run_one_failed_result_of_three_shows_all_then_raises_with_the_rest(run, open_pair, delivery, shape):
    async def main():
        seen = []
        fault = f"fail:index=1,code=timeoutProvider,shape={shape}"
        async with open_pair(faults=[fault]) as (_, client):
            with pytest.raises(RunwareError) as caught:
                await client.run(art(number_results=3), delivery=delivery, on_result=seen.append)
        assert caught.value.raw_code == "timeoutProvider"
        assert caught.value.code == "timeout"
        assert len(caught.value.results) == 2
        assert sum(isinstance(outcome, Failed) for outcome in seen) == 1
        assert sum(isinstance(outcome, Ok) for outcome in seen) == 2

    run(main)


def test_run_rejected_parameter_names_it_and_buys_nothing(run, open_pair, delivery):
    async def main():
        async with open_pair() as (emulator, client):
            with pytest.raises(RunwareError) as caught:
                await client.run(
                    ImageInference(model="runware:400@1", positive_prompt="a kite", width=77, height=512),
                    delivery=delivery,
                )
            assert caught.value.code == "validation"
            assert caught.value.parameter == "width"
            assert emulator.log.billed_micro_usd == 0
            assert (await client.run(art(), delivery=delivery))[0].url

    run(main)


def test_run_failure_of_one_task_leaves_its_neighbours_alone(run, open_pair, delivery):
    async def main():
        done = []
        async with open_pair(faults=["fail:prompt=doomed,code=inferenceError"]) as (_, client):

            async def one(prompt):
                try:
                    done.append((prompt, (await client.run(art(prompt), delivery=delivery))[0].url))
                except RunwareError as error:
                    done.append((prompt, error.raw_code))

            async with anyio.create_task_group() as group:
                for number in range(10):
                    group.start_soon(one, f"number {number}" if number % 3 else f"doomed {number}")
        assert len(done) == 10
        assert {prompt for prompt, what in done if what == "inferenceError"} == {f"doomed {n}" for n in (0, 3, 6, 9)}

    run(main)


def test_run_that_takes_too_long_is_a_timeout_error_that_names_the_task(run, open_pair, delivery):
    async def main():
        async with open_pair(faults=["never:nth=1"]) as (emulator, client):
            with pytest.raises(RunwareTimeoutError, match=r"within 1 s.*may still finish") as caught:
                await client.run(art(), delivery=delivery, timeout=1)
            assert isinstance(caught.value, TimeoutError)
            assert caught.value.task_uuid == emulator.log.tasks[0].task_uuid
            assert (await client.run(art(), delivery=delivery))[0].url

    run(main)


def test_run_same_task_uuid_twice_at_once_is_refused_here(run, open_pair):
    async def main():
        task = art(task_uuid="9b0e0f60-8c46-4c42-9ef4-1c3f6c1a8a11")
        async with open_pair() as (emulator, client), client.submit(task):
            with pytest.raises(RunwareError, match="in flight already"):
                await client.run(task)
        assert len(emulator.log.tasks) <= 1

    run(main)


def test_submit_gives_each_result_when_it_is_ready(run, open_pair, delivery):
    async def main():
        async with (
            open_pair(latency=(0.0, 0.2)) as (_, client),
            client.submit(art(number_results=4), delivery=delivery) as results,
        ):
            images = [image async for image in results]
            assert results.is_settled
        assert len({image.image_uuid for image in images}) == 4

    run(main)


def test_submit_left_early_keeps_what_came_and_the_client_works_on(run, open_pair, delivery):
    async def main():
        async with open_pair(latency=(0.0, 0.1)) as (_, client):
            async with client.submit(art(number_results=4), delivery=delivery) as results:
                first = await results.__anext__()
            assert first in results.results
            assert (await client.run(art(), delivery=delivery))[0].url

    run(main)


def test_run_hundred_at_once_share_frames(run, open_pair, transport):
    async def main():
        async with open_pair(latency=0.05) as (emulator, client):
            await client.run(art())
            before = emulator.log.frames_received + emulator.log.posts

            async def one(number):
                (image,) = await client.run(art(f"kite {number}"), delivery="async")
                assert image.url

            async with anyio.create_task_group() as group:
                for number in range(100):
                    group.start_soon(one, number)
            sent = emulator.log.frames_received + emulator.log.posts - before
        assert len(emulator.log.tasks) == 101
        assert sent < 40, f"{sent} frames or POSTs for 100 tasks: they do not leave together"

    run(main)


def test_run_base64_result_over_the_usual_frame_limit_arrives(run, open_pair, delivery):
    """The official client breaks here: its frame limit is the library's default of 1 MiB."""

    async def main():
        buffer = io.BytesIO()
        Image.effect_noise((256, 256), 90).save(buffer, "PNG")
        async with open_pair() as (_, client):
            (big,) = await client.run(
                Upscale(
                    model="runware:504@1",
                    inputs={"image": buffer.getvalue()},
                    upscale_factor=4,
                    output_type="base64Data",
                    output_format="PNG",
                ),
                delivery=delivery,
            )
        assert len(big.image_base64_data) > 2**20
        with pytest.raises(ValueError, match="image_base64_data"):
            _ = big.url

    run(main)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), "5", True])
def test_run_timeout_that_makes_no_sense_buys_nothing(run, open_pair, timeout):
    async def main():
        async with open_pair() as (emulator, client):
            with pytest.raises(RunwareError, match="greater than 0"):
                await client.run(art(), timeout=timeout)
            assert not emulator.log.asked

    run(main)


def test_run_number_of_results_written_as_a_whole_float_counts(run, open_pair, delivery):
    async def main():
        task = {"model": "runware:400@1", "positivePrompt": "a kite", "numberResults": 2.0}
        async with open_pair() as (_, client):
            images = await client.run(task, delivery=delivery)
        assert len(images) == 2

    run(main)


def test_submit_second_reader_at_once_is_an_error(run, open_pair):
    async def main():
        async with open_pair(faults=["never"]) as (_, client), client.submit(art()) as results:
            async with anyio.create_task_group() as group:
                group.start_soon(results.__anext__)
                await anyio.wait_all_tasks_blocked()
                with pytest.raises(anyio.BusyResourceError):
                    await results.__anext__()
                group.cancel_scope.cancel()
            with anyio.move_on_after(0.01) as scope:  # the first reader is gone: another may follow
                await results.__anext__()
            assert scope.cancelled_caught

    run(main)
