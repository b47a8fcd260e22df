"""How a client learns of models that are newer than its package."""

from __future__ import annotations

import anyio
import pytest
from asking import open_counted

from runware_flow import RunwareError
from runware_flow.client.http import registry

NEW = {"model": "new:1@1", "positivePrompt": "a kite", "width": 512, "height": 512}
KNOWN = {**NEW, "model": "bfl-flux-2-dev"}
UNKNOWN = {**NEW, "model": "nobody-knows-it"}
REGISTRY = "/schemas/registry.json"


def new_models():
    return {"new:1@1": "imageInference"}


@pytest.mark.parametrize("name", ["new:1@1", "new-1-1"])
def test_run_of_a_newer_model_waits_for_the_registry(run, name):
    async def main():
        async with open_counted(models=new_models()) as (emulator, client, asked):
            results = await client.run({**NEW, "model": name})
            assert results[0].task_type == "imageInference"
            assert emulator.log.asked[0].model == "new:1@1"
            async with client.submit({**NEW, "model": name}) as delivery:
                assert (await delivery.wait_results())[0].task_type == "imageInference"
            assert client.prepare({**NEW, "model": name}).task_type == "imageInference"
            assert asked.paths(REGISTRY) == [REGISTRY]

    run(main)


def test_run_of_a_known_model_does_not_wait_for_a_slow_registry(run):
    async def main():
        async with open_counted(models=new_models(), faults=["slow-registry:seconds=20"]) as (_, client, asked):
            assert await client.run(KNOWN)
            with pytest.raises(RunwareError):  # it has not come yet
                client.prepare(NEW)
            assert asked.paths(REGISTRY) == [REGISTRY]

    run(main)


def test_run_that_says_its_task_type_and_air_asks_no_registry(run):
    async def main():
        async with open_counted() as (_, client, asked):
            await client.run({**KNOWN, "model": "runware:400@1", "taskType": "imageInference"})
            await client.model_search("flux")
            assert asked.paths(REGISTRY) == []

    run(main)


def test_run_of_an_unknown_model_asks_once_and_says_what_to_pass(run):
    async def main():
        async with open_counted() as (emulator, client, asked):
            for _ in range(2):
                with pytest.raises(RunwareError, match="no model is called 'nobody-knows-it'") as caught:
                    await client.run(UNKNOWN)
                assert caught.value.raw_code == "unknownModel"
                assert caught.value.documentation
            with pytest.raises(RunwareError, match="pass its taskType"):
                await client.run({**NEW, "model": "nobody:1@1"})
            assert asked.paths(REGISTRY) == [REGISTRY]
            assert not emulator.log.asked

    run(main)


def test_registry_that_cannot_be_fetched_fails_no_call(run):
    entries = []

    async def main():
        options = {"debug": True, "log_sink": entries.append}
        async with open_counted(options) as (_, client, asked):
            asked.broken = REGISTRY
            assert await client.run(KNOWN)
            with pytest.raises(RunwareError) as caught:
                await client.run(UNKNOWN)
            assert caught.value.raw_code == "unknownModel"
            with pytest.raises(RunwareError) as refresh:
                await client.refresh_registry()
            assert refresh.value.code == "connection"
            assert await client.run(KNOWN)

    run(main)
    assert "registry" in {entry.category for entry in entries}


def test_registry_is_bounded_in_time(run, monkeypatch):
    monkeypatch.setattr(registry, "FIRST_FETCH_SECONDS", 0.05)

    async def main():
        async with open_counted(models=new_models(), faults=["slow-registry:seconds=20"]) as (_, client, _asked):
            with pytest.raises(RunwareError) as caught:
                await client.run(NEW)
            assert caught.value.raw_code == "unknownModel"

    run(main)


def test_refresh_registry_brings_new_models_and_asks_by_etag(run):
    async def main():
        models = {}
        async with open_counted(models=models) as (_, client, asked):
            await client.refresh_registry()
            await client.refresh_registry()
            models.update(new_models())
            await client.refresh_registry()
            assert client.prepare(NEW).task_type == "imageInference"
            first, second, third = (one.headers.get("if-none-match") for one in asked.requests)
            assert first is None
            assert second == third
            assert all("authorization" not in one.headers for one in asked.requests)

    run(main)


def test_registry_is_fetched_anew_in_the_background_when_it_is_old(run, monkeypatch):
    monkeypatch.setattr(registry, "REGISTRY_TTL", 0.0)
    monkeypatch.setattr(registry, "_PAUSE", 0.0)

    async def main():
        models = {}
        async with open_counted(models=models) as (_, client, asked):
            await client.run(KNOWN)
            await client.refresh_registry()
            models.update(new_models())
            with anyio.fail_after(10):
                while not knows(client):
                    await client.run(KNOWN)
            assert len(asked.paths(REGISTRY)) > 1

    run(main)


def knows(client):
    try:
        client.prepare(NEW)
    except RunwareError:
        return False
    return True


def test_caller_that_is_cancelled_does_not_affect_others_that_wait_for_the_same(run):
    async def main():
        found = []

        async def ask(client):
            found.append((await client.run(NEW))[0].task_type)

        async with open_counted(models=new_models(), faults=["slow-registry:seconds=0.3"]) as (_, client, asked):
            async with anyio.create_task_group() as group:
                group.start_soon(ask, client)
                with anyio.move_on_after(0.1) as scope:
                    await ask(client)
            assert scope.cancelled_caught
            assert found == ["imageInference"]
            assert asked.paths(REGISTRY) == [REGISTRY]

    run(main)


def test_client_left_while_the_registry_is_on_its_way_closes(run):
    async def main():
        async with open_counted(faults=["slow-registry:seconds=20"]) as (_, client, _asked):
            with anyio.fail_after(10):  # a client that waits for the registry takes twenty seconds
                assert await client.run(KNOWN)
                await client.aclose()

    run(main)
