"""`validate=`: requests checked against their model's schema before they are sent."""

from __future__ import annotations

import anyio
import pytest
from asking import open_counted

from runware_flow import Client, RunwareError
from runware_flow.catalog.validation import Validator
from runware_flow.client.http.schemas import KnownSchemas
from runware_flow.emulator import Emulator
from runware_flow.tasks import Caption, ImageInference, TextInference

KITE = {"model": "runware:400@1", "positivePrompt": "a kite", "width": 512, "height": 512}
WRONG = {**KITE, "width": -1}
RESOLVE = "/schemas/resolve/"


async def refuse(client, task, **options):
    with pytest.raises(RunwareError) as caught:
        await client.run(task, **options)
    return caught.value


def test_validate_refuses_before_anything_is_sent(run):
    async def main():
        async with open_counted({"validate": True}) as (emulator, client, _asked):
            error = await refuse(client, WRONG)
            assert (error.code, error.parameter, error.task_type) == ("validation", "width", "imageInference")
            assert error.validation_errors[0]["path"] == ["width"]
            assert error.documentation.endswith("#request-width")
            assert not emulator.log.asked
            assert not emulator.log.rejected
            assert (await client.run(KITE))[0].task_type == "imageInference"

    run(main)


def test_validate_of_a_call_overrides_that_of_the_client(run):
    async def main():
        async with open_counted() as (emulator, client, _asked):
            assert (await refuse(client, WRONG, validate=True)).validation_errors
            assert not emulator.log.rejected
            assert not (await refuse(client, WRONG)).validation_errors
            assert emulator.log.rejected
        async with open_counted({"validate": True}) as (_, client, asked):
            assert not (await refuse(client, WRONG, validate=False)).validation_errors
            assert asked.paths(RESOLVE) == []

    run(main)


def test_validate_shares_schemas_among_the_clients_of_a_process(run):
    async def main():
        async with Emulator(latency=0) as first, Client(**first.client_options, validate=True) as client:
            assert (await refuse(client, WRONG)).validation_errors
        gone = {"schemas_base_url": first.client_options["schemas_base_url"], "max_retries": 0}
        async with Emulator(latency=0) as second, Client(**{**second.client_options, **gone}, validate=True) as other:
            error = await refuse(other, WRONG)
            assert error.validation_errors
            assert error.documentation.endswith("#request-width")
            other.clear_validator_cache()
            assert not (await refuse(other, WRONG)).validation_errors  # the service's own refusal

    run(main)


def test_schemas_that_are_kept_are_bounded_and_told_apart_by_service():
    known = KnownSchemas(limit=2)
    validators = [Validator({}) for _ in range(3)]
    for number, validator in enumerate(validators):
        known.keep("http://a", f"model {number}", validator, None)
    assert known.get("http://a", "model 0") == (None, None)
    assert known.get("http://a", "model 2") == (validators[2], None)
    assert known.get("http://b", "model 2") == (None, None)
    known.keep("http://b", "model 2", validators[0], "page")
    known.clear("http://a")
    assert known.get("http://a", "model 2") == (None, None)
    assert known.get("http://b", "model 2") == (validators[0], "page")


def test_validate_holds_for_submit_stream_and_structs(run):
    async def main():
        async with open_counted({"validate": True}) as (emulator, client, _asked):
            small = ImageInference(model="runware:400@1", positive_prompt="a kite", width=8, height=512)
            with pytest.raises(RunwareError) as submitted:
                async with client.submit(small):
                    pass
            with pytest.raises(RunwareError) as streamed:
                async with client.stream({"model": "google:gemma@4-31b", "messages": 7}):
                    pass
            assert submitted.value.parameter == "width"
            assert "messages" in streamed.value.parameter
            assert not emulator.log.asked
            task = TextInference(model="google:gemma@4-31b", messages=[{"role": "user", "content": "Hi"}])
            async with client.stream(task) as stream:
                assert await stream.full_text()

    run(main)


def test_validate_checks_a_task_before_its_local_media_are_read(run, tmp_path):
    async def main():
        async with open_counted({"validate": True}) as (_, client, _asked):
            missing = tmp_path / "nowhere.png"
            task = Caption(model="runware:150@2", inputs={"image": missing}, extra={"prompt": 7})
            assert (await refuse(client, task)).validation_errors
            task = Caption(model="runware:150@2", inputs={"image": missing})
            assert "there is no file" in (await refuse(client, task)).message

    run(main)


def test_validate_fetches_a_schema_once_also_for_concurrent_calls_of_which_one_is_cancelled(run):
    async def main():
        async with open_counted({"validate": True}) as (_, client, asked):
            errors = []

            async def ask():
                errors.append(await refuse(client, WRONG))

            async with anyio.create_task_group() as group:
                for _ in range(5):
                    group.start_soon(ask)
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await client.run(WRONG)
            assert len(errors) == 5
            await ask()
            assert asked.paths(RESOLVE) == [RESOLVE + "runware:400@1"]
            client.clear_validator_cache()
            await ask()
            assert len(asked.paths(RESOLVE)) == 2
            assert all("authorization" not in one.headers for one in asked.requests if RESOLVE in one.url.path)

    run(main)


def test_validate_skips_what_has_no_schema_and_asks_once(run):
    async def main():
        models = {"mine:1@1": "imageInference"}
        async with open_counted({"validate": True}, models=models) as (_, client, asked):
            for _ in range(2):
                await client.run({**KITE, "model": "mine:1@1", "taskType": "imageInference"})
            assert len(asked.paths(RESOLVE)) == 1
            await client.model_search("flux")
            assert len(asked.paths(RESOLVE)) == 1

    run(main)


def test_validate_skips_and_says_so_when_schemas_cannot_be_fetched_and_tries_again(run):
    entries = []

    async def main():
        options = {"validate": True, "debug": True, "log_sink": entries.append}
        async with open_counted(options) as (emulator, client, asked):
            asked.broken = RESOLVE
            assert await client.run(KITE)
            assert not (await refuse(client, WRONG)).validation_errors
            assert len(emulator.log.asked) == 1
            asked.broken = None
            assert (await refuse(client, WRONG)).validation_errors

    run(main)
    said = [entry for entry in entries if entry.category == "validation"]
    assert [entry.data["model"] for entry in said] == ["runware:400@1", "runware:400@1"]
    assert "a kite" not in str(said)
